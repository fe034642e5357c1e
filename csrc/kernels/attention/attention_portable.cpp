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

typedef float vec __attribute__((vector_size(16)));
typedef int32_t ivec __attribute__((vector_size(16)));
constexpr int32_t LANES = 4;
constexpr int32_t VECS = 2;

inline vec load(const void * p) {
    vec x;
    memcpy(&x, p, sizeof(x));
    return x;
}
inline void store(float * p, vec x) {
    memcpy(p, &x, sizeof(x));
}
inline vec set1(float x) {
    return vec{x, x, x, x};
}
inline ivec set1(int32_t x) {
    return ivec{x, x, x, x};
}
inline vec add(vec a, vec b) {
    return a + b;
}
inline vec sub(vec a, vec b) {
    return a - b;
}
inline vec mul(vec a, vec b) {
    return a * b;
}
inline vec div(vec a, vec b) {
    return a / b;
}

inline vec fma(vec a, vec b, vec c) {
#if defined(__aarch64__)
    return (vec) vfmaq_f32((float32x4_t) c, (float32x4_t) a, (float32x4_t) b);
#else
    return a * b + c;
#endif
}

inline vec choose(ivec condition, vec yes, vec no) {
    return (vec) ((condition & (ivec) yes) | (~condition & (ivec) no));
}
inline vec max(vec a, vec b) {
    return choose((ivec) (a > b), a, b);
}
inline float max_of(vec x) {
    const float a = x[0] > x[1] ? x[0] : x[1];
    const float b = x[2] > x[3] ? x[2] : x[3];
    return a > b ? a : b;
}

inline vec with_sign(vec x, vec sign) {
    return choose(set1(INT32_MIN), sign, x);
}

// From 2^23 on there are no fractions, and the sum would lose digits.
inline vec round(vec x) {
    const vec magic = with_sign(set1(8388608.0f), x);
    const ivec small = (ivec) (with_sign(x, set1(1.0f)) < set1(8388608.0f));
    return choose(small, (x + magic) - magic, x);
}

inline vec power_of_two(vec shifted) {
    return (vec) (((ivec) shifted - (0x4B400000 - 127)) << 23);
}
inline vec zero_below(vec y, vec x, vec limit) {
    return (vec) (~(ivec) (x < limit) & (ivec) y);
}
inline vec hide(vec x, vec mask) {
    return choose((ivec) (mask == set1(-INFINITY)), set1(-INFINITY), x);
}

inline ivec load_u16(const char * p) {
    uint16_t x[LANES];
    memcpy(x, p, sizeof(x));
    return ivec{x[0], x[1], x[2], x[3]};
}

inline vec load_bf16(const char * p) {
    return (vec) (load_u16(p) << 16);
}

inline vec load_f16(const char * p) {
    const ivec h = load_u16(p);
    const vec scaled = (vec) ((h & 0x7FFF) << 13) * set1(0x1p112f);
    const ivec exponent = (ivec) ((h & 0x7C00) == 0x7C00) & 0x7F800000; // of infinities and NaN
    return (vec) ((ivec) scaled | exponent | (h & 0x8000) << 16);
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

typedef double wide __attribute__((vector_size(16)));
constexpr int32_t WIDE_LANES = 2;

inline wide load_wide(const double * p) {
    wide x;
    memcpy(&x, p, sizeof(x));
    return x;
}
inline void store_wide(double * p, wide x) {
    memcpy(p, &x, sizeof(x));
}
inline wide set1_wide(double x) {
    return wide{x, x};
}
inline wide add_wide(wide a, wide b) {
    return a + b;
}
inline wide mul_wide(wide a, wide b) {
    return a * b;
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
