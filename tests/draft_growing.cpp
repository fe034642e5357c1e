// The shape of drafts, and what of the text and of earlier texts they offer.
#include "draft_checks.h"

#include <set>

CHECK(every_first_part_of_a_draft_is_a_tree) {
    for (uint32_t seed = 0; seed < 60; seed++) {
        std::mt19937 random(seed);
        tokens text(1 + random() % 50);
        for (int32_t & token : text) {
            token = (int32_t) (random() % N_VOCAB);
        }
        const auto drafter = drafter_after(text, seed % 3 ? new_knowledge() : learned(seed));
        walk(*drafter, random, seed % 9);
        const grown draft(*drafter, 64);
        EXPECT(draft.parent[0] == -1 && draft.probability[0] == 1.0f && draft.source[0] == MP_BY_MODEL);
        std::set<std::pair<int32_t, int32_t>> edges;
        std::vector<float> after(draft.size());
        for (int32_t i = 1; i < draft.size(); i++) {
            EXPECT(draft.parent[i] >= 0 && draft.parent[i] < i && draft.token[i] >= 0 && draft.token[i] < N_VOCAB);
            EXPECT(draft.probability[i] > 0 && draft.probability[i] <= draft.probability[i - 1]);
            EXPECT(draft.source[i] >= MP_BY_TOKEN && draft.source[i] <= MP_BY_EARLIER);
            EXPECT(edges.insert({draft.parent[i], draft.token[i]}).second);
            after[draft.parent[i]] += draft.probability[i];
        }
        for (int32_t i = 0; i < draft.size(); i++) {
            EXPECT(after[i] <= draft.probability[i] * 1.0001f); // children are exclusive
        }
    }
}

CHECK(the_root_is_the_newest_token) {
    const auto drafter = drafter_after({7, 9, 8, 31});
    EXPECT(grown(*drafter, 8).token[0] == 31);
    const int32_t more[] = {12, 5};
    drafter->extend(more, 2);
    EXPECT(grown(*drafter, 8).token[0] == 5);
}

CHECK(without_evidence_there_is_only_the_root) {
    const auto drafter = drafter_after({5});
    EXPECT(grown(*drafter, 100).size() == 1 && drafter->next() == 0.0f);
}

CHECK(a_draft_can_be_started_again) {
    const auto drafter = drafter_after({1, 2, 3, 1, 2}, learned(3));
    const grown first(*drafter, 20);
    EXPECT(first.size() == 20 && grown(*drafter, 20) == first);
    const grown part(*drafter, 7);
    EXPECT(part.size() == 7 && tokens(first.token.begin(), first.token.begin() + 7) == part.token);
}

CHECK(what_is_forced_comes_first) {
    const auto known = learned(3);
    for (const bool chains_only : {false, true}) {
        const auto drafter = drafter_after({1, 2, 3, 1, 2}, known, chains_only);
        const int32_t forced[] = {7, 9, 8};
        drafter->start(forced, 3, 0.5f);
        EXPECT(drafter->n_nodes() == 4 && drafter->next_parent() == 3);
        for (int32_t i = 1; i < 4; i++) {
            EXPECT(drafter->tokens()[i] == forced[i - 1] && drafter->parents()[i] == i - 1);
            EXPECT(drafter->probabilities()[i] == 1.0f / (float) (1 << i) && drafter->sources()[i] == MP_BY_CONSTRAINT);
        }
        while (drafter->n_nodes() < 20 && drafter->next() > 0) {
            drafter->take();
        }
        for (int32_t i = 4; i < drafter->n_nodes(); i++) {
            EXPECT(drafter->parents()[i] >= 3 && drafter->probabilities()[i] <= 0.125f);
        }
        EXPECT(drafter->n_nodes() > 4);
        EXPECT(grown(*drafter, 20) == grown(*drafter_after({1, 2, 3, 1, 2}, known, chains_only), 20)); // forgotten
    }
}

CHECK(a_repeated_sequence_is_foretold) {
    const tokens sequence = {4, 9, 7, 30, 12, 25, 3};
    tokens text;
    for (int i = 0; i < 4; i++) {
        text.insert(text.end(), sequence.begin(), sequence.end());
    }
    text.insert(text.end(), {4, 9});
    const grown draft(*drafter_after(text), 24);
    EXPECT(draft.token[1] == 7 && draft.source[1] == MP_BY_NGRAM);
    int32_t node = 0;
    for (int32_t token : {7, 30, 12, 25, 3, 4}) {
        EXPECT((node = draft.find(node, token)) > 0);
    }
    tokens once = sequence;
    once.insert(once.end(), {4, 20, 9});
    EXPECT(draft.probability[1] > grown(*drafter_after(once), 24).probability[1]);
}

CHECK(a_chain_has_no_branches) {
    const auto known = learned(6);
    for (int32_t first = 0; first < N_VOCAB; first++) {
        const grown tree(*drafter_after({first, 2, 1, 2}, known), 30);
        const grown chain(*drafter_after({first, 2, 1, 2}, known, true), 30);
        EXPECT(chain.size() > 1 && chain.token[1] == tree.token[1]);
        for (int32_t i = 0; i < chain.size(); i++) {
            EXPECT(chain.parent[i] == i - 1);
        }
        EXPECT(chain.first_path() == tokens(chain.token.begin() + 1, chain.token.end()));
    }
}

// The candidates that are passed over are missing with all that would follow them, the others are there.
CHECK(what_is_passed_over_has_no_place) {
    int32_t n_dropped = 0, n_found = 0;
    for (uint32_t seed = 0; seed < 10; seed++) {
        const bool chains_only = seed % 2;
        const auto known = learned(seed);
        const grown whole(*drafter_after({1, 2, 3, 1, 2}, known), 256);
        const auto drafter = drafter_after({1, 2, 3, 1, 2}, known, chains_only);
        drafter->start();
        while (drafter->n_nodes() < 12 && drafter->next() > 0) {
            if (drafter->next_token() % 3 == 0) {
                drafter->drop();
                n_dropped++;
            } else {
                drafter->take();
            }
        }
        tokens same = {0}; // its nodes in the whole draft
        for (int32_t i = 1; i < drafter->n_nodes() && drafter->probabilities()[i] > whole.probability.back(); i++) {
            EXPECT(drafter->tokens()[i] % 3 != 0 && (!chains_only || drafter->parents()[i] == i - 1));
            same.push_back(whole.find(same[drafter->parents()[i]], drafter->tokens()[i]));
            EXPECT(same[i] > 0 && whole.probability[same[i]] == drafter->probabilities()[i]);
            n_found++;
        }
    }
    EXPECT(n_dropped > 10 && n_found > 30);
}

CHECK(a_text_in_pieces_is_the_same_text) {
    const tokens text = {3, 5, 8, 3, 5, 9, 3, 5};
    const auto in_pieces = drafter_after({3, 5});
    for (size_t at : {2, 3, 4, 7}) {
        const size_t end = at == 4 ? 7 : at + 1;
        in_pieces->start(); // a draft that comes to nothing
        in_pieces->extend(&text[at], (int32_t) (end - at));
    }
    EXPECT(grown(*in_pieces, 30) == grown(*drafter_after(text), 30));
}

// --- earlier texts ---------------------------------------------------------------------------------------------------

static const tokens SONG = {4, 9, 7, 30, 12, 25, 3, 18, 22, 6, 31, 17, 2, 28};

static tokens first_of_song(size_t n, std::initializer_list<int32_t> more = {}) {
    tokens text(SONG.begin(), SONG.begin() + n);
    text.insert(text.end(), more);
    return text;
}

CHECK(what_followed_in_an_earlier_text_is_offered) {
    const auto known = new_knowledge();
    const auto drafter = drafter_after(SONG, known);
    drafter->begin(SONG.data(), 1);
    for (const auto & of : {drafter_after(first_of_song(5), known), drafter_after(first_of_song(5), known, true)}) {
        const grown draft(*of, 12);
        const tokens path = draft.first_path();
        EXPECT(path.size() >= 3 && tokens(path.begin(), path.begin() + 3) == tokens({25, 3, 18}));
        EXPECT(draft.source[1] == MP_BY_EARLIER);
    }
    EXPECT(grown(*drafter_after(first_of_song(5)), 12).size() == 1);
    drafter->begin(SONG.data(), 5); // whose own text that was
    EXPECT(grown(*drafter, 12).source[1] == MP_BY_EARLIER);
}

CHECK(the_newest_three_of_the_earlier_texts_count) {
    const auto known = new_knowledge();
    for (int32_t after : {32, 33, 34, 35}) {
        drafter_after(first_of_song(5, {after}), known);
    }
    const auto found = grown(*drafter_after(first_of_song(5), known), 64).after_root();
    EXPECT(found.size() == 3 && found.count(33) && found.count(34) && found.count(35));
}

CHECK(the_text_itself_comes_before_earlier_ones) {
    const auto known = new_knowledge();
    drafter_after(first_of_song(5, {33}), known);
    tokens text = first_of_song(5, {34, 1});
    text.insert(text.end(), SONG.begin(), SONG.begin() + 5);
    const grown draft(*drafter_after(text, known), 64);
    EXPECT(draft.after_root().size() == 2 && draft.token[1] == 34);
    EXPECT(draft.source_of(34) == MP_BY_NGRAM && draft.source_of(33) == MP_BY_EARLIER);
}

CHECK(the_text_itself_is_no_earlier_one) {
    std::mt19937 random(1);
    for (int i = 0; i < 60; i++) {
        tokens text(1 + random() % 80);
        for (int32_t & token : text) {
            token = (int32_t) (random() % 4);
        }
        for (int source : grown(*drafter_after(text), 32).source) {
            EXPECT(source != MP_BY_EARLIER);
        }
    }
}

CHECK(earlier_texts_take_a_bounded_place) {
    constexpr int32_t n_vocab = 30000;
    const auto known = new_knowledge(n_vocab);
    std::mt19937 random(3);
    std::vector<size_t> sizes;
    tokens text(20000);
    for (int i = 0; i < 12; i++) {
        for (int32_t & token : text) {
            token = (int32_t) (random() % n_vocab);
        }
        drafter_after(text, known);
        sizes.push_back(known->save().size());
    }
    EXPECT(sizes[11] < 4u << 20 && (double) sizes[11] < 1.05 * (double) sizes[7]);
    const tokens part(text.end() - 60, text.end() - 40);
    const tokens path = grown(*drafter_after(part, known), 12).first_path();
    EXPECT(path.size() >= 3 && tokens(path.begin(), path.begin() + 3) == tokens(text.end() - 40, text.end() - 37));
}
