// For 64-bit ARM processors without dot products (Cortex-A53, A57, A72): 4 rows of weights at a time, products of bytes
// summed in 16 bits as long as they cannot overflow, up to 8 rows of activations.
#include "kernels/gemm/gemm_sets.h"

#if defined(__aarch64__)

#    include "kernels/gemm/gemm.h"

#    include <cfloat>
#    include <cmath>
#    include <cstring>
#    include <limits>

#    include "kernels/gemm/gemm_floats.h"
#    include "kernels/gemm/gemm_kernel.h"
#    include "kernels/gemm/gemm_neon.h"

namespace mp {
namespace {

struct neon : neon_base {
    static constexpr instruction_set set = instruction_set::neon;
    static constexpr int columns = 4, max_tile = 8;

    // A sub-block stays in eight registers for all rows of the tile.
    template <class F> struct sub_block {
        int8x16_t vectors[8];

        MP_INLINE explicit sub_block(const uint8_t * quants) { load(quants, make_indices<8>::type()); }
        template <int... g> MP_INLINE void load(const uint8_t * quants, indices<g...>) {
            ((vectors[g] = vreinterpretq_s8_u8(weights_of<neon, F, g>(quants))), ...);
        }
    };

    // Products that fit 16 bits together, of those of one scale: 127 times the largest quant each; signed formats have -128.
    template <class F> static constexpr int chain() {
        const int largest = F::is_signed ? 128 : largest_quant<F>();
        int length = 8 / F::halves;
        while (length * 127 * largest > 32767) {
            length /= 2;
        }
        return length;
    }

    // Number i of four, in all lanes. Of the function for it GCC makes a load of its own.
    template <int i> static MP_INLINE int8x16_t repeat(int8x16_t numbers) {
        int8x16_t four;
        asm("dup %0.4s, %1.s[%2]" : "=w"(four) : "w"(numbers), "i"(i));
        return four;
    }

    // Four activations with every lane of vector g. The first two lanes and the last two have sums of their own.
    template <class F, int g>
    static MP_INLINE void add_vector(int8x16_t weights, int8x16_t activations, int16x8_t (&part)[2], int32x4_t (&sum)[2]) {
        const int8x16_t four = repeat<g % 4>(activations);
        const int8x8_t low = vget_low_s8(weights), four_low = vget_low_s8(four);
        const bool is_first = g % chain<F>() == 0;
        part[0] = is_first ? vmull_s8(low, four_low) : vmlal_s8(part[0], low, four_low);
        part[1] = is_first ? vmull_high_s8(weights, four) : vmlal_high_s8(part[1], weights, four);
        if (g % chain<F>() == chain<F>() - 1) {
            const bool is_only = chain<F>() == 8 / F::halves;
            sum[0] = is_only ? vpaddlq_s16(part[0]) : vpadalq_s16(sum[0], part[0]);
            sum[1] = is_only ? vpaddlq_s16(part[1]) : vpadalq_s16(sum[1], part[1]);
        }
    }

    // The vectors of one scale, with one row of activations.
    template <class F, int half, int... g>
    static MP_INLINE void add_half(const sub_block<F> & weights, const int8_t * quants, ints & dot, indices<g...>) {
        constexpr int first = 8 / F::halves * half;
        const int8x16_t sixteen[2] = {vld1q_s8(quants), vld1q_s8(quants + 16)};
        int16x8_t part[2];
        int32x4_t sum[2] = {zero_ints(), zero_ints()};
        (add_vector<F, first + g>(weights.vectors[first + g], sixteen[(first + g) / 4], part, sum), ...);
        dot = vaddq_s32(dot, vpaddq_s32(sum[0], sum[1]));
    }

    template <class F, int count>
    static MP_INLINE void add_dots(const sub_block<F> & weights, const int8_t * quants, ints (&dot)[F::halves][count]) {
        MP_UNROLL
        for (int i = 0; i < count; i++) {
            auto some = typename make_indices<8 / F::halves>::type();
            add_half<F, 0>(weights, quants + 32 * i, dot[0][i], some);
            if constexpr (F::halves == 2) {
                add_half<F, 1>(weights, quants + 32 * i, dot[1][i], some);
            }
        }
    }
};

} // namespace

const gemm_kernel * find_gemm_kernel_neon(ggml_type type) {
    const gemm_kernel * kernel = kernel_for<neon>(type);
    return kernel != nullptr ? kernel : float_kernel_for<neon_floats<instruction_set::neon>>(type);
}

} // namespace mp

#endif
