// 8 rows of weights at a time, 8-bit dots of four in one instruction.
#include "kernels/gemm/gemm_sets.h"
#include "kernels/target_region.h"

#if defined(__x86_64__)

#    include "kernels/gemm/gemm.h"

#    include <cfloat>
#    include <cmath>
#    include <cstring>
#    include <immintrin.h>
#    include <limits>

MP_TARGET_BEGIN("avxvnni,avx2,fma,f16c")

#    include "kernels/gemm/gemm_floats.h"
#    include "kernels/gemm/gemm_kernel.h"
#    include "kernels/gemm/gemm_x86.h"

namespace mp {
namespace {

struct avx_vnni : avx2_base {
    static constexpr instruction_set set = instruction_set::avx_vnni;
    static constexpr int columns = 4, max_tile = 8;
    static constexpr bool signed_weights = false;

    static MP_INLINE ints add_pair_dots(ints dot, ints pairs, const int32_t * sums) {
        return _mm256_dpwssd_avx_epi32(dot, pairs, broadcast(sums));
    }

    // There are too few registers to keep a sub-block: it is unpacked again for every few rows.
    template <class F> struct sub_block {
        const uint8_t * quants;

        MP_INLINE explicit sub_block(const uint8_t * source) : quants(source) {}
    };

    template <class F, int count, int g>
    static MP_INLINE void add_vector(const uint8_t * weights, const int8_t * quants, ints (&dot)[F::halves][count]) {
        bytes vector = weights_of<avx_vnni, F, g>(weights);
        MP_UNROLL
        for (int i = 0; i < count; i++) {
            ints & sum = dot[F::halves == 2 ? g / 4 : 0][i];
            sum = _mm256_dpbusd_avx_epi32(sum, vector, broadcast_four(quants + 32 * i + 4 * g));
        }
    }

    template <class F, int count, int... g> static MP_INLINE void add_vectors(const uint8_t * weights, const int8_t * quants,
                                                                              ints (&dot)[F::halves][count], indices<g...>) {
        (add_vector<F, count, g>(weights, quants, dot), ...);
    }

    template <class F, int count>
    static MP_INLINE void add_dots(const sub_block<F> & weights, const int8_t * quants, ints (&dot)[F::halves][count]) {
        add_vectors<F, count>(weights.quants, quants, dot, make_indices<8>::type());
    }
};

} // namespace

const gemm_kernel * find_gemm_kernel_avx_vnni(ggml_type type) {
    const gemm_kernel * kernel = kernel_for<avx_vnni>(type);
    return kernel != nullptr ? kernel : float_kernel_for<avx_vnni>(type);
}

} // namespace mp

MP_TARGET_END

#endif
