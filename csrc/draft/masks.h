// Masks after the nodes of a draft (ESP, arXiv 2603.17942): which vectors stand there, and which nodes get one.
#pragma once

#include "draft/knowledge.h"
#include "model/trained_masks.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

struct mp_model;

namespace mp {

enum class mask_kind {
    mean, // the mean of the prompt's input embeddings
    soft, // the expected embedding of what follows the owner's token; the mean where nothing is known of that
    file, // those of a file of trained masks, several after one node
};

class mask_source {
public:
    // The model must live as long as this. trained: of the kind `file`, else nullptr.
    mask_source(const mp_model & model, mask_kind kind, std::shared_ptr<knowledge> known, masks_ref trained = nullptr);

    int32_t n_embd() const { return (int32_t) mean.size(); }
    const mp_masks * trained() const { return from_file.get(); } // of the tree that has them

    void begin(const int32_t * prompt, int32_t n); // a new text, n >= 1

    int32_t n_each() const { return from_file ? std::min(from_file->n_masks(), N_MASKS_EACH) : 1; } // after a node at most

    // The masks of the given numbers, 0: the first, after n nodes with these tokens: out is (n, n_embd), in the space of
    // token embeddings.
    void vectors(const int32_t * owner_tokens, const int32_t * numbers, int32_t n, float * out);

private:
    void read_row(int32_t token);

    const mp_model & model;
    const mask_kind kind;
    const std::shared_ptr<knowledge> known;
    const masks_ref from_file;
    std::vector<float> mean; // (n_embd)
    std::vector<float> row;  // (n_embd), one embedding
};

// Which masks a pass over the first n nodes of a draft should have instead of its last nodes. The mask of number i after a
// node is worth gains[i], what such masks gain, times the probability that the path ends there; it takes the place of the
// least likely node while that one is worth less. At least n_trial of the n_each masks that a node may have are placed,
// after one node, to learn what they are worth. probabilities: (n) that the path down to each node is accepted, calibrated,
// not increasing. owners: (n) room; gets the owners of *n_masks masks, those of one owner by their numbers. Returns how many
// nodes stay.
int32_t place_masks(const int32_t * parents, const double * probabilities, int32_t n, const double * gains, int32_t n_each,
                    int32_t n_trial, int32_t * owners, int32_t * n_masks);

} // namespace mp
