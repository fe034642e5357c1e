#include "kernels/attention/attention_sets.h"
#include "kernels/target_region.h"

#if MP_ATTENTION_X86

#    include <cmath>
#    include <cstdint>
#    include <cstring>
#    include <immintrin.h>

MP_TARGET_BEGIN("avx2,fma,f16c")

namespace mp {
namespace {

constexpr int32_t LANES = 8;
constexpr int32_t VECS = 2;

#    include "kernels/attention/attention_vectors.h"

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

MP_TARGET_END

#endif
