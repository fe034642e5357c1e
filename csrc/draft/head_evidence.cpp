// What the drafter asks of a trained head, and when; or which of the guesses made beforehand tell of a node.
#include "draft/drafter.h"

#include <algorithm>

namespace mp {

// The weights are gone through once for all that is asked at once: beside a node whose turn it is, the candidates that may
// come next are asked about, as long as they are not much less probable.
constexpr int32_t ASKED_AT_ONCE = 4;
constexpr float ASKED_FROM = 0.25f;  // of the node's own probability
constexpr float LIKELY_CHILD = 0.5f; // what of it its best child may have

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

// Which of the guesses tells what follows this token after that node; the token of the root, -1, is the first one's.
int32_t drafter::guessed_after(int32_t parent, int32_t token) const {
    const int32_t before = parent < 0 ? -1 : nodes[parent].said;
    const bool is_on_chain = parent < 0 || (before != NOT_SAID && likely[before].tokens[0] == token);
    return is_on_chain && before + 1 < guessed->n ? before + 1 : NOT_SAID;
}

// Candidates that wait for a place, and their next siblings: how many are at least as probable as `rival`; the others that
// the head was not asked about are questions, down to `least`.
int32_t drafter::note_likely_next(float rival, float least) {
    int32_t n_rivals = 0;
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
            n_rivals += probability >= rival;
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
    return n_rivals;
}

// A distance_head says all at once, when it is first asked.
int32_t drafter::said_at(int32_t depth) {
    if (depth >= by_distance->n_distances() || !latent_before(-1)) {
        return NOT_SAID;
    }
    if (likely.empty()) {
        likely.resize(by_distance->n_distances());
        by_distance->evaluate(root_latent.data(), likely.data());
    }
    return depth;
}

void drafter::ask_head(int32_t at) {
    node & asked = nodes[at];
    if (by_distance) {
        asked.said = said_at(asked.depth);
    }
    if (!by_token || asked.said != NOT_SAID || !latent_before(asked.parent)) {
        return;
    }
    // The draft may go on beyond what will be decoded: what would stand there is not worth asking for.
    const int32_t n_left = std::max(n_expected - n_nodes(), at == 0 ? 1 : 0);
    questions.clear();
    const int32_t n_rivals =
        chains_only ? 0 : note_likely_next(LIKELY_CHILD * asked.probability, ASKED_FROM * asked.probability);
    if (n_rivals >= n_left) {
        return;
    }
    questions.insert(questions.begin(), {asked.probability, asked.token, asked.parent, &asked.said});
    const auto n = std::min({(int32_t) questions.size(), ASKED_AT_ONCE, n_left});
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
    by_token->evaluate(n, asked_tokens.data(), asked_before.data(), asked_after.data(), &likely[n_said]);
    for (int32_t i = 0; i < n; i++) {
        *questions[i].answer = n_said + i;
    }
}

} // namespace mp
