// Guesses that were made before a draft: what the drafter makes of them, and what it says they were worth.
#include "draft_checks.h"

using namespace mp;

// After the root come the first ones, after the most likely of these the second, and so on.
static guesses chain_of(const std::vector<likely> & each) {
    guesses chain;
    for (const likely & one : each) {
        distribution & to = chain.likely[chain.n++];
        for (const auto & [token, probability] : one) {
            to.tokens[to.n] = token;
            to.probabilities[to.n++] = probability;
        }
    }
    return chain;
}

static std::unique_ptr<drafter> after_text(const tokens & text, std::shared_ptr<knowledge> known = new_knowledge()) {
    auto made = std::make_unique<drafter>(std::move(known), false);
    made->begin(text.data(), (int32_t) text.size());
    return made;
}

CHECK(guesses_are_offered_depth_by_depth) {
    guesses chain = chain_of({{{5, 0.8f}, {6, 0.1f}}, {{7, 0.9f}}, {{8, 0.9f}}});
    const auto drafter = after_text({1, 2});
    drafter->use_guesses(&chain);
    const grown draft(*drafter, 6);
    const int32_t first = draft.find(0, 5), other = draft.find(0, 6), second = draft.find(first, 7);
    EXPECT(first > 0 && other > 0 && second > 0 && draft.find(second, 8) > 0);
    EXPECT(draft.source[first] == MP_BY_HEAD && draft.source[second] == MP_BY_HEAD);
    EXPECT(draft.size() == 5); // nothing is known after the other one, nor after the last
    EXPECT(std::abs(chain.reach() - 0.8 * 0.9 * 0.9) < 1e-6);
}

CHECK(guesses_are_for_one_draft) {
    guesses chain = chain_of({{{5, 0.8f}}});
    const auto drafter = after_text({1, 2});
    drafter->use_guesses(&chain);
    EXPECT(grown(*drafter, 4).size() == 2);
    const int32_t more = 9;
    drafter->extend(&more, 1);
    EXPECT(grown(*drafter, 4).size() == 1);
    drafter->use_guesses(&chain);
    drafter->use_guesses(nullptr);
    EXPECT(grown(*drafter, 4).size() == 1);
}

CHECK(guesses_after_forced_tokens) {
    guesses chain = chain_of({{{5, 0.8f}}, {{7, 0.9f}}});
    const auto drafter = after_text({1, 2});
    const auto children_after = [&](int32_t forced) {
        drafter->use_guesses(&chain);
        drafter->start(&forced, 1, 0.99f);
        int32_t n = 0;
        for (; drafter->next() > 0; n++) {
            EXPECT(drafter->next_token() == 7 && drafter->next_parent() == 1);
            drafter->take();
        }
        return n;
    };
    EXPECT(children_after(5) == 1);
    EXPECT(children_after(6) == 0); // the chain went another way
}

CHECK(what_guesses_were_worth_is_told) {
    const auto drafter = after_text({1, 2});
    guesses chain = chain_of({{{5, 0.9f}}, {{7, 0.9f}}, {{8, 0.9f}}});
    drafter->use_guesses(&chain);
    drafter->start();
    while (drafter->n_nodes() < 4 && drafter->next() > 0) {
        drafter->take();
    }
    // The first was right, the second not; the place of the third was not reached.
    const likely row = {{39, 0.01f}};
    decoded_pass({2, 5, 7, 8}, {-1, 0, 1, 2}, {row, row, row, row}, {0, 1}, {5, 30}).observed_by(*drafter);
    EXPECT(chain.gain[0] > 0.05 && chain.gain[0] <= 1);
    EXPECT(chain.gain[1] == 0 && chain.gain[2] == 0);
}

CHECK(a_steady_draft_with_guesses_allocates_nothing) {
    guesses chain = chain_of({{{5, 0.8f}, {6, 0.1f}}, {{7, 0.9f}}, {{8, 0.9f}}});
    const auto drafter = after_text({1, 2});
    check_that_it_allocates_nothing([&] {
        drafter->use_guesses(&chain);
        drafter->start();
        while (drafter->n_nodes() < 5 && drafter->next() > 0) {
            drafter->take();
        }
    });
}
