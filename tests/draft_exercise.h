// Drives the drafter and the planner the way no polite caller would.
#pragma once

#include "expect.h"
#include "maskprobe.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

// What a pass over the first part of a draft may have brought: any likely tokens, any path.
struct random_result {
    std::vector<int32_t> top_tokens, owners, path, emitted;
    std::vector<float> top_logprobs;
    mp_draft_result result = {};

    random_result(std::mt19937 & random, const mp_draft & draft, int32_t n_vocab) {
        result.n_nodes = 1 + (int32_t) (random() % draft.n_nodes);
        result.n_masks = (int32_t) (random() % 4);
        result.n_top = 1 + (int32_t) (random() % 12);
        for (int32_t i = 0; i < result.n_masks; i++) {
            owners.push_back((int32_t) (random() % result.n_nodes));
        }
        for (int32_t i = 0; i < (result.n_nodes + result.n_masks) * result.n_top; i++) {
            top_tokens.push_back((int32_t) (random() % n_vocab));
            top_logprobs.push_back(-0.01f * (float) (random() % 1000));
        }
        for (int32_t node = (int32_t) (random() % result.n_nodes); node >= 0; node = draft.parents[node]) {
            path.insert(path.begin(), node);
        }
        for (size_t i = 1; i < path.size(); i++) {
            emitted.push_back(draft.tokens[path[i]]);
        }
        emitted.push_back((int32_t) (random() % n_vocab));
        result.mask_owners = owners.data();
        result.top_tokens = top_tokens.data();
        result.top_logprobs = top_logprobs.data();
        result.n_path = (int32_t) path.size();
        result.path = path.data();
        result.emitted = emitted.data();
    }
};

static void drafts(mp_drafter * drafter, std::mt19937 & random, int32_t n_vocab, int n_steps) {
    std::vector<int32_t> text(1 + random() % 40);
    for (int32_t & token : text) {
        token = (int32_t) (random() % n_vocab);
    }
    EXPECT(mp_drafter_begin(drafter, text.data(), (int32_t) text.size()) == MP_OK);
    if (text.size() > 1) {
        const int32_t n_rows = 1 + (int32_t) (random() % (text.size() - 1)), n_top = 1 + (int32_t) (random() % 12);
        const std::vector<int32_t> tokens(n_rows * n_top, (int32_t) (random() % n_vocab));
        const std::vector<float> logprobs(n_rows * n_top, -0.5f);
        EXPECT(mp_drafter_learn_prompt(drafter, n_rows, n_top, tokens.data(), logprobs.data()) == MP_OK);
    }
    for (int step = 0; step < n_steps; step++) {
        const int32_t n_max = 1 + (int32_t) (random() % 256);
        mp_draft draft;
        EXPECT(mp_drafter_grow(drafter, n_max, &draft) == MP_OK);
        EXPECT(draft.n_nodes >= 1 && draft.n_nodes <= n_max);
        EXPECT(draft.parents[0] == -1 && draft.probabilities[0] == 1.0f && draft.sources[0] == -1);
        for (int32_t i = 1; i < draft.n_nodes; i++) {
            EXPECT(draft.parents[i] >= 0 && draft.parents[i] < i && draft.tokens[i] >= 0 && draft.tokens[i] < n_vocab);
            EXPECT(draft.probabilities[i] > 0 && draft.probabilities[i] <= draft.probabilities[i - 1]);
            EXPECT(draft.sources[i] >= 0 && draft.sources[i] < MP_N_SOURCES);
        }
        random_result r(random, draft, n_vocab);
        if (step % 7 == 0) {
            EXPECT(mp_drafter_extend(drafter, r.emitted.data(), r.result.n_path) == MP_OK);
            EXPECT(mp_drafter_observe(drafter, &r.result) == MP_ERR_ARGUMENT); // its draft is over
        } else {
            EXPECT(mp_drafter_observe(drafter, &r.result) == MP_OK);
        }
        EXPECT(draft.mask_gain > -1.0f && draft.mask_gain < 16.0f);
    }
}

static void wrong_results(mp_drafter * drafter, int32_t n_vocab) {
    std::mt19937 random(5);
    const auto refuses = [&](void (*spoil)(random_result &, int32_t)) {
        mp_draft draft;
        EXPECT(mp_drafter_grow(drafter, 16, &draft) == MP_OK);
        random_result r(random, draft, n_vocab);
        spoil(r, n_vocab);
        const mp_status status = mp_drafter_observe(drafter, &r.result);
        EXPECT(status == MP_ERR_ARGUMENT && mp_last_error()[0] != '\0' && !strchr(mp_last_error(), '\n'));
    };
    refuses([](random_result & r, int32_t) { r.result.n_nodes = 17; });
    refuses([](random_result & r, int32_t) { r.result.n_nodes = 0; });
    refuses([](random_result & r, int32_t) { r.result.n_masks = -1; });
    refuses([](random_result & r, int32_t) { r.result.n_masks = 1 << 30; });
    refuses([](random_result & r, int32_t) { r.result.n_top = 0; });
    refuses([](random_result & r, int32_t) { r.result.n_top = 1 << 30; });
    refuses([](random_result & r, int32_t) { r.result.n_path = 0; });
    refuses([](random_result & r, int32_t) { r.result.n_path = r.result.n_nodes + 1; });
    refuses([](random_result & r, int32_t) { r.path[0] = 1; });
    refuses([](random_result & r, int32_t) { r.path.back() = r.result.n_nodes; });
    refuses([](random_result & r, int32_t n_vocab) { r.emitted[0] = n_vocab; });
    refuses([](random_result & r, int32_t) { r.top_tokens[0] = -1; });
    refuses([](random_result & r, int32_t) { r.top_logprobs[0] = NAN; });
    refuses([](random_result & r, int32_t) { r.top_logprobs.back() = 1.0f; });
    refuses([](random_result & r, int32_t) { r.result.path = nullptr; });
    EXPECT(mp_drafter_observe(drafter, nullptr) == MP_ERR_ARGUMENT);
    EXPECT(mp_drafter_begin(drafter, &n_vocab, 1) == MP_ERR_ARGUMENT);
    EXPECT(mp_drafter_extend(drafter, nullptr, 1) == MP_ERR_ARGUMENT);
    const int32_t text[] = {1, 2, 3}, tops[] = {4, 5};
    const float logprobs[] = {-0.1f, -3.0f};
    EXPECT(mp_drafter_begin(drafter, text, 3) == MP_OK);
    EXPECT(mp_drafter_learn_prompt(drafter, 2, 1, tops, logprobs) == MP_OK);
    EXPECT(mp_drafter_learn_prompt(drafter, 3, 1, tops, logprobs) == MP_ERR_ARGUMENT); // only two tokens before the newest
    EXPECT(mp_drafter_learn_prompt(drafter, 257, 1, tops, logprobs) == MP_ERR_ARGUMENT);
    EXPECT(mp_drafter_learn_prompt(drafter, 2, 1 << 30, tops, logprobs) == MP_ERR_ARGUMENT);
    mp_draft draft;
    EXPECT(mp_drafter_grow(drafter, 0, &draft) == MP_ERR_ARGUMENT);
    EXPECT(mp_drafter_grow(drafter, 257, &draft) == MP_ERR_ARGUMENT);
    EXPECT(mp_drafter_grow(nullptr, 4, &draft) == MP_ERR_ARGUMENT);
}

// A saved state, whole and damaged: what is taken must be safe to draft from, what is not leaves nothing behind.
static void saved_drafters(mp_drafter * drafter, std::mt19937 & random, int32_t n_vocab) {
    size_t n = 0;
    EXPECT(mp_drafter_save(drafter, nullptr, 0, &n) == MP_OK && n > 0);
    std::vector<char> bytes(n);
    EXPECT(mp_drafter_save(drafter, bytes.data(), n, &n) == MP_OK && n == bytes.size());
    mp_drafter * other = nullptr;
    EXPECT(mp_drafter_open(n_vocab, &other) == MP_OK);
    EXPECT(mp_drafter_load(other, bytes.data(), n) == MP_OK);
    drafts(other, random, n_vocab, 10);
    for (int i = 0; i < 300; i++) {
        std::vector<char> damaged = bytes;
        if (i % 3 == 0) {
            damaged.resize(random() % n);
        } else {
            for (int k = 0; k < 1 + i / 30; k++) {
                damaged[random() % n] ^= (char) (1 << random() % 8);
            }
        }
        const mp_status status = mp_drafter_load(other, damaged.data(), damaged.size());
        EXPECT(status == MP_ERR_FORMAT || (status == MP_OK && i % 3 != 0));
        if (status == MP_OK || i % 30 == 0) {
            drafts(other, random, n_vocab, 2);
        }
    }
    EXPECT(mp_drafter_load(other, nullptr, 0) == MP_ERR_FORMAT);
    mp_drafter_free(other);
}

static void drafter() {
    constexpr int32_t n_vocab = 50;
    mp_drafter * drafter = nullptr;
    EXPECT(mp_drafter_open(0, &drafter) == MP_ERR_ARGUMENT && !drafter);
    EXPECT(mp_drafter_open(n_vocab, &drafter) == MP_OK && drafter);
    mp_draft draft;
    EXPECT(mp_drafter_grow(drafter, 8, &draft) == MP_ERR_STATE);
    std::mt19937 random(4);
    for (int text = 0; text < 5; text++) {
        drafts(drafter, random, n_vocab, 40);
    }
    wrong_results(drafter, n_vocab);
    saved_drafters(drafter, random, n_vocab);
    int64_t earned[MP_N_SOURCES];
    EXPECT(mp_drafter_earned(drafter, earned) == MP_OK);
    EXPECT(std::accumulate(earned, earned + MP_N_SOURCES, (int64_t) 0) > 0);
    EXPECT(mp_drafter_earned(drafter, nullptr) == MP_ERR_ARGUMENT);
    drafts(drafter, random, n_vocab, 2);
    int32_t n_examples = -1;
    EXPECT(mp_drafter_examples(drafter, 0, nullptr, &n_examples) == MP_OK && n_examples >= 0);
    std::vector<mp_example> examples(n_examples);
    EXPECT(mp_drafter_examples(drafter, n_examples, examples.data(), &n_examples) == MP_OK);
    for (const mp_example & e : examples) {
        EXPECT(e.depth <= 2 && e.right <= 1);
    }
    EXPECT(mp_drafter_examples(drafter, 1, nullptr, &n_examples) == MP_ERR_ARGUMENT);
    EXPECT(mp_drafter_examples(nullptr, 0, nullptr, &n_examples) == MP_ERR_ARGUMENT);
    EXPECT(mp_drafter_earned(nullptr, earned) == MP_ERR_ARGUMENT);
    EXPECT(mp_drafter_n_repeated(drafter) >= 0 && mp_drafter_n_repeated(nullptr) == 0);
    mp_drafter_free(drafter);
    mp_drafter_free(nullptr);
}

// Passes as a planner wants them, of a drafter's drafts, at random depths with random times and outcomes.
static void planned_passes(mp_planner * planner, mp_drafter * drafter, std::mt19937 & random, int32_t n_vocab, int n_steps) {
    const mp_outlook * outlook = mp_planner_outlook(planner);
    int64_t n_past = 5;
    for (int step = 0; step < n_steps; step++) {
        n_past = random() % 20 == 0 ? (int64_t) (random() % 200000) : n_past + 1;
        const int32_t n_repeated = (int32_t) (random() % 40);
        if (outlook->napping) {
            EXPECT(mp_planner_rest(planner, (int32_t) (random() % 64), n_repeated) == MP_OK);
        }
        const int32_t n_max = 1 + (int32_t) (random() % 256);
        mp_draft draft;
        int32_t n_rows = 0;
        EXPECT(mp_planner_draft(planner, drafter, n_past, n_max, &draft, &n_rows) == MP_OK);
        EXPECT(n_rows >= 1 && n_rows <= draft.n_nodes && n_rows <= 32 && draft.n_nodes <= n_max);
        EXPECT(outlook->weakest >= 0 && outlook->weakest <= 1);
        random_result r(random, draft, n_vocab);
        const double core_us = 1 + random() % 10000, total_us = core_us + random() % 3000;
        const mp_plan_result plan = {n_rows, 1, 1, r.path.data(), r.emitted.data(), core_us, total_us};
        if (step % 3 == 0) {
            EXPECT(mp_planner_observe(planner, step % 2 ? &draft : nullptr, &plan) == MP_OK);
        } else {
            EXPECT(mp_planner_learn(planner, drafter, &draft, &r.result, core_us, total_us) == MP_OK);
        }
        double us = 0, change = -1, probability = -1;
        EXPECT(mp_planner_time(planner, 1 + (int32_t) (random() % 256), &us) == MP_OK && us > 0);
        EXPECT(mp_planner_change(planner, &change) == MP_OK && change >= 0);
        EXPECT(mp_planner_probability(planner, (random() % 100) / 99.0, &probability) == MP_OK);
        EXPECT(probability >= 0 && probability <= 1);
    }
}

static void wrong_plans(mp_planner * planner, mp_drafter * drafter) {
    const int32_t tokens[] = {1, 2, 3}, parents[] = {-1, 0, 1}, path[] = {0, 1}, emitted[] = {2, 3};
    const float probabilities[] = {1.0f, 0.5f, 0.25f};
    const mp_draft sound_draft = {3, tokens, parents, probabilities, nullptr, 0};
    const mp_plan_result sound_result = {3, 3, 2, path, emitted, 100.0, 110.0};
    int32_t n_rows = 0;
    EXPECT(mp_planner_rows(planner, 5, &sound_draft, &n_rows) == MP_OK && n_rows >= 1 && n_rows <= 3);
    EXPECT(mp_planner_observe(planner, &sound_draft, &sound_result) == MP_OK);

    const auto refuses_draft = [&](void (*spoil)(mp_draft &)) {
        mp_draft draft = sound_draft;
        spoil(draft);
        EXPECT(mp_planner_rows(planner, 5, &draft, &n_rows) == MP_ERR_ARGUMENT && !strchr(mp_last_error(), '\n'));
        EXPECT(mp_planner_observe(planner, &draft, &sound_result) == MP_ERR_ARGUMENT);
    };
    static const float too_likely[] = {1.0f, 1.5f, 0.25f}, not_a_number[] = {1.0f, NAN, 0.25f};
    static const int32_t forwards[] = {-1, 2, 0}, before_the_root[] = {-1, -1, 0};
    refuses_draft([](mp_draft & d) { d.n_nodes = 0; });
    refuses_draft([](mp_draft & d) { d.n_nodes = 257; });
    refuses_draft([](mp_draft & d) { d.tokens = nullptr; });
    refuses_draft([](mp_draft & d) { d.parents = nullptr; });
    refuses_draft([](mp_draft & d) { d.parents = forwards; });
    refuses_draft([](mp_draft & d) { d.parents = before_the_root; });
    refuses_draft([](mp_draft & d) { d.probabilities = nullptr; });
    refuses_draft([](mp_draft & d) { d.probabilities = too_likely; });
    refuses_draft([](mp_draft & d) { d.probabilities = not_a_number; });

    const auto refuses_result = [&](void (*spoil)(mp_plan_result &)) {
        mp_plan_result result = sound_result;
        spoil(result);
        EXPECT(mp_planner_observe(planner, &sound_draft, &result) == MP_ERR_ARGUMENT && !strchr(mp_last_error(), '\n'));
    };
    refuses_result([](mp_plan_result & r) { r.n_rows = 0; });
    refuses_result([](mp_plan_result & r) { r.n_rows = 257; });
    refuses_result([](mp_plan_result & r) { r.n_nodes = 0; });
    refuses_result([](mp_plan_result & r) { r.n_nodes = 4; });
    refuses_result([](mp_plan_result & r) { r.n_path = 0; });
    refuses_result([](mp_plan_result & r) { r.n_path = 257; });
    refuses_result([](mp_plan_result & r) { r.path = nullptr; });
    refuses_result([](mp_plan_result & r) { r.emitted = nullptr; });
    refuses_result([](mp_plan_result & r) { r.core_us = 0; });
    refuses_result([](mp_plan_result & r) { r.core_us = NAN; });
    refuses_result([](mp_plan_result & r) { r.total_us = INFINITY; });

    double x = 0;
    mp_draft draft;
    EXPECT(mp_planner_rows(planner, 5, nullptr, &n_rows) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_rows(planner, 5, &sound_draft, nullptr) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_rows(nullptr, 5, &sound_draft, &n_rows) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_rows(planner, -1, &sound_draft, &n_rows) == MP_OK);
    EXPECT(mp_planner_rows(planner, INT64_MAX, &sound_draft, &n_rows) == MP_OK);
    EXPECT(mp_planner_observe(planner, nullptr, nullptr) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_observe(nullptr, nullptr, &sound_result) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_draft(nullptr, drafter, 5, 8, &draft, &n_rows) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_draft(planner, nullptr, 5, 8, &draft, &n_rows) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_draft(planner, drafter, 5, 0, &draft, &n_rows) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_draft(planner, drafter, 5, 8, nullptr, &n_rows) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_draft(planner, drafter, 5, 8, &draft, nullptr) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_learn(planner, drafter, &draft, nullptr, 100.0, 110.0) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_rest(planner, -1, 0) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_rest(planner, INT32_MAX, INT32_MAX) == MP_OK && !mp_planner_outlook(planner)->napping);
    EXPECT(mp_planner_rest(nullptr, 1, 0) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_at_depth(nullptr, 1) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_next_to_measure(planner, 0, 32, nullptr) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_next_to_measure(nullptr, 0, 32, &n_rows) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_measured(planner, 0, 1.0) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_measured(planner, 1, -1.0) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_measured(nullptr, 1, 1.0) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_time(planner, 0, &x) == MP_ERR_ARGUMENT && mp_planner_time(planner, 257, &x) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_time(planner, 1, nullptr) == MP_ERR_ARGUMENT && mp_planner_time(nullptr, 1, &x) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_change(planner, nullptr) == MP_ERR_ARGUMENT && mp_planner_change(nullptr, &x) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_probability(planner, NAN, &x) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_probability(planner, 0.5, nullptr) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_probability(nullptr, 0.5, &x) == MP_ERR_ARGUMENT);
    EXPECT(!mp_planner_outlook(nullptr));
}

// What is kept, whole and damaged: what is refused changes nothing.
static void saved_planners(const mp_planner * planner, mp_drafter * drafter, std::mt19937 & random, int32_t n_vocab) {
    size_t n = 0, n_again = 0;
    EXPECT(mp_planner_costs(planner, nullptr, 0, &n) == MP_OK && n > 3);
    std::vector<mp_cost> costs(n), few(2);
    EXPECT(mp_planner_costs(planner, few.data(), few.size(), &n_again) == MP_OK && n_again == n);
    EXPECT(mp_planner_costs(planner, costs.data(), n, &n_again) == MP_OK && n_again == n);
    EXPECT(few[1].us == costs[1].us);
    mp_learned learned;
    EXPECT(mp_planner_learned(planner, &learned) == MP_OK);
    mp_planner * other = nullptr;
    EXPECT(mp_planner_open(32, &other) == MP_OK);
    EXPECT(mp_planner_load_costs(other, costs.data(), n) == MP_OK && mp_planner_load_learned(other, &learned) == MP_OK);
    for (int i = 0; i < 200; i++) {
        std::vector<mp_cost> damaged = costs;
        for (int k = 0; k <= i / 50; k++) {
            ((char *) damaged.data())[random() % (n * sizeof(mp_cost))] ^= (char) (1 << random() % 8);
        }
        const mp_status status = mp_planner_load_costs(other, damaged.data(), n);
        EXPECT(status == MP_OK || status == MP_ERR_FORMAT);
        mp_learned spoiled = learned;
        ((char *) &spoiled)[random() % sizeof(spoiled)] ^= (char) (1 << random() % 8);
        const mp_status of_claims = mp_planner_load_learned(other, &spoiled);
        EXPECT(of_claims == MP_OK || of_claims == MP_ERR_FORMAT);
        planned_passes(other, drafter, random, n_vocab, 2);
    }
    EXPECT(mp_planner_load_costs(other, nullptr, 1) == MP_ERR_FORMAT);
    EXPECT(mp_planner_load_costs(nullptr, costs.data(), n) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_load_learned(other, nullptr) == MP_ERR_FORMAT);
    EXPECT(mp_planner_load_learned(nullptr, &learned) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_learned(other, nullptr) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_learned(nullptr, &learned) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_costs(other, nullptr, 1, &n) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_costs(other, nullptr, 0, nullptr) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_costs(nullptr, nullptr, 0, &n) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_load_costs(other, nullptr, 0) == MP_OK); // as if nothing had been measured
    double us = 0;
    EXPECT(mp_planner_time(other, 1, &us) == MP_ERR_STATE);
    mp_planner_free(other);
}

static void planner() {
    constexpr int32_t n_vocab = 50;
    mp_planner * planner = nullptr;
    EXPECT(mp_planner_open(0, &planner) == MP_ERR_ARGUMENT && !planner);
    EXPECT(mp_planner_open(257, &planner) == MP_ERR_ARGUMENT && !planner);
    EXPECT(mp_planner_open(32, nullptr) == MP_ERR_ARGUMENT);
    EXPECT(mp_planner_open(32, &planner) == MP_OK && planner);
    int32_t n_shapes = 0;
    const int32_t * shapes = mp_planner_shapes(&n_shapes);
    EXPECT(n_shapes > 1 && shapes[0] == 1 && shapes[n_shapes - 1] == 32);

    double us = 0;
    int32_t n = -1;
    size_t n_costs = 1;
    EXPECT(mp_planner_costs(planner, nullptr, 0, &n_costs) == MP_OK && n_costs == 0);
    EXPECT(mp_planner_time(planner, 1, &us) == MP_ERR_STATE && mp_planner_change(planner, &us) == MP_ERR_STATE);
    EXPECT(mp_planner_rest(planner, 1, 0) == MP_ERR_STATE);
    for (int32_t after = 16; after >= 0; after--) { // nothing is measured yet
        EXPECT(mp_planner_next_to_measure(planner, after, 32, &n) == MP_OK && n >= 1 && n <= 16);
        EXPECT(n == 1 || n > after); // one beyond, or the first of those that are measured repeatedly
    }
    EXPECT(n == 1 && mp_planner_next_to_measure(planner, 0, 0, &n) == MP_OK && n == 0);
    EXPECT(mp_planner_measured(planner, 4, 150.0) == MP_OK && mp_planner_time(planner, 1, &us) == MP_ERR_STATE);
    EXPECT(mp_planner_measured(planner, 1, 100.0) == MP_OK && mp_planner_time(planner, 1, &us) == MP_OK && us == 100.0);

    mp_drafter * drafter = nullptr;
    EXPECT(mp_drafter_open(n_vocab, &drafter) == MP_OK);
    mp_draft draft;
    EXPECT(mp_planner_draft(planner, drafter, 5, 8, &draft, &n) == MP_ERR_STATE); // no text yet
    std::mt19937 random(6);
    drafts(drafter, random, n_vocab, 20);
    planned_passes(planner, drafter, random, n_vocab, 600);
    wrong_plans(planner, drafter);
    saved_planners(planner, drafter, random, n_vocab);
    mp_drafter_free(drafter);
    mp_planner_free(planner);
    mp_planner_free(nullptr);
}
