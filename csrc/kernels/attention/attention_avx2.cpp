#include "kernels/attention/attention_sets.h"

#if MP_ATTENTION_X86

#    include <cmath>
#    include <cstdint>
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

using vec = __m256;
constexpr int32_t LANES = 8;
constexpr int32_t VECS = 2;

inline vec load(const float * p) {
    return _mm256_loadu_ps(p);
}
inline void store(float * p, vec x) {
    _mm256_storeu_ps(p, x);
}
inline vec set1(float x) {
    return _mm256_set1_ps(x);
}
inline vec add(vec a, vec b) {
    return _mm256_add_ps(a, b);
}
inline vec sub(vec a, vec b) {
    return _mm256_sub_ps(a, b);
}
inline vec mul(vec a, vec b) {
    return _mm256_mul_ps(a, b);
}
inline vec div(vec a, vec b) {
    return _mm256_div_ps(a, b);
}
inline vec fma(vec a, vec b, vec c) {
    return _mm256_fmadd_ps(a, b, c);
}
inline vec max(vec a, vec b) {
    return _mm256_max_ps(a, b);
}

inline float max_of(vec x) {
    __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_max_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
}

inline vec round(vec x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

inline vec power_of_two(vec shifted) {
    const __m256i i = _mm256_sub_epi32(_mm256_castps_si256(shifted), _mm256_set1_epi32(0x4B400000 - 127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(i, 23));
}

inline vec zero_below(vec y, vec x, vec limit) {
    return _mm256_andnot_ps(_mm256_cmp_ps(x, limit, _CMP_LT_OQ), y);
}

inline vec hide(vec x, vec mask) {
    const vec hidden = _mm256_set1_ps(-INFINITY);
    return _mm256_blendv_ps(x, hidden, _mm256_cmp_ps(mask, hidden, _CMP_EQ_OQ));
}

inline vec with_sign(vec x, vec sign) {
    const vec bit = _mm256_set1_ps(-0.0f);
    return _mm256_or_ps(_mm256_andnot_ps(bit, x), _mm256_and_ps(bit, sign));
}

inline vec load_f16(const char * p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) p));
}

inline vec load_bf16(const char * p) {
    const __m256i x = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *) p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16));
}

inline vec load_i8(const char * p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *) p)));
}

// Rows i and 4 + i in the two halves of a vector.
inline vec load_halves(const float * p, size_t ld) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + 4 * ld), 1);
}

inline void transpose4(const float * from, size_t ld, float * to) {
    constexpr int32_t ROW = 64;
    const vec a = load_halves(from, ld);
    const vec b = load_halves(from + ld, ld);
    const vec c = load_halves(from + 2 * ld, ld);
    const vec d = load_halves(from + 3 * ld, ld);
    const __m256d ab_low = _mm256_castps_pd(_mm256_unpacklo_ps(a, b));
    const __m256d ab_high = _mm256_castps_pd(_mm256_unpackhi_ps(a, b));
    const __m256d cd_low = _mm256_castps_pd(_mm256_unpacklo_ps(c, d));
    const __m256d cd_high = _mm256_castps_pd(_mm256_unpackhi_ps(c, d));
    store(to + 0 * ROW, _mm256_castpd_ps(_mm256_unpacklo_pd(ab_low, cd_low)));
    store(to + 1 * ROW, _mm256_castpd_ps(_mm256_unpackhi_pd(ab_low, cd_low)));
    store(to + 2 * ROW, _mm256_castpd_ps(_mm256_unpacklo_pd(ab_high, cd_high)));
    store(to + 3 * ROW, _mm256_castpd_ps(_mm256_unpackhi_pd(ab_high, cd_high)));
}

using wide = __m256d;
constexpr int32_t WIDE_LANES = 4;

inline wide load_wide(const double * p) {
    return _mm256_loadu_pd(p);
}
inline void store_wide(double * p, wide x) {
    _mm256_storeu_pd(p, x);
}
inline wide set1_wide(double x) {
    return _mm256_set1_pd(x);
}
inline wide add_wide(wide a, wide b) {
    return _mm256_add_pd(a, b);
}
inline wide mul_wide(wide a, wide b) {
    return _mm256_mul_pd(a, b);
}
inline wide fma_wide(wide a, wide b, wide c) {
    return _mm256_fmadd_pd(a, b, c);
}
inline wide widen(const float * p) {
    return _mm256_cvtps_pd(_mm_loadu_ps(p));
}

#    include "kernels/attention/attention_kernel.h"

} // namespace

void attention_run_avx2(const attention_job & job, int32_t head_begin, int32_t head_end, void * scratch) {
    run_heads(job, head_begin, head_end, scratch);
}

} // namespace mp

#    if defined(__clang__)
#        pragma clang attribute pop
#    else
#        pragma GCC pop_options
#    endif

#endif
