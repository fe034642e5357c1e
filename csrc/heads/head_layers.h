// What heads of every kind are made of.
#pragma once

#include "draft/head.h"
#include "heads/packed_matrix.h"
#include "session/top_k.h"

#include <cstdint>
#include <vector>

namespace mp {

// A Linear-SiLU-LayerNorm block.
struct head_block {
    packed_matrix weight;     // (n_out, n_in)
    std::vector<float> bias;  // (n_out)
    std::vector<float> scale; // (n_out), of the norm
    std::vector<float> shift; // (n_out), likewise

    int64_t width() const { return weight.width(); } // n_out, rounded up

    // y(n, width) = the block of x(n, ldx).
    void run(const float * x, int64_t ldx, int32_t n, std::vector<float> & y, aligned_bytes & scratch) const;
};

// The tokens that a head can guess, and the rows of the unembedding that are theirs.
class short_list {
public:
    short_list(std::vector<int32_t> tokens, packed_matrix unembedding, float temperature);

    // The most likely ones after each of the latents (n, n_embd); none where its logits are not finite.
    void guess(const float * latents, int64_t n_embd, int32_t n, distribution * likely, aligned_bytes & scratch);

private:
    distribution best(const float * row_of_logits);

    std::vector<int32_t> tokens; // (n_short), ascending
    packed_matrix unembedding;   // (n_short, n_embd)
    float temperature;           // of the logits

    // room for n rows at once
    std::vector<float> scaled; // (n, n_embd)
    std::vector<float> logits; // (n, n_short, rounded up)
    top_k_scratch of_best;
};

} // namespace mp
