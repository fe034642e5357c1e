// Products with a stack of packed matrices (k, n_out, n_matrices): the experts of a mixture, of which every slot of a row
// chooses one (MUL_MAT_ID), or the heads of a latent attention, each with its own part of the input (MUL_MAT).
//
// What one matrix makes of one input is a "line": (row, slot), or (row, head). Lines are grouped by their matrix: the lines
// of a matrix are one product, which reads its weights once. A matrix that no line uses is not read.
//
// Batch invariance: a line's result is bit for bit that of a product with this line alone, see gemm.h.
#pragma once

#include "kernels/gemm/gemm.h"
#include "platform/worker_pool.h"

#include <vector>

namespace mp {

// Whether an operation's weights are a stack.
bool is_stacked(const ggml_tensor * op);

// Whether there is a kernel for such a product, of these types and shapes.
bool can_multiply_stack(const ggml_tensor * op);

// Runs such products for one llama.cpp context.
class stacked_products {
public:
    // What a product read and multiplied.
    struct work {
        int64_t bytes; // of the packed matrices that were used
        int64_t macs;
    };

    // Throws bad_alloc. Products that follow each other with the same input and the same choice quantise it once.
    work run(const ggml_tensor * op, worker_pool & workers);

    // Before the operations of another graph.
    void begin() { quantised = nullptr; }

private:
    struct line {
        const float * x; // (k)
        float * y;       // (n_out)
        int32_t matrix;  // of the used ones
    };
    struct matrix {
        const char * weights;
        int64_t first, n;   // lines
        size_t activations; // where they begin in `memory`
    };
    struct product;

    void group_lines(const ggml_tensor * op, const gemm_kernel & kernel);
    static void quantise_part(void * context, int32_t part);
    static void multiply_part(void * context, int32_t part);

    std::vector<line> lines;                 // those of a matrix lie together
    std::vector<matrix> matrices;            // the used ones
    std::vector<int64_t> places;             // (n_matrices): while lines are grouped
    std::vector<char> memory;                // quantised activations
    std::vector<float> results;              // (part, lines of a matrix, STRIP)
    const ggml_tensor * quantised = nullptr; // the last product, while its quantised input is in `memory`
};

} // namespace mp
