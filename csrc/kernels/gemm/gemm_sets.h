// The kernels of each instruction set, whether the processor has it or not.
#pragma once

#include "kernels/gemm/gemm.h"

namespace mp {

// The first of n kernels that is for this type, nullptr if none is.
const gemm_kernel * kernel_of_type(const gemm_kernel * kernels, size_t n, ggml_type type);

const gemm_kernel * find_gemm_kernel_portable(ggml_type type);

#if defined(__x86_64__)
const gemm_kernel * find_gemm_kernel_avx2(ggml_type type);
const gemm_kernel * find_gemm_kernel_avx_vnni(ggml_type type);
const gemm_kernel * find_gemm_kernel_avx512_vnni(ggml_type type);
#elif defined(__aarch64__)
const gemm_kernel * find_gemm_kernel_neon(ggml_type type);
const gemm_kernel * find_gemm_kernel_neon_dotprod(ggml_type type);
const gemm_kernel * find_gemm_kernel_neon_i8mm(ggml_type type);
#endif

} // namespace mp
