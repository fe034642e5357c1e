// One session's tree in a pass: checked, and laid out as positions and ranges of sequences.
#pragma once

#include "model/model.h"
#include "model/trained_masks.h"

#include <cstdint>
#include <vector>

namespace mp {

// Sequences make the tree mask. llama.cpp lets a row see a cell if the cell carries the row's sequence and does not lie
// after it. So every leaf path has a sequence of its own, and every inner node that owns masks has one more, which its
// masks carry alone. A node carries the sequences of all its descendants; they are numbered so that these are one range,
// and that the first child's path is always in the range's first:
//
//     root [0,4)        a leaf with masks needs no extra sequence: nobody else lies after it
//     +- a [0,2)        a owns masks and has a child: masks of a carry 1, its child c carries 0
//     |  +- c [0,1)
//     +- b [2,3)        the last is for the masks of the root
//
// These numbers index the session's own list of sequence ids: 0 is its trunk.
class tree_pass {
public:
    tree_pass(const mp_model & model, int32_t n_rows_max);

    // Checks the tree and lays it out after n_past committed tokens. Where the model can have no tree, it must be a chain
    // of at most max_chain nodes after the root. Throws MP_ERR_ARGUMENT (with the index of the offending node),
    // MP_ERR_UNSUPPORTED, MP_ERR_CONTEXT_FULL.
    void lay_out(const mp_tree & tree, int32_t n_past, int32_t n_ctx, int32_t max_chain);

    void check(const mp_tree & tree, int32_t n_past, int32_t n_ctx) const; // of these, what needs no other tree

    void clear(); // one sequence, for rows that are no tree

    // Sequences beyond those it needs, carried by the root alone.
    void add_sequences(int32_t n) { n_seq[0] += n; }

    int32_t n_rows() const { return rows; }
    int32_t n_nodes() const { return nodes; }
    int32_t n_sequences() const { return n_seq[0]; } // used by this pass: [0, n_sequences)
    int32_t parent(int32_t node) const { return parents[node]; }
    int32_t token(int32_t node) const { return node_tokens[node]; } // -1: an embedding row
    bool has_embeddings() const { return embeddings; }              // or masks: not all rows are tokens

    const masks_ref & trained() const { return of_masks; } // whose matrices act on the mask rows, or nullptr

    // Of each row, nodes first.
    int32_t position(int32_t row) const { return positions[row]; }
    int32_t first_sequence(int32_t row) const { return row_seq[row]; }
    int32_t n_sequences_of(int32_t row) const { return row < nodes ? n_seq[row] : 1; }

    // Rows that carry a sequence: they stand one after another from the root's place on.
    int32_t n_rows_of(int32_t sequence) const;
    // The first nodes of a path of n that carry it.
    int32_t n_on_path(int32_t sequence, const int32_t * path, int32_t n) const;

private:
    void check_chain(const mp_tree & tree, int32_t max_chain) const;
    void assign_sequences(const mp_tree & tree);
    void place_rows(const mp_tree & tree, int32_t n_past);

    const mp_model & model;
    const int32_t n_rows_max;
    int32_t nodes = 0;
    int32_t rows = 0;
    int32_t n_needed = 0; // sequences without those that were added
    bool embeddings = false;
    masks_ref of_masks;

    // per row, (n_rows_max)
    std::vector<int32_t> positions;
    std::vector<int32_t> row_seq; // of a node, the first of [row_seq, row_seq + n_seq)

    // per node, (n_rows_max)
    std::vector<int32_t> parents;
    std::vector<int32_t> node_tokens;
    std::vector<int32_t> n_masks_of;
    std::vector<int32_t> n_children;
    std::vector<int32_t> n_seq;
    std::vector<int32_t> seq_next; // while children take their ranges
    std::vector<int32_t> masks_placed;

    std::vector<int32_t> last_position; // (n_rows_max) of each sequence that a row after the root carries
};

} // namespace mp
