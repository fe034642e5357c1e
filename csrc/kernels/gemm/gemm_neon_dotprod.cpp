// 4 rows of weights at a time, 8-bit dots of four in one instruction, up to 8 rows of activations.
#include "kernels/gemm/gemm_sets.h"

#if defined(__aarch64__)

#    include "kernels/gemm/gemm.h"

#    include <cfloat>
#    include <cmath>
#    include <cstring>
#    include <limits>

#    if defined(__clang__)
#        if __clang_major__ < 16 && !defined(__ARM_FEATURE_DOTPROD)
#            define __ARM_FEATURE_DOTPROD 1 // its arm_neon.h looks at this and not at the attribute
#        endif
#        pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#    else
#        pragma GCC target("arch=armv8.2-a+dotprod")
#    endif

#    include "kernels/gemm/gemm_floats.h"
#    include "kernels/gemm/gemm_kernel.h"
#    include "kernels/gemm/gemm_neon.h"

namespace mp {
namespace {

struct neon_dotprod : neon_base {
    static constexpr instruction_set set = instruction_set::neon_dotprod;
    static constexpr int columns = 4, max_tile = 8;

    // A sub-block stays in eight registers for all rows of the tile.
    template <class F> struct sub_block {
        int8x16_t vectors[8];

        MP_INLINE explicit sub_block(const uint8_t * quants) { load(quants, make_indices<8>::type()); }
        template <int... g> MP_INLINE void load(const uint8_t * quants, indices<g...>) {
            ((vectors[g] = vector_of<neon_dotprod, F, g>(quants)), ...);
        }
    };

    template <class F, int count, int g>
    static MP_INLINE void add_vector(const sub_block<F> & weights, const int8x16_t * quants, ints (&dot)[F::halves][count]) {
        MP_UNROLL
        for (int i = 0; i < count; i++) {
            ints & sum = dot[F::halves == 2 ? g / 4 : 0][i];
            sum = vdotq_laneq_s32(sum, weights.vectors[g], quants[i], g % 4);
        }
    }

    template <class F, int count, int half, int... g> static MP_INLINE void
    add_half(const sub_block<F> & weights, const int8_t * quants, ints (&dot)[F::halves][count], indices<g...>) {
        int8x16_t sixteen[count];
        MP_UNROLL
        for (int i = 0; i < count; i++) {
            sixteen[i] = vld1q_s8(quants + 32 * i + 16 * half);
        }
        (add_vector<F, count, 4 * half + g>(weights, sixteen, dot), ...);
    }

    template <class F, int count>
    static MP_INLINE void add_dots(const sub_block<F> & weights, const int8_t * quants, ints (&dot)[F::halves][count]) {
        add_half<F, count, 0>(weights, quants, dot, make_indices<4>::type());
        add_half<F, count, 1>(weights, quants, dot, make_indices<4>::type());
    }
};

struct dot_kernels {
    template <class F> static constexpr gemm_kernel make() { return make_kernel<neon_dotprod, F>(); }
};

} // namespace

const gemm_kernel * find_gemm_kernel_neon_dotprod(ggml_type type) {
    const gemm_kernel * kernel = neon_kernel_for<dot_kernels>(type);
    return kernel != nullptr ? kernel : float_kernel_for<neon_floats<instruction_set::neon_dotprod>>(type);
}

} // namespace mp

#    if defined(__clang__)
#        pragma clang attribute pop
#    endif

#endif
