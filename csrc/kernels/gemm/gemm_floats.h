// Products of weights in half precision, bfloat16 or single precision, over the same vector machines as gemm_kernel.h.
//
// Activations stay as they are, in single precision. Packed weights of a group: [k][lanes] numbers. Activations,
// tile after tile of `t` rows: [k][t] floats.
//
// One output is the sum of two: y0 = fma(w, x, y0) for even k, y1 for odd k, in ascending k, then y0 + y1; again nothing
// depends on the tile. A value that is not finite is stored as NaN, so that its row comes out NaN and not infinite.
#pragma once

#include "kernels/gemm/gemm_kernel.h"

namespace mp {
namespace {

struct f32_format {
    static constexpr ggml_type type = GGML_TYPE_F32;
    using number = uint32_t;

    template <class S> static MP_INLINE typename S::floats load(const uint8_t * weights) { return S::load_singles(weights); }
};

struct f16_format {
    static constexpr ggml_type type = GGML_TYPE_F16;
    using number = uint16_t;

    template <class S> static MP_INLINE typename S::floats load(const uint8_t * weights) { return S::load_halves(weights); }
};

struct bf16_format {
    static constexpr ggml_type type = GGML_TYPE_BF16;
    using number = uint16_t;

    template <class S> static MP_INLINE typename S::floats load(const uint8_t * weights) { return S::load_bfloats(weights); }
};

constexpr int float_block = 32; // k must be a multiple

// Two sums for each row and two vectors of weights are all the registers there are.
template <class S> constexpr int float_tile = S::lanes == 16 ? 12 : 6;

template <class S, class F> size_t packed_floats_size(int64_t n_out, int64_t k) {
    return static_cast<size_t>(n_out / S::lanes * S::lanes * k) * sizeof(typename F::number);
}

inline size_t copied_activations_size(int64_t n, int64_t k) {
    return static_cast<size_t>(n * k) * sizeof(float);
}

template <class S, class F>
void pack_floats(const void * weights, void * packed, int64_t k, int64_t group_begin, int64_t group_end) {
    using number = typename F::number;
    for (int64_t group = group_begin; group < group_end; group++) {
        const auto * source = static_cast<const number *>(weights) + group * S::lanes * k;
        auto * target = static_cast<number *>(packed) + group * S::lanes * k;
        for (int64_t i = 0; i < k; i++) {
            for (int lane = 0; lane < S::lanes; lane++) {
                target[i * S::lanes + lane] = source[lane * k + i];
            }
        }
    }
}

template <class S> void copy_activations(const float * x, size_t stride, void * activations, int64_t n, int64_t k,
                                         int32_t part, int32_t n_parts) {
    int64_t n_blocks = k / float_block;
    int64_t total = n * n_blocks;
    tiling tiles(n, float_tile<S>);
    for (int64_t item = total * part / n_parts; item < total * (part + 1) / n_parts; item++) {
        int64_t row = item / n_blocks;
        int64_t begin = item % n_blocks * float_block;
        int64_t tile = tiles.tile_of(row);
        int64_t first = tiles.first_row(tile);
        int64_t width = tiles.tile_width(tile);
        const auto * source = reinterpret_cast<const float *>(reinterpret_cast<const char *>(x) + row * stride);
        float * target = static_cast<float *>(activations) + first * k + (row - first);
        for (int64_t i = begin; i < begin + float_block; i++) {
            bool is_finite = std::fabs(source[i]) <= FLT_MAX;
            target[i * width] = is_finite ? source[i] : std::numeric_limits<float>::quiet_NaN();
        }
    }
}

template <class S, class F, int t>
void multiply_float_tile(const uint8_t * weights, const uint8_t * activations, float * y, size_t ldy, int64_t k) {
    constexpr size_t row_size = sizeof(typename F::number) * S::lanes;
    const auto * x = reinterpret_cast<const float *>(activations);
    typename S::floats even[t], odd[t];
    MP_UNROLL
    for (int i = 0; i < t; i++) {
        even[i] = odd[i] = S::zero_floats();
    }
    for (int64_t l = 0; l < k; l += 2, weights += 2 * row_size, x += 2 * t) {
        prefetch<t>(weights, 2 * row_size);
        auto first = F::template load<S>(weights);
        auto second = F::template load<S>(weights + row_size);
        MP_UNROLL
        for (int i = 0; i < t; i++) {
            even[i] = S::multiply_add(first, S::broadcast(x + i), even[i]);
        }
        MP_UNROLL
        for (int i = 0; i < t; i++) {
            odd[i] = S::multiply_add(second, S::broadcast(x + t + i), odd[i]);
        }
    }
    MP_UNROLL
    for (int i = 0; i < t; i++) {
        S::store(y + i * ldy, S::add(even[i], odd[i]));
    }
}

template <class S, class F, int... i> tile_function float_tile_function_for(int width, indices<i...>) {
    static constexpr tile_function functions[] = {multiply_float_tile<S, F, i + 1>...};
    return functions[width - 1];
}

template <class S, class F> void multiply_floats(const void * packed, const void * activations, float * y, size_t ldy,
                                                 int64_t n, int64_t k, int64_t group_begin, int64_t group_end) {
    tiling tiles(n, float_tile<S>);
    for (int64_t group = group_begin; group < group_end; group++) {
        const uint8_t * weights = static_cast<const uint8_t *>(packed) + packed_floats_size<S, F>(group * S::lanes, k);
        for (int64_t tile = 0; tile < tiles.n_tiles; tile++) {
            int64_t row = tiles.first_row(tile);
            auto widths = typename make_indices<float_tile<S>>::type();
            tile_function function = float_tile_function_for<S, F>(tiles.tile_width(tile), widths);
            function(weights, static_cast<const uint8_t *>(activations) + static_cast<size_t>(row * k) * sizeof(float),
                     y + static_cast<size_t>(row) * ldy + group * S::lanes, ldy, k);
        }
    }
}

template <class S, class F> constexpr gemm_kernel make_float_kernel() {
    return {F::type,
            S::set,
            S::lanes,
            float_block,
            float_tile<S>,
            packed_floats_size<S, F>,
            copied_activations_size,
            pack_floats<S, F>,
            copy_activations<S>,
            multiply_floats<S, F>};
}

template <class S> const gemm_kernel * float_kernel_for(ggml_type type) {
    static constexpr gemm_kernel kernels[] = {make_float_kernel<S, f32_format>(), make_float_kernel<S, f16_format>(),
                                              make_float_kernel<S, bf16_format>()};
    return kernel_of_type(kernels, sizeof(kernels) / sizeof(kernels[0]), type);
}

} // namespace
} // namespace mp
