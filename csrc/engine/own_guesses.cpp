#include "engine/own_guesses.h"

#include <algorithm>

namespace mp {

static_assert(MOST_GUESSED == asking::MOST_DEPTH, "every depth has its gain and its time");

constexpr double LEAST_REACH = 0.05; // of one text, for it to be asked with the others

// Sum of how likely the places are reached that would be asked about next.
double own_guesses::reach(const std::vector<mtp_layers::question> & questions) {
    double sum = 0;
    for (const mtp_layers::question & q : questions) {
        sum += q.goes_on ? q.answer->reach() : 0;
    }
    return sum;
}

void own_guesses::ask(mtp_layers & layers, const std::vector<std::shared_ptr<generation>> & drawing, double us_per_token) {
    questions.clear();
    for (const auto & g : drawing) {
        g->guessed = {};
        if (g->wants_guesses()) {
            const auto at = (int32_t) g->session->tokens.size();
            questions.push_back({&g->session->mtp, at, g->tokens().back(), &g->guessed, true});
        }
    }
    if (questions.empty()) {
        return;
    }
    pay.begin();
    layers.begin(questions);
    for (int32_t depth = 0; depth < MOST_GUESSED; depth++) {
        for (mtp_layers::question & q : questions) {
            q.goes_on = q.goes_on && q.answer->reach() >= LEAST_REACH;
        }
        const double reached = reach(questions);
        if (reached == 0 || !pay.pays(depth, reached, us_per_token)) {
            break;
        }
        const int64_t started = ggml_time_us();
        layers.ask(questions);
        pay.took(depth, (double) (ggml_time_us() - started));
    }
    layers.end(questions);
}

void own_guesses::learn(const generation & of) {
    double reached = 1;
    for (int32_t i = 0; i < of.guessed.n; i++) {
        pay.learn(i, reached, of.guessed.gain[i]);
        reached *= of.guessed.likely[i].probabilities[0];
    }
}

} // namespace mp
