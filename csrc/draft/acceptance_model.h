// How likely a candidate is accepted, given what speaks for it: a logistic model, learned while decoding.
#pragma once

#include "draft/evidence_tables.h"

#include <cstdint>
#include <string>

namespace mp {

// Kinds of evidence. Each says with which level a candidate appears there.
enum evidence_kind {
    BY_TOKEN,   // successors of the token before it: the level of the probability it had
    BY_PAIR,    // successors of the two tokens before it: likewise
    BY_TRIPLE,  // of the three tokens before it: likewise
    BY_NGRAM,   // followed a suffix of the text: 1 + 3 * (index of its length) + how many came later
    BY_MASK,    // a mask row of the last pass: the level of its probability there
    BY_LAST,    // the other likely tokens of the row that gave the root: likewise
    BY_SIBLING, // what the rejected candidates' rows said of the same place: likewise
    BY_EARLIER, // followed a suffix of the text in an earlier text: as BY_NGRAM, and a longer suffix than there
    BY_HEAD,    // what a trained head says: the level of its probability there
    N_EVIDENCE,
};

// Levels of the kinds with probabilities: -log2 of it, and from N_PROBABILITY_LEVELS on the same of those that were not
// the most likely there. N-grams of both kinds have 0 for none.
constexpr int32_t NO_LEVEL = 2 * N_PROBABILITY_LEVELS; // nothing is known there
constexpr int32_t NOT_AMONG = NO_LEVEL + 1;            // others are known there
constexpr int32_t N_LEVELS = 25;
constexpr int32_t N_DEPTHS = 3; // children of the root, of these, and all further down

struct evidence {
    uint8_t level[N_EVIDENCE] = {NO_LEVEL, NO_LEVEL, NO_LEVEL, 0, NO_LEVEL, NO_LEVEL, NO_LEVEL, 0, NO_LEVEL};

    bool has(int32_t kind) const {
        return kind == BY_NGRAM || kind == BY_EARLIER ? level[kind] != 0 : level[kind] < NO_LEVEL;
    }
};

// A candidate that followed an accepted node, and whether it was right: bench/learn_prior.py learns the first weights from
// these.
struct example {
    uint8_t depth; // its parent's class of depth
    uint8_t right;
    evidence why;
};

class acceptance_model {
public:
    acceptance_model();

    static int32_t depth_class(int32_t depth) { return depth < N_DEPTHS ? depth : N_DEPTHS - 1; }

    // Probability that the model's own token is this candidate, given that its parent at depth `depth` was accepted.
    float predict(int32_t depth, const evidence & candidate) const;

    // One step of AdaGrad on the logistic loss, for a candidate that was predicted `predicted`.
    void learn(int32_t depth, const evidence & candidate, float predicted, bool accepted);

    // The kind of evidence that raises the prediction most above what its absence would give; BY_MASK without any.
    int32_t main_evidence(int32_t depth, const evidence & candidate) const;

    void save(std::string & bytes) const;
    bool load(const char *& bytes, const char * end);

private:
    struct weights {
        float bias;
        float level[N_EVIDENCE][N_LEVELS];
    };
    weights weight[N_DEPTHS];
    weights squares[N_DEPTHS]; // sums of squared gradients
};

} // namespace mp
