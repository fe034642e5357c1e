// maskprobe's kernels as a ggml backend of type ACCEL: llama.cpp gives it the weights at load, and the graph's products
// with them and its attention of few rows.
#pragma once

namespace mp {

// Registers the backend with ggml; false where this processor has no kernels or ggml speaks another interface version.
bool accel_register();

// While one is alive, models that are loaded (in the whole process) put their weights into the backend where it has a
// kernel for them; otherwise it is passed over.
class accel_loading {
public:
    explicit accel_loading(bool wanted);
    ~accel_loading();
    accel_loading(const accel_loading &) = delete;
    accel_loading & operator=(const accel_loading &) = delete;

private:
    const bool wanted;
};

} // namespace mp
