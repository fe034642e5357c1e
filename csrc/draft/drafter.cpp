#include "draft/drafter.h"

#include <algorithm>
#include <cmath>
#include <cstring>

using namespace mp;

static_assert(N_EVIDENCE == MP_N_SOURCES, "mp_draft names its sources by kinds of evidence");

constexpr int32_t N_SLOTS = 1 << 15;
constexpr int32_t N_NGRAM_SLOTS = 1 << 17;
constexpr int32_t N_EARLIER_SLOTS = 1 << 17; // of the last 30 thousand tokens or so
constexpr int32_t MAX_CHILDREN = 16;         // candidates looked at behind one node
constexpr int32_t MAX_DEPTH = 12;
constexpr int32_t N_SIBLING_DEPTHS = 2;
constexpr int32_t N_FROM_ROW = 12; // tokens looked at in a mask's or a sibling's distribution
constexpr double MASK_GAIN_RATE = 1.0 / 32;
constexpr float LEAST_PROBABILITY = 1e-4f;

mp_drafter::mp_drafter(int32_t n_vocab)
    : n_vocab(n_vocab), by_token(N_SLOTS), by_pair(N_SLOTS), by_triple(N_SLOTS), by_ngram(N_NGRAM_SLOTS),
      by_earlier(N_EARLIER_SLOTS), sibling(N_SIBLING_DEPTHS), nodes(MP_N_ROWS_LIMIT), out_tokens(MP_N_ROWS_LIMIT),
      out_parents(MP_N_ROWS_LIMIT), out_probabilities(MP_N_ROWS_LIMIT), out_sources(MP_N_ROWS_LIMIT) {}

// --- the text --------------------------------------------------------------------------------------------------------

void mp_drafter::begin(const int32_t * tokens, int32_t n) {
    forget_pass();
    text.clear();
    by_ngram.clear();
    repeated = 0;
    extend(tokens, n);
}

void mp_drafter::extend(const int32_t * tokens, int32_t n) {
    forget_pass();
    for (int32_t i = 0; i < n; i++) {
        text.push_back(tokens[i]);
        add_ngrams_of_last();
    }
}

void mp_drafter::forget_pass() {
    n_nodes = 0;
    masks.clear();
    last = {};
    for (distribution & d : sibling) {
        d = {};
    }
}

// The newest token continues every n-gram that ends before it.
void mp_drafter::add_ngrams_of_last() {
    const int32_t at = (int32_t) text.size() - 1;
    const continuations * before = at < 2 ? nullptr : by_ngram.find(key_of_ngram(&text[at - 2], 2));
    repeated = before && before->tokens[0] == text[at] ? repeated + 1 : 0;
    for (int32_t n : NGRAM_LENGTHS) {
        if (n <= at) {
            by_ngram.put(key_of_ngram(&text[at - n], n), text[at]);
        }
    }
    for (int32_t n : EARLIER_LENGTHS) {
        if (n <= at) {
            by_earlier.put(key_of_ngram(&text[at - n], n), text[at]);
        }
    }
}

// --- growing ---------------------------------------------------------------------------------------------------------

evidence & mp_drafter::entry_for(int32_t token) {
    for (auto & entry : collected) {
        if (entry.first == token) {
            return entry.second;
        }
    }
    collected.push_back({token, evidence()});
    return collected.back().second;
}

void mp_drafter::collect(int32_t at) {
    node & parent = nodes[at];
    collected.clear();

    // The last tokens of the text and the path down to this node, newest last.
    int32_t context[LONGEST_NGRAM];
    int32_t n_context = 0;
    for (int32_t i = at; i > 0 && n_context < LONGEST_NGRAM; i = nodes[i].parent) {
        context[LONGEST_NGRAM - ++n_context] = nodes[i].token;
    }
    for (int32_t i = (int32_t) text.size() - 1; i >= 0 && n_context < LONGEST_NGRAM; i--) {
        context[LONGEST_NGRAM - ++n_context] = text[i];
    }
    const int32_t * newest = context + LONGEST_NGRAM - 1;

    const auto level_of = [](float probability, bool first) {
        return (uint8_t) (probability_level(probability) + (first ? 0 : N_PROBABILITY_LEVELS));
    };
    bool known[N_EVIDENCE] = {}; // whether there is an entry
    const auto add_successors = [&](const successors * entry, evidence_kind kind) {
        known[kind] = entry != nullptr;
        for (int32_t i = 0; entry && i < entry->n; i++) {
            entry_for(entry->tokens[i]).level[kind] = level_of(entry->probabilities[i], i == 0);
        }
    };
    add_successors(by_token.find(key_of_token(*newest)), BY_TOKEN);
    if (n_context > 1) {
        add_successors(by_pair.find(key_of_pair(newest[-1], *newest)), BY_PAIR);
    }
    if (n_context > 2) {
        add_successors(by_triple.find(key_of_triple(newest[-2], newest[-1], *newest)), BY_TRIPLE);
    }
    for (int32_t l = N_NGRAM_LENGTHS - 1; l >= 0; l--) {
        const int32_t n = NGRAM_LENGTHS[l];
        const continuations * entry = n <= n_context ? by_ngram.find(key_of_ngram(newest + 1 - n, n)) : nullptr;
        for (int32_t i = 0; entry && i < entry->n; i++) {
            uint8_t & level = entry_for(entry->tokens[i]).level[BY_NGRAM];
            level = level ? level : (uint8_t) (1 + N_CONTINUATIONS * l + i); // the longest suffix counts
        }
    }
    for (int32_t l = N_EARLIER_LENGTHS - 1; l >= 0; l--) {
        const int32_t n = EARLIER_LENGTHS[l];
        const continuations * entry = n <= n_context ? by_earlier.find(key_of_ngram(newest + 1 - n, n)) : nullptr;
        for (int32_t i = 0; entry && i < entry->n; i++) {
            evidence & e = entry_for(entry->tokens[i]);
            const bool is_here = e.has(BY_NGRAM) && NGRAM_LENGTHS[(e.level[BY_NGRAM] - 1) / N_CONTINUATIONS] >= n;
            if (!is_here && !e.has(BY_EARLIER)) { // this text's n-grams are in the table too
                e.level[BY_EARLIER] = (uint8_t) (1 + N_CONTINUATIONS * l + i);
            }
        }
    }
    const auto add_distribution = [&](const distribution & d, int32_t n, evidence_kind kind, int32_t except) {
        for (int32_t i = 0; i < std::min(n, (int32_t) d.tokens.size()); i++) {
            if (d.tokens[i] != except) {
                entry_for(d.tokens[i]).level[kind] = level_of(d.probabilities[i], i == 0);
            }
        }
    };
    if (parent.depth < (int32_t) masks.size()) {
        add_distribution(masks[parent.depth], N_FROM_ROW, BY_MASK, -1);
    }
    if (parent.depth == 0) {
        add_distribution(last, N_SUCCESSORS, BY_LAST, *newest);
    }
    if (parent.depth < N_SIBLING_DEPTHS) {
        add_distribution(sibling[parent.depth], N_FROM_ROW, BY_SIBLING, -1);
    }

    parent.children.clear();
    for (auto & entry : collected) {
        for (int32_t kind : {BY_TOKEN, BY_PAIR, BY_TRIPLE}) {
            uint8_t & level = entry.second.level[kind];
            level = known[kind] && level == NO_LEVEL ? NOT_AMONG : level;
        }
        parent.children.push_back({entry.first, model.predict(parent.depth, entry.second), entry.second});
    }
    const auto likelier = [](const candidate & a, const candidate & b) {
        return a.probability != b.probability ? a.probability > b.probability : a.token < b.token;
    };
    const size_t n_kept = std::min<size_t>(parent.children.size(), MAX_CHILDREN);
    std::partial_sort(parent.children.begin(), parent.children.begin() + n_kept, parent.children.end(), likelier);
    parent.children.resize(n_kept);
}

// Takes a child among those that wait for a place, if it is likely enough.
void mp_drafter::offer(int32_t parent, size_t child) {
    const node & p = nodes[parent];
    if (child < p.children.size()) {
        const float probability = p.probability * p.share * p.children[child].probability;
        if (probability >= LEAST_PROBABILITY) {
            heap.push_back({probability, parent, (int32_t) child});
            std::push_heap(heap.begin(), heap.end());
        }
    }
}

void mp_drafter::add(int32_t token, int32_t parent, float probability, int32_t source) {
    node & added = nodes[n_nodes];
    added.token = out_tokens[n_nodes] = token;
    added.parent = out_parents[n_nodes] = parent;
    added.depth = parent < 0 ? 0 : nodes[parent].depth + 1;
    added.probability = out_probabilities[n_nodes] = probability;
    out_sources[n_nodes] = (int8_t) source;
    float sum = 0;
    if (added.depth < MAX_DEPTH) {
        collect(n_nodes);
        for (const candidate & c : added.children) {
            sum += c.probability;
        }
    } else {
        added.children.clear();
    }
    added.share = 1.0f / std::max(1.0f, sum);
    offer(n_nodes++, 0);
}

void mp_drafter::start(mp_draft & draft) {
    heap.clear();
    n_nodes = 0;
    add(text.back(), -1, 1.0f, -1);
    draft = {
        n_nodes, out_tokens.data(), out_parents.data(), out_probabilities.data(), out_sources.data(), (float) gain_of_masks};
}

// Best first: whatever of all nodes' next candidates has the most probable path; in a chain, of those after the last node.
float mp_drafter::grow(int32_t n, mp_draft & draft) {
    while (!heap.empty() && n_nodes < n) {
        const waiting best = heap.front();
        std::pop_heap(heap.begin(), heap.end());
        heap.pop_back();
        const node & parent = nodes[best.parent];
        const candidate & c = parent.children[best.child];
        add(c.token, best.parent, best.probability, model.main_evidence(parent.depth, c.why));
        if (!chains_only) {
            offer(best.parent, best.child + 1);
        }
    }
    draft.n_nodes = n_nodes;
    return heap.empty() ? 0 : heap.front().probability;
}

// --- learning --------------------------------------------------------------------------------------------------------

void mp_drafter::observe(const mp_draft_result & r) {
    const int32_t accepted = r.path[r.n_path - 1];
    examples.clear();

    // Which candidates behind the accepted nodes were right, in the tree or not.
    for (int32_t i = 0; i < r.n_path; i++) {
        if (i > 0) {
            earned[out_sources[r.path[i]]]++;
        }
        const node & parent = nodes[r.path[i]];
        for (const candidate & c : parent.children) {
            const bool right = c.token == r.emitted[i];
            model.learn(parent.depth, c.why, c.probability, right);
            examples.push_back({(uint8_t) acceptance_model::depth_class(parent.depth), right, {}});
            std::copy_n(c.why.level, MP_N_SOURCES, examples.back().level);
        }
    }

    learn_mask_gain(r);

    // The token `up` places before a node; -1 before the text.
    const auto token_before = [&](int32_t at, size_t up) {
        for (; up > 0 && nodes[at].parent >= 0; up--) {
            at = nodes[at].parent;
        }
        return up == 0 ? nodes[at].token : up < text.size() ? text[text.size() - 1 - up] : -1;
    };
    const auto row_at = [&](int32_t row) {
        const size_t start = (size_t) row * r.n_top;
        return model_row{r.top_tokens + start, r.top_logprobs + start, r.n_top};
    };
    for (int32_t row = 0; row < r.n_nodes; row++) {
        learn_row(row_at(row), nodes[row].token, token_before(row, 1), token_before(row, 2));
    }

    masks.clear();
    for (int32_t i = 0; i < r.n_masks; i++) {
        if (r.mask_owners[i] == accepted) {
            masks.push_back(row_at(r.n_nodes + i).as_distribution());
        }
    }
    last = row_at(accepted).as_distribution();
    learn_siblings(r, accepted);

    for (int32_t i = 0; i < r.n_path; i++) {
        text.push_back(r.emitted[i]);
        add_ngrams_of_last();
    }
    n_nodes = 0;
}

// Rows of the tokens before the root.
void mp_drafter::learn_prompt(int32_t n_rows, int32_t n_top, const int32_t * top_tokens, const float * top_logprobs) {
    const int32_t root = n_text() - 1;
    for (int32_t i = 0; i < n_rows; i++) {
        const model_row row = {top_tokens + (size_t) i * n_top, top_logprobs + (size_t) i * n_top, n_top};
        const int32_t at = root - n_rows + i;
        learn_row(row, text[at], at > 0 ? text[at - 1] : -1, at > 1 ? text[at - 2] : -1);
        if (i == n_rows - 1) {
            last = row.as_distribution();
        }
    }
}

std::vector<int32_t> mp_drafter::unseen(int32_t n) const {
    std::vector<float> expected(n_vocab, 0.0f);
    by_token.add_probabilities(expected);
    std::vector<int32_t> found;
    for (int32_t token = 0; token < n_vocab; token++) {
        if (expected[token] > 0 && token != text.back() && !by_token.find(key_of_token(token))) {
            found.push_back(token);
        }
    }
    const auto likelier = [&](int32_t a, int32_t b) {
        return expected[a] != expected[b] ? expected[a] > expected[b] : a < b;
    };
    const size_t n_kept = std::min<size_t>(found.size(), n);
    std::partial_sort(found.begin(), found.begin() + n_kept, found.end(), likelier);
    found.resize(n_kept);
    return found;
}

void mp_drafter::learn_unseen(const int32_t * tokens, int32_t n, int32_t n_top, const int32_t * top_tokens,
                              const float * top_logprobs) {
    const auto from_end = [&](size_t i) { return i < text.size() ? text[text.size() - 1 - i] : -1; };
    learn_row({top_tokens, top_logprobs, n_top}, text.back(), from_end(1), from_end(2));
    for (int32_t i = 0; i < n; i++) {
        const size_t start = (size_t) (i + 1) * n_top;
        learn_row({top_tokens + start, top_logprobs + start, n_top}, tokens[i], text.back(), from_end(1));
    }
}

// A row tells what follows its token, behind `before`, behind `first`; -1 where the text begins.
void mp_drafter::learn_row(const model_row & row, int32_t token, int32_t before, int32_t first) {
    by_token.put(key_of_token(token), row.tokens, row.logprobs, row.n_top);
    if (before >= 0) {
        by_pair.put(key_of_pair(before, token), row.tokens, row.logprobs, row.n_top);
    }
    if (first >= 0) {
        by_triple.put(key_of_triple(first, before, token), row.tokens, row.logprobs, row.n_top);
    }
}

mp_drafter::distribution mp_drafter::model_row::as_distribution() const {
    distribution d;
    for (int32_t i = 0; i < n_top; i++) {
        d.tokens.push_back(tokens[i]);
        d.probabilities.push_back(std::exp(logprobs[i]));
    }
    return d;
}

void mp_drafter::learn_mask_gain(const mp_draft_result & r) {
    if (masks.empty()) {
        return;
    }
    double gain = 0;
    for (int32_t i = 0; i < std::min<int32_t>(r.n_path, (int32_t) masks.size()); i++) {
        const node & parent = nodes[r.path[i]];
        for (const candidate & c : parent.children) {
            if (c.token == r.emitted[i] && c.why.has(BY_MASK)) {
                evidence without = c.why;
                without.level[BY_MASK] = NO_LEVEL;
                const bool only = model.main_evidence(parent.depth, without) == BY_MASK;
                gain += c.probability - (only ? 0.0f : model.predict(parent.depth, without));
            }
        }
    }
    gain_of_masks += MASK_GAIN_RATE * (gain - gain_of_masks);
}

// The rejected children of the last accepted node stand where the next root stands: what their rows say, weighted by how
// likely they were, is a guess for the places after it; so is what their children's rows say, one place further.
void mp_drafter::learn_siblings(const mp_draft_result & r, int32_t accepted) {
    for (int32_t d = 0; d < N_SIBLING_DEPTHS; d++) {
        sibling[d] = {};
        const auto belongs = [&](int32_t row) {
            int32_t ancestor = row;
            for (int32_t up = 0; up <= d && ancestor >= 0; up++) {
                ancestor = nodes[ancestor].parent;
            }
            return ancestor == accepted && row != accepted;
        };
        float total = 0;
        for (int32_t row = 1; row < r.n_nodes; row++) {
            total += belongs(row) ? nodes[row].probability : 0.0f;
        }
        if (total <= 0) {
            continue;
        }
        std::vector<std::pair<float, int32_t>> sums; // probability, token
        for (int32_t row = 1; row < r.n_nodes; row++) {
            if (!belongs(row)) {
                continue;
            }
            const float weight = nodes[row].probability / total;
            for (int32_t i = 0; i < r.n_top; i++) {
                const int32_t token = r.top_tokens[(size_t) row * r.n_top + i];
                const float probability = weight * std::exp(r.top_logprobs[(size_t) row * r.n_top + i]);
                auto at = std::find_if(sums.begin(), sums.end(), [&](const auto & sum) { return sum.second == token; });
                if (at == sums.end()) {
                    sums.push_back({probability, token});
                } else {
                    at->first += probability;
                }
            }
        }
        std::sort(sums.begin(), sums.end(), [](const auto & a, const auto & b) {
            return a.first != b.first ? a.first > b.first : a.second < b.second;
        });
        for (const auto & sum : sums) {
            sibling[d].tokens.push_back(sum.second);
            sibling[d].probabilities.push_back(sum.first);
        }
    }
}

// --- what is kept between runs ---------------------------------------------------------------------------------------

std::string mp_drafter::save() const {
    std::string bytes;
    model.save(bytes);
    by_token.save(bytes);
    by_pair.save(bytes);
    by_triple.save(bytes);
    by_earlier.save(bytes);
    return bytes;
}

bool mp_drafter::load(const char * bytes, size_t n) {
    const char * end = bytes + n;
    if (model.load(bytes, end) && by_token.load(bytes, end, n_vocab) && by_pair.load(bytes, end, n_vocab) &&
        by_triple.load(bytes, end, n_vocab) && by_earlier.load(bytes, end, n_vocab) && bytes == end) {
        return true;
    }
    model = acceptance_model();
    by_token.clear();
    by_pair.clear();
    by_triple.clear();
    by_earlier.clear();
    return false;
}
