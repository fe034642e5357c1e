#include "plan/asking.h"

#include <algorithm>

namespace mp {

constexpr double FADING = 0.98;   // per answer
constexpr double RATE = 1.0 / 16; // of the newest time, in the running mean
constexpr int64_t TRIAL = 32;     // drafts between two that are asked in full

void asking::begin() {
    n_drafts++;
}

// The answers after it are worth something as well, though each of them only if it is reached.
bool asking::pays(int32_t depth, double reach, double us_per_token) const {
    if (us_per_token <= 0 || us[depth] <= 0 || n_drafts % TRIAL == 0) {
        return true;
    }
    double sum = 0, most = 0;
    for (int32_t d = depth; d < MOST_DEPTH; d++) {
        sum += reach * per_reach(d) * us_per_token - us[d];
        most = std::max(most, sum);
        reach *= std::min(reaches[std::min(d + 1, MOST_DEPTH - 1)] / reaches[d], 1.0);
    }
    return most > 0;
}

void asking::took(int32_t depth, double us_of_it) {
    us[depth] += us[depth] > 0 ? RATE * (us_of_it - us[depth]) : us_of_it;
}

void asking::learn(int32_t depth, double reach, double gain) {
    gains[depth] = FADING * gains[depth] + gain;
    reaches[depth] = FADING * reaches[depth] + reach;
}

} // namespace mp
