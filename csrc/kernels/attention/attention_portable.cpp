// Vectors of four floats by the compiler's own extension: SSE2, NEON or whatever the machine has.

#include "kernels/attention/attention_sets.h"

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__aarch64__)
#    include <arm_neon.h>
#endif

namespace mp {
namespace {

constexpr int32_t LANES = 4;
constexpr int32_t VECS = 2;

#include "kernels/attention/attention_vectors.h"

inline vec fma(vec a, vec b, vec c) {
#if defined(__aarch64__)
    return (vec) vfmaq_f32((float32x4_t) c, (float32x4_t) a, (float32x4_t) b);
#else
    return a * b + c;
#endif
}

inline vec max(vec a, vec b) {
    return a > b ? a : b;
}
inline float max_of(vec x) {
    const float a = x[0] > x[1] ? x[0] : x[1];
    const float b = x[2] > x[3] ? x[2] : x[3];
    return a > b ? a : b;
}

// From 2^23 on there are no fractions, and the sum would lose digits.
inline vec round(vec x) {
    const vec magic = with_sign(set1(8388608.0f), x);
    return with_sign(x, set1(1.0f)) < 8388608.0f ? (x + magic) - magic : x;
}

inline ints load_u16(const char * p) {
    uint16_t x[LANES];
    memcpy(x, p, sizeof(x));
    return ints{x[0], x[1], x[2], x[3]};
}

inline vec load_bf16(const char * p) {
    return (vec) (load_u16(p) << 16);
}

inline vec load_f16(const char * p) {
    const ints h = load_u16(p);
    const vec scaled = (vec) ((h & 0x7FFF) << 13) * set1(0x1p112f);
    const ints exponent = ((h & 0x7C00) == 0x7C00) & 0x7F800000; // of infinities and NaN
    return (vec) ((ints) scaled | exponent | (h & 0x8000) << 16);
}

inline vec load_i8(const char * p) {
    int8_t x[LANES];
    memcpy(x, p, sizeof(x));
    return vec{(float) x[0], (float) x[1], (float) x[2], (float) x[3]};
}

inline void transpose4(const float * from, size_t ld, float * to) {
    constexpr int32_t ROW = 64;
    for (int32_t i = 0; i < 4; i++) {
        store(to + i * ROW, vec{from[i], from[ld + i], from[2 * ld + i], from[3 * ld + i]});
    }
}

inline wide fma_wide(wide a, wide b, wide c) {
    return a * b + c;
}
inline wide widen(const float * p) {
    return wide{(double) p[0], (double) p[1]};
}

#include "kernels/attention/attention_kernel.h"

} // namespace

void attention_run_portable(const attention_job & job, int32_t head_begin, int32_t head_end, void * scratch) {
    run_heads(job, head_begin, head_end, scratch);
}

} // namespace mp
