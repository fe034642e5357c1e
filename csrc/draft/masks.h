// Masks after the nodes of a draft (ESP, arXiv 2603.17942): which vectors stand there, and which nodes get one.
#pragma once

#include "draft/knowledge.h"
#include "model/trained_masks.h"

#include <cstdint>
#include <memory>
#include <vector>

struct mp_model;

namespace mp {

enum class mask_kind {
    mean, // the mean of the prompt's input embeddings
    soft, // the expected embedding of what follows the owner's token; the mean where nothing is known of that
    file, // the first vector of a file of trained masks
};

class mask_source {
public:
    // The model must live as long as this. trained: of the kind `file`, else nullptr.
    mask_source(const mp_model & model, mask_kind kind, std::shared_ptr<knowledge> known, masks_ref trained);

    int32_t n_embd() const { return (int32_t) mean.size(); }
    const mp_masks * trained() const { return from_file.get(); } // of the tree that has them

    void begin(const int32_t * prompt, int32_t n); // a new text, n >= 1

    // The first mask after each of n nodes with these tokens: out is (n, n_embd), in the space of token embeddings.
    void vectors(const int32_t * owner_tokens, int32_t n, float * out);

private:
    void read_row(int32_t token);

    const mp_model & model;
    const mask_kind kind;
    const std::shared_ptr<knowledge> known;
    const masks_ref from_file;
    std::vector<float> mean; // (n_embd)
    std::vector<float> row;  // (n_embd), one embedding
};

// Which masks a pass over the first n nodes of a draft should have instead of its last nodes. A mask after a node is worth
// `gain`, what masks gain, times the probability that the path ends there; it takes the place of the least likely node while
// that one is worth less. on_trial: one mask at least, to learn what masks are worth.
// probabilities: (n) that the path down to each node is accepted, calibrated, not increasing. owners: (n) room; gets the
// owners of *n_masks masks. Returns how many nodes stay.
int32_t place_masks(const int32_t * parents, const double * probabilities, int32_t n, double gain, bool on_trial,
                    int32_t * owners, int32_t * n_masks);

} // namespace mp
