// What the x86 sets of the row kernels share.
#pragma once

#include "kernels/rows/row_kernels.h"

#include <immintrin.h>

namespace mp {
namespace {

inline void to_halves(const float * x, void * y, int64_t n) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m128i eight = _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128((__m128i *) ((char *) y + 2 * i), eight);
    }
    ggml_fp32_to_fp16_row(x + i, (ggml_fp16_t *) y + i, n - i);
}

} // namespace
} // namespace mp
