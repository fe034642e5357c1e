// What is known of a model: kept between runs, shared by threads, in tables of bounded size.
#include "draft_checks.h"

#include <string>
#include <thread>

static grown draft_of(const std::shared_ptr<mp::knowledge> & known, const tokens & text = {1, 2, 3, 1, 2}) {
    return grown(*drafter_after(text, known), 32);
}

static bool loads(mp::knowledge & known, const std::string & bytes) {
    const std::string copy = bytes; // its own piece of memory: reading past its end is noticed
    return known.load(copy.data(), copy.size());
}

CHECK(a_saved_state_gives_the_same_drafts) {
    for (uint32_t seed = 0; seed < 10; seed++) {
        const auto first = learned(seed), second = new_knowledge(), third = new_knowledge();
        EXPECT(loads(*second, first->save()) && loads(*third, second->save()));
        EXPECT(second->save().size() == first->save().size() && third->save().size() == first->save().size());
        const grown draft = draft_of(first);
        EXPECT(draft.size() == 32 && draft_of(second) == draft && draft_of(third) == draft);
    }
}

CHECK(earlier_texts_are_saved) {
    const auto known = new_knowledge(), other = new_knowledge();
    drafter_after({4, 9, 7, 30, 12, 25, 3, 18}, known);
    EXPECT(loads(*other, known->save()));
    EXPECT(draft_of(other, {4, 9, 7, 30, 12}).token[1] == 25);
}

// Refused, and as new.
static void refused(const std::string & bytes, int32_t n_vocab = N_VOCAB) {
    const auto known = new_knowledge(n_vocab);
    if (n_vocab == N_VOCAB) {
        EXPECT(loads(*known, learned(2, 10)->save()));
    }
    EXPECT(!loads(*known, bytes));
    EXPECT(known->save() == new_knowledge(n_vocab)->save());
}

CHECK(truncated_states_are_refused) {
    const std::string state = learned(1)->save();
    for (size_t n : {(size_t) 0, (size_t) 1, (size_t) 3, (size_t) 100, (size_t) 3000, state.size() / 2, state.size() - 8,
                     state.size() - 1}) {
        refused(state.substr(0, n));
    }
    refused(state + '\0');
}

CHECK(foreign_bytes_are_refused) {
    std::mt19937 random(1);
    for (size_t n : {1, 1000, 10000, 100000}) {
        std::string bytes(n, '\0');
        refused(bytes);
        refused(std::string(n, '\xff'));
        for (char & byte : bytes) {
            byte = (char) random();
        }
        refused(bytes);
    }
}

CHECK(a_state_of_a_larger_vocabulary_is_refused) {
    refused(learned(1)->save(), 8);
}

CHECK(flipped_bits_are_refused_or_do_no_harm) {
    const std::string state = learned(1)->save(), as_new = new_knowledge()->save();
    std::mt19937 random(9);
    const auto known = new_knowledge();
    int n_taken = 0;
    for (int i = 0; i < 60; i++) {
        std::string damaged = state;
        for (int k = 0; k <= i / 20; k++) {
            damaged[random() % damaged.size()] ^= (char) (1 << random() % 8);
        }
        if (loads(*known, damaged)) {
            n_taken++;
        } else {
            EXPECT(known->save() == as_new);
        }
        const auto drafter = drafter_after({1, 2, 3, 1, 2}, known);
        walk(*drafter, random, 3);
        const grown draft(*drafter, 32);
        for (int32_t node = 1; node < draft.size(); node++) {
            EXPECT(draft.token[node] >= 0 && draft.token[node] < N_VOCAB);
            EXPECT(draft.probability[node] > 0 && draft.probability[node] <= draft.probability[node - 1]);
        }
    }
    EXPECT(n_taken > 0 && n_taken < 60);
}

// Built with a sanitizer for threads.
CHECK(threads_share_what_is_known) {
    const auto known = new_knowledge();
    const std::string other = learned(1, 10)->save();
    std::vector<std::thread> threads;
    for (uint32_t seed = 0; seed < 4; seed++) {
        threads.emplace_back([&known, seed] {
            std::mt19937 random(seed);
            const auto drafter = drafter_after({1, 2, 3}, known);
            walk(*drafter, random, 60);
        });
    }
    for (int i = 0; i < 3; i++) {
        EXPECT(!known->save().empty());
        EXPECT(loads(*known, other));
    }
    for (std::thread & thread : threads) {
        thread.join();
    }
    EXPECT(loads(*new_knowledge(), known->save()));
}

CHECK(what_one_text_taught_is_there_for_another) {
    const auto known = new_knowledge();
    const auto one = drafter_after({20}, known), other = drafter_after({20}, known);
    EXPECT(grown(*other, 8).size() == 1);
    one->start();
    decoded_pass({20}, {-1}, {{{17, 0.8f}, {18, 0.1f}}}, {0}, {17}).observed_by(*one);
    EXPECT(grown(*other, 8).find(0, 17) > 0);
}

// --- tables ----------------------------------------------------------------------------------------------------------

CHECK(a_table_that_grows_keeps_what_a_large_one_keeps) {
    for (uint32_t seed = 0; seed < 30; seed++) {
        std::mt19937_64 random(seed);
        mp::continuation_table growing(4, 1024), large(1024, 1024);
        std::vector<uint64_t> keys(1 + seed * 100);
        for (uint64_t & key : keys) {
            key = random() | 1;
        }
        for (int turn = 0; turn < 2; turn++) {
            for (size_t i = 0; i < 3 * keys.size(); i++) {
                const uint64_t key = keys[random() % keys.size()];
                const auto token = (int32_t) (random() % 5);
                growing.put(key, token);
                large.put(key, token);
            }
            int n_found = 0;
            for (uint64_t key : keys) {
                const mp::continuations *a = growing.find(key), *b = large.find(key);
                EXPECT((a == nullptr) == (b == nullptr));
                EXPECT(!a || !b || (a->n == b->n && std::equal(a->tokens, a->tokens + a->n, b->tokens)));
                n_found += a != nullptr;
            }
            EXPECT(n_found > 0 && (keys.size() < 2000 || n_found < (int) keys.size())); // places are shared
            growing.clear();
            large.clear();
            EXPECT(!growing.find(keys[0]));
        }
    }
}

CHECK(a_long_text_keeps_its_ngrams) {
    constexpr int32_t n_vocab = 30000, n = 40000;
    tokens text(n);
    std::mt19937 random(2);
    for (int32_t & token : text) {
        token = (int32_t) (random() % n_vocab);
    }
    const auto drafter = drafter_after(text, new_knowledge(n_vocab));
    for (int32_t at : {n - 500, n - 5000}) { // newer ones took the places of old ones
        drafter->extend(&text[at], 20);
        EXPECT(grown(*drafter, 4).token[1] == text[at + 20]);
    }
}
