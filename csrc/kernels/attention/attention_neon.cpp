// What every 64-bit ARM processor has is enough.

#include "kernels/attention/attention_sets.h"

#if MP_ATTENTION_NEON

#    include <arm_neon.h>
#    include <cmath>
#    include <cstdint>
#    include <cstring>

namespace mp {
namespace {

constexpr int32_t LANES = 4;
constexpr int32_t VECS = 4;

#    include "kernels/attention/attention_vectors.h"

inline vec fma(vec a, vec b, vec c) {
    return vfmaq_f32(c, a, b);
}
inline vec max(vec a, vec b) {
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}
inline float max_of(vec x) {
    return vmaxvq_f32(x);
}
inline vec round(vec x) {
    return vrndnq_f32(x);
}

inline vec load_f16(const char * p) {
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8((const uint8_t *) p)));
}

inline vec load_bf16(const char * p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8((const uint8_t *) p)), 16));
}

inline vec load_i8(const char * p) {
    uint32_t four;
    memcpy(&four, p, sizeof(four));
    const int16x8_t x = vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(four)));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(x)));
}

inline float64x2_t zip_low(vec a, vec b) {
    return vreinterpretq_f64_f32(vzip1q_f32(a, b));
}
inline float64x2_t zip_high(vec a, vec b) {
    return vreinterpretq_f64_f32(vzip2q_f32(a, b));
}

inline void transpose4(const float * from, size_t ld, float * to) {
    constexpr int32_t ROW = 64;
    const vec a = load(from);
    const vec b = load(from + ld);
    const vec c = load(from + 2 * ld);
    const vec d = load(from + 3 * ld);
    const float64x2_t ab_low = zip_low(a, b);
    const float64x2_t ab_high = zip_high(a, b);
    const float64x2_t cd_low = zip_low(c, d);
    const float64x2_t cd_high = zip_high(c, d);
    store(to + 0 * ROW, vreinterpretq_f32_f64(vzip1q_f64(ab_low, cd_low)));
    store(to + 1 * ROW, vreinterpretq_f32_f64(vzip2q_f64(ab_low, cd_low)));
    store(to + 2 * ROW, vreinterpretq_f32_f64(vzip1q_f64(ab_high, cd_high)));
    store(to + 3 * ROW, vreinterpretq_f32_f64(vzip2q_f64(ab_high, cd_high)));
}

inline wide fma_wide(wide a, wide b, wide c) {
    return vfmaq_f64(c, a, b);
}
inline wide widen(const float * p) {
    return vcvt_f64_f32(vld1_f32(p));
}

#    include "kernels/attention/attention_kernel.h"

} // namespace

void attention_run_neon(const attention_job & job, int32_t head_begin, int32_t head_end, void * scratch) {
    run_heads(job, head_begin, head_end, scratch);
}

} // namespace mp

#endif
