// The operations between products and attention that go row by row: norms, sums, gates, rotary embeddings, the choice of
// experts, and rows on their way into and out of the cache. Each costs little, but where ggml computes them every product
// and every attention is a graph of its own, and on a small model these graphs cost more than the operations.
#pragma once

#include "platform/worker_pool.h"

#include "ggml.h"

#include <cstdint>
#include <vector>

namespace mp {

// Whether this operation, with these types and strides, is one of them.
bool can_run_rows(const ggml_tensor * op);

// Cosines and sines of the angles of one kind of rotary embedding at one list of positions.
struct rotation {
    int32_t params[16]; // of the operation
    const ggml_tensor * factors;
    std::vector<int32_t> positions;
    std::vector<float> cos, sin; // (positions, n_pairs)
};

class row_ops {
public:
    explicit row_ops(worker_pool & workers) : workers(workers) {}

    void run(const ggml_tensor * op); // one that can_run_rows(); throws bad_alloc

private:
    const rotation & rotation_of(const ggml_tensor * op);

    worker_pool & workers;
    std::vector<rotation> rotations; // those of the last passes: all layers of a pass have the same few
    size_t next_rotation = 0;        // whose place the next new one takes
};

} // namespace mp
