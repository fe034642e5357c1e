// 16 rows of weights at a time, 8-bit dots of four in one instruction, up to 16 rows of activations.
#include "kernels/gemm/gemm_sets.h"
#include "kernels/target_region.h"

#if defined(__x86_64__)

#    if defined(__GNUC__) && !defined(__clang__)
// GCC 12 says this of its own intrinsics.
#        pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#        pragma GCC diagnostic ignored "-Wuninitialized"
#    endif

#    include "kernels/gemm/gemm.h"

#    include <cfloat>
#    include <cmath>
#    include <cstring>
#    include <immintrin.h>
#    include <limits>

MP_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")

#    include "kernels/gemm/gemm_floats.h"
#    include "kernels/gemm/gemm_kernel.h"
#    include "kernels/gemm/gemm_x86.h"

namespace mp {
namespace {

struct avx512_vnni : x86_base {
    static constexpr instruction_set set = instruction_set::avx512_vnni;
    static constexpr int lanes = 16, columns = 4, max_tile = 16;
    static constexpr bool signed_weights = false;

    using floats = __m512;
    using ints = __m512i;
    using bytes = __m512i;

    static MP_INLINE floats zero_floats() { return _mm512_setzero_ps(); }
    static MP_INLINE ints zero_ints() { return _mm512_setzero_si512(); }
    static MP_INLINE floats broadcast(const float * value) { return _mm512_set1_ps(*value); }
    static MP_INLINE ints broadcast(const int32_t * value) { return _mm512_set1_epi32(*value); }
    static MP_INLINE floats add(floats a, floats b) { return _mm512_add_ps(a, b); }
    static MP_INLINE floats multiply(floats a, floats b) { return _mm512_mul_ps(a, b); }
    static MP_INLINE floats multiply_add(floats a, floats b, floats c) { return _mm512_fmadd_ps(a, b, c); }
    static MP_INLINE floats multiply_subtract(floats a, floats b, floats c) { return _mm512_fnmadd_ps(a, b, c); }
    static MP_INLINE floats to_floats(ints a) { return _mm512_cvtepi32_ps(a); }
    static MP_INLINE void store(float * target, floats a) { _mm512_storeu_ps(target, a); }

    static MP_INLINE floats load_singles(const uint8_t * source) {
        return _mm512_loadu_ps(reinterpret_cast<const float *>(source));
    }
    static MP_INLINE floats load_halves(const uint8_t * source) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(source)));
    }
    static MP_INLINE floats load_bfloats(const uint8_t * source) {
        __m256i sixteen = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(source));
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(sixteen), 16));
    }
    template <bool is_signed> static MP_INLINE floats load_scales(const uint8_t * source) {
        __m128i sixteen = _mm_loadu_si128(reinterpret_cast<const __m128i *>(source));
        return _mm512_cvtepi32_ps(is_signed ? _mm512_cvtepi8_epi32(sixteen) : _mm512_cvtepu8_epi32(sixteen));
    }
    static MP_INLINE ints load_pairs(const uint8_t * source) {
        return _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(source)));
    }
    static MP_INLINE bytes load_bytes(const uint8_t * source) { return _mm512_loadu_si512(source); }

    // (a >> shift) & mask in every byte.
    template <int shift> static MP_INLINE bytes field(bytes a, int mask) {
        bytes shifted = shift > 0 ? _mm512_srli_epi16(a, shift) : a;
        return _mm512_and_si512(shifted, _mm512_set1_epi8(static_cast<char>(mask)));
    }
    static MP_INLINE bytes either(bytes a, bytes b) { return _mm512_or_si512(a, b); }
    template <int offset> static MP_INLINE bytes look_up(const int8_t * values, bytes index) {
        return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table<offset>(values)), index);
    }

    // The instructions with the broadcast in their memory operand: compilers do not always put it there.
    static MP_INLINE void add_dot_of_four(ints & dot, bytes weights, const int8_t * quants) {
        asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(dot) : "v"(weights), "m"(*reinterpret_cast<const int32_t *>(quants)));
    }
    static MP_INLINE ints add_pair_dots(ints dot, ints pairs, const int32_t * sums) {
        asm("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(dot) : "v"(pairs), "m"(*sums));
        return dot;
    }

    // A sub-block stays in eight registers for all rows of the tile.
    template <class F> struct sub_block {
        bytes vectors[8];

        MP_INLINE explicit sub_block(const uint8_t * quants) { load(quants, make_indices<8>::type()); }
        template <int... g> MP_INLINE void load(const uint8_t * quants, indices<g...>) {
            ((vectors[g] = weights_of<avx512_vnni, F, g>(quants)), ...);
        }
    };

    template <class F, int count>
    static MP_INLINE void add_dots(const sub_block<F> & weights, const int8_t * quants, ints (&dot)[F::halves][count]) {
        MP_UNROLL
        for (int g = 0; g < 8; g++) {
            MP_UNROLL
            for (int i = 0; i < count; i++) {
                add_dot_of_four(dot[F::halves == 2 ? g / 4 : 0][i], weights.vectors[g], quants + 32 * i + 4 * g);
            }
        }
    }
};

} // namespace

const gemm_kernel * find_gemm_kernel_avx512_vnni(ggml_type type) {
    const gemm_kernel * kernel = kernel_for<avx512_vnni>(type);
    return kernel != nullptr ? kernel : float_kernel_for<avx512_vnni>(type);
}

} // namespace mp

MP_TARGET_END

#endif
