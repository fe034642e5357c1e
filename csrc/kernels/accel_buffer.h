// The buffer of packed weights, and who may put weights into it.
#pragma once

#include "ggml-backend.h"

#include <cstdint>

namespace mp {

// The buffer type, on the device that llama.cpp knows. Set up by accel_backend.cpp.
ggml_backend_buffer_type_t packed_buffer_type();
void set_up_packed_buffer_type(ggml_backend_dev_t device);

bool is_packed(const ggml_tensor * weights);

} // namespace mp
