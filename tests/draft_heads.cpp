// What the drafter asks of a trained head, and what it makes of its word.
#include "draft_checks.h"

#include <set>

using namespace mp;

// Says what it was told to, and notes what it was asked. A latent: the token of its place, and how many came before.
struct fake_head : token_head {
    struct question {
        int32_t token;
        float before[2];
        bool operator<(const question & other) const {
            return std::make_pair(token, before[0]) < std::make_pair(other.token, other.before[0]);
        }
    };

    std::map<int32_t, likely> after; // by token; nothing is said of others
    std::vector<std::vector<question>> calls;
    bool notes = true;

    const std::vector<int32_t> none;
    const std::vector<int32_t> & layers() const override { return none; }
    int32_t n_latent() const override { return 2; }
    void evaluate(int32_t n, const int32_t * of, const float * const * before, float * const * latents,
                  distribution * said) override {
        if (notes) {
            calls.emplace_back();
        }
        for (int32_t i = 0; i < n; i++) {
            if (notes) {
                calls.back().push_back({of[i], {before[i][0], before[i][1]}});
            }
            latents[i][0] = (float) of[i];
            latents[i][1] = before[i][1] + 1;
            const auto found = after.find(of[i]);
            said[i] = {};
            for (size_t k = 0; found != after.end() && k < found->second.size(); k++) {
                said[i].tokens[k] = found->second[k].first;
                said[i].probabilities[k] = found->second[k].second;
                said[i].n++;
            }
        }
    }

    std::vector<question> all() const {
        std::vector<question> found;
        for (const auto & call : calls) {
            found.insert(found.end(), call.begin(), call.end());
        }
        return found;
    }
};

static constexpr float ROOT_LATENT[2] = {-7, 0};

static std::shared_ptr<fake_head> told(std::map<int32_t, likely> after) {
    auto made = std::make_shared<fake_head>();
    made->after = std::move(after);
    return made;
}

static std::unique_ptr<drafter> with_head(const tokens & text, std::shared_ptr<head> trained,
                                          const float * latent = ROOT_LATENT,
                                          std::shared_ptr<knowledge> known = new_knowledge(), bool chains_only = false) {
    auto made = std::make_unique<drafter>(std::move(known), chains_only, std::move(trained));
    made->begin(text.data(), (int32_t) text.size());
    made->use_latent(latent);
    return made;
}

static const std::map<int32_t, likely> TREE = {
    {2, {{5, 0.7f}, {6, 0.2f}, {7, 0.1f}}},
    {5, {{8, 0.9f}, {9, 0.1f}}},
    {6, {{10, 0.6f}}},
    {8, {{11, 0.9f}}},
};

CHECK(a_head_offers_candidates_depth_by_depth) {
    const auto trained = told(TREE);
    const grown draft(*with_head({1, 2}, trained), 7);
    const int32_t first = draft.find(0, 5), second = draft.find(first, 8);
    EXPECT(first > 0 && second > 0 && draft.find(second, 11) > 0 && draft.find(0, 6) > 0);
    for (int32_t i = 1; i < draft.size(); i++) {
        EXPECT(draft.source[i] == MP_BY_HEAD);
    }
    for (const auto & asked : trained->all()) { // each with the latent of the place that it was drawn from
        const float expected = asked.token == 2 ? -7 : asked.token <= 7 ? 2 : asked.token <= 9 ? 5 : asked.before[0];
        EXPECT(asked.before[0] == expected);
        EXPECT(asked.before[1] == (asked.token == 2 ? 0 : asked.token <= 7 ? 1 : 2) || asked.token > 9);
    }
}

CHECK(a_head_is_asked_once_and_of_few_at_once) {
    const auto trained = told(TREE);
    grown draft(*with_head({1, 2}, trained), 7);
    const auto asked = trained->all();
    EXPECT(std::set<fake_head::question>(asked.begin(), asked.end()).size() == asked.size());
    EXPECT(trained->calls.size() < asked.size()); // some were asked together
    for (const auto & call : trained->calls) {
        EXPECT(!call.empty() && call.size() <= 4);
    }
}

CHECK(a_head_is_not_asked_of_a_last_node) {
    const auto trained = told(TREE);
    const auto drafter = with_head({1, 2}, trained);
    drafter->start();
    EXPECT(trained->calls.empty());
    EXPECT(drafter->next() > 0 && trained->calls.size() == 1);
    drafter->take();
    EXPECT(trained->calls.size() == 1 && trained->calls[0].size() == 1);
    EXPECT(drafter->next() > 0 && trained->calls.size() == 2);
}

CHECK(without_a_latent_a_head_is_not_asked) {
    const auto trained = told(TREE);
    EXPECT(grown(*with_head({1, 2}, trained, nullptr), 7).size() == 1 && trained->calls.empty());
    const auto drafter = with_head({1, 1}, trained);
    const int32_t next = 2;
    drafter->extend(&next, 1); // it was drawn from another row
    grown(*drafter, 7);
    EXPECT(trained->calls.empty());
    drafter->use_latent(ROOT_LATENT);
    const grown draft(*drafter, 7);
    EXPECT(draft.find(0, 5) > 0);
    decoded_pass({2, 5}, {-1, 0}, {{{5, 0.5f}}, {{8, 0.5f}}}, {0, 1}, {5, 8}).observed_by(*drafter);
    trained->calls.clear();
    grown after(*drafter, 7);
    EXPECT(trained->calls.empty());
}

CHECK(after_a_forced_chain_a_head_is_not_asked) {
    const auto trained = told(TREE);
    const auto drafter = with_head({1, 2}, trained);
    const int32_t forced[] = {5, 8};
    drafter->start(forced, 2, 0.9f);
    EXPECT(drafter->next() == 0 && trained->calls.empty() && drafter->n_nodes() == 3);
}

CHECK(a_chain_asks_a_head_of_its_own_nodes_alone) {
    const auto trained = told(TREE);
    const grown draft(*with_head({1, 2}, trained, ROOT_LATENT, new_knowledge(), true), 7);
    EXPECT((draft.first_path() == tokens{5, 8, 11}) && draft.size() == 4);
    EXPECT(trained->calls.size() == 4);
    for (const auto & call : trained->calls) {
        EXPECT(call.size() == 1);
    }
}

CHECK(a_head_that_says_nothing_offers_nothing) {
    const auto trained = told({{2, {}}});
    EXPECT(grown(*with_head({1, 2}, trained), 7).size() == 1 && trained->calls.size() == 1);
}

// Whether there is a head or not, drafts are the same bit for bit as long as it has no word.
CHECK(a_head_without_a_latent_changes_no_draft) {
    for (const bool chains_only : {false, true}) {
        std::mt19937 random_with(5), random_without(5);
        const auto with = with_head({1, 2, 3}, told(TREE), nullptr, new_knowledge(), chains_only);
        const auto without = drafter_after({1, 2, 3}, new_knowledge(), chains_only);
        for (int32_t i = 0; i < 200; i++) {
            const grown draft(*with, 1 + i % 24), same(*without, 1 + i % 24);
            EXPECT(draft == same);
            random_pass(random_with, draft).observed_by(*with);
            random_pass(random_without, same).observed_by(*without);
        }
    }
}

// The emitted token is the one that the head had said, or never.
static float trust_after(bool is_right) {
    const auto trained = told({});
    for (int32_t token = 0; token < N_VOCAB; token++) {
        trained->after[token] = {{(token + 1) % N_VOCAB, 0.4f}, {(token + 2) % N_VOCAB, 0.3f}};
    }
    trained->notes = false;
    const auto drafter = with_head({1, 2}, trained);
    int32_t root = 2;
    for (int32_t i = 0; i < 100; i++) {
        drafter->start();
        drafter->next();
        const int32_t emitted = (root + (is_right ? 1 : 20)) % N_VOCAB;
        decoded_pass({root}, {-1}, {{{39, 0.01f}}}, {0}, {emitted}).observed_by(*drafter);
        drafter->use_latent(ROOT_LATENT);
        root = emitted;
    }
    return grown(*drafter, 12).after_root()[(root + 1) % N_VOCAB];
}

CHECK(trust_in_a_head_is_learned) {
    const auto fresh = with_head({1, 2}, told({{2, {{3, 0.4f}, {4, 0.3f}}}}));
    const float at_first = grown(*fresh, 12).after_root()[3];
    EXPECT(at_first > 0.02f && at_first < 0.6f);
    EXPECT(trust_after(true) > 0.8f && trust_after(false) < 0.5f * at_first);
}

CHECK(trust_in_a_head_is_kept) {
    const auto known = new_knowledge();
    const auto trained = told({{2, {{3, 0.4f}, {4, 0.3f}}}});
    const auto drafter = with_head({1, 2}, trained, ROOT_LATENT, known);
    for (int32_t i = 0; i < 20; i++) {
        drafter->start();
        drafter->next();
        decoded_pass({2}, {-1}, {{{39, 0.01f}}}, {0}, {3}).observed_by(*drafter);
        const int32_t again = 2;
        drafter->extend(&again, 1);
        drafter->use_latent(ROOT_LATENT);
    }
    const auto loaded = new_knowledge();
    const std::string bytes = known->save();
    EXPECT(loaded->load(bytes.data(), bytes.size()));
    const tokens text = {30, 31, 2}; // its n-grams say nothing
    EXPECT(grown(*with_head(text, trained, ROOT_LATENT, known), 12) ==
           grown(*with_head(text, trained, ROOT_LATENT, loaded), 12));
}

static void check_that_drafts_allocate_nothing(const std::shared_ptr<head> & trained) {
    const auto drafter = with_head({1, 2}, trained);
    check_that_it_allocates_nothing([&] {
        drafter->use_latent(ROOT_LATENT);
        drafter->start();
        while (drafter->n_nodes() < 8 && drafter->next() > 0) {
            drafter->take();
        }
    });
}

CHECK(a_steady_draft_with_a_head_allocates_nothing) {
    const auto trained = told(TREE);
    trained->notes = false;
    check_that_drafts_allocate_nothing(trained);
}

// --- heads that know the distance alone ------------------------------------------------------------------------------

struct fake_distances : distance_head {
    std::vector<likely> at; // by distance
    std::vector<float> asked;
    bool notes = true;

    const std::vector<int32_t> none;
    const std::vector<int32_t> & layers() const override { return none; }
    int32_t n_latent() const override { return 2; }
    int32_t n_distances() const override { return (int32_t) at.size(); }
    void evaluate(const float * latent, distribution * said) override {
        if (notes) {
            asked.push_back(latent[0]);
        }
        for (size_t i = 0; i < at.size(); i++) {
            said[i] = {};
            for (const auto & [token, probability] : at[i]) {
                said[i].tokens[said[i].n] = token;
                said[i].probabilities[said[i].n++] = probability;
            }
        }
    }
};

static std::shared_ptr<fake_distances> distances() {
    auto made = std::make_shared<fake_distances>();
    made->at = {{{5, 0.6f}, {6, 0.3f}}, {{8, 0.9f}}};
    return made;
}

CHECK(distances_are_asked_once_and_offer_the_same_at_each_node_of_a_depth) {
    const auto trained = distances();
    const grown draft(*with_head({1, 2}, trained), 8);
    const int32_t first = draft.find(0, 5), second = draft.find(0, 6);
    EXPECT(first > 0 && second > 0 && draft.find(first, 8) > 0 && draft.find(second, 8) > 0);
    EXPECT(draft.size() == 5); // and nothing beyond the last distance
    for (int32_t i = 1; i < draft.size(); i++) {
        EXPECT(draft.source[i] == MP_BY_HEAD);
    }
    EXPECT(trained->asked == std::vector<float>{ROOT_LATENT[0]});
}

CHECK(distances_are_asked_when_children_are_wanted_and_the_latent_is_known) {
    const auto trained = distances();
    const auto drafter = with_head({1, 2}, trained);
    drafter->start();
    EXPECT(trained->asked.empty());
    EXPECT(drafter->next() > 0 && trained->asked.size() == 1);
    const int32_t forced[] = {5};
    drafter->start(forced, 1, 0.9f);
    EXPECT(drafter->next() == 0 && trained->asked.size() == 1);
    const int32_t next = 30;
    drafter->extend(&next, 1); // it was drawn from another row
    EXPECT(grown(*drafter, 7).size() == 1 && trained->asked.size() == 1);
}

CHECK(a_steady_draft_with_distances_allocates_nothing) {
    const auto trained = distances();
    trained->notes = false;
    check_that_drafts_allocate_nothing(trained);
}
