#include "kernels/attention/attention_sets.h"
#include "kernels/target_region.h"

#if MP_ATTENTION_X86

#    include <cmath>
#    include <cstdint>
#    include <cstring>
#    include <immintrin.h>

#    if defined(__GNUC__) && !defined(__clang__) // GCC 12 says this of its own intrinsics
#        pragma GCC diagnostic ignored "-Wuninitialized"
#        pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#    endif

MP_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")

namespace mp {
namespace {

constexpr int32_t LANES = 16;
constexpr int32_t VECS = 4;

#    include "kernels/attention/attention_vectors.h"

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

MP_TARGET_END

#endif
