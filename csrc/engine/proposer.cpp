#include "engine/proposer.h"

#include "status.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace mp {

constexpr int32_t N_TOP = 8;                // tokens of a row that evidence is learned from
constexpr int32_t N_PROMPT_ROWS = 8;        // each costs its share of the output matrix (bench/results/evidence.md)
constexpr int64_t MASK_TRIAL = 64;          // drafts between two masks that are placed only to learn what masks are worth
constexpr int32_t MOST_FORCED = 32;         // tokens of a forced chain
constexpr float FORCED_PROBABILITY = 0.99f; // of a forced token, before any was seen
constexpr float FORCED_RATE = 1.0f / 16;    // of the newest one, in the running mean

// --- all evidence ----------------------------------------------------------------------------------------------------

evidence_proposer::evidence_proposer(std::shared_ptr<knowledge> known, bool chains_only, std::unique_ptr<mask_source> masks,
                                     std::shared_ptr<head> trained, bool guessed)
    : has_head(trained != nullptr), guessed(guessed), from(known, chains_only, std::move(trained)), n_vocab(known->n_vocab),
      masks(std::move(masks)) {}

int32_t evidence_proposer::n_top() const {
    return std::min(N_TOP, n_vocab);
}

int32_t evidence_proposer::n_prompt_rows() const {
    return N_PROMPT_ROWS;
}

void evidence_proposer::begin(const std::vector<int32_t> & text, const drawn_rows & drawn) {
    const int32_t n = (int32_t) text.size();
    from.begin(text.data(), n - 1);
    from.learn_prompt(drawn.rows);
    from.extend(&text[n - 1], 1);
    from.use_latent(drawn.hidden);
    if (masks) {
        masks->begin(text.data(), n);
    }
}

void evidence_proposer::start(const std::vector<int32_t> &, int32_t) {
    n_certain = 0;
    from.start();
}

bool evidence_proposer::start_after(const std::vector<int32_t> & forced, float probability) {
    n_certain = (int32_t) forced.size();
    from.start(forced.data(), n_certain, probability);
    return true;
}

draft_view evidence_proposer::draft() const {
    return {from.n_nodes(), from.tokens(), from.parents(), from.probabilities(), from.sources()};
}

void evidence_proposer::observe(const decoded_pass & done) {
    from.observe(done.tree, done.pass, done.path, done.emitted, done.n_path);
    from.use_latent(done.hidden);
}

void evidence_proposer::extend(const int32_t * tokens, int32_t n, const drawn_rows & drawn) {
    from.extend(tokens, n - 1);
    from.learn_prompt(drawn.rows);
    from.extend(tokens + n - 1, 1);
    from.use_latent(drawn.hidden);
}

void evidence_proposer::add_masks(mp_tree & tree, const calibration & claims) {
    if (!masks) {
        return;
    }
    n_drafts++;
    probabilities.assign(1, 1.0);
    for (int32_t i = 1; i < tree.n_nodes; i++) {
        const float claimed = from.probabilities()[i];
        probabilities.push_back(std::min(i <= n_certain ? claimed : claims.probability(claimed), probabilities.back()));
    }
    owners.resize(tree.n_nodes);
    int32_t n_masks = 0;
    const bool on_trial = tree.n_nodes > 2 && n_drafts % MASK_TRIAL == 0;
    const int32_t n_trial = on_trial ? 1 + (int32_t) (n_drafts / MASK_TRIAL % masks->n_each()) : 0;
    tree.n_nodes = place_masks(tree.parents, probabilities.data(), tree.n_nodes, from.mask_gains(), masks->n_each(), n_trial,
                               owners.data(), &n_masks);
    owner_tokens.clear();
    numbers.clear();
    for (int32_t i = 0; i < n_masks; i++) {
        owner_tokens.push_back(tree.tokens[owners[i]]);
        numbers.push_back((int32_t) std::count(owners.begin(), owners.begin() + i, owners[i]));
    }
    vectors.resize((size_t) n_masks * masks->n_embd());
    masks->vectors(owner_tokens.data(), numbers.data(), n_masks, vectors.data());
    tree.n_masks = n_masks;
    tree.mask_owners = owners.data();
    tree.masks = vectors.data();
    tree.trained = masks->trained();
}

// --- a caller's ------------------------------------------------------------------------------------------------------

plugged_proposer::plugged_proposer(const mp_proposer & calls, int32_t n_vocab, bool chains_only)
    : calls(calls), n_vocab(n_vocab), chains_only(chains_only) {}

void plugged_proposer::begin(const std::vector<int32_t> &, const drawn_rows &) {}

void plugged_proposer::extend(const int32_t *, int32_t, const drawn_rows &) {}

void plugged_proposer::start(const std::vector<int32_t> & text, int32_t room) {
    given = {};
    if (calls.propose) {
        const int32_t result = calls.propose(calls.user, text.data(), (int32_t) text.size(), room, &given);
        if (result < 0) {
            fail(MP_ERR_CALLBACK, "the proposer failed: its propose() returned %d", result);
        }
        check(text.back(), room);
    }
    is_whole = given.tree.n_nodes > 0 && !given.probabilities && !chains_only; // chains of one pass may be cut
    tokens.assign(1, text.back());
    parents.assign(1, -1);
    probabilities.assign(1, 1.0f);
    sources.assign(1, (int8_t) MP_BY_MODEL);
    const int32_t n = is_whole ? 0 : given.tree.n_nodes;
    node_of.assign(std::max(n, 1), -1);
    node_of[0] = 0;
    order.resize(std::max(n - 1, 0));
    std::iota(order.begin(), order.end(), 1);
    claims.assign(n, 1.0f);
    if (given.probabilities) {
        claims.assign(given.probabilities, given.probabilities + n);
    }
    for (const int32_t node : order) {
        claims[node] = std::min(claims[node], claims[given.tree.parents[node]]);
    }
    // Parents come first where a child claims as much.
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return claims[a] > claims[b]; });
    at = 0;
}

// A source of candidates must never change the output: a wrong root would.
void plugged_proposer::check(int32_t root, int32_t room) const {
    const mp_tree & tree = given.tree;
    if (tree.n_nodes == 0 && tree.n_masks == 0) {
        return; // nothing to propose
    }
    if (tree.n_nodes < 1 || tree.n_masks < 0 || !tree.tokens || !tree.parents ||
        (int64_t) tree.n_nodes + tree.n_masks > room) {
        fail(MP_ERR_CALLBACK, "the proposer's draft has %d nodes and %d masks: a root at least, and %d rows at most",
             tree.n_nodes, tree.n_masks, room);
    }
    if (tree.tokens[0] != root) {
        fail(MP_ERR_CALLBACK, "the proposer's root is token %d, the newest token is %d", tree.tokens[0], root);
    }
    for (int32_t i = 1; i < tree.n_nodes; i++) {
        if (tree.parents[i] < 0 || tree.parents[i] >= i || tree.tokens[i] < -1 || tree.tokens[i] >= n_vocab) {
            fail(MP_ERR_CALLBACK, "node %d of the proposer's draft has token %d and parent %d", i, tree.tokens[i],
                 tree.parents[i]);
        }
        if (given.probabilities && !(given.probabilities[i] >= 0 && given.probabilities[i] <= 1)) {
            fail(MP_ERR_CALLBACK, "node %d of the proposer's draft claims a probability of %g", i, given.probabilities[i]);
        }
        if ((given.probabilities || chains_only) && tree.tokens[i] < 0) {
            fail(MP_ERR_CALLBACK, "node %d of the proposer's draft is an embedding row: such a tree %s", i,
                 chains_only ? "cannot be decoded on this model" : "has no probabilities");
        }
    }
}

const mp_tree * plugged_proposer::whole() const {
    return is_whole ? &given.tree : nullptr;
}

draft_view plugged_proposer::draft() const {
    return {(int32_t) tokens.size(), tokens.data(), parents.data(), probabilities.data(), sources.data()};
}

// Passes over what cannot be taken: children of dropped nodes; where there can be no tree, all but one child of a node.
float plugged_proposer::next() {
    for (; at < order.size(); at++) {
        const int32_t parent = node_of[given.tree.parents[order[at]]];
        if (parent >= 0 && (!chains_only || parent + 1 == (int32_t) tokens.size())) {
            return claims[order[at]];
        }
    }
    return 0;
}

void plugged_proposer::take() {
    const int32_t node = order[at++];
    node_of[node] = (int32_t) tokens.size();
    tokens.push_back(given.tree.tokens[node]);
    parents.push_back(node_of[given.tree.parents[node]]);
    probabilities.push_back(claims[node]);
    sources.push_back((int8_t) MP_BY_PROPOSER);
}

int32_t plugged_proposer::next_token() const {
    return given.tree.tokens[order[at]];
}

int32_t plugged_proposer::next_parent() const {
    return node_of[given.tree.parents[order[at]]];
}

void plugged_proposer::drop() {
    at++;
}

void plugged_proposer::observe(const decoded_pass & done) {
    if (!calls.observe) {
        return;
    }
    const mp_draft draft = {done.tree, is_whole ? nullptr : probabilities.data()};
    const int32_t result = calls.observe(calls.user, &draft, &done.pass, done.path, done.emitted, done.n_path);
    if (result < 0) {
        fail(MP_ERR_CALLBACK, "the proposer failed: its observe() returned %d", result);
    }
}

// --- a constraint before it ------------------------------------------------------------------------------------------

constrained_proposer::constrained_proposer(std::unique_ptr<proposer> inner, constraint * rules, mp_sampler & sampler)
    : inner(std::move(inner)), rules(rules), sampler(sampler), token_probability(FORCED_PROBABILITY) {}

void constrained_proposer::start(const std::vector<int32_t> & text, int32_t room) {
    const std::vector<int32_t> forced = rules ? rules->forced(std::min(room - 1, MOST_FORCED)) : std::vector<int32_t>();
    n_chain = (int32_t) forced.size();
    n_taken = 0;
    is_alone = n_chain > 0 && !inner->start_after(forced, token_probability);
    if (n_chain == 0) {
        inner->start(text, room);
    }
    if (!is_alone) {
        return;
    }
    tokens.assign(1, text.back());
    parents.assign(1, -1);
    probabilities.assign(1, 1.0f);
    sources.assign(1, (int8_t) MP_BY_MODEL);
    for (const int32_t token : forced) {
        parents.push_back((int32_t) tokens.size() - 1);
        tokens.push_back(token);
        probabilities.push_back(probabilities.back() * token_probability);
        sources.push_back((int8_t) MP_BY_CONSTRAINT);
    }
}

draft_view constrained_proposer::draft() const {
    return is_alone ? draft_view{1 + n_chain, tokens.data(), parents.data(), probabilities.data(), sources.data()}
                    : inner->draft();
}

float constrained_proposer::next() {
    if (n_taken < n_chain) {
        return draft().probabilities[n_taken + 1];
    }
    if (is_alone) {
        return 0;
    }
    float probability = inner->next();
    while (probability > 0 && !may_follow()) {
        inner->drop();
        probability = inner->next();
    }
    return probability;
}

// Whether the constraint lets the inner proposer's next candidate come after the path to it.
bool constrained_proposer::may_follow() {
    const draft_view nodes = inner->draft();
    path.assign(1, inner->next_token());
    for (int32_t node = inner->next_parent(); node > 0; node = nodes.parents[node]) {
        path.push_back(nodes.tokens[node]);
    }
    std::reverse(path.begin(), path.end());
    const int32_t n = (int32_t) path.size();
    return sampler.grammar_allows(path.data(), n) && (!rules || rules->passes(path.data(), n));
}

void constrained_proposer::take() {
    if (n_taken < n_chain) {
        n_taken++;
    } else {
        inner->take();
    }
}

void constrained_proposer::add_masks(mp_tree & tree, const calibration & claims) {
    if (!is_alone) {
        inner->add_masks(tree, claims);
    }
}

void constrained_proposer::observe(const decoded_pass & done) {
    for (int32_t i = 0; i < std::min({n_chain, done.n_path, done.tree.n_nodes - 1}); i++) {
        const bool right = done.emitted[i] == done.tree.tokens[i + 1];
        token_probability += FORCED_RATE * ((right ? 1.0f : 0.0f) - token_probability);
    }
    if (!is_alone) {
        inner->observe(done);
        return;
    }
    // A chain's accepted rows are its first ones.
    const mp_prefix rows = {0, done.n_path, done.pass.n_top, done.pass.top_tokens, done.pass.top_logprobs};
    inner->extend(done.emitted, done.n_path, {rows, done.hidden});
}

} // namespace mp
