// The text and the draft that grows after it.
#include "draft/drafter.h"

#include <algorithm>
#include <cstddef>

namespace mp {

static_assert((int) BY_TOKEN == MP_BY_TOKEN && (int) BY_PAIR == MP_BY_PAIR && (int) BY_TRIPLE == MP_BY_TRIPLE &&
                  (int) BY_NGRAM == MP_BY_NGRAM && (int) BY_MASK == MP_BY_MASK && (int) BY_LAST == MP_BY_LAST &&
                  (int) BY_SIBLING == MP_BY_SIBLING && (int) BY_EARLIER == MP_BY_EARLIER && (int) BY_HEAD == MP_BY_HEAD &&
                  (int) N_EVIDENCE <= MP_N_SOURCES,
              "mp_source names the kinds of evidence");

constexpr int32_t N_NGRAM_SLOTS_AT_FIRST = 1 << 10;
constexpr int32_t N_NGRAM_SLOTS = 1 << 17;
constexpr int32_t MAX_DEPTH = 12; // below the root, or below the forced chain
constexpr float LEAST_PROBABILITY = 1e-4f;
constexpr double GUESSED_MASK_GAIN = 0.05;

drafter::drafter(std::shared_ptr<knowledge> known, bool chains_only, std::shared_ptr<head> trained)
    : shared(std::move(known)), chains_only(chains_only), trained(std::move(trained)),
      by_token(dynamic_cast<token_head *>(this->trained.get())),
      by_distance(dynamic_cast<distance_head *>(this->trained.get())), by_ngram(N_NGRAM_SLOTS_AT_FIRST, N_NGRAM_SLOTS) {
    std::fill_n(gains_of_masks, N_MASKS_EACH, GUESSED_MASK_GAIN);
}

// --- the text --------------------------------------------------------------------------------------------------------

void drafter::begin(const int32_t * tokens, int32_t n) {
    text.clear();
    by_ngram.clear();
    last.n = 0;
    extend(tokens, n);
}

void drafter::extend(const int32_t * tokens, int32_t n) {
    forget_pass();
    for (int32_t i = 0; i < n; i++) {
        add_to_text(tokens[i]);
    }
}

void drafter::forget_pass() {
    nodes.clear();
    heap.clear();
    unexpanded = -1;
    root_latent.clear();
    guessed = nullptr;
    masks.clear();
    for (distribution & d : sibling) {
        d.n = 0;
    }
}

// The token continues every n-gram that ends before it.
void drafter::add_to_text(int32_t token) {
    const auto at = (int32_t) text.size();
    uint64_t earlier[N_EARLIER_LENGTHS]; // keys
    int32_t n_earlier = 0;
    for (int32_t n : NGRAM_LENGTHS) {
        if (n <= at) {
            const uint64_t key = key_of_ngram(&text[at - n], n);
            by_ngram.put(key, token);
            if (n_earlier < N_EARLIER_LENGTHS && n == EARLIER_LENGTHS[n_earlier]) {
                earlier[n_earlier++] = key;
            }
        }
    }
    text.push_back(token);
    const knowledge::held known(*shared);
    for (int32_t i = 0; i < n_earlier; i++) {
        known->by_earlier.put(earlier[i], token);
    }
}

// --- growing ---------------------------------------------------------------------------------------------------------

evidence & drafter::entry_for(int32_t token) {
    for (auto & entry : collected) {
        if (entry.first == token) {
            return entry.second;
        }
    }
    collected.push_back({token, evidence()});
    return collected.back().second;
}

// Fills the children of a node.
void drafter::collect(const knowledge::held & known, node & parent) {
    collected.clear();

    // The last tokens of the text and the path down to this node, newest last.
    int32_t context[LONGEST_NGRAM];
    int32_t n_context = 0;
    for (const node * of = &parent; of->parent >= 0 && n_context < LONGEST_NGRAM; of = &nodes[of->parent]) {
        context[LONGEST_NGRAM - ++n_context] = of->token;
    }
    for (auto i = (int32_t) text.size() - 1; i >= 0 && n_context < LONGEST_NGRAM; i--) {
        context[LONGEST_NGRAM - ++n_context] = text[i];
    }
    const int32_t * newest = context + LONGEST_NGRAM - 1;

    const auto level_of = [](float probability, bool first) {
        return (uint8_t) (probability_level(probability) + (first ? 0 : N_PROBABILITY_LEVELS));
    };
    bool is_known[N_EVIDENCE] = {}; // whether there is an entry
    const auto add_successors = [&](const successors * entry, evidence_kind kind) {
        is_known[kind] = entry != nullptr;
        for (int32_t i = 0; entry && i < entry->n; i++) {
            entry_for(entry->tokens[i]).level[kind] = level_of(entry->probabilities[i], i == 0);
        }
    };
    add_successors(known->by_token.find(key_of_token(*newest)), BY_TOKEN);
    if (n_context > 1) {
        add_successors(known->by_pair.find(key_of_pair(newest[-1], *newest)), BY_PAIR);
    }
    if (n_context > 2) {
        add_successors(known->by_triple.find(key_of_triple(newest[-2], newest[-1], *newest)), BY_TRIPLE);
    }
    int32_t earlier = N_EARLIER_LENGTHS - 1;
    for (int32_t l = N_NGRAM_LENGTHS - 1; l >= 0; l--) {
        const int32_t n = NGRAM_LENGTHS[l];
        const bool is_earlier = earlier >= 0 && n == EARLIER_LENGTHS[earlier];
        earlier -= is_earlier;
        if (n > n_context) {
            continue;
        }
        const uint64_t key = key_of_ngram(newest + 1 - n, n);
        const continuations * entry = by_ngram.find(key);
        for (int32_t i = 0; entry && i < entry->n; i++) {
            uint8_t & level = entry_for(entry->tokens[i]).level[BY_NGRAM];
            level = level ? level : (uint8_t) (1 + N_CONTINUATIONS * l + i); // the longest suffix counts
        }
        entry = is_earlier ? known->by_earlier.find(key) : nullptr;
        for (int32_t i = 0; entry && i < entry->n; i++) {
            evidence & e = entry_for(entry->tokens[i]);
            if (!e.has(BY_NGRAM) && !e.has(BY_EARLIER)) { // this text's n-grams are in the table too
                e.level[BY_EARLIER] = (uint8_t) (1 + N_CONTINUATIONS * (earlier + 1) + i);
            }
        }
    }
    const auto add_distribution = [&](const distribution & d, int32_t n, evidence_kind kind, int32_t except) {
        for (int32_t i = 0; i < std::min(n, d.n); i++) {
            if (d.tokens[i] != except) {
                entry_for(d.tokens[i]).level[kind] = level_of(d.probabilities[i], i == 0);
            }
        }
    };
    if (parent.depth < (int32_t) masks.size()) {
        add_distribution(masks[parent.depth], N_FROM_ROW, BY_MASK, -1);
    }
    if (parent.depth == 0 && last_is_before == text.size() - 1) {
        add_distribution(last, N_SUCCESSORS, BY_LAST, *newest);
    }
    if (parent.depth < N_SIBLING_DEPTHS) {
        add_distribution(sibling[parent.depth], N_FROM_ROW, BY_SIBLING, -1);
    }
    if (parent.said != NOT_SAID) {
        add_distribution(likely[parent.said], N_LIKELY, BY_HEAD, -1);
        is_known[BY_HEAD] = likely[parent.said].n > 0;
    }

    scored.clear();
    for (auto & entry : collected) {
        for (int32_t kind : {BY_TOKEN, BY_PAIR, BY_TRIPLE, BY_HEAD}) {
            uint8_t & level = entry.second.level[kind];
            level = is_known[kind] && level == NO_LEVEL ? NOT_AMONG : level;
        }
        scored.push_back({entry.first, known->model.predict(parent.depth, entry.second), entry.second});
    }
    const auto likelier = [](const candidate & a, const candidate & b) {
        return a.probability != b.probability ? a.probability > b.probability : a.token < b.token;
    };
    parent.n_children = (int32_t) std::min<size_t>(scored.size(), MAX_CHILDREN);
    std::partial_sort(scored.begin(), scored.begin() + parent.n_children, scored.end(), likelier);
    std::copy_n(scored.begin(), parent.n_children, parent.children);
}

// A child waits for a place, if it is likely enough.
void drafter::offer(int32_t parent, int32_t child) {
    const node & p = nodes[parent];
    if (child < p.n_children) {
        const float probability = p.probability * p.share * p.children[child].probability;
        if (probability >= LEAST_PROBABILITY) {
            heap.push_back({probability, parent, child});
            std::push_heap(heap.begin(), heap.end());
        }
    }
}

void drafter::add(const knowledge::held & known, int32_t token, int32_t parent, float probability, int32_t source,
                  int32_t said) {
    out_tokens.push_back(token);
    out_parents.push_back(parent);
    out_probabilities.push_back(probability);
    out_sources.push_back((int8_t) source);
    nodes.emplace_back();
    node & added = nodes.back();
    added.token = token;
    added.parent = parent;
    added.depth = parent < 0 ? 0 : nodes[parent].depth + 1;
    added.said = said;
    added.probability = probability;
    added.share = 1;
    added.n_children = 0;
    if (said == NOT_SAID && guessed) {
        added.said = guessed_after(parent, token);
    }
    if (added.depth < n_forced || added.depth >= n_forced + MAX_DEPTH) {
        return;
    }
    if (trained) { // not before it is needed: the last node may be one of those that are not decoded
        unexpanded = n_nodes() - 1;
    } else {
        expand(known, n_nodes() - 1);
    }
}

void drafter::grow() {
    if (unexpanded >= 0) {
        ask_head(unexpanded);
        expand(knowledge::held(*shared), unexpanded);
        unexpanded = -1;
    }
}

void drafter::expand(const knowledge::held & known, int32_t at) {
    node & added = nodes[at];
    collect(known, added);
    float sum = 0;
    for (int32_t i = 0; i < added.n_children; i++) {
        sum += added.children[i].probability;
    }
    added.share = 1.0f / std::max(1.0f, sum);
    offer(at, 0);
}

float drafter::next() {
    grow();
    return heap.empty() ? 0.0f : heap.front().probability;
}

void drafter::start(const int32_t * forced, int32_t n, float probability) {
    heap.clear();
    nodes.clear();
    out_tokens.clear();
    out_parents.clear();
    out_probabilities.clear();
    out_sources.clear();
    n_forced = n;
    unexpanded = -1;
    likely.clear();
    latents.clear();
    if (guessed) {
        likely.assign(guessed->likely, guessed->likely + guessed->n);
    }
    const knowledge::held known(*shared);
    add(known, text.back(), -1, 1.0f, MP_BY_MODEL, NOT_SAID);
    for (int32_t i = 0; i < n; i++) {
        add(known, forced[i], i, out_probabilities[i] * probability, MP_BY_CONSTRAINT, NOT_SAID);
    }
}

// Best first: whatever of all nodes' next candidates has the most probable path; in a chain, of those after the last node.
drafter::waiting drafter::pop() {
    grow();
    const waiting best = heap.front();
    std::pop_heap(heap.begin(), heap.end());
    heap.pop_back();
    return best;
}

void drafter::drop() {
    const waiting best = pop();
    offer(best.parent, best.child + 1);
}

void drafter::take() {
    const waiting best = pop();
    const knowledge::held known(*shared);
    const candidate & c = nodes[best.parent].children[best.child];
    const int32_t token = c.token, said = c.said, source = known->model.main_evidence(nodes[best.parent].depth, c.why);
    add(known, token, best.parent, best.probability, source, said);
    if (!chains_only) {
        offer(best.parent, best.child + 1);
    }
}

} // namespace mp
