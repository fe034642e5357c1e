// The most likely tokens of one row of logits.
#pragma once

#include <cstdint>
#include <vector>

namespace mp {

// Room that top_k needs, kept between calls: one per thread that calls it.
struct top_k_scratch {
    std::vector<float> block_max; // the largest logit of each block of the vocabulary
    std::vector<float> order;     // block_max, partly sorted
    std::vector<int32_t> found;   // tokens that may be among the best

    explicit top_k_scratch(int32_t n_vocab);
};

// Writes the k most likely tokens, best first, the lower id first among equals, with their log-probabilities, and the
// log of the sum of exponentials to *log_sum. Returns false, leaving the outputs undefined, if a logit is NaN or
// infinite upwards, or none is finite. k <= n_vocab.
bool top_k(const float * logits, int32_t n_vocab, int32_t k, top_k_scratch & scratch, int32_t * tokens, float * logprobs,
           float * log_sum); // logits (n_vocab), tokens and logprobs (k)

} // namespace mp
