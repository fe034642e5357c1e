// Products for weights that the fast kernels do not take, since their rows do not fill the vectors.
// They are small matrices of small models; what counts is that a row's result depends on neither n nor its place.
//
// Weights are copied as they are, and so are activations but for an infinity, which becomes NaN. An output is summed in 8
// lanes, lane i over k = i, i + 8, ..., in single precision, and the lanes in double.
#include "kernels/gemm/gemm_sets.h"

#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>

namespace mp {
namespace {

constexpr int32_t lanes = 8;
constexpr int32_t tile = 8; // rows of activations for one reading of a weight row

float to_float(float x) {
    return x;
}

float to_float(ggml_fp16_t x) {
    return ggml_fp16_to_fp32(x);
}

float to_float(ggml_bf16_t x) {
    return ggml_bf16_to_fp32(x);
}

template <class T> size_t copied_weights_size(int64_t n_out, int64_t k) {
    return static_cast<size_t>(n_out * k) * sizeof(T);
}

size_t copied_activations_size(int64_t n, int64_t k) {
    return static_cast<size_t>(n * k) * sizeof(float);
}

template <class T> void copy_weights(const void * weights, void * packed, int64_t k, int64_t row_begin, int64_t row_end) {
    size_t row_size = static_cast<size_t>(k) * sizeof(T);
    memcpy(static_cast<char *>(packed) + row_begin * row_size, static_cast<const char *>(weights) + row_begin * row_size,
           (row_end - row_begin) * row_size);
}

void copy_activations(const float * x, size_t stride, void * activations, int64_t n, int64_t k, int32_t part,
                      int32_t n_parts) {
    for (int64_t row = n * part / n_parts; row < n * (part + 1) / n_parts; row++) {
        const auto * from = reinterpret_cast<const float *>(reinterpret_cast<const char *>(x) + row * stride);
        float * to = static_cast<float *>(activations) + row * k;
        for (int64_t i = 0; i < k; i++) {
            to[i] = std::fabs(from[i]) <= FLT_MAX ? from[i] : std::numeric_limits<float>::quiet_NaN();
        }
    }
}

// Adds the products of `count` weights with those of each row of activations.
template <class T> inline void add_products(const T * weights, const float * x, int64_t width, int64_t k, int64_t count,
                                            float (&sum)[tile][lanes]) {
    float w[lanes] = {};
    for (int64_t i = 0; i < count; i++) {
        w[i] = to_float(weights[i]);
    }
    for (int64_t row = 0; row < width; row++, x += k) {
        for (int64_t i = 0; i < count; i++) {
            sum[row][i] += w[i] * x[i];
        }
    }
}

// One weight row with `width` rows of activations.
template <class T> void multiply_row(const T * weights, const float * x, float * y, size_t ldy, int64_t width, int64_t k) {
    float sum[tile][lanes] = {};
    int64_t whole = k / lanes * lanes;
    for (int64_t begin = 0; begin < whole; begin += lanes) {
        add_products(weights + begin, x + begin, width, k, lanes, sum);
    }
    add_products(weights + whole, x + whole, width, k, k - whole, sum);
    for (int64_t row = 0; row < width; row++) {
        double total = 0;
        for (float lane : sum[row]) {
            total += lane;
        }
        y[row * ldy] = static_cast<float>(total);
    }
}

template <class T> void multiply(const void * packed, const void * activations, float * y, size_t ldy, int64_t n, int64_t k,
                                 int64_t row_begin, int64_t row_end) {
    for (int64_t out = row_begin; out < row_end; out++) {
        const T * weights = static_cast<const T *>(packed) + out * k;
        for (int64_t first = 0; first < n; first += tile) {
            int64_t width = n - first < tile ? n - first : tile;
            multiply_row(weights, static_cast<const float *>(activations) + first * k, y + first * ldy + out, ldy, width, k);
        }
    }
}

template <class T> constexpr gemm_kernel make_kernel(ggml_type type) {
    return {type,
            instruction_set::portable,
            1,
            1,
            tile,
            copied_weights_size<T>,
            copied_activations_size,
            copy_weights<T>,
            copy_activations,
            multiply<T>};
}

} // namespace

const gemm_kernel * find_gemm_kernel_any_shape(ggml_type type) {
    static constexpr gemm_kernel kernels[] = {make_kernel<float>(GGML_TYPE_F32), make_kernel<ggml_fp16_t>(GGML_TYPE_F16),
                                              make_kernel<ggml_bf16_t>(GGML_TYPE_BF16)};
    return kernel_of_type(kernels, sizeof(kernels) / sizeof(kernels[0]), type);
}

} // namespace mp
