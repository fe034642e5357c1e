#include "kernels/attention/attention_sets.h"

#if MP_ATTENTION_X86

#    include <cmath>
#    include <cstdint>
#    include <cstring>
#    include <immintrin.h>

#    if defined(__clang__)
#        pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))),           \
                                     apply_to = function)
#    else
#        pragma GCC push_options
#        pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#        pragma GCC diagnostic ignored "-Wuninitialized" // in GCC's own header, up to GCC 12
#        pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#    endif

namespace mp {
namespace {

using vec = __m512;
constexpr int32_t LANES = 16;
constexpr int32_t VECS = 4;

inline vec load(const void * p) {
    return _mm512_loadu_ps(p);
}
inline void store(float * p, vec x) {
    _mm512_storeu_ps(p, x);
}
inline vec set1(float x) {
    return _mm512_set1_ps(x);
}
inline vec add(vec a, vec b) {
    return _mm512_add_ps(a, b);
}
inline vec sub(vec a, vec b) {
    return _mm512_sub_ps(a, b);
}
inline vec mul(vec a, vec b) {
    return _mm512_mul_ps(a, b);
}
inline vec div(vec a, vec b) {
    return _mm512_div_ps(a, b);
}
inline vec fma(vec a, vec b, vec c) {
    return _mm512_fmadd_ps(a, b, c);
}
inline vec max(vec a, vec b) {
    return _mm512_max_ps(a, b);
}
inline float max_of(vec x) {
    return _mm512_reduce_max_ps(x);
}

inline vec round(vec x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

inline vec power_of_two(vec shifted) {
    const __m512i i = _mm512_sub_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(0x4B400000 - 127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(i, 23));
}

inline vec zero_below(vec y, vec x, vec limit) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), y);
}

inline vec hide(vec x, vec mask) {
    const vec hidden = _mm512_set1_ps(-INFINITY);
    return _mm512_mask_mov_ps(x, _mm512_cmp_ps_mask(mask, hidden, _CMP_EQ_OQ), hidden);
}

inline vec with_sign(vec x, vec sign) {
    const vec bit = _mm512_set1_ps(-0.0f);
    return _mm512_or_ps(_mm512_andnot_ps(bit, x), _mm512_and_ps(bit, sign));
}

inline vec load_f16(const char * p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) p));
}

inline vec load_bf16(const char * p) {
    const __m512i x = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *) p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
}

inline vec load_i8(const char * p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *) p)));
}

// Rows i, 4 + i, 8 + i, 12 + i in the four quarters of a vector.
inline vec load_quarters(const float * p, size_t ld) {
    vec x = _mm512_castps128_ps512(_mm_loadu_ps(p));
    x = _mm512_insertf32x4(x, _mm_loadu_ps(p + 4 * ld), 1);
    x = _mm512_insertf32x4(x, _mm_loadu_ps(p + 8 * ld), 2);
    return _mm512_insertf32x4(x, _mm_loadu_ps(p + 12 * ld), 3);
}

inline void transpose4(const float * from, size_t ld, float * to) {
    constexpr int32_t ROW = 64;
    const vec a = load_quarters(from, ld);
    const vec b = load_quarters(from + ld, ld);
    const vec c = load_quarters(from + 2 * ld, ld);
    const vec d = load_quarters(from + 3 * ld, ld);
    const __m512d ab_low = _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
    const __m512d ab_high = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
    const __m512d cd_low = _mm512_castps_pd(_mm512_unpacklo_ps(c, d));
    const __m512d cd_high = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
    store(to + 0 * ROW, _mm512_castpd_ps(_mm512_unpacklo_pd(ab_low, cd_low)));
    store(to + 1 * ROW, _mm512_castpd_ps(_mm512_unpackhi_pd(ab_low, cd_low)));
    store(to + 2 * ROW, _mm512_castpd_ps(_mm512_unpacklo_pd(ab_high, cd_high)));
    store(to + 3 * ROW, _mm512_castpd_ps(_mm512_unpackhi_pd(ab_high, cd_high)));
}

using wide = __m512d;
constexpr int32_t WIDE_LANES = 8;

inline wide load_wide(const double * p) {
    return _mm512_loadu_pd(p);
}
inline void store_wide(double * p, wide x) {
    _mm512_storeu_pd(p, x);
}
inline wide set1_wide(double x) {
    return _mm512_set1_pd(x);
}
inline wide add_wide(wide a, wide b) {
    return _mm512_add_pd(a, b);
}
inline wide mul_wide(wide a, wide b) {
    return _mm512_mul_pd(a, b);
}
inline wide fma_wide(wide a, wide b, wide c) {
    return _mm512_fmadd_pd(a, b, c);
}
inline wide widen(const float * p) {
    return _mm512_cvtps_pd(_mm256_loadu_ps(p));
}

#    include "kernels/attention/attention_kernel.h"

} // namespace

void attention_run_avx512(const attention_job & job, int32_t head_begin, int32_t head_end, void * scratch) {
    run_heads(job, head_begin, head_end, scratch);
}

} // namespace mp

#    if defined(__clang__)
#        pragma clang attribute pop
#    else
#        pragma GCC pop_options
#    endif

#endif
