#include "row_kernels.h"

#if defined(__x86_64__)

#    include <cmath>
#    include <cstring>
#    include <immintrin.h>

#    if defined(__clang__)
#        pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#    else
#        pragma GCC push_options
#        pragma GCC target("avx2,fma,f16c")
#    endif

namespace mp {
namespace {

constexpr int LANES = 8;

void to_halves(const float * x, void * y, int64_t n) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m128i eight = _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128((__m128i *) ((char *) y + 2 * i), eight);
    }
    ggml_fp32_to_fp16_row(x + i, (ggml_fp16_t *) y + i, n - i);
}

#    include "row_vectors.h"

} // namespace

const row_kernels row_kernels_avx2 = THESE;

} // namespace mp

#    if defined(__clang__)
#        pragma clang attribute pop
#    else
#        pragma GCC pop_options
#    endif

#endif
