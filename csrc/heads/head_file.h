// A GGUF file of heads that were trained for one model (docs/heads.md has the layout). Nothing in it is believed: what does
// not fit the model, or is not finite, is refused with one line.
#pragma once

#include "heads/packed_matrix.h"

#include <cstdint>
#include <string>
#include <vector>

namespace mp {

// The model that heads are wanted for.
struct head_model {
    int32_t n_embd, n_vocab;
    std::string identity;
};

// A Linear-SiLU-LayerNorm block.
struct head_block {
    packed_matrix weight;     // (n_out, n_in)
    std::vector<float> bias;  // (n_out)
    std::vector<float> scale; // (n_out), of the norm
    std::vector<float> shift; // (n_out), likewise
};

// The head of a sampler: two blocks and the unembedding of a short list of tokens.
struct head_weights {
    head_block first;            // (n_hidden, 2 n_embd)
    head_block second;           // (n_embd, n_hidden)
    std::vector<int32_t> tokens; // (n_short), ascending
    packed_matrix unembedding;   // (n_short, n_embd)
    float temperature;           // of the logits
};

// Throws mp::failure: MP_ERR_FILE, MP_ERR_FORMAT.
head_weights read_heads(const std::string & path, const head_model & model);

} // namespace mp
