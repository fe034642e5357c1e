// The rows of several trees as one llama_batch.
#pragma once

#include "session/tree_pass.h"

#include <vector>

namespace mp {

// Rows of one tree lie together, nodes first. Where one of them has a vector, all rows are vectors: llama.cpp takes tokens
// or embedding rows, not both.
class row_batch {
public:
    row_batch(const mp_model & model, int32_t n_rows_max, int32_t n_sequences_max);

    void begin(int32_t n_rows, bool with_embeddings);
    // ids has the session's sequence ids, of which the pass uses its first (n_sequences).
    void add(const mp_tree & tree, const tree_pass & pass, const llama_seq_id * ids);
    const llama_batch & finish();

private:
    void add_inputs(const mp_tree & tree);

    const mp_model & model;
    llama_batch rows = {}; // points into the vectors below
    int32_t n_added = 0;
    int32_t n_ids = 0;

    // per row, (n_rows_max)
    std::vector<llama_token> tokens;
    std::vector<float> embd;    // (n_rows_max, n_embd)
    std::vector<llama_pos> pos; // (n_pos_per_embd, n_rows)
    std::vector<int32_t> n_seq;
    std::vector<llama_seq_id *> seq; // into ids
    std::vector<int8_t> output;

    std::vector<llama_seq_id> ids; // of all trees: a range of sequences is a slice of it
};

} // namespace mp
