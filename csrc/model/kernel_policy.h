// Which CPU kernels a model is loaded for, why, and which of its weights ggml computes then.
#pragma once

#include "gguf/check.h"
#include "maskprobe.h"
#include "model/weights_memory.h"

#include <string>

namespace mp {

inline bool has_hosts(const mp_model_params & params) {
    return params.rpc && *params.rpc;
}

struct kernel_plan {
    bool own;             // maskprobe's, where there is one for a matrix
    std::string reason;   // one line for the statistics: the share of the weights, or why they are llama.cpp's
    std::string left;     // one line: the weights that ggml computes, and what that means; "" if there are none
    weights_plan weights; // how they come into memory
};

// Throws MP_ERR_ARGUMENT: a choice that is none, or a MASKPROBE_ISA that this processor does not have.
kernel_plan plan_kernels(const gguf_summary & summary, const mp_model_params & params);

} // namespace mp
