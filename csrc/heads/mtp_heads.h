// MTP heads with weighted hidden states (Mehra, Alonso Garcia and Mauch, arXiv 2502.09419), each for one distance,
// on a model that stays as it is: u = sum of w_l h_l / rms(h_l) over some layers l, y = LayerNorm(SiLU(W0 u + b0)),
// z = h + LayerNorm(SiLU(W1 y + b1)) with the state h after the last norm, and logits = U z over a short list of tokens.
#pragma once

#include "draft/head.h"
#include "heads/head_file.h"

namespace mp {

// One thread at a time.
class mtp_heads : public distance_head {
public:
    // Throws as head_file.
    explicit mtp_heads(const head_file & file);

    // Of a file of this kind: the layers between that its heads read.
    static std::vector<int32_t> layers_in(const head_file & file);

    const std::vector<int32_t> & layers() const override { return between; }
    int32_t n_latent() const override { return n_states * n_embd; } // of the layers and, at the end, of the last norm
    int32_t n_distances() const override { return (int32_t) distances.size(); }
    void evaluate(const float * latent, distribution * likely) override;

private:
    struct distance {
        std::vector<float> mix; // (n_states)
        head_block first;       // (n_hidden, n_embd)
        head_block second;      // (n_embd, n_hidden)
    };

    const int32_t n_embd;
    const std::vector<int32_t> between;
    const int32_t n_states;
    std::vector<distance> distances;
    short_list listed;

    // room for a moment's work
    std::vector<float> normed;  // (n_states, n_embd)
    std::vector<float> mixed;   // (n_embd)
    std::vector<float> hidden;  // (n_hidden, rounded up)
    std::vector<float> update;  // (n_embd, rounded up)
    std::vector<float> latents; // (n_distances, n_embd)
    aligned_bytes scratch;
};

} // namespace mp
