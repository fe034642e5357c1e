// What the checks of csrc/draft share: named checks, and passes as an engine could have them.
#pragma once

#include "draft/drafter.h"

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <map>
#include <memory>
#include <random>
#include <utility>
#include <vector>

constexpr int32_t N_VOCAB = 40;

// CHECK(name) { ... }: run by the test of that name.
struct named_check {
    const char * name;
    void (*run)();
    named_check * next;

    named_check(const char * name, void (*run)()) : name(name), run(run), next(first()) { first() = this; }
    static named_check *& first() {
        static named_check * of_all = nullptr;
        return of_all;
    }
};

#define CHECK(name)                                                                                                         \
    static void name();                                                                                                     \
    static named_check check_##name(#name, name);                                                                           \
    static void name()

inline int n_failed = 0;
extern std::atomic<int64_t> n_allocated; // pieces of memory so far

#define EXPECT(condition)                                                                                                   \
    do {                                                                                                                    \
        if (!(condition)) {                                                                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                                 \
            n_failed++;                                                                                                     \
        }                                                                                                                   \
    } while (0)

// draft() makes the same draft again and again.
template <typename function> void check_that_it_allocates_nothing(const function & draft) {
    for (int32_t i = 0; i < 3; i++) {
        draft();
    }
    const int64_t before = n_allocated;
    draft();
    EXPECT(n_allocated == before);
}

using tokens = std::vector<int32_t>;
using likely = std::vector<std::pair<int32_t, float>>; // tokens with their probabilities, most likely first

inline std::shared_ptr<mp::knowledge> new_knowledge(int32_t n_vocab = N_VOCAB) {
    return std::make_shared<mp::knowledge>(n_vocab);
}

// A drafter with a text.
inline std::unique_ptr<mp::drafter>
drafter_after(const tokens & text, std::shared_ptr<mp::knowledge> known = new_knowledge(), bool chains_only = false) {
    auto made = std::make_unique<mp::drafter>(std::move(known), chains_only);
    made->begin(text.data(), (int32_t) text.size());
    return made;
}

// What start() and take() gave.
struct grown {
    tokens token, parent;
    std::vector<float> probability;
    std::vector<int> source;

    grown(mp::drafter & drafter, int32_t n_most) {
        drafter.start();
        while (drafter.n_nodes() < n_most && drafter.next() > 0) {
            const float expected = drafter.next();
            const int32_t of = drafter.next_token(), after = drafter.next_parent(), added = drafter.n_nodes();
            drafter.take();
            EXPECT(drafter.n_nodes() == added + 1 && drafter.probabilities()[added] == expected);
            EXPECT(drafter.tokens()[added] == of && drafter.parents()[added] == after);
        }
        const int32_t n = drafter.n_nodes();
        token.assign(drafter.tokens(), drafter.tokens() + n);
        parent.assign(drafter.parents(), drafter.parents() + n);
        probability.assign(drafter.probabilities(), drafter.probabilities() + n);
        source.assign(drafter.sources(), drafter.sources() + n);
    }

    int32_t size() const { return (int32_t) token.size(); }
    bool operator==(const grown & other) const {
        return token == other.token && parent == other.parent && probability == other.probability && source == other.source;
    }
    int32_t find(int32_t parent_node, int32_t wanted) const { // -1: there is none
        for (int32_t i = 1; i < size(); i++) {
            if (parent[i] == parent_node && token[i] == wanted) {
                return i;
            }
        }
        return -1;
    }
    std::map<int32_t, float> after_root() const {
        std::map<int32_t, float> found;
        for (int32_t i = 1; i < size(); i++) {
            if (parent[i] == 0) {
                found[token[i]] = probability[i];
            }
        }
        return found;
    }
    int source_of(int32_t child_of_root) const { return source[find(0, child_of_root)]; }
    tokens first_path() const { // the first child of the root, its first child, and so on
        tokens path;
        for (int32_t node = 0, i = 1; i < size(); i++) {
            if (parent[i] == node) {
                path.push_back(token[i]);
                node = i;
            }
        }
        return path;
    }
};

// A pass over a tree, and what was emitted.
struct decoded_pass {
    tokens token, parent, owners, path, emitted, top_tokens, best;
    std::vector<float> top_logprobs;
    int32_t n_top = 0;

    decoded_pass() = default;
    decoded_pass(tokens token, tokens parent, const std::vector<likely> & rows, tokens path, tokens emitted)
        : token(std::move(token)), parent(std::move(parent)), path(std::move(path)), emitted(std::move(emitted)) {
        for (const likely & row : rows) {
            add(row);
        }
    }

    void add(const likely & row) { // all rows are of one length
        n_top = (int32_t) row.size();
        best.push_back(row[0].first);
        for (const auto & [next, probability] : row) {
            top_tokens.push_back(next);
            top_logprobs.push_back(std::log(probability));
        }
    }
    void spoil(int32_t row) { // as a session gives it where the logits are not finite
        best[row] = -1;
        for (int32_t i = row * n_top; i < (row + 1) * n_top; i++) {
            top_tokens[i] = -12345;
            top_logprobs[i] = NAN;
        }
    }
    void observed_by(mp::drafter & drafter) const {
        const mp_tree tree = {(int32_t) token.size(),  token.data(),  parent.data(), nullptr,
                              (int32_t) owners.size(), owners.data(), nullptr,       n_top};
        const mp_pass pass = {(int32_t) best.size(), n_top, best.data(), top_tokens.data(), top_logprobs.data(), 0, 0};
        drafter.observe(tree, pass, path.data(), emitted.data(), (int32_t) path.size());
    }
};

// A row of n_top different tokens whose probabilities fall.
inline likely random_row(std::mt19937 & random, int32_t n_top) {
    tokens all(N_VOCAB);
    for (int32_t i = 0; i < N_VOCAB; i++) {
        all[i] = i;
    }
    likely row;
    float probability = 1.0f;
    for (int32_t i = 0; i < n_top; i++) {
        std::swap(all[i], all[i + random() % (N_VOCAB - i)]);
        probability *= 0.15f + 0.8f * (float) (random() % 1000) / 1000;
        row.push_back({all[i], probability});
    }
    return row;
}

// Over the first nodes of a draft, with masks, to a node drawn at random.
inline decoded_pass random_pass(std::mt19937 & random, const grown & draft) {
    decoded_pass pass;
    const int32_t n = 1 + (int32_t) (random() % draft.size()), n_masks = (int32_t) (random() % 4);
    const int32_t n_top = 1 + (int32_t) (random() % 12);
    pass.token.assign(draft.token.begin(), draft.token.begin() + n);
    pass.parent.assign(draft.parent.begin(), draft.parent.begin() + n);
    for (int32_t i = 0; i < n_masks; i++) {
        pass.owners.push_back((int32_t) (random() % n));
    }
    for (int32_t i = 0; i < n + n_masks; i++) {
        pass.add(random_row(random, n_top));
    }
    for (auto node = (int32_t) (random() % n); node >= 0; node = pass.parent[node]) {
        pass.path.insert(pass.path.begin(), node);
    }
    for (size_t i = 1; i < pass.path.size(); i++) {
        pass.emitted.push_back(pass.token[pass.path[i]]);
    }
    pass.emitted.push_back((int32_t) (random() % N_VOCAB));
    return pass;
}

// Lets it draft and learn; whatever the passes bring is drawn at random.
inline void walk(mp::drafter & drafter, std::mt19937 & random, int32_t n_passes) {
    for (int32_t i = 0; i < n_passes; i++) {
        random_pass(random, grown(drafter, 1 + (int32_t) (random() % 32))).observed_by(drafter);
    }
}

inline std::shared_ptr<mp::knowledge> learned(uint32_t seed, int32_t n_passes = 60) {
    auto known = new_knowledge();
    std::mt19937 random(seed);
    walk(*drafter_after({1, 2, 3}, known), random, n_passes);
    return known;
}

// Rows of a text's last tokens.
inline void learn_prompt(mp::drafter & drafter, const std::vector<likely> & rows) {
    const decoded_pass all({}, {}, rows, {}, {});
    drafter.learn_prompt({0, (int32_t) rows.size(), all.n_top, all.top_tokens.data(), all.top_logprobs.data()});
}
