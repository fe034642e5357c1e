// What claimed probabilities turn out to be worth, in bins by powers of two.
#pragma once

#include "maskprobe.h"

#include <cstdint>

namespace mp {

class calibration {
public:
    calibration();

    // The calibrated probability of a node that is claimed to be accepted with this one.
    double probability(double claimed) const;

    // The highest calibrated probability of a claim that is this high or lower.
    double most_probable(double claimed) const;

    // Learns from every candidate of a draft whose parent was decoded. Of those further down only failures would ever be
    // known, which would make all of them look bad.
    void learn(const mp_draft & draft, const mp_plan_result & result);

    void save(mp_learned & learned) const;
    bool load(const mp_learned & learned); // false, and nothing changes, for what makes no sense

private:
    void update();

    double claimed[MP_N_CLAIM_BINS] = {};  // sums of claimed probabilities, fading
    double accepted[MP_N_CLAIM_BINS] = {}; // how many of these were accepted, fading
    double factors[MP_N_CLAIM_BINS];
    double below[MP_N_CLAIM_BINS]; // the highest calibrated probability of the bins of lower claims
};

} // namespace mp
