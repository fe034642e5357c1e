// 8 rows of weights at a time; products of bytes are summed in 16 bits as long as they cannot overflow.
#include "kernels/gemm/gemm_sets.h"
#include "kernels/target_region.h"

#if defined(__x86_64__)

#    include "kernels/gemm/gemm.h"

#    include <cfloat>
#    include <cmath>
#    include <cstring>
#    include <immintrin.h>
#    include <limits>

MP_TARGET_BEGIN("avx2,fma,f16c")

#    include "kernels/gemm/gemm_floats.h"
#    include "kernels/gemm/gemm_kernel.h"
#    include "kernels/gemm/gemm_x86.h"

namespace mp {
namespace {

struct avx2 : avx2_base {
    static constexpr instruction_set set = instruction_set::avx2;
    static constexpr int columns = 4, max_tile = 8;
    static constexpr bool signed_weights = true;

    static MP_INLINE ints add_pair_dots(ints dot, ints pairs, const int32_t * sums) {
        return _mm256_add_epi32(dot, _mm256_madd_epi16(pairs, broadcast(sums)));
    }

    // There are too few registers to keep a sub-block: it is unpacked again for every few rows.
    template <class F> struct sub_block {
        const uint8_t * quants;

        MP_INLINE explicit sub_block(const uint8_t * source) : quants(source) {}
    };

    // Pairs of products that fit 16 bits together, of those for one scale: two products of a quant and a number up to 127
    // are at most 2 * 127 * the largest quant, so 8 such pairs at 4 bits, 4 at 5 bits and 2 at 6 bits. Signed formats: one.
    template <class F> static constexpr int chain() {
        int length = F::is_signed ? 1 : 8 / F::halves;
        while (!F::is_signed && length * 2 * 127 * largest_quant<F>() > 32767) {
            length /= 2;
        }
        return length;
    }

    // No instruction. GCC turns a chain of additions into a tree, for which there are too few registers.
    static MP_INLINE void stay_in_order(ints & sum) { asm("" : "+x"(sum)); }

    template <class F, int count, int g> static MP_INLINE void add_vector(const uint8_t * weights, const int8_t * quants,
                                                                          ints * chained, ints (&dot)[F::halves][count]) {
        constexpr int length = chain<F>();
        bytes vector = weights_of<avx2, F, g>(weights);
        bytes magnitude = F::is_signed ? _mm256_abs_epi8(vector) : vector;
        MP_UNROLL
        for (int i = 0; i < count; i++) {
            bytes four = broadcast_four(quants + 32 * i + 4 * g);
            ints products = _mm256_maddubs_epi16(magnitude, F::is_signed ? _mm256_sign_epi8(four, vector) : four);
            chained[i] = g % length == 0 ? products : _mm256_add_epi16(chained[i], products);
            stay_in_order(chained[i]);
            if (g % length == length - 1) {
                ints & sum = dot[F::halves == 2 ? g / 4 : 0][i];
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(chained[i], _mm256_set1_epi16(1)));
                stay_in_order(sum);
            }
        }
    }

    template <class F, int count, int... g> static MP_INLINE void add_vectors(const uint8_t * weights, const int8_t * quants,
                                                                              ints (&dot)[F::halves][count], indices<g...>) {
        ints chained[count];
        (add_vector<F, count, g>(weights, quants, chained, dot), ...);
    }

    template <class F, int count>
    static MP_INLINE void add_dots(const sub_block<F> & weights, const int8_t * quants, ints (&dot)[F::halves][count]) {
        add_vectors<F, count>(weights.quants, quants, dot, make_indices<8>::type());
    }
};

} // namespace

const gemm_kernel * find_gemm_kernel_avx2(ggml_type type) {
    const gemm_kernel * kernel = kernel_for<avx2>(type);
    return kernel != nullptr ? kernel : float_kernel_for<avx2>(type);
}

} // namespace mp

MP_TARGET_END

#endif
