// Arithmetic on the rows of activations between the products, by instruction set: norms, gates, sums, rotations.
//
// A row's result depends on that row alone, and all arithmetic is done in one order whatever the number of rows.
#pragma once

#include "kernels/gemm/gemm.h"

namespace mp {

struct row_kernels {
    // y = x / sqrt(mean of squares + eps); y = (x - mean) / sqrt(variance + eps)
    void (*rms_norm)(const float * x, float * y, int64_t n, float eps);
    void (*layer_norm)(const float * x, float * y, int64_t n, float eps);

    void (*add)(const float * a, const float * b, float * y, int64_t n);
    void (*multiply)(const float * a, const float * b, float * y, int64_t n);
    void (*divide)(const float * a, const float * b, float * y, int64_t n);
    void (*scale_and_shift)(const float * x, float scale, float shift, float * y, int64_t n); // y = x * scale + shift

    // y = f(x) * gate, or f(x) without a gate (nullptr)
    void (*silu)(const float * x, const float * gate, float * y, int64_t n);
    void (*gelu)(const float * x, const float * gate, float * y, int64_t n); // by tanh

    // y = u * sigmoid(alpha * u) * (v + 1), where u is x up to limit and v the gate within -limit and limit
    void (*clamped_swiglu)(const float * x, const float * gate, float alpha, float limit, float * y, int64_t n);

    // Turns n pairs of numbers by angles: cos (n) and sin (n). The numbers of a pair are neighbours, or n apart.
    void (*rotate_neighbours)(const float * x, const float * cos, const float * sin, float * y, int64_t n);
    void (*rotate_halves)(const float * x, const float * cos, const float * sin, float * y, int64_t n);

    void (*to_halves)(const float * x, void * y, int64_t n); // F16
};

const row_kernels & find_row_kernels(instruction_set set);

// Of each set, whether the processor has it or not.
extern const row_kernels row_kernels_portable;
#if defined(__x86_64__)
extern const row_kernels row_kernels_avx2;
extern const row_kernels row_kernels_avx512;
#endif

} // namespace mp
