#include "plan/outside_cost.h"

#include <algorithm>
#include <cmath>

namespace mp {

constexpr double FORGETTING = 0.995; // per pass
constexpr double MOST = 2;           // times what was expected: all a pass counts for, as disturbances only add
constexpr int64_t TRUSTED = 8;       // passes until then
constexpr double RIDGE = 0.1;        // passes that speak for each part being nothing

outside_cost::vector outside_cost::features(int32_t n_rows, double n_tokens) {
    return {1, n_rows > 1 ? 1.0 : 0.0, n_rows - 1.0, n_tokens - 1};
}

void outside_cost::add(int32_t n_rows, int32_t n_tokens, double us) {
    const double expected = time(n_rows, n_tokens);
    us = n_added++ < TRUSTED ? us : std::min(us, MOST * expected);
    const vector x = features(n_rows, n_tokens);
    for (int32_t i = 0; i < N_PARTS; i++) {
        for (int32_t j = 0; j < N_PARTS; j++) {
            products[i][j] = FORGETTING * products[i][j] + x[i] * x[j];
        }
        sums[i] = FORGETTING * sums[i] + x[i] * us;
    }
    solve();
}

double outside_cost::time(int32_t n_rows, double n_tokens) const {
    const vector x = features(n_rows, n_tokens);
    double us = 0;
    for (int32_t i = 0; i < N_PARTS; i++) {
        us += parts[i] * x[i];
    }
    return us;
}

// Least squares; no part is less than nothing.
void outside_cost::solve() {
    // Coordinate descent from the last solution: a step for each new pass is enough.
    for (int32_t i = 0; i < N_PARTS; i++) {
        double rest = sums[i];
        for (int32_t j = 0; j < N_PARTS; j++) {
            rest -= j == i ? 0 : products[i][j] * parts[j];
        }
        parts[i] = std::max(rest / (products[i][i] + RIDGE), 0.0);
    }
}

} // namespace mp
