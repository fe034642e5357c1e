// Vectors of four: SSE2, NEON or whatever the machine has.
#include "kernels/rows/row_kernels.h"

#include <cmath>
#include <cstring>

#if defined(__aarch64__)
#    include <arm_neon.h>
#endif

namespace mp {
namespace {

constexpr int LANES = 4;

void to_halves(const float * x, void * y, int64_t n) {
    int64_t i = 0;
#if defined(__aarch64__)
    for (; i + LANES <= n; i += LANES) {
        vst1_u16((uint16_t *) y + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(x + i))));
    }
#endif
    ggml_fp32_to_fp16_row(x + i, (ggml_fp16_t *) y + i, n - i);
}

#include "kernels/rows/row_vectors.h"

} // namespace

const row_kernels row_kernels_portable = THESE;

const row_kernels & find_row_kernels(instruction_set set) {
#if defined(__x86_64__)
    if (set == instruction_set::avx512_vnni) {
        return row_kernels_avx512;
    }
    if (set == instruction_set::avx2 || set == instruction_set::avx_vnni) {
        return row_kernels_avx2;
    }
#endif
    (void) set; // what every 64-bit ARM processor has is enough
    return row_kernels_portable;
}

} // namespace mp
