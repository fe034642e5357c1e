// Products y = W x of a packed matrix with the rows of a batch.
#pragma once

#include "platform/worker_pool.h"

#include "ggml.h"

#include <vector>

namespace mp {

class packed_products {
public:
    explicit packed_products(worker_pool & workers) : workers(workers) {}

    // Throws bad_alloc. Products that follow each other with the same input (q, k, v; gate, up) quantise it once.
    void run(const ggml_tensor * op);

    // Before the operations of another graph, or where an input may have changed.
    void begin() { quantised = nullptr; }

private:
    worker_pool & workers;
    std::vector<char> memory;                // quantised activations
    const ggml_tensor * quantised = nullptr; // the last product, while its quantised input is in `memory`
};

} // namespace mp
