// Products of 2 x 8 bytes with 8 x 2 bytes in one instruction: 4 rows of weights with pairs of rows of activations, up to
// 12 of the latter. The numbers and their order are those of gemm_kernel.h, and the results are the same bits; the layouts
// differ.
//
// Packed weights are those of gemm_packing.h for 4 lanes, but for the order of the quants: vector v of the 8 of a
// sub-block holds 8 values of k, from 8 * (v / 2) on, of the rows 2 * (v % 2) and 2 * (v % 2) + 1; and the minima are
// [n_eights][4][8] bytes, row after row, 8 at a time.
//
// Quantised activations, tile after tile of p pairs of rows (where n is odd, the last row is its own partner), each of
// them block after block along k:
//   quants [sub-block][p][4][2][8] signed bytes: 8 values of k of one row, then of the other
//   d      [p][2] floats
//   sums   [n_eights][2][p][2][8] signed bytes: of the sums of the quants of 8 sub-blocks or halves first s_0, then s_1,
//          where the sum is s_0 + 128 * s_1        (formats with minima)
//   sum    [p][2] floats: d times the sum of quants (formats that add m)
#include "kernels/gemm/gemm_sets.h"

#if defined(__aarch64__)

#    include "kernels/gemm/gemm.h"

#    include <cfloat>
#    include <cmath>
#    include <cstring>
#    include <limits>

#    if defined(__clang__)
#        if __clang_major__ < 16 && !defined(__ARM_FEATURE_MATMUL_INT8)
#            define __ARM_FEATURE_MATMUL_INT8 1 // its arm_neon.h looks at this and not at the attribute
#        endif
#        pragma clang attribute push(__attribute__((target("i8mm"))), apply_to = function)
#    else
#        pragma GCC target("arch=armv8.2-a+i8mm")
#    endif

#    include "kernels/gemm/gemm_floats.h"
#    include "kernels/gemm/gemm_kernel.h"
#    include "kernels/gemm/gemm_neon.h"

namespace mp {
namespace {

struct neon_i8mm : neon_base {};

constexpr int max_pairs = 6;

// --- weights ---------------------------------------------------------------------------------------------------------

template <class F> void pack_four_rows(const typename F::ggml_block * source, int64_t row_stride, uint8_t * target) {
    using P = packed_block<F, 4>;
    uint8_t quants[4][F::block];
    for (int row = 0; row < 4; row++, source += row_stride) {
        F::unpack(*source, quants[row]);
        uint8_t scale[16] = {}, min[16] = {};
        if constexpr (P::has_scales) {
            F::scales(*source, scale, min);
        }
        pack_scales<F, 4>(*source, scale, target, row);
        for (int eight = 0; eight < n_min_pairs<F>() / 4; eight++) {
            memcpy(target + P::min + 32 * eight + 8 * row, min + 8 * eight, 8);
        }
    }
    for (int lane = 0; lane < 4; lane++) {
        uint8_t of_lane[F::block];
        for (int i = 0; i < F::block / 4; i++) {
            int vector = i % 8;
            int k = i / 8 * 32 + vector / 2 * 8 + lane % 2 * 4;
            memcpy(of_lane + 4 * i, quants[vector % 2 * 2 + lane / 2] + k, 4);
        }
        pack_quants<F, 4, true>(of_lane, target, lane);
    }
}

template <class F> void pack_pairs(const void * weights, void * packed, int64_t k, int64_t group_begin, int64_t group_end) {
    int64_t n_blocks = k / F::block;
    const auto * source = static_cast<const typename F::ggml_block *>(weights);
    for (int64_t group = group_begin; group < group_end; group++) {
        for (int64_t block = 0; block < n_blocks; block++) {
            uint8_t * target = static_cast<uint8_t *>(packed) + (group * n_blocks + block) * packed_block<F, 4>::size;
            pack_four_rows<F>(source + group * 4 * n_blocks + block, n_blocks, target);
        }
    }
}

// --- activations -----------------------------------------------------------------------------------------------------

template <class F> size_t pairs_size(int64_t n, int64_t k) {
    return static_cast<size_t>((n + 1) / 2 * 2 * (k / F::block)) * activation_block<F, 0>::row_size;
}

// From one block of a row alone to its place (pair, row of the pair) in a block of a tile.
template <class F> void place_block(const uint8_t * source, uint8_t * target, int n_pairs, int pair, int row) {
    using A = activation_block<F, 0>;
    for (int i = 0; i < F::block / 8; i++) {
        memcpy(target + (i / 4 * n_pairs + pair) * 64 + i % 4 * 16 + row * 8, source + 8 * i, 8);
    }
    memcpy(target + A::d(2 * n_pairs) + (2 * pair + row) * 4, source + A::d(1), 4);
    auto * parts = reinterpret_cast<int8_t *>(target) + A::sums(2 * n_pairs, 0) + (pair * 2 + row) * 8;
    for (int i = 0; i < 2 * n_min_pairs<F>(); i++) {
        int16_t sum;
        memcpy(&sum, source + A::sums(1, 0) + 2 * i, 2);
        int upper = (sum + 64) >> 7;
        int place = i / 8 * n_pairs * 32 + i % 8;
        parts[place] = static_cast<int8_t>(sum - upper * 128);
        parts[place + n_pairs * 16] = static_cast<int8_t>(upper);
    }
    if constexpr (F::adds_m) {
        memcpy(target + A::sum(2 * n_pairs) + (2 * pair + row) * 4, source + A::sum(1), 4);
    }
}

template <class F> void quantise_pairs(const float * x, size_t stride, void * activations, int64_t n, int64_t k,
                                       int32_t part, int32_t n_parts) {
    using A = activation_block<F, 0>;
    int64_t n_blocks = k / F::block;
    tiling tiles((n + 1) / 2, max_pairs);
    for_each_row_part(n, n_blocks, part, n_parts, [&](int64_t row, int64_t begin, int64_t end) {
        int64_t tile = tiles.tile_of(row / 2);
        int64_t first = tiles.first_row(tile);
        int n_pairs = tiles.tile_width(tile);
        int pair = static_cast<int>(row / 2 - first);
        const auto * source = reinterpret_cast<const float *>(reinterpret_cast<const char *>(x) + row * stride);
        for (int64_t block = begin; block < end; block++) {
            uint8_t * target = static_cast<uint8_t *>(activations) +
                               static_cast<size_t>((first * n_blocks + block * n_pairs) * 2) * A::row_size;
            alignas(4) uint8_t alone[A::row_size];
            quantise_block<neon_i8mm, F>(source + block * F::block, alone, 1, 0);
            place_block<F>(alone, target, n_pairs, pair, static_cast<int>(row % 2));
            if (row == n - 1 && row % 2 == 0) {
                place_block<F>(alone, target, n_pairs, pair, 1);
            }
        }
    });
}

// --- product ---------------------------------------------------------------------------------------------------------
// Values of 2 rows of weights and 2 of activations are a vector: (0, 0), (0, 1), (1, 0), (1, 1), weights first.

struct four_rows {
    float32x4_t half[2]; // rows 0 and 1, rows 2 and 3

    static MP_INLINE four_rows zero() { return {{vdupq_n_f32(0), vdupq_n_f32(0)}}; }
    static MP_INLINE four_rows of(float32x4_t rows) { return {{vzip1q_f32(rows, rows), vzip2q_f32(rows, rows)}}; }
};

MP_INLINE float32x4_t load_pair(const float * pair) {
    return vreinterpretq_f32_f64(vld1q_dup_f64(reinterpret_cast<const double *>(pair)));
}

template <class F> struct sub_block_vectors {
    int8x16_t vectors[8];

    MP_INLINE explicit sub_block_vectors(const uint8_t * quants) { load(quants, make_indices<8>::type()); }
    template <int... v> MP_INLINE void load(const uint8_t * quants, indices<v...>) {
        ((vectors[v] = vector_of<neon_i8mm, F, v>(quants)), ...);
    }
};

// Adds a sub-block with a pair of rows. scale: one for each half of the sub-block; row_scale: d of the activations, or
// nullptr where it is applied later.
template <class F> MP_INLINE void add_pair(const sub_block_vectors<F> & weights, const four_rows * scale,
                                           const float * row_scale, const int8_t * quants, four_rows & sums) {
    int32x4_t dot[F::halves][2];
    MP_UNROLL
    for (int i = 0; i < 4; i++) {
        int8x16_t eight = vld1q_s8(quants + 16 * i);
        int half = i * F::halves / 4;
        MP_UNROLL
        for (int rows = 0; rows < 2; rows++) {
            int32x4_t before = i * F::halves % 4 == 0 ? vdupq_n_s32(0) : dot[half][rows];
            dot[half][rows] = vmmlaq_s32(before, weights.vectors[2 * i + rows], eight);
        }
    }
    MP_UNROLL
    for (int half = 0; half < F::halves; half++) {
        MP_UNROLL
        for (int rows = 0; rows < 2; rows++) {
            float32x4_t factor = scale[half].half[rows];
            if constexpr (F::n_sub == 1) {
                factor = vmulq_f32(factor, load_pair(row_scale));
            }
            sums.half[rows] = vfmaq_f32(sums.half[rows], dot_to_floats<neon_i8mm, F>(dot[half][rows]), factor);
        }
    }
}

// Adds m times the scaled sums of the quants.
template <class F, int n_pairs>
MP_INLINE void add_m(const uint8_t * weights, const uint8_t * activations, four_rows * sums) {
    const auto * sum = reinterpret_cast<const float *>(activations + activation_block<F, 0>::sum(2 * n_pairs));
    four_rows m = four_rows::of(neon_base::load_halves(weights + packed_block<F, 4>::dmin));
    MP_UNROLL
    for (int pair = 0; pair < n_pairs; pair++) {
        float32x4_t both = load_pair(sum + 2 * pair);
        MP_UNROLL
        for (int rows = 0; rows < 2; rows++) {
            sums[pair].half[rows] = vfmaq_f32(sums[pair].half[rows], m.half[rows], both);
        }
    }
}

// Subtracts the minima of a block times the sums of the quants.
template <class F, int n_pairs> MP_INLINE void subtract_minima(const uint8_t * weights, const uint8_t * activations,
                                                               const float * row_scale, four_rows * sums) {
    using P = packed_block<F, 4>;
    constexpr int n_eights = n_min_pairs<F>() / 4;
    const auto * parts = reinterpret_cast<const int8_t *>(activations + activation_block<F, 0>::sums(2 * n_pairs, 0));
    four_rows dmin = four_rows::of(neon_base::load_halves(weights + P::dmin));
    MP_UNROLL
    for (int pair = 0; pair < n_pairs; pair++) {
        float32x4_t d = load_pair(row_scale + 2 * pair);
        MP_UNROLL
        for (int rows = 0; rows < 2; rows++) {
            int8x16_t minima[n_eights];
            int32x4_t dot = vdupq_n_s32(0);
            MP_UNROLL
            for (int eight = 0; eight < n_eights; eight++) {
                minima[eight] = vreinterpretq_s8_u8(vld1q_u8(weights + P::min + 32 * eight + 16 * rows));
                dot = vmmlaq_s32(dot, minima[eight], vld1q_s8(parts + 16 * ((2 * eight + 1) * n_pairs + pair)));
            }
            dot = vshlq_n_s32(dot, 7);
            MP_UNROLL
            for (int eight = 0; eight < n_eights; eight++) {
                dot = vmmlaq_s32(dot, minima[eight], vld1q_s8(parts + 16 * (2 * eight * n_pairs + pair)));
            }
            float32x4_t factor = vmulq_f32(dmin.half[rows], d);
            sums[pair].half[rows] = vfmsq_f32(sums[pair].half[rows], vcvtq_f32_s32(dot), factor);
        }
    }
}

// y for `n` rows of a tile: twice n_pairs, or one less.
template <class F, int n_pairs> void multiply_pairs_tile(const uint8_t * weights, const uint8_t * activations, float * y,
                                                         size_t ldy, int64_t n_blocks, int64_t n) {
    using P = packed_block<F, 4>;
    using A = activation_block<F, 0>;
    four_rows sums[n_pairs];
    MP_UNROLL
    for (int pair = 0; pair < n_pairs; pair++) {
        sums[pair] = four_rows::zero();
    }
    for (int64_t block = 0; block < n_blocks; block++, weights += P::size, activations += 2 * n_pairs * A::row_size) {
        const auto * row_scale = reinterpret_cast<const float *>(activations + A::d(2 * n_pairs));
        const auto * quants = reinterpret_cast<const int8_t *>(activations);
        float32x4_t d = load_d<neon_i8mm, F>(weights + P::d);
        if constexpr (F::n_sub == 1) {
            prefetch<2 * n_pairs>(weights, P::size);
            four_rows scale = four_rows::of(d);
            sub_block_vectors<F> sub(weights + P::quants);
            MP_UNROLL
            for (int pair = 0; pair < n_pairs; pair++) {
                add_pair<F>(sub, &scale, row_scale + 2 * pair, quants + 64 * pair, sums[pair]);
            }
            if constexpr (F::adds_m) {
                add_m<F, n_pairs>(weights, activations, sums);
            }
        } else {
            four_rows parts[n_pairs];
            MP_UNROLL
            for (int pair = 0; pair < n_pairs; pair++) {
                parts[pair] = four_rows::zero();
            }
            prefetch<2 * n_pairs>(weights, P::quants);
            for (int s = 0; s < F::n_sub; s++) {
                const uint8_t * sub_weights = weights + P::quants + s * P::sub_size;
                prefetch<2 * n_pairs>(sub_weights, P::sub_size);
                four_rows scale[F::halves];
                MP_UNROLL
                for (int half = 0; half < F::halves; half++) {
                    const uint8_t * bytes = weights + P::scale + (s * F::halves + half) * 4;
                    scale[half] = four_rows::of(vmulq_f32(d, neon_base::load_scales<F::signed_scale>(bytes)));
                }
                sub_block_vectors<F> sub(sub_weights);
                MP_UNROLL
                for (int pair = 0; pair < n_pairs; pair++) {
                    add_pair<F>(sub, scale, nullptr, quants + 64 * (s * n_pairs + pair), parts[pair]);
                }
            }
            MP_UNROLL
            for (int pair = 0; pair < n_pairs; pair++) {
                float32x4_t factor = load_pair(row_scale + 2 * pair);
                MP_UNROLL
                for (int rows = 0; rows < 2; rows++) {
                    sums[pair].half[rows] = vfmaq_f32(sums[pair].half[rows], parts[pair].half[rows], factor);
                }
            }
            if constexpr (F::has_min) {
                subtract_minima<F, n_pairs>(weights, activations, row_scale, sums);
            }
        }
    }
    MP_UNROLL
    for (int pair = 0; pair < n_pairs; pair++) {
        vst1q_f32(y + 2 * pair * ldy, vuzp1q_f32(sums[pair].half[0], sums[pair].half[1]));
        if (2 * pair + 1 < n) {
            vst1q_f32(y + (2 * pair + 1) * ldy, vuzp2q_f32(sums[pair].half[0], sums[pair].half[1]));
        }
    }
}

using pairs_function = void (*)(const uint8_t *, const uint8_t *, float *, size_t, int64_t, int64_t);

template <class F, int... i> pairs_function pairs_function_for(int n_pairs, indices<i...>) {
    static constexpr pairs_function functions[] = {multiply_pairs_tile<F, i + 1>...};
    return functions[n_pairs - 1];
}

template <class F> void multiply_pairs(const void * packed, const void * activations, float * y, size_t ldy, int64_t n,
                                       int64_t k, int64_t group_begin, int64_t group_end) {
    using A = activation_block<F, 0>;
    int64_t n_blocks = k / F::block;
    tiling tiles((n + 1) / 2, max_pairs);
    for (int64_t group = group_begin; group < group_end; group++) {
        const uint8_t * weights = static_cast<const uint8_t *>(packed) + group * n_blocks * packed_block<F, 4>::size;
        for (int64_t tile = 0; tile < tiles.n_tiles; tile++) {
            int64_t row = 2 * tiles.first_row(tile);
            pairs_function function = pairs_function_for<F>(tiles.tile_width(tile), make_indices<max_pairs>::type());
            function(weights, static_cast<const uint8_t *>(activations) + static_cast<size_t>(row * n_blocks) * A::row_size,
                     y + static_cast<size_t>(row) * ldy + group * 4, ldy, n_blocks, n - row);
        }
    }
}

// --- table of kernels ------------------------------------------------------------------------------------------------

struct pairs_kernels {
    template <class F> static constexpr gemm_kernel make() {
        return {F::type,
                instruction_set::neon_i8mm,
                4,
                F::block,
                2 * max_pairs,
                packed_size<F, 4>,
                pairs_size<F>,
                pack_pairs<F>,
                quantise_pairs<F>,
                multiply_pairs<F>};
    }
};

} // namespace

const gemm_kernel * find_gemm_kernel_neon_i8mm(ggml_type type) {
    const gemm_kernel * kernel = neon_kernel_for<pairs_kernels>(type);
    return kernel != nullptr ? kernel : float_kernel_for<neon_floats<instruction_set::neon_i8mm>>(type);
}

} // namespace mp

#    if defined(__clang__)
#        pragma clang attribute pop
#    endif

#endif
