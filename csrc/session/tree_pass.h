// From a tree with masks to the rows of one llama_batch: positions, sequence ids, inputs.
#pragma once

#include "model/model.h"

#include <cstdint>
#include <vector>

namespace mp {

// Sequence ids make the tree mask. llama.cpp lets a row see a cell if the cell carries the row's sequence and does not
// lie behind it. So every leaf path has a sequence of its own, and every inner node that owns masks has one more, which
// its masks carry alone. A node carries the sequences of all its descendants; they are numbered so that these are one
// range, and that the first child's path is always in the range's first:
//
//     root [0,7)        a leaf with masks needs no extra sequence: nobody else lies behind it
//     +- a [0,2)        a owns masks and has a child: masks of a carry 1, its child c carries 0
//     |  +- c [0,1)
//     +- b [2,3)        of the rest, the last is for the masks of the root; there are as many as rows
class tree_pass {
public:
    tree_pass(const mp_model & model, int32_t n_rows_max);

    // Checks the tree and lays it out behind n_past committed tokens. Where the model can have no tree, it must be a chain
    // of at most max_chain nodes after the root. Throws MP_ERR_ARGUMENT (with the index of the offending node),
    // MP_ERR_UNSUPPORTED, MP_ERR_CONTEXT_FULL.
    void lay_out(const mp_tree & tree, int32_t n_past, int32_t n_ctx, int32_t max_chain);

    const llama_batch & batch() const { return rows; }

    int32_t n_rows() const { return rows.n_tokens; }
    int32_t n_nodes() const { return nodes; }
    int32_t n_sequences() const { return n_seq[0]; } // used by this pass: [0, n_sequences)
    int32_t parent(int32_t node) const { return parents[node]; }
    int32_t token(int32_t node) const { return node_tokens[node]; } // -1: an embedding row
    // A sequence that a node's whole path carries; 0 wherever it can be.
    llama_seq_id sequence(int32_t node) const { return seq_start[node]; }
    bool has_output(int32_t row) const { return rows.logits[row] != 0; }

private:
    void check(const mp_tree & tree, int32_t n_past, int32_t n_ctx) const;
    void check_chain(const mp_tree & tree, int32_t max_chain) const;
    void assign_sequences(const mp_tree & tree);
    void fill_rows(const mp_tree & tree, int32_t n_past);
    void fill_inputs(const mp_tree & tree);

    const mp_model & model;
    const int32_t n_rows_max;
    int32_t nodes = 0;
    llama_batch rows = {}; // points into the vectors below

    // per row, (n_rows_max)
    std::vector<llama_token> row_tokens;
    std::vector<float> row_embd;    // (n_rows_max, n_embd)
    std::vector<llama_pos> row_pos; // (n_pos_per_embd, n_rows)
    std::vector<int32_t> row_n_seq;
    std::vector<llama_seq_id *> row_seq; // into all_sequences
    std::vector<int8_t> row_output;
    std::vector<llama_seq_id> all_sequences; // 0, 1, 2, ...: a range of sequences is a slice of it

    // per node, (n_rows_max)
    std::vector<int32_t> parents;
    std::vector<int32_t> node_tokens;
    std::vector<int32_t> depth;
    std::vector<int32_t> n_masks_of;
    std::vector<int32_t> n_children;
    std::vector<int32_t> seq_start; // a node carries [seq_start, seq_start + n_seq)
    std::vector<int32_t> n_seq;
    std::vector<int32_t> seq_next; // while children take their ranges
    std::vector<int32_t> masks_placed;
};

} // namespace mp
