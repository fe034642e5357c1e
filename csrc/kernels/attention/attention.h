// Attention of few rows over a long cache: what ggml's FLASH_ATTN_EXT computes, for n small.
//
// The K and V of a block of cells and a KV head are converted once and serve all rows and all query heads that share them
// (grouped heads). The softmax is online, over blocks of 64 cells in the order of attention_cells.h. Threads divide the rows
// and the KV heads. A row is left out of a block in which it sees no cell, so that it does not pay for its neighbours'
// cells.
//
// Batch invariance: the result of a row is bit for bit the same whatever n is, wherever the row stands and whatever cells
// other rows see, as long as its cells come in the same order; attention_cells.h says when they do. Cells that the mask
// hides from a row do not change its result, whatever they contain; cells hidden from every row are not read.
// In another order the cells give the same result but for rounding: weights are scaled by powers of two, exactly, and summed
// in double precision, so that another order moves a sum by 1e-16 of its terms. That changes the rounded result in about one
// of 10^8 numbers, by its last bit. Sets with fused multiply-adds give the same bits; without them a result differs by 2e-6
// of its norm.
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

    // Set by attention_cells::put_into().
    const int32_t * cells;    // (n_blocks, 64): the cells that some row sees, in the order in which they are taken
    const uint64_t * visible; // (n_blocks, rows): bit i says whether the row sees cell i of the block
    size_t visible_block;     // rows from block to block, some of which may not be of this job
    int32_t n_blocks;
    bool adds; // the mask has other values than 0 and -inf

    float * out; // (n, n_head, head_size), contiguous
};

// Whether a kernel exists for this job's sizes and types.
bool attention_supports(const attention_job & job, instruction_set set);

// Bytes of scratch memory one thread needs (64-byte aligned).
size_t attention_scratch_size(const attention_job & job);

// Computes KV heads [head_begin, head_end). Needs what attention_cells found.
void attention_run(const attention_job & job, instruction_set set, int32_t head_begin, int32_t head_end, void * scratch);

} // namespace mp
