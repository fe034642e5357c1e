// The product of a tile, written once over a "vector machine" S that each instruction set supplies:
//   lanes            rows of weights in a vector
//   columns          rows of activations whose sums are in registers at the same time
//   max_tile         rows of activations in one pass over the weights
//   signed_weights   whether weights of signed formats are stored signed (else 128 is added)
//   floats, ints, bytes   `lanes` floats, `lanes` int32, 4 * `lanes` bytes
//   and the operations used below.
//
// The order of operations for one output (one lane, one row of activations):
//   formats with blocks of 32:  y = fma(float(dot), d_w * d_x, y), block after block; those that add m then
//                                y = fma(m, d_x * sum of quants, y)
//   K formats, per block of 256: part = fma(float(dot), d_w * scale, part), sub-block after sub-block; then
//                                y = fma(part, d_x, y); with minima y = fma(-float(dot of minima and sums), dmin * d_x, y)
// Dots are exact integers. Nothing depends on the tile's width or the place in it: results are the same for every n.
//
// A row with a value that is not finite: d_x of that block is NaN and its quants are 0, so every output of the row is NaN,
// and no other row is touched.
#pragma once

#include "kernels/gemm/gemm.h"
#include "kernels/gemm/gemm_formats_k.h"
#include "kernels/gemm/gemm_packing.h"
#include "kernels/gemm/gemm_sets.h"

#include <cfloat>
#include <cmath>
#include <limits>

namespace mp {
namespace {

// What a stored weight is above its value.
template <class S, class F> constexpr int stored_offset() {
    return F::is_signed ? (S::signed_weights ? 0 : 128) : F::offset;
}

// The stored quants g of the 8 of a sub-block, from a part on.
template <class S, class F, int g, int part = 0> MP_INLINE typename S::bytes quants_of(const uint8_t * vectors) {
    constexpr quant_part p = part_of<F::bits>(g, part);
    auto bytes = S::template field<p.shift>(S::load_bytes(vectors + p.vector * packed_block<F, S::lanes>::vector), p.mask);
    if constexpr (part_of<F::bits>(g, part + 1).mask != 0) {
        return S::either(bytes, quants_of<S, F, g, part + 1>(vectors));
    } else {
        return bytes;
    }
}

// What they stand for: unsigned numbers, or signed ones where S stores them so.
template <class S, class F, int g> MP_INLINE typename S::bytes weights_of(const uint8_t * vectors) {
    if constexpr (F::from_table) {
        constexpr int offset = stored_offset<S, F>() - (F::is_signed ? 0 : F::offset);
        return S::template look_up<offset>(F::values, quants_of<S, F, g>(vectors));
    } else {
        return quants_of<S, F, g>(vectors);
    }
}

template <class S, class F> MP_INLINE typename S::floats load_d(const uint8_t * source) {
    if constexpr (F::bfloat_d) {
        return S::load_bfloats(source);
    } else {
        return S::load_halves(source);
    }
}

template <class S, class F> MP_INLINE typename S::floats dot_to_floats(const typename S::ints & dot) {
    if constexpr (F::shift == 0) {
        return S::to_floats(dot);
    } else {
        return S::template to_floats<F::shift>(dot);
    }
}

// --- product ---------------------------------------------------------------------------------------------------------

// Adds a sub-block to the sums of the rows first, first + 1, ... of a tile of t, S::columns at a time.
// scale: one for each half; row_scale: d of the activations, or nullptr where it is applied later.
template <class S, class F, int t, int first>
MP_INLINE void add_sub_block(const typename S::template sub_block<F> & weights, const typename S::floats * scale,
                             const float * row_scale, const int8_t * quants, const int32_t * correction,
                             typename S::floats * sums) {
    constexpr int count = t - first < S::columns ? t - first : S::columns;
    typename S::ints dot[F::halves][count];
    MP_UNROLL
    for (int half = 0; half < F::halves; half++) {
        MP_UNROLL
        for (int i = 0; i < count; i++) {
            if constexpr (stored_offset<S, F>() != 0) {
                dot[half][i] = S::broadcast(correction + half * t + first + i);
            } else {
                dot[half][i] = S::zero_ints();
            }
        }
    }
    S::template add_dots<F, count>(weights, quants + 32 * first, dot);
    MP_UNROLL
    for (int i = 0; i < count; i++) {
        MP_UNROLL
        for (int half = 0; half < F::halves; half++) {
            auto factor = scale[half];
            if constexpr (F::n_sub == 1) {
                factor = S::multiply(factor, S::broadcast(row_scale + first + i));
            }
            sums[first + i] = S::multiply_add(dot_to_floats<S, F>(dot[half][i]), factor, sums[first + i]);
        }
    }
    if constexpr (first + count < t) {
        add_sub_block<S, F, t, first + count>(weights, scale, row_scale, quants, correction, sums);
    }
}

// How far ahead weights are asked for. Few rows go through the weights as fast as memory gives them. More rows leave time
// in which the first cache would lose what came early.
#if defined(__x86_64__)
template <int t> constexpr size_t prefetch_distance = t <= 8 ? 12288 : 2048;
#else
template <int t> constexpr size_t prefetch_distance = 4096;
#endif

template <int t> MP_INLINE void prefetch(const uint8_t * bytes, size_t size) {
    for (size_t i = 0; i < size; i += 64) {
        __builtin_prefetch(bytes + prefetch_distance<t> + i, 0, 3);
    }
}

template <class S, class F, int t>
void multiply_tile(const uint8_t * weights, const uint8_t * activations, float * y, size_t ldy, int64_t n_blocks) {
    using P = packed_block<F, S::lanes>;
    using A = activation_block<F, stored_offset<S, F>()>;
    using floats = typename S::floats;
    floats sums[t];
    MP_UNROLL
    for (int i = 0; i < t; i++) {
        sums[i] = S::zero_floats();
    }
    for (int64_t block = 0; block < n_blocks; block++, weights += P::size, activations += t * A::row_size) {
        const auto * row_scale = reinterpret_cast<const float *>(activations + A::d(t));
        const auto * quants = reinterpret_cast<const int8_t *>(activations);
        const auto * correction = reinterpret_cast<const int32_t *>(activations + A::correction(t, 0));
        floats d = load_d<S, F>(weights + P::d);
        if constexpr (F::n_sub == 1) {
            prefetch<t>(weights, P::size);
            typename S::template sub_block<F> sub(weights + P::quants);
            add_sub_block<S, F, t, 0>(sub, &d, row_scale, quants, correction, sums);
            if constexpr (F::adds_m) {
                const auto * sum = reinterpret_cast<const float *>(activations + A::sum(t));
                floats m = S::load_halves(weights + P::dmin);
                MP_UNROLL
                for (int i = 0; i < t; i++) {
                    sums[i] = S::multiply_add(m, S::broadcast(sum + i), sums[i]);
                }
            }
        } else {
            floats parts[t];
            MP_UNROLL
            for (int i = 0; i < t; i++) {
                parts[i] = S::zero_floats();
            }
            prefetch<t>(weights, P::quants);
            for (int s = 0; s < F::n_sub; s++) {
                const uint8_t * sub_weights = weights + P::quants + s * P::sub_size;
                prefetch<t>(sub_weights, P::sub_size);
                floats scale[F::halves];
                MP_UNROLL
                for (int half = 0; half < F::halves; half++) {
                    const uint8_t * bytes = weights + P::scale + (s * F::halves + half) * S::lanes;
                    scale[half] = S::multiply(d, S::template load_scales<F::signed_scale>(bytes));
                }
                typename S::template sub_block<F> sub(sub_weights);
                add_sub_block<S, F, t, 0>(sub, scale, nullptr, quants + A::quants(t, s), correction + s * F::halves * t,
                                          parts);
            }
            MP_UNROLL
            for (int i = 0; i < t; i++) {
                sums[i] = S::multiply_add(parts[i], S::broadcast(row_scale + i), sums[i]);
            }
            if constexpr (F::has_min) {
                constexpr int n_pairs = n_min_pairs<F>();
                const auto * pair_sums = reinterpret_cast<const int32_t *>(activations + A::sums(t, 0));
                floats dmin = S::load_halves(weights + P::dmin);
                typename S::ints minima[n_pairs];
                MP_UNROLL
                for (int pair = 0; pair < n_pairs; pair++) {
                    minima[pair] = S::load_pairs(weights + P::min + pair * 2 * S::lanes);
                }
                MP_UNROLL
                for (int i = 0; i < t; i++) {
                    auto dot = S::zero_ints();
                    MP_UNROLL
                    for (int pair = 0; pair < n_pairs; pair++) {
                        dot = S::add_pair_dots(dot, minima[pair], pair_sums + pair * t + i);
                    }
                    auto factor = S::multiply(dmin, S::broadcast(row_scale + i));
                    sums[i] = S::multiply_subtract(S::to_floats(dot), factor, sums[i]);
                }
            }
        }
    }
    MP_UNROLL
    for (int i = 0; i < t; i++) {
        S::store(y + i * ldy, sums[i]);
    }
}

using tile_function = void (*)(const uint8_t *, const uint8_t *, float *, size_t, int64_t);

template <int... i> struct indices {};
template <int n, int... i> struct make_indices : make_indices<n - 1, n - 1, i...> {};
template <int... i> struct make_indices<0, i...> {
    using type = indices<i...>;
};

template <class S, class F, int... i> tile_function tile_function_for(int width, indices<i...>) {
    static constexpr tile_function functions[] = {multiply_tile<S, F, i + 1>...};
    return functions[width - 1];
}

template <class S, class F> void multiply(const void * packed, const void * activations, float * y, size_t ldy, int64_t n,
                                          int64_t k, int64_t group_begin, int64_t group_end) {
    using P = packed_block<F, S::lanes>;
    using A = activation_block<F, stored_offset<S, F>()>;
    int64_t n_blocks = k / F::block;
    tiling tiles(n, S::max_tile);
    for (int64_t group = group_begin; group < group_end; group++) {
        const uint8_t * weights = static_cast<const uint8_t *>(packed) + static_cast<size_t>(group * n_blocks) * P::size;
        for (int64_t tile = 0; tile < tiles.n_tiles; tile++) {
            int64_t row = tiles.first_row(tile);
            tile_function function =
                tile_function_for<S, F>(tiles.tile_width(tile), typename make_indices<S::max_tile>::type());
            function(weights, static_cast<const uint8_t *>(activations) + static_cast<size_t>(row * n_blocks) * A::row_size,
                     y + static_cast<size_t>(row) * ldy + group * S::lanes, ldy, n_blocks);
        }
    }
}

// --- activations -----------------------------------------------------------------------------------------------------

template <class S, class F> size_t activations_size(int64_t n, int64_t k) {
    return static_cast<size_t>(n * (k / F::block)) * activation_block<F, stored_offset<S, F>()>::row_size;
}

// One block of a row, row i of a tile of t.
template <class S, class F> void quantise_block(const float * x, uint8_t * target, int t, int i) {
    constexpr int offset = stored_offset<S, F>();
    using A = activation_block<F, offset>;
    float largest = S::largest_magnitude(x, F::block); // NaN or infinite if any of them is
    float factor = largest > 0 ? 127.0f / largest : 0.0f;
    float d;
    if (F::n_sub == 1) {
        // Rounded to half precision as in ggml's q8_0, except where that would make a finite number infinite.
        float exact = largest / 127.0f;
        d = S::round_to_half(exact);
        d = d <= FLT_MAX ? d : exact;
    } else {
        d = factor > 0 ? 1.0f / factor : 0.0f;
    }
    bool usable = largest <= FLT_MAX && factor <= FLT_MAX;
    if (!usable) {
        // Not finite, or so small (below 4e-37) that the factor is not: the latter count as zeros.
        d = largest <= FLT_MAX ? 0.0f : std::numeric_limits<float>::quiet_NaN();
    }
    memcpy(target + A::d(t) + 4 * i, &d, 4);
    int16_t sums[F::n_sub * F::halves];
    for (int sub = 0; sub < F::n_sub; sub++) {
        auto * quants = reinterpret_cast<int8_t *>(target + A::quants(t, sub)) + 32 * i;
        int32_t half_sums[2] = {0, 0};
        if (usable) {
            S::quantise_32(x + 32 * sub, factor, quants, half_sums);
        } else {
            memset(quants, 0, 32);
        }
        for (int half = 0; half < F::halves; half++) {
            int32_t sum = F::halves == 2 ? half_sums[half] : half_sums[0] + half_sums[1];
            sums[sub * F::halves + half] = static_cast<int16_t>(sum);
            if constexpr (offset != 0) {
                int32_t correction = -offset * sum;
                memcpy(target + A::correction(t, sub * F::halves + half) + 4 * i, &correction, 4);
            }
        }
    }
    if constexpr (F::has_min) {
        for (int pair = 0; pair < n_min_pairs<F>(); pair++) {
            memcpy(target + A::sums(t, pair) + 4 * i, sums + 2 * pair, 4);
        }
    }
    if constexpr (F::adds_m) {
        float sum = d * static_cast<float>(sums[0]);
        memcpy(target + A::sum(t) + 4 * i, &sum, 4);
    }
}

template <class S, class F>
void quantise(const float * x, size_t stride, void * activations, int64_t n, int64_t k, int32_t part, int32_t n_parts) {
    using A = activation_block<F, stored_offset<S, F>()>;
    int64_t n_blocks = k / F::block;
    tiling tiles(n, S::max_tile);
    for_each_row_part(n, n_blocks, part, n_parts, [&](int64_t row, int64_t begin, int64_t end) {
        int64_t tile = tiles.tile_of(row);
        int64_t first = tiles.first_row(tile);
        int width = tiles.tile_width(tile);
        uint8_t * target = static_cast<uint8_t *>(activations) + static_cast<size_t>(first * n_blocks) * A::row_size;
        const auto * source = reinterpret_cast<const float *>(reinterpret_cast<const char *>(x) + row * stride);
        for (int64_t block = begin; block < end; block++) {
            quantise_block<S, F>(source + block * F::block, target + static_cast<size_t>(block * width) * A::row_size, width,
                                 static_cast<int>(row - first));
        }
    });
}

// --- table of kernels ------------------------------------------------------------------------------------------------

template <class S, class F> constexpr gemm_kernel make_kernel() {
    return {F::type,
            S::set,
            S::lanes,
            F::block,
            S::max_tile,
            packed_size<F, S::lanes>,
            activations_size<S, F>,
            pack<F, S::lanes, S::signed_weights>,
            quantise<S, F>,
            multiply<S, F>};
}

template <class S> const gemm_kernel * kernel_for(ggml_type type) {
    static constexpr gemm_kernel kernels[] = {
        make_kernel<S, q4_0_format>(),  make_kernel<S, q4_1_format>(),   make_kernel<S, q5_0_format>(),
        make_kernel<S, q5_1_format>(),  make_kernel<S, q8_0_format>(),   make_kernel<S, q2_k_format>(),
        make_kernel<S, q3_k_format>(),  make_kernel<S, q4_k_format>(),   make_kernel<S, q5_k_format>(),
        make_kernel<S, q6_k_format>(),  make_kernel<S, iq4_nl_format>(), make_kernel<S, iq4_xs_format>(),
        make_kernel<S, mxfp4_format>(),
    };
    return kernel_of_type(kernels, sizeof(kernels) / sizeof(kernels[0]), type);
}

} // namespace
} // namespace mp
