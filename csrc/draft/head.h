// What trained heads say of the tokens to come, given the state of the model before them.
#pragma once

#include <cstdint>
#include <vector>

namespace mp {

constexpr int32_t N_LIKELY = 12;

// Tokens that may come at one place, most likely first.
struct distribution {
    int32_t n = 0;
    int32_t tokens[N_LIKELY];
    float probabilities[N_LIKELY];
};

// It is one of the two kinds below.
class head {
public:
    virtual ~head() = default;

    // Layers whose hidden states it begins from, ascending, beside that after the last norm.
    virtual const std::vector<int32_t> & layers() const = 0;
    virtual int32_t n_latent() const = 0; // numbers of a latent: of the root's place, the model's hidden states
};

// Knows the tokens between: says what follows each.
class token_head : public head {
public:
    // For n tokens, each with the latent that it was drawn from, before[i] (n_latent): the latent that its successor is
    // drawn from, after[i] (n_latent), and the likely successors; none where what came out is not finite. What is said of a
    // token does not depend on the others.
    virtual void evaluate(int32_t n, const int32_t * tokens, const float * const * before, float * const * after,
                          distribution * likely) = 0;
};

// Knows the distance alone: says what stands after the root, after its children, and so on. The tokens between have no part.
class distance_head : public head {
public:
    virtual int32_t n_distances() const = 0;

    // From the latent of the root's place, (n_latent): (n_distances); none where what came out is not finite.
    virtual void evaluate(const float * latent, distribution * likely) = 0;
};

} // namespace mp
