// maskprobe's kernels as a ggml backend of type ACCEL: llama.cpp gives it the weights at load, and the graph's products
// with them and its attention.
#pragma once

#include "kernels/ggml/accel_buffer.h"
#include "kernels/ggml/accel_compute.h"
#include "platform/worker_pool.h"

#include "ggml-backend.h"

#include <memory>

namespace mp {

constexpr const char * ACCEL_NAME = "MaskProbe";

// Registers the backend with ggml; false where ggml speaks another interface version.
bool accel_register();

// For a plug-in: the registry entry, serving every model and every context of the process, with llama.cpp's thread counts.
ggml_backend_reg_t accel_registry_for_all();

// While one is alive, models that this thread loads put their weights into the backend where it has a kernel for them;
// otherwise it is passed over.
class accel_loading {
public:
    explicit accel_loading(bool wanted);
    ~accel_loading();
    accel_loading(const accel_loading &) = delete;
    accel_loading & operator=(const accel_loading &) = delete;

    static accel_loading * current(); // this thread's, nullptr if there is none

    void count(size_t size) { n_bytes += (int64_t) size; } // of a buffer for packed weights
    int64_t packed_bytes() const { return n_bytes; }
    packing_means & means(); // made on first use
    void abandon_means() {
        (void) means_.release();
    } // in a forked child: its threads, which are not there, are not waited for

private:
    accel_loading * const outer;
    int64_t n_bytes = 0;
    std::unique_ptr<packing_means> means_;
};

// What a llama.cpp context shares with the session that owns it, and that lives longer.
struct accel_link {
    worker_pool & workers;
    cost_counters costs = {};
    added_rows added;         // in the pass that is under way, none outside of it
    bool leaves_work = false; // ggml keeps an operation that is worth several threads
};

// While one is alive, contexts that this thread opens use the backend; with nullptr, and otherwise, it leaves all to ggml.
class accel_opening {
public:
    explicit accel_opening(accel_link * link);
    ~accel_opening();
    accel_opening(const accel_opening &) = delete;
    accel_opening & operator=(const accel_opening &) = delete;
};

} // namespace mp
