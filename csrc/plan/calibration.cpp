#include "plan/calibration.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace mp {

constexpr double FORGETTING = 0.998; // per outcome: what was seen 500 outcomes ago counts for a third
constexpr double FIRST_TRUST = 0.7;  // what the claims of a source that was never seen are taken to be worth
constexpr double TRUST_WEIGHT = 4;   // accepted candidates that this counts for
constexpr double MOST_CLAIMED = 1e6; // in a bin that was kept

calibration::calibration() {
    update();
}

int32_t calibration::bin_of(double claimed) {
    int32_t exponent = 0;
    if (claimed <= 0.5) {
        std::frexp(claimed, &exponent); // 0 for 1/2, -1 from 1/4 on
        return claimed > 0 ? std::max(N_LOW + exponent, 0) : 0;
    }
    std::frexp(1 - claimed, &exponent); // -1 up to 3/4, -2 up to 7/8
    return claimed < 1 ? std::min(N_LOW - 1 - exponent, N_BINS - 1) : N_BINS - 1;
}

double calibration::probability(double claimed) const {
    return std::min(1.0, claimed * factors[bin_of(claimed)]);
}

double calibration::most_probable(double claimed) const {
    return std::max(probability(claimed), below[bin_of(claimed)]);
}

void calibration::learn(const float * claimed, const int32_t * parents, const int32_t * tokens, int32_t n_nodes,
                        int32_t n_decoded, const int32_t * path, const int32_t * emitted, int32_t n_path, int32_t first) {
    for (int32_t node = first; node < n_nodes; node++) {
        if (parents[node] >= n_decoded) {
            continue;
        }
        const int32_t * at = std::find(path, path + n_path, parents[node]);
        const bool right = at != path + n_path && emitted[at - path] == tokens[node];
        bin & b = bins[bin_of(claimed[node])];
        b.claimed = b.claimed * FORGETTING + claimed[node];
        b.accepted = b.accepted * FORGETTING + (right ? 1 : 0);
    }
    update();
}

// Bins with few outcomes lean on all of them together.
void calibration::update() {
    bin all;
    for (const bin & b : bins) {
        all.claimed += b.claimed;
        all.accepted += b.accepted;
    }
    const double trust = (all.accepted + TRUST_WEIGHT * FIRST_TRUST) / (all.claimed + TRUST_WEIGHT);
    double most = 0;
    for (int32_t i = 0; i < N_BINS; i++) {
        factors[i] = (bins[i].accepted + TRUST_WEIGHT * trust) / (bins[i].claimed + TRUST_WEIGHT);
        below[i] = most;
        const double highest = i < N_LOW ? std::ldexp(1.0, i - N_LOW) : 1 - std::ldexp(1.0, N_LOW - i - 2);
        most = std::max(most, std::min(1.0, factors[i] * (i == N_BINS - 1 ? 1 : highest)));
    }
}

std::string calibration::save() const {
    return std::string((const char *) bins, sizeof bins);
}

bool calibration::load(const char * bytes, size_t n) {
    bin loaded[N_BINS];
    if (n != sizeof loaded) {
        return false;
    }
    std::memcpy(loaded, bytes, n);
    for (const bin & b : loaded) {
        if (!(b.claimed >= 0 && b.claimed < MOST_CLAIMED && b.accepted >= 0 && b.accepted < MOST_CLAIMED)) {
            return false;
        }
    }
    std::copy_n(loaded, N_BINS, bins);
    update();
    return true;
}

} // namespace mp
