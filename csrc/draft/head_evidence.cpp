// What the drafter asks of a trained head, and when.
#include "draft/drafter.h"

#include <algorithm>

namespace mp {

// The weights are gone through once for all that is asked at once: beside a node whose turn it is, the candidates that may
// come next are asked about, as long as they are not much less probable.
constexpr int32_t ASKED_AT_ONCE = 4;
constexpr float ASKED_FROM = 0.25f; // of the node's own probability

void drafter::use_latent(const float * latent) {
    root_latent.clear();
    if (trained && latent) {
        root_latent.assign(latent, latent + trained->n_latent());
    }
}

// The latent that the children of a node are drawn from; of the root's parent, -1, that of the root. nullptr: not known.
const float * drafter::latent_before(int32_t parent) const {
    if (parent < 0) {
        return root_latent.empty() || n_forced > 0 ? nullptr : root_latent.data();
    }
    const int32_t said = nodes[parent].said;
    return said == NOT_SAID ? nullptr : &latents[(size_t) said * trained->n_latent()];
}

// Candidates that wait for a place, and their next siblings.
void drafter::note_likely_next(float least) {
    for (const waiting & w : heap) {
        node & parent = nodes[w.parent];
        if (!latent_before(w.parent)) {
            continue;
        }
        for (int32_t child = w.child; child < parent.n_children; child++) {
            candidate & c = parent.children[child];
            const float probability = parent.probability * parent.share * c.probability;
            if (probability < least) {
                break;
            }
            if (c.said == NOT_SAID) {
                questions.push_back({probability, c.token, w.parent, &c.said});
            }
        }
    }
    std::sort(questions.begin(), questions.end(), [](const question & a, const question & b) {
        return a.probability != b.probability ? a.probability > b.probability
               : a.parent != b.parent         ? a.parent < b.parent
                                              : a.token < b.token;
    });
}

void drafter::ask_head(int32_t at) {
    node & asked = nodes[at];
    if (!trained || asked.said != NOT_SAID || !latent_before(asked.parent)) {
        return;
    }
    questions.clear();
    if (!chains_only) {
        note_likely_next(ASKED_FROM * asked.probability);
    }
    questions.insert(questions.begin(), {asked.probability, asked.token, asked.parent, &asked.said});
    const auto n = (int32_t) std::min<size_t>(questions.size(), ASKED_AT_ONCE);
    const auto n_said = (int32_t) likely.size();
    const size_t n_latent = trained->n_latent();
    likely.resize(n_said + n);
    latents.resize((n_said + n) * n_latent);
    asked_tokens.clear();
    asked_before.clear();
    asked_after.clear();
    for (int32_t i = 0; i < n; i++) {
        asked_tokens.push_back(questions[i].token);
        asked_before.push_back(latent_before(questions[i].parent));
        asked_after.push_back(&latents[(n_said + i) * n_latent]);
    }
    trained->evaluate(n, asked_tokens.data(), asked_before.data(), asked_after.data(), &likely[n_said]);
    for (int32_t i = 0; i < n; i++) {
        *questions[i].answer = n_said + i;
    }
}

} // namespace mp
