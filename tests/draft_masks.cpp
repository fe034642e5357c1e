// Vectors of masks, and the nodes that get one.
#include "draft/masks.h"

#include "draft_checks.h"
#include "model/model.h"

#include <algorithm>
#include <numeric>

constexpr int32_t N_EMBD = 6;

// Stand-ins: the embedding of token t is [t, t + 0.1, ...].
mp_model::~mp_model() = default;
mp::embedding_table::~embedding_table() = default;
void mp_model::embedding_rows(const int32_t * of, int32_t n, float * out) const {
    for (int32_t i = 0; i < n * N_EMBD; i++) {
        out[i] = (float) of[i / N_EMBD] + 0.1f * (float) (i % N_EMBD);
    }
}

struct masks {
    mp_model model;
    std::shared_ptr<mp::knowledge> known = new_knowledge(5000);
    mp::mask_source source;

    masks(mp::mask_kind kind, const tokens & prompt) : source(with_width(model), kind, known) {
        source.begin(prompt.data(), (int32_t) prompt.size());
    }
    static const mp_model & with_width(mp_model & model) {
        model.info.n_embd = N_EMBD;
        return model;
    }
    // Which (broken) token's embedding each vector is; NAN: none.
    std::vector<float> of(const tokens & owners) {
        std::vector<float> out(owners.size() * N_EMBD), found;
        const tokens numbers(owners.size(), 0);
        source.vectors(owners.data(), numbers.data(), (int32_t) owners.size(), out.data());
        for (size_t i = 0; i < owners.size(); i++) {
            const float * vector = &out[i * N_EMBD];
            bool is_embedding = true;
            for (int32_t k = 0; k < N_EMBD; k++) {
                is_embedding = is_embedding && std::fabs(vector[k] - vector[0] - 0.1f * (float) k) < 1e-3f;
            }
            found.push_back(is_embedding ? vector[0] : NAN);
        }
        return found;
    }
};

static bool close_to(const std::vector<float> & a, const std::vector<float> & b) {
    bool close = a.size() == b.size();
    for (size_t i = 0; close && i < a.size(); i++) {
        close = std::fabs(a[i] - b[i]) < 1e-3f * std::max(1.0f, std::fabs(b[i]));
    }
    return close;
}

CHECK(mean_is_that_of_the_prompt) {
    EXPECT(close_to(masks(mp::mask_kind::mean, {3, 5, 5, 11}).of({7, 8, 9}), {6, 6, 6}));
    tokens many(4001);
    std::iota(many.begin(), many.end(), 0);
    masks mean(mp::mask_kind::mean, many);
    EXPECT(close_to(mean.of({0}), {2000}));
    const int32_t other = 4;
    mean.source.begin(&other, 1);
    EXPECT(close_to(mean.of({0, 1}), {4, 4}));
}

CHECK(soft_is_the_expected_next_embedding) {
    masks soft(mp::mask_kind::soft, {3, 5, 5, 11});
    EXPECT(close_to(soft.of({9, 7}), {6, 6})); // nothing is known: the mean
    const auto drafter = drafter_after({9}, soft.known);
    drafter->start();
    decoded_pass({9, 7}, {-1, 0}, {{{2, 0.4f}, {4, 0.2f}, {6, 0.2f}}, {{1, 0.5f}, {3, 1e-30f}, {5, 1e-30f}}}, {0}, {3})
        .observed_by(*drafter);
    EXPECT(
        close_to(soft.of({7, 9, 8}), {1, 0.5f * 2 + 0.25f * 4 + 0.25f * 6, 6})); // 7 was rejected, and teaches all the same
}

CHECK(mean_asks_for_nothing_that_is_known) {
    masks mean(mp::mask_kind::mean, {6});
    const auto drafter = drafter_after({9}, mean.known);
    decoded_pass({9}, {-1}, {{{2, 0.4f}}}, {0}, {3}).observed_by(*drafter);
    EXPECT(close_to(mean.of({9}), {6}));
}

// --- places ----------------------------------------------------------------------------------------------------------

struct placed {
    tokens owners;
    int32_t n_nodes;

    placed(const tokens & parents, const std::vector<double> & probabilities, const std::vector<double> & gains,
           int32_t n_trial = 0)
        : owners(parents.size()) {
        int32_t n_masks = -1;
        n_nodes = mp::place_masks(parents.data(), probabilities.data(), (int32_t) parents.size(), gains.data(),
                                  (int32_t) gains.size(), n_trial, owners.data(), &n_masks);
        owners.resize(n_masks);
    }
};

CHECK(masks_take_the_places_of_less_likely_nodes) {
    const tokens parents = {-1, 0, 0, 1, 0};
    const std::vector<double> probabilities = {1.0, 0.6, 0.1, 0.08, 0.02};
    const placed none(parents, probabilities, {0.01});
    EXPECT(none.n_nodes == 5 && none.owners.empty());
    const placed one(parents, probabilities, {0.1}); // 0.1 * 0.52 > 0.02: after node 1; 0.1 * 0.28 < 0.08
    EXPECT(one.n_nodes == 4 && one.owners == tokens({1}));
    const placed more(parents, probabilities, {0.9}); // and after the root, for node 3
    EXPECT(more.n_nodes == 3 && more.owners == tokens({1, 0}));
}

CHECK(a_mask_goes_with_its_owner) {
    const placed masks({-1, 0, 1, 2, 0, 0}, {1.0, 0.6, 0.44, 0.43, 0.05, 0.05}, {3.0}); // first after node 3, which goes too
    EXPECT(masks.n_nodes == 3 && masks.owners == tokens({0, 1}));
}

CHECK(a_trial_places_one_mask) {
    const tokens parents = {-1, 0, 1};
    const std::vector<double> probabilities = {1.0, 0.5, 0.4};
    EXPECT(placed(parents, probabilities, {0.0}).owners.empty());
    const placed trial(parents, probabilities, {0.0}, 1);
    EXPECT(trial.n_nodes == 2 && trial.owners == tokens({0}));
    EXPECT(placed({-1}, {1.0}, {0.5}, 1).owners.empty()); // the root stays
}

CHECK(a_node_may_have_several_masks) {
    const tokens parents = {-1, 0, 0, 1, 0, 0};
    const std::vector<double> probabilities = {1.0, 0.6, 0.1, 0.09, 0.08, 0.02}; // ends: 0.2, 0.51, ...
    const placed two(parents, probabilities, {0.5, 0.3, 0.01}); // 0.255 and 0.153 after node 1, 0.1 after the root
    EXPECT(two.n_nodes == 3 && two.owners == tokens({1, 1, 0}));
    const placed trial(parents, probabilities, {0.0, 0.0, 0.0}, 2);
    EXPECT(trial.n_nodes == 4 && trial.owners == tokens({1, 1}));
    const placed no_more(parents, probabilities, {0.0}, 2);
    EXPECT(no_more.n_nodes == 5 && no_more.owners == tokens({1}));
}

CHECK(masks_never_take_more_rows_nor_their_owners_places) {
    std::mt19937 random(3);
    for (int i = 0; i < 500; i++) {
        const auto n = 1 + (int32_t) (random() % 256);
        tokens parents(n, -1);
        std::vector<double> probabilities(n, 1.0);
        for (int32_t node = 1; node < n; node++) {
            parents[node] = (int32_t) (random() % node);
            const double of_parent = std::min(probabilities[node - 1], probabilities[parents[node]]);
            probabilities[node] = of_parent * (double) (random() % 1000) / 1000;
        }
        const placed masks(parents, probabilities, {(double) (random() % 100) / 100}, i % 5 == 0);
        EXPECT(masks.n_nodes >= 1 && masks.n_nodes + (int32_t) masks.owners.size() <= n);
        tokens sorted = masks.owners;
        std::sort(sorted.begin(), sorted.end());
        EXPECT(std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end());
        EXPECT(sorted.empty() || (sorted.front() >= 0 && sorted.back() < masks.n_nodes));
    }
}
