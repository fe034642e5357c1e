// Whether it pays to ask a source of candidates that costs time of its own, and how deep.
//
// What an answer is worth is learned for each depth: by how much it raised the probability of the token that came, per
// probability that its place was reached at all. Beside it stands what a question of that depth takes. A question pays where
// the tokens that it and those after it are expected to bring take longer otherwise.
#pragma once

#include <cstdint>

namespace mp {

class asking {
public:
    static constexpr int32_t MOST_DEPTH = 4;

    // A new draft: now and then one is asked in full, also where that does not pay.
    void begin();

    // Whether to ask at this depth, 0: after the root. `reach`: the sum over the texts that are asked together of how
    // likely their places are reached. us_per_token: of the last passes, 0: not known.
    bool pays(int32_t depth, double reach, double us_per_token) const;

    void took(int32_t depth, double us);
    void learn(int32_t depth, double reach, double gain);

private:
    double per_reach(int32_t depth) const { return gains[depth] / reaches[depth]; }

    int64_t n_drafts = 0;
    // per depth, fading sums; at first as if a few answers had been good
    double gains[MOST_DEPTH] = {2, 2, 2, 2}, reaches[MOST_DEPTH] = {4, 4, 4, 4};
    double us[MOST_DEPTH] = {}; // running means, 0: not known
};

} // namespace mp
