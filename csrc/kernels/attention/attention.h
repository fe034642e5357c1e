// Attention of few rows over a long cache: what ggml's FLASH_ATTN_EXT computes, for n small.
//
// The K and V of a block of cells and a KV head are converted once and serve all rows and all query heads that share them
// (grouped heads). The softmax is online, over blocks of cells in ascending order. Threads divide the KV heads.
//
// Batch invariance: the result of a row is bit for bit the same whatever n is and wherever the row stands. Cells that
// the mask hides from a row do not change its result, whatever they contain; blocks hidden from every row are skipped.
// Which cells hold the row's past does not matter either: weights are scaled by powers of two, exactly, and summed in
// double precision, so that another order of the cells moves a sum by 1e-16 of its terms. That changes the rounded result
// in about one of 10^8 numbers, by its last bit. Another instruction set gives a result that differs by 2e-6 of its norm.
//
// K, V and Q are computed with in single precision, so that the result is closer to the exact one (1e-6 of its norm)
// than that of ggml, which rounds Q to the type of K and sums F16 values in half precision.
//
// A head may have a sink: a score that takes its share of the weights, and has no value. It comes before the cells.
//
// A row that sees no cell gives zeros. A NaN or an infinity in a cell harms the rows that see it, and no other.
#pragma once

#include "kernels/gemm/gemm.h"

namespace mp {

struct attention_job {
    int32_t n;      // query rows
    int32_t n_head; // query heads, a multiple of n_head_kv
    int32_t n_head_kv;
    int32_t head_size; // of Q, K and V: a multiple of 4 up to 512; fast where it is one of 16
    int64_t n_kv;      // cells
    float scale;
    float soft_cap; // 0: none

    const float * q; // element (row, head, i) at q + row * q_row + head * q_head + i * 4 bytes
    size_t q_row, q_head;
    const void * k; // element (cell, head) starts at k + cell * k_cell + head * k_head bytes
    size_t k_cell, k_head;
    ggml_type k_type; // F16, F32, BF16 or Q8_0
    const void * v;   // likewise, not transposed
    size_t v_cell, v_head;
    ggml_type v_type;
    const void * mask;   // F16 (n, n_kv): 0 visible, -inf hidden, else added to the scores; nullptr: all visible
    size_t mask_row;     // bytes from row to row
    const float * sinks; // (n_head); nullptr: none

    float * out; // (n, n_head, head_size), contiguous
};

// Whether a kernel exists for this job's sizes and types.
bool attention_supports(const attention_job & job, instruction_set set);

// Bytes of scratch memory one thread needs (64-byte aligned).
size_t attention_scratch_size(const attention_job & job);

// Computes KV heads [head_begin, head_end).
void attention_run(const attention_job & job, instruction_set set, int32_t head_begin, int32_t head_end, void * scratch);

} // namespace mp
