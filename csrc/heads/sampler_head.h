// The sampler head of Apple's multi-token prediction (arXiv 2507.11851, section 3.2) on one latent that is carried from
// place to place: v = [E(x); z], y = LayerNorm(SiLU(W0 v + b0)), z' = z + LayerNorm(SiLU(W1 y + b1)), and logits = U z' over
// a short list of tokens. E(x) is the model's own input embedding.
#pragma once

#include "draft/head.h"
#include "heads/head_file.h"

#include <functional>

namespace mp {

// Writes the input embedding of a token, (n_embd), as the model's file has it.
using embedding_reader = std::function<void(int32_t token, float * out)>;

// One thread at a time.
class sampler_head : public token_head {
public:
    // Throws as head_file.
    sampler_head(const head_file & file, embedding_reader embedding);

    const std::vector<int32_t> & layers() const override { return no_layers; }
    int32_t n_latent() const override { return n_embd; }
    void evaluate(int32_t n, const int32_t * tokens, const float * const * before, float * const * after,
                  distribution * likely) override;

private:
    const int32_t n_embd;
    const std::vector<int32_t> no_layers;
    const embedding_reader embedding;
    const head_block first;  // (n_hidden, 2 n_embd)
    const head_block second; // (n_embd, n_hidden)
    short_list listed;

    // room for n rows at once
    std::vector<float> inputs;  // (n, 2 n_embd)
    std::vector<float> hidden;  // (n, n_hidden, rounded up)
    std::vector<float> update;  // (n, n_embd, rounded up)
    std::vector<float> latents; // (n, n_embd)
    aligned_bytes scratch;
};

} // namespace mp
