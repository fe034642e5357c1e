// What was thought out before a draft begins: a chain after the root, and what may follow each of its tokens.
#pragma once

#include "draft/head.h"

#include <cstdint>

namespace mp {

constexpr int32_t MOST_GUESSED = 4;

struct guesses {
    int32_t n = 0;
    distribution likely[MOST_GUESSED]; // [0]: after the root; [i]: after the most likely token of [i - 1]
    double gain[MOST_GUESSED] = {}; // of the last pass: by how much each had raised the probability of the token that came

    // How likely the token is reached that the next distribution would follow, as the guesses themselves say.
    double reach() const {
        double product = 1;
        for (int32_t i = 0; i < n; i++) {
            product *= likely[i].probabilities[0];
        }
        return product;
    }
};

} // namespace mp
