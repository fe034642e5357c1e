// How many int8 multiplications with accumulation an instruction set's dot instructions can do at most.
#pragma once

#include "kernels/gemm/gemm.h"

namespace mp {

// Runs `n` rounds of dot products on registers alone and returns how many multiplications with accumulation that were.
// 0: nothing was run, plain C++ has no such instruction.
int64_t run_dot_rounds(instruction_set set, int64_t n);

} // namespace mp
