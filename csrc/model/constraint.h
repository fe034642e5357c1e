// A caller's constraint on one generation: which tokens may come next. What fails in it becomes MP_ERR_CALLBACK.
#pragma once

#include "maskprobe.h"

#include "llama.h"

#include <cstdint>
#include <vector>

namespace mp {

class constraint {
public:
    constraint(const mp_constraint & calls, int32_t n_vocab);

    bool allows(int32_t token);
    void mask(llama_token_data_array & candidates); // what is forbidden gets a logit of minus infinity
    void accept(int32_t token);

    // Whether the last of a chain of n tokens would pass after all before it.
    bool passes(const int32_t * tokens, int32_t n);

    // The tokens that must come, at most n_max: the chain lives until the next call.
    const std::vector<int32_t> & forced(int32_t n_max);

    // The logits as they are to be sampled from: the row itself where there is nothing to change, else a changed copy.
    const float * changed(const std::vector<int32_t> & text, const float * logits); // (n_vocab)

private:
    const mp_constraint calls;
    const int32_t n_vocab;
    std::vector<uint32_t> bits; // (n_vocab / 32 rounded up), of this place in the text
    bool has_bits = false;
    std::vector<int32_t> chain;
    std::vector<float> logits_copy; // (n_vocab), empty until needed

    bool is_set(int32_t token) const { return bits[token / 32] >> (token % 32) & 1; }
    void fetch_bits();
};

} // namespace mp
