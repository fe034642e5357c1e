// How a model's weights come into memory: packed for the kernels, or mapped from the file as they are; and when they do not.
#pragma once

#include "gguf/check.h"
#include "maskprobe.h"
#include "platform/memory_room.h"

#include "ggml.h"

#include <cstdint>
#include <string>

namespace mp {

// Bytes of one token's keys and values over all layers.
double cache_bytes_per_token(const gguf_summary & summary, ggml_type type_k, ggml_type type_v);

// Of a model's weights, in bytes. An embedding that is not the head as well is read row by row and counts in file_size only.
struct weights_size {
    uint64_t file_size;    // of all tensors
    uint64_t packed = 0;   // of what maskprobe's kernels compute, packed for them
    uint64_t unpacked = 0; // of what llama.cpp computes beside that
};

// Bytes of the buffers of a context for passes of some rows.
uint64_t least_buffers(const gguf_summary & summary);

struct weights_plan {
    bool pack = true;    // for maskprobe's kernels, or for llama.cpp's where it has some that want it
    std::string reason;  // one line: why they stay mapped, and what that costs; "" where they do not
    std::string refusal; // one line: why they cannot be loaded; "" where they can
    memory_need need;    // of the weights, once they are loaded
};

// Whether weights on the CPU fit into what the process may take, beside a small context. `ours`: they would be packed for
// maskprobe's kernels, else llama.cpp may pack some for its own.
weights_plan plan_weights(const gguf_summary & summary, const weights_size & size, const mp_model_params & params,
                          bool ours);

} // namespace mp
