#include "plan/calibration.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>

namespace mp {

constexpr double FORGETTING = 0.998; // per outcome: what was seen 500 outcomes ago counts for a third
constexpr double FIRST_TRUST = 0.5;  // a source that was never seen is taken to claim twice too much
constexpr double TRUST_WEIGHT = 2;   // accepted candidates that this counts for

static int32_t bin_of(double probability) {
    int exponent = 0;
    std::frexp(probability, &exponent);
    return probability > 0 ? std::clamp(-exponent, 0, MP_N_CLAIM_BINS - 1) : MP_N_CLAIM_BINS - 1;
}

calibration::calibration() {
    update();
}

double calibration::probability(double claim) const {
    return std::min(1.0, claim * factors[bin_of(claim)]);
}

double calibration::most_probable(double claim) const {
    return std::max(probability(claim), below[bin_of(claim)]);
}

void calibration::learn(const mp_draft & draft, const mp_plan_result & r) {
    for (int32_t node = 1; node < draft.n_nodes; node++) {
        const int32_t parent = draft.parents[node];
        if (parent >= r.n_nodes) {
            continue;
        }
        const int32_t * at = std::find(r.path, r.path + r.n_path, parent);
        const bool right = at != r.path + r.n_path && r.emitted[at - r.path] == draft.tokens[node];
        const int32_t bin = bin_of(draft.probabilities[node]);
        claimed[bin] = claimed[bin] * FORGETTING + draft.probabilities[node];
        accepted[bin] = accepted[bin] * FORGETTING + (right ? 1 : 0);
    }
    update();
}

// Bins with few outcomes lean on all of them together.
void calibration::update() {
    const double all_claimed = std::accumulate(claimed, std::end(claimed), 0.0);
    const double all_accepted = std::accumulate(accepted, std::end(accepted), 0.0);
    const double trust = (all_accepted + TRUST_WEIGHT * FIRST_TRUST) / (all_claimed + TRUST_WEIGHT);
    for (int32_t bin = 0; bin < MP_N_CLAIM_BINS; bin++) {
        factors[bin] = (accepted[bin] + TRUST_WEIGHT * trust) / (claimed[bin] + TRUST_WEIGHT);
    }
    double most = 0;
    for (int32_t bin = MP_N_CLAIM_BINS - 1; bin >= 0; bin--) {
        below[bin] = most;
        most = std::max(most, std::min(1.0, std::ldexp(factors[bin], -bin))); // 2^-bin is the highest claim of a bin
    }
}

void calibration::save(mp_learned & learned) const {
    std::copy_n(claimed, MP_N_CLAIM_BINS, learned.claimed);
    std::copy_n(accepted, MP_N_CLAIM_BINS, learned.accepted);
}

bool calibration::load(const mp_learned & learned) {
    const auto sound = [](double x) { return x >= 0 && x < 1e6; };
    if (!std::all_of(learned.claimed, std::end(learned.claimed), sound) ||
        !std::all_of(learned.accepted, std::end(learned.accepted), sound)) {
        return false;
    }
    std::copy_n(learned.claimed, MP_N_CLAIM_BINS, claimed);
    std::copy_n(learned.accepted, MP_N_CLAIM_BINS, accepted);
    update();
    return true;
}

} // namespace mp
