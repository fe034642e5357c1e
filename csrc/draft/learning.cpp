// What a drafter learns from the prompt and from its passes.
#include "draft/drafter.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace mp {

constexpr double MASK_GAIN_RATE = 1.0 / 32;

distribution drafter::model_row::as_distribution() const {
    distribution d;
    for (; d.n < std::min(n_top, N_FROM_ROW); d.n++) {
        d.tokens[d.n] = tokens[d.n];
        d.probabilities[d.n] = std::exp(logprobs[d.n]);
    }
    return d;
}

void drafter::learn_prompt(const mp_prefix & rows) {
    const auto token_at = [&](int32_t i) { return i >= 0 ? text[i] : -1; };
    for (int32_t i = 0; i < rows.n_rows; i++) {
        const size_t start = (size_t) i * rows.n_top;
        const model_row row = {rows.top_tokens + start, rows.top_logprobs + start, rows.n_top};
        const int32_t at = (int32_t) text.size() - rows.n_rows + i;
        learn_row(row, text[at], token_at(at - 1), token_at(at - 2));
        if (i == rows.n_rows - 1) {
            last = row.as_distribution();
            last_is_before = text.size();
        }
    }
}

void drafter::observe(const mp_tree & decoded, const mp_pass & pass, const int32_t * path, const int32_t * emitted,
                      int32_t n_path) {
    const int32_t accepted = path[n_path - 1];
    if (unexpanded >= 0) { // what came after it is learned from as well
        expand(knowledge::held(*shared), unexpanded);
        unexpanded = -1;
    }
    n_expected = decoded.n_nodes + decoded.n_masks;
    find_nodes(decoded);
    learn_outcomes(path, emitted, n_path);

    // The token `up` places before a node; -1 before the text.
    const auto token_before = [&](int32_t at, size_t up) {
        for (; up > 0 && decoded.parents[at] >= 0; up--) {
            at = decoded.parents[at];
        }
        return up == 0 ? decoded.tokens[at] : up < text.size() ? text[text.size() - 1 - up] : -1;
    };
    const auto row_at = [&](int32_t row) {
        const size_t start = (size_t) row * pass.n_top;
        return model_row{pass.top_tokens + start, pass.top_logprobs + start, pass.n_top};
    };
    const auto is_finite = [&](int32_t row) { return pass.best[row] >= 0; };
    for (int32_t row = 0; row < decoded.n_nodes; row++) {
        if (is_finite(row)) {
            learn_row(row_at(row), decoded.tokens[row], token_before(row, 1), token_before(row, 2));
        }
    }

    masks.clear();
    for (int32_t i = 0; i < decoded.n_masks; i++) {
        const int32_t row = decoded.n_nodes + i;
        if (decoded.mask_owners[i] == accepted) {
            masks.push_back(is_finite(row) ? row_at(row).as_distribution() : distribution());
        }
    }
    last = is_finite(accepted) ? row_at(accepted).as_distribution() : distribution();
    last_is_before = text.size() + n_path - 1;
    learn_siblings(decoded, pass, accepted);

    nodes.clear();
    heap.clear();
    root_latent.clear();
    guessed = nullptr;
    for (int32_t i = 0; i < n_path; i++) {
        add_to_text(emitted[i]);
    }
}

// Which node of the draft each decoded node is. Most often they come in its order.
void drafter::find_nodes(const mp_tree & decoded) {
    node_of.assign(decoded.n_nodes, -1);
    node_of[0] = n_nodes() > 0 ? 0 : -1;
    for (int32_t i = 1, expected = 1; i < decoded.n_nodes; i++) {
        const int32_t parent = node_of[decoded.parents[i]];
        const auto is_it = [&](int32_t at) { return nodes[at].token == decoded.tokens[i] && nodes[at].parent == parent; };
        if (parent < 0) {
            continue;
        }
        int32_t at = expected < n_nodes() && is_it(expected) ? expected : 1;
        while (at < n_nodes() && !is_it(at)) {
            at++;
        }
        if (at < n_nodes()) {
            node_of[i] = at;
            expected = at + 1;
        }
    }
}

// Which candidates after the accepted nodes were right, in the tree or not.
void drafter::learn_outcomes(const int32_t * path, const int32_t * emitted, int32_t n_path) {
    if (record) {
        record->clear();
    }
    knowledge::held known(*shared);
    for (int32_t i = 0; i < n_path && node_of[path[i]] >= 0; i++) {
        const node & parent = nodes[node_of[path[i]]];
        for (int32_t k = 0; k < parent.n_children; k++) {
            const candidate & c = parent.children[k];
            const bool right = c.token == emitted[i];
            known->model.learn(parent.depth, c.why, c.probability, right);
            if (record) {
                record->push_back({(uint8_t) acceptance_model::depth_class(parent.depth), right, c.why});
            }
        }
    }
    if (!masks.empty()) {
        learn_mask_gain(known, path, emitted, n_path);
    }
    if (guessed) {
        learn_guess_gain(known, path, emitted, n_path);
    }
}

// By how much evidence of this kind raised the probability of the token after a node.
double drafter::gain_by(const knowledge::held & known, evidence_kind kind, int32_t at, int32_t token) const {
    const node & parent = nodes[at];
    const auto is_it = [&](const candidate & c) { return c.token == token; };
    const candidate * const found = std::find_if(parent.children, parent.children + parent.n_children, is_it);
    if (found == parent.children + parent.n_children || !found->why.has(kind)) {
        return 0;
    }
    evidence without = found->why;
    without.level[kind] = NO_LEVEL;
    bool is_known_otherwise = false;
    for (int32_t other = 0; other < N_EVIDENCE; other++) {
        is_known_otherwise = is_known_otherwise || without.has(other);
    }
    return found->probability - (is_known_otherwise ? known->model.predict(parent.depth, without) : 0.0f);
}

// A mask whose place the pass did not come to gained nothing.
void drafter::learn_mask_gain(const knowledge::held & known, const int32_t * path, const int32_t * emitted, int32_t n_path) {
    for (int32_t i = 0; i < std::min<int32_t>(N_MASKS_EACH, (int32_t) masks.size()); i++) {
        const bool is_reached = i < n_path && node_of[path[i]] >= 0;
        const double gain = is_reached ? gain_by(known, BY_MASK, node_of[path[i]], emitted[i]) : 0;
        gains_of_masks[i] += MASK_GAIN_RATE * (gain - gains_of_masks[i]);
    }
}

void drafter::learn_guess_gain(const knowledge::held & known, const int32_t * path, const int32_t * emitted,
                               int32_t n_path) {
    std::fill_n(guessed->gain, MOST_GUESSED, 0.0);
    for (int32_t i = 0; i < n_path && node_of[path[i]] >= 0; i++) {
        const int32_t said = nodes[node_of[path[i]]].said;
        if (said != NOT_SAID) {
            guessed->gain[said] = gain_by(known, BY_HEAD, node_of[path[i]], emitted[i]);
        }
    }
}

// A row tells what follows its token, after `before`, after `first`; -1 where the text begins. Other threads wait for one
// row, not for all.
void drafter::learn_row(const model_row & row, int32_t token, int32_t before, int32_t first) {
    const knowledge::held known(*shared);
    known->by_token.put(key_of_token(token), row.tokens, row.logprobs, row.n_top);
    if (before >= 0) {
        known->by_pair.put(key_of_pair(before, token), row.tokens, row.logprobs, row.n_top);
    }
    if (first >= 0) {
        known->by_triple.put(key_of_triple(first, before, token), row.tokens, row.logprobs, row.n_top);
    }
}

// The rejected children of the last accepted node stand where the next root stands: what their rows say, weighted by how
// likely they were, is a guess for the places after it; so is what their children's rows say, one place further.
void drafter::learn_siblings(const mp_tree & decoded, const mp_pass & pass, int32_t accepted) {
    for (int32_t d = 0; d < N_SIBLING_DEPTHS; d++) {
        sibling[d].n = 0;
        sums.clear();
        // How likely a row's node was, if it is one of these, of the draft and finite; else 0.
        const auto weight_of = [&](int32_t row) {
            int32_t ancestor = row;
            for (int32_t up = 0; up <= d && ancestor >= 0; up++) {
                ancestor = decoded.parents[ancestor];
            }
            const bool belongs = ancestor == accepted && node_of[row] >= 0 && pass.best[row] >= 0;
            return belongs ? nodes[node_of[row]].probability : 0.0f;
        };
        float total = 0;
        for (int32_t row = 1; row < decoded.n_nodes; row++) {
            total += weight_of(row);
        }
        for (int32_t row = 1; row < decoded.n_nodes; row++) {
            const float weight = weight_of(row);
            for (int32_t i = 0; weight > 0 && i < pass.n_top; i++) {
                const int32_t token = pass.top_tokens[(size_t) row * pass.n_top + i];
                const float probability = weight / total * std::exp(pass.top_logprobs[(size_t) row * pass.n_top + i]);
                auto at = std::find_if(sums.begin(), sums.end(), [&](const auto & sum) { return sum.second == token; });
                if (at == sums.end()) {
                    sums.push_back({probability, token});
                } else {
                    at->first += probability;
                }
            }
        }
        const auto n_kept = (int32_t) std::min<size_t>(sums.size(), N_FROM_ROW);
        std::partial_sort(sums.begin(), sums.begin() + n_kept, sums.end(), [](const auto & a, const auto & b) {
            return a.first != b.first ? a.first > b.first : a.second < b.second;
        });
        for (; sibling[d].n < n_kept; sibling[d].n++) {
            sibling[d].tokens[sibling[d].n] = sums[sibling[d].n].second;
            sibling[d].probabilities[sibling[d].n] = sums[sibling[d].n].first;
        }
    }
}

} // namespace mp
