// What the x86 vector machines share: halves, and the quantisation of activations with AVX2.
#pragma once

#include "kernels/gemm/gemm_formats.h"

#include <immintrin.h>

namespace mp {
namespace {

struct x86_base {
    static MP_INLINE float round_to_half(float value) {
        return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtps_ph(_mm_set_ss(value), _MM_FROUND_TO_NEAREST_INT)));
    }

    // Magnitudes compared as integers: NaN above infinity above every number.
    static MP_INLINE float largest_magnitude(const float * x, int count) {
        __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
        __m256i largest[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        for (int i = 0; i < count; i += 16) {
            for (int j = 0; j < 2; j++) {
                __m256i bits = _mm256_castps_si256(_mm256_loadu_ps(x + i + 8 * j));
                largest[j] = _mm256_max_epi32(largest[j], _mm256_and_si256(bits, magnitude));
            }
        }
        __m256i eight = _mm256_max_epi32(largest[0], largest[1]);
        __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
        four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
        four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1));
        return _mm_cvtss_f32(_mm_castsi128_ps(four));
    }

    // 32 values times factor, rounded to the nearest integer; the sums of the two halves.
    static MP_INLINE void quantise_32(const float * x, float factor, int8_t * quants, int32_t * sums) {
        __m256 factors = _mm256_set1_ps(factor);
        __m256i i0 = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), factors));
        __m256i i1 = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8), factors));
        __m256i i2 = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 16), factors));
        __m256i i3 = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 24), factors));
        // Packing works within halves of a register: the groups of four come out as 0 2 4 6 1 3 5 7.
        __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(i0, i1), _mm256_packs_epi32(i2, i3));
        bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(quants), bytes);
        __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
        __m256i fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
        sums[0] = sum_of(_mm256_castsi256_si128(fours));
        sums[1] = sum_of(_mm256_extracti128_si256(fours, 1));
    }

    // 16 values, each with `offset` added.
    template <int offset> static MP_INLINE __m128i table(const int8_t * values) {
        return _mm_add_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i *>(values)),
                            _mm_set1_epi8(static_cast<char>(offset)));
    }

    static MP_INLINE int32_t sum_of(__m128i four) {
        four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
        four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1));
        return _mm_cvtsi128_si32(four);
    }
};

// 256 bits: all but the dot products.
struct avx2_base : x86_base {
    static constexpr int lanes = 8;

    using floats = __m256;
    using ints = __m256i;
    using bytes = __m256i;

    static MP_INLINE floats zero_floats() { return _mm256_setzero_ps(); }
    static MP_INLINE ints zero_ints() { return _mm256_setzero_si256(); }
    static MP_INLINE floats broadcast(const float * value) { return _mm256_broadcast_ss(value); }
    static MP_INLINE ints broadcast(const int32_t * value) { return _mm256_set1_epi32(*value); }
    static MP_INLINE ints broadcast_four(const int8_t * values) {
        return _mm256_castps_si256(_mm256_broadcast_ss(reinterpret_cast<const float *>(values)));
    }
    static MP_INLINE floats add(floats a, floats b) { return _mm256_add_ps(a, b); }
    static MP_INLINE floats multiply(floats a, floats b) { return _mm256_mul_ps(a, b); }
    static MP_INLINE floats multiply_add(floats a, floats b, floats c) { return _mm256_fmadd_ps(a, b, c); }
    static MP_INLINE floats multiply_subtract(floats a, floats b, floats c) { return _mm256_fnmadd_ps(a, b, c); }
    static MP_INLINE floats to_floats(ints a) { return _mm256_cvtepi32_ps(a); }
    static MP_INLINE void store(float * target, floats a) { _mm256_storeu_ps(target, a); }

    static MP_INLINE floats load_singles(const uint8_t * source) {
        return _mm256_loadu_ps(reinterpret_cast<const float *>(source));
    }
    static MP_INLINE floats load_halves(const uint8_t * source) {
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(source)));
    }
    static MP_INLINE floats load_bfloats(const uint8_t * source) {
        __m128i eight = _mm_loadu_si128(reinterpret_cast<const __m128i *>(source));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(eight), 16));
    }
    template <bool is_signed> static MP_INLINE floats load_scales(const uint8_t * source) {
        __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(source));
        return _mm256_cvtepi32_ps(is_signed ? _mm256_cvtepi8_epi32(eight) : _mm256_cvtepu8_epi32(eight));
    }
    static MP_INLINE ints load_pairs(const uint8_t * source) {
        return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(source)));
    }
    static MP_INLINE bytes load_bytes(const uint8_t * source) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(source));
    }

    // (a >> shift) & mask in every byte.
    template <int shift> static MP_INLINE bytes field(bytes a, int mask) {
        bytes shifted = shift > 0 ? _mm256_srli_epi16(a, shift) : a;
        return _mm256_and_si256(shifted, _mm256_set1_epi8(static_cast<char>(mask)));
    }
    static MP_INLINE bytes either(bytes a, bytes b) { return _mm256_or_si256(a, b); }
    template <int offset> static MP_INLINE bytes look_up(const int8_t * values, bytes index) {
        return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table<offset>(values)), index);
    }
};

} // namespace
} // namespace mp
