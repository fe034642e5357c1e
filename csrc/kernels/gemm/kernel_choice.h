// Which kernels this process uses: those of the processor's best instruction set, or of the one that the environment
// variable MASKPROBE_ISA names ("avx2", "portable", ...), for measuring. Read once, at the first use.
#pragma once

#include "kernels/gemm/gemm.h"

#include <string>

namespace mp {

instruction_set kernels_in_use();

// What is wrong with MASKPROBE_ISA, one line; "" if nothing is. Then kernels_in_use() is the best set.
const std::string & kernel_choice_error();

// The name of a set as MASKPROBE_ISA has it: "avx512-vnni".
std::string instruction_set_option(instruction_set set);

// The kernel for weights of this type and shape, nullptr if there is none: a matrix (k, n_out), or a stack of them, as the
// experts of a mixture are.
const gemm_kernel * kernel_of(const ggml_tensor * weights);

// Groups of a packed matrix. Where the rows do not fill the last one, rows of zeros do.
int64_t packed_groups(const gemm_kernel & kernel, const ggml_tensor * weights);

// Bytes of a packed matrix. Those of a stack follow each other.
size_t packed_matrix_size(const gemm_kernel & kernel, const ggml_tensor * weights);

} // namespace mp
