// What is added to the products of some rows of a pass with some weights: y += B (A x), two matrices of low rank. For masks
// that were trained with gated LoRA ("Your LLM Knows the Future", arXiv 2507.11851): all other rows stay as they are, bit
// for bit, since nothing is added to them.
#pragma once

#include "kernels/ggml/packed_products.h"
#include "platform/worker_pool.h"

#include "ggml.h"

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace mp {

// Packed, see accel_buffer.h.
struct low_rank {
    const ggml_tensor * a; // (n_in, rank) as ggml: ne[0] = n_in
    const ggml_tensor * b; // (rank, n_out)
};

using low_rank_of_weights = std::map<std::string, low_rank, std::less<>>; // by the weight's name

// The rows of one pass to which something is added. All of its rows are outputs, and they are one graph: the rows of a
// product are those of the batch.
class added_rows {
public:
    struct range {
        const low_rank_of_weights * matrices;
        int32_t first, n;
    };

    void begin(int32_t n_rows_of_pass) {
        ranges.clear();
        n_rows = n_rows_of_pass;
    }
    void add(const low_rank_of_weights & matrices, int32_t first, int32_t n) { ranges.push_back({&matrices, first, n}); }
    bool empty() const { return ranges.empty(); }

    // At its end nothing is added any more.
    class scope {
    public:
        explicit scope(added_rows & of) : of(of) {}
        ~scope() { of.ranges.clear(); }
        scope(const scope &) = delete;
        scope & operator=(const scope &) = delete;

    private:
        added_rows & of;
    };

private:
    friend class row_additions;
    std::vector<range> ranges;
    int32_t n_rows = 0;
};

// Adds it, for one llama.cpp context.
class row_additions {
public:
    explicit row_additions(worker_pool & workers) : products(workers) {}

    // After the product was computed. Throws bad_alloc.
    void add_to(const ggml_tensor * op, const added_rows & added);

private:
    void gather(const ggml_tensor * x, const added_rows & added, const low_rank_of_weights * matrices);

    packed_products products;
    std::vector<int32_t> rows;       // of one adapter
    std::vector<float> inputs;       // (n, n_in)
    std::vector<float> inner, outer; // (n, rank), (n, n_out)
};

} // namespace mp
