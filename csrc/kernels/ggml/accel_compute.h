// The operations that the backend computes: products with packed weights, attention, and what goes row by row between.
#pragma once

#include "kernels/attention/attention_cells.h"
#include "kernels/ggml/accel_experts.h"
#include "kernels/ggml/packed_products.h"
#include "kernels/ggml/row_additions.h"
#include "kernels/ggml/row_ops.h"
#include "platform/worker_pool.h"

#include "ggml.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace mp {

// What one kind of work has cost so far.
struct part_cost {
    int64_t n_ops = 0;
    int64_t ns = 0;    // of the calling thread
    int64_t bytes = 0; // of packed weights, or of keys and values
    int64_t macs = 0;  // multiplications with accumulation
};

struct cost_counters {
    part_cost products[GGML_TYPE_COUNT]; // by the type of the weights, without the head
    part_cost head;                      // the output matrix
    part_cost attention;
};

// Whether an operation only looks at its input in another way: there is nothing to compute.
bool is_view(const ggml_tensor * op);

// Whether there is a kernel for a product, or for an attention, of these types and shapes.
bool can_multiply(const ggml_tensor * op);
bool can_attend(const ggml_tensor * op);

// Runs operations for one llama.cpp context.
class accel_compute {
public:
    // `added`: what is added in the pass that a graph belongs to.
    accel_compute(worker_pool & workers, cost_counters & costs, const added_rows & added)
        : workers(workers), costs(costs), added(added), products(workers), additions(workers), rows(workers) {}

    // One that the backend computes; views and the like are passed over. Operations come in the order of their graph; throws
    // bad_alloc.
    void run(const ggml_tensor * op);

    // Before the operations of another graph.
    void begin() {
        products.begin();
        n_masks = 0;
        stacks.begin();
    }

private:
    // What a mask of this graph shows. Most models have one, those with a sliding window two.
    struct known_mask {
        const ggml_tensor * mask; // nullptr: none
        int64_t n, n_kv;
        attention_cells cells;
    };
    static constexpr int32_t N_MASKS = 2;

    const attention_cells & cells_of(const ggml_tensor * op, const attention_job & job);
    void multiply(const ggml_tensor * op);
    void multiply_stack(const ggml_tensor * op);
    void attend(const ggml_tensor * op);
    void * reserve(size_t size);

    worker_pool & workers;
    cost_counters & costs;
    const added_rows & added;
    packed_products products;
    row_additions additions;
    stacked_products stacks;
    row_ops rows;
    known_mask masks[N_MASKS];
    int32_t n_masks = 0;      // of this graph so far
    std::vector<char> memory; // the threads' scratch for attention
};

} // namespace mp
