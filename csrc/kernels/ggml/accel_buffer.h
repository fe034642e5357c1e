// The buffer of packed weights, and who may put weights into it.
#pragma once

#include "kernels/ggml/mapped_source.h"
#include "platform/thread_count.h"
#include "platform/worker_pool.h"

#include "ggml-backend.h"

#include <cstdint>

namespace mp {

// The buffer type, on the device that llama.cpp knows. Set up by accel_backend.cpp.
ggml_backend_buffer_type_t packed_buffer_type();
void set_up_packed_buffer_type(ggml_backend_dev_t device);

// What weights are packed with. Threads that outlive a load would be missing, and waited for, where a forked child ends.
struct packing_means {
    worker_pool threads{default_thread_count()};
    mapped_source source;
};

bool is_packed(const ggml_tensor * weights);

} // namespace mp
