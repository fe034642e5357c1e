// The most likely tokens of one row of logits.
#pragma once

#include <cstdint>
#include <vector>

namespace mp {

// Room that the functions below need, kept between calls: one per thread that calls them.
struct top_k_scratch {
    int32_t block;                // tokens of a block
    std::vector<float> block_max; // the largest logit of each block of the vocabulary
    std::vector<float> largest;   // of sets of blocks
    std::vector<int32_t> found;   // tokens that may be among the best

    explicit top_k_scratch(int32_t n_vocab);
};

// Writes the k most likely tokens, best first, the lower id first among equals, with their log-probabilities, and the
// log of the sum of exponentials to *log_sum. Returns false, leaving the outputs undefined, if a logit is NaN or
// infinite upwards, or none is finite. k <= n_vocab.
bool top_k(const float * logits, int32_t n_vocab, int32_t k, top_k_scratch & scratch, int32_t * tokens, float * logprobs,
           float * log_sum); // logits (n_vocab), tokens and logprobs (k)

// The k most likely tokens and all equal to the last of them, in the order of the vocabulary. A few others are among them.
// It lives in the scratch. No logit is NaN; k <= n_vocab.
const std::vector<int32_t> & shortlist(const float * logits, int32_t n_vocab, int32_t k, top_k_scratch & scratch);

} // namespace mp
