// What a step takes outside the core: drafting, the sampler, all of the caller's bookkeeping. Fitted to the passes.
#pragma once

#include <array>
#include <cstdint>

namespace mp {

class outside_cost {
public:
    // A pass of n_rows took so many microseconds outside the core and emitted n_tokens.
    void add(int32_t n_rows, int32_t n_tokens, double us);

    // Microseconds for a pass of n_rows that emits so many tokens, on average. 0 before the first pass.
    double time(int32_t n_rows, double n_tokens) const;

private:
    // us = parts[0], + parts[1] where there are candidates, + parts[2] for each of them, + parts[3] for each token after
    // the first.
    static constexpr int32_t N_PARTS = 4;
    using vector = std::array<double, N_PARTS>;

    static vector features(int32_t n_rows, double n_tokens);
    void solve();

    std::array<vector, N_PARTS> products = {}; // sums of features times features,
    vector sums = {};                          // and of features times microseconds, fading
    vector parts = {};
    int64_t n_added = 0;
};

} // namespace mp
