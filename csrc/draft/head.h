// What a trained head says of the tokens that follow a node of the draft, given the state of the model before it.
#pragma once

#include <cstdint>

namespace mp {

constexpr int32_t N_LIKELY = 12;

// Tokens that may come at one place, most likely first.
struct distribution {
    int32_t n = 0;
    int32_t tokens[N_LIKELY];
    float probabilities[N_LIKELY];
};

class head {
public:
    virtual ~head() = default;

    virtual int32_t n_latent() const = 0; // numbers of a latent: of the root's place, the model's hidden state

    // For n tokens, each with the latent that it was drawn from, before[i] (n_latent): the latent that its successor is
    // drawn from, after[i] (n_latent), and the likely successors; none where what came out is not finite. What is said of a
    // token does not depend on the others.
    virtual void evaluate(int32_t n, const int32_t * tokens, const float * const * before, float * const * after,
                          distribution * likely) = 0;
};

} // namespace mp
