// What claimed probabilities turn out to be worth, in bins.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace mp {

class calibration {
public:
    calibration();

    // The calibrated probability of a candidate that is claimed to be accepted with this one.
    double probability(double claimed) const;

    // The highest calibrated probability of a claim that is this high or lower.
    double most_probable(double claimed) const;

    // Learns from a draft of n_nodes, of which the first n_decoded were decoded; path and emitted (n_path) are the accepted
    // nodes and the token drawn after each. Every candidate counts whose parent was decoded, decoded itself or not. Of those
    // further down only failures would ever be known, which would make all of them look bad. Nodes before `first` claim
    // nothing.
    void learn(const float * claimed, const int32_t * parents, const int32_t * tokens, int32_t n_nodes, int32_t n_decoded,
               const int32_t * path, const int32_t * emitted, int32_t n_path, int32_t first = 1);

    std::string save() const;
    bool load(const char * bytes, size_t n); // false, and nothing changes, for what makes no sense

private:
    // Below one half a bin for each power of two of the probability, above it one for each of the probability of failure.
    static constexpr int32_t N_LOW = 12, N_BINS = N_LOW + 5;

    static int32_t bin_of(double claimed);
    void update();

    struct bin {
        double claimed = 0;  // sum of claimed probabilities, fading
        double accepted = 0; // how many of these candidates were accepted, fading
    } bins[N_BINS];
    double factors[N_BINS]; // of a claim's worth
    double below[N_BINS];   // the highest calibrated probability of the bins of lower claims
};

} // namespace mp
