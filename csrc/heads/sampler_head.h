// The sampler head of Apple's multi-token prediction (arXiv 2507.11851, section 3.2) on one latent that is carried from
// place to place: v = [E(x); z], y = LayerNorm(SiLU(W0 v + b0)), z' = z + LayerNorm(SiLU(W1 y + b1)), and logits = U z' over
// a short list of tokens. E(x) is the model's own input embedding.
#pragma once

#include "draft/head.h"
#include "heads/head_file.h"
#include "kernels/rows/row_kernels.h"
#include "session/top_k.h"

#include <functional>
#include <string>
#include <vector>

namespace mp {

// Writes the input embedding of a token, (n_embd), as the model's file has it.
using embedding_reader = std::function<void(int32_t token, float * out)>;

// One thread at a time.
class sampler_head : public head {
public:
    // Throws as read_heads().
    sampler_head(const std::string & path, const head_model & model, embedding_reader embedding);

    int32_t n_latent() const override { return n_embd; }
    void evaluate(int32_t n, const int32_t * tokens, const float * const * before, float * const * after,
                  distribution * likely) override;

private:
    void run(const head_block & block, const std::vector<float> & in, int64_t n_in, int32_t n, std::vector<float> & out);
    distribution best(const float * row_of_logits);

    const int32_t n_embd;
    const embedding_reader embedding;
    const head_weights weights;
    const row_kernels & rows;

    // room for n rows at once
    std::vector<float> inputs;  // (n, 2 n_embd)
    std::vector<float> hidden;  // (n, n_hidden, rounded up)
    std::vector<float> update;  // (n, n_embd, rounded up)
    std::vector<float> latents; // (n, n_embd), by the temperature
    std::vector<float> logits;  // (n, n_short, rounded up)
    aligned_bytes scratch;
    top_k_scratch of_best;
};

} // namespace mp
