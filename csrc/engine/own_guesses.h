// What the model's own layers for multi-token prediction guess, before the drafts of a pass: as deep as it pays.
#pragma once

#include "engine/generation.h"
#include "plan/asking.h"
#include "session/mtp_layers.h"

#include <memory>
#include <vector>

namespace mp {

class own_guesses {
public:
    // Asks after the newest tokens of all of them together, and leaves the answers with them. us_per_token: of the last
    // passes, 0: not known.
    void ask(mtp_layers & layers, const std::vector<std::shared_ptr<generation>> & drawing, double us_per_token);

    void learn(const generation & of); // its pass is over

private:
    static double reach(const std::vector<mtp_layers::question> & questions);

    asking pay;
    std::vector<mtp_layers::question> questions;
};

} // namespace mp
