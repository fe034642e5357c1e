// Products of quantised weights with few rows of activations: W (n_out, k) times x (n, k) -> y (n, n_out).
//
// Weights are repacked once: `group` weight rows are interleaved so that one vector lane belongs to one weight row and
// no sum ever runs across lanes. Activations are quantised to 8 bits per block with ggml's own numerics (q8_0 for the
// 32-wide formats, q8_K for the K formats). A tile of up to `max_tile` rows shares one pass over the weights.
//
// F32, F16 and BF16 weights are kept as they are, and so are the activations for them.
//
// A row of activations with a value that is not finite comes out NaN as a whole; other rows do not change.
//
// Batch invariance: the result of a row is bit for bit the same whatever n is, wherever the row stands in the batch,
// however the work is divided among threads. Every kernel sums the blocks of k in the same order for every tile width.
#pragma once

#include "ggml.h"

#include <cstddef>
#include <cstdint>

namespace mp {

enum class instruction_set {
    portable,    // plain C++
    avx2,        // with FMA and F16C
    avx_vnni,    // 256 bits
    avx512_vnni, // with F, BW, DQ, VL
    neon,        // what every 64-bit ARM processor has
    neon_dotprod,
    neon_i8mm,
};

const char * instruction_set_name(instruction_set set);

// Whether this processor (and the operating system) has it.
bool has_instruction_set(instruction_set set);

// The best one of those.
instruction_set best_instruction_set();

// The kernels of one weight type on one instruction set.
struct gemm_kernel {
    ggml_type type;
    instruction_set set;
    int32_t group;    // weight rows interleaved: n_out must be a multiple
    int32_t block;    // k must be a multiple
    int32_t max_tile; // rows of activations in one pass over the weights

    // Bytes of the packed weights, and of n quantised rows of activations (64-byte aligned buffers).
    size_t (*packed_size)(int64_t n_out, int64_t k);
    size_t (*activations_size)(int64_t n, int64_t k);

    // Repacks the groups [group_begin, group_end) of weights in ggml's layout.
    void (*pack)(const void * weights, void * packed, int64_t k, int64_t group_begin, int64_t group_end);

    // Quantises the part [part, n_parts) of the blocks of n rows; x has `stride` bytes from row to row. Of n parts, each is
    // a row.
    void (*quantise)(const float * x, size_t stride, void * activations, int64_t n, int64_t k, int32_t part,
                     int32_t n_parts);

    // y for the groups [group_begin, group_end) of weight rows; y has `ldy` floats from row to row.
    void (*multiply)(const void * packed, const void * activations, float * y, size_t ldy, int64_t n, int64_t k,
                     int64_t group_begin, int64_t group_end);
};

// nullptr where there is none for this type.
const gemm_kernel * find_gemm_kernel(ggml_type type, instruction_set set);

// Plain C++ for F32, F16 and BF16 of any shape, however small or odd; nullptr for another type.
const gemm_kernel * find_gemm_kernel_any_shape(ggml_type type);

} // namespace mp
