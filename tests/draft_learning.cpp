// What a drafter learns from prompts and passes.
#include "draft_checks.h"

CHECK(what_followed_a_token_is_offered_in_the_next_text) {
    const auto known = new_knowledge();
    for (int i = 0; i < 3; i++) {
        const auto drafter = drafter_after({20}, known);
        drafter->start();
        decoded_pass({20}, {-1}, {{{17, 0.8f}, {18, 0.1f}, {19, 0.02f}}}, {0}, {17}).observed_by(*drafter);
    }
    const grown draft(*drafter_after({20}, known), 8);
    EXPECT(draft.token[1] == 17 && draft.source[1] == MP_BY_TOKEN);
}

CHECK(the_newest_row_of_a_token_counts_most) {
    const auto known = new_knowledge();
    for (const likely & row : {likely{{17, 0.8f}, {16, 0.1f}}, likely{{18, 0.8f}, {16, 0.1f}}}) {
        const auto drafter = drafter_after({20}, known);
        drafter->start();
        decoded_pass({20}, {-1}, {row}, {0}, {5}).observed_by(*drafter);
    }
    const grown draft(*drafter_after({20}, known), 8);
    EXPECT(draft.token[1] == 18 && draft.find(0, 17) > 0 && draft.find(0, 16) > draft.find(0, 17));
}

CHECK(what_was_likely_in_the_prompt_is_offered_at_once) {
    const auto drafter = drafter_after({7, 8, 9});
    learn_prompt(*drafter, {{{21, 0.9f}, {22, 0.05f}}, {{23, 0.9f}, {24, 0.05f}}, {{25, 0.6f}, {7, 0.3f}}});
    const int32_t newest = 7;
    drafter->extend(&newest, 1);
    const grown draft(*drafter, 16);
    const auto found = draft.after_root();
    EXPECT(found.count(8) && found.count(21) && found.count(25));
    EXPECT(draft.source_of(21) == MP_BY_TOKEN && draft.source_of(25) == MP_BY_LAST);
}

CHECK(the_row_before_counts_for_the_token_after_it_only) {
    for (int32_t n_more : {0, 1, 2}) {
        const auto drafter = drafter_after({7, 8, 9});
        learn_prompt(*drafter, {{{25, 0.6f}, {26, 0.3f}}});
        const int32_t more[] = {30, 31};
        drafter->extend(more, n_more);
        int n_last = 0;
        for (int source : grown(*drafter, 16).source) {
            n_last += source == MP_BY_LAST;
        }
        EXPECT(n_last == (n_more == 1 ? 2 : 0));
    }
}

// Each row is known after its token, its pair and its triple in the text, whose beginning has no rows here.
CHECK(rows_of_the_prompt_belong_to_its_last_tokens) {
    const auto known = new_knowledge();
    const auto drafter = drafter_after({1, 2, 3, 4, 2, 3}, known);
    learn_prompt(*drafter, {{{11, 0.95f}}, {{12, 0.95f}}, {{13, 0.95f}}, {{14, 0.95f}}}); // of 3, 4, 2, 3
    const auto after = [&](const tokens & text) { return grown(*drafter_after(text, known), 16).after_root(); };
    EXPECT(after({30, 1}).empty() && after({30, 5}).empty());
    EXPECT(after({30, 4}).size() == 1 && after({30, 4}).count(12) && after({30, 2}).count(13));
    EXPECT(after({30, 3}).size() == 2 && after({30, 3}).count(11) && after({30, 3}).count(14));
    EXPECT(after({30, 3, 4})[12] > after({30, 4})[12]);    // the pair is known too,
    EXPECT(after({2, 3, 4})[12] != after({30, 3, 4})[12]); // and the triple: what that adds is for the weights to say
    const auto preferred = [&](const tokens & text) {
        auto found = after(text);
        return std::log(found[11] / found[14]);
    };
    EXPECT(preferred({1, 2, 3}) > preferred({4, 2, 3})); // of the text's first tokens as well
}

// With the two tokens before them, in the tree and in the text before its root.
CHECK(rows_of_a_pass_belong_to_their_nodes) {
    const auto in_tree = new_knowledge(), in_text = new_knowledge();
    const auto drafter = drafter_after({9}, in_tree);
    drafter->start();
    decoded_pass({9, 1, 2, 3, 5, 2, 3}, {-1, 0, 1, 2, 0, 4, 5},
                 {{{20, 0.9f}}, {{21, 0.9f}}, {{22, 0.9f}}, {{11, 0.9f}}, {{23, 0.9f}}, {{24, 0.9f}}, {{14, 0.9f}}}, {0},
                 {20})
        .observed_by(*drafter);
    for (const auto & [first, next] : {std::pair<int32_t, int32_t>{1, 11}, {5, 14}}) {
        const auto other = drafter_after({first, 2, 3}, in_text);
        other->start();
        decoded_pass({3}, {-1}, {{{next, 0.9f}}}, {0}, {20}).observed_by(*other);
    }
    for (const auto & known : {in_tree, in_text}) {
        const auto preferred = [&](const tokens & text) {
            auto found = grown(*drafter_after(text, known), 16).after_root();
            EXPECT(found.count(11) && found.count(14));
            return std::log(found[11] / found[14]);
        };
        EXPECT(preferred({1, 2, 3}) > preferred({5, 2, 3}) + 0.1f);
    }
}

CHECK(what_else_was_likely_where_the_root_was_drawn_is_offered) {
    const auto drafter = drafter_after({5});
    drafter->start();
    decoded_pass({5}, {-1}, {{{9, 0.5f}, {8, 0.3f}, {7, 0.1f}}}, {0}, {9}).observed_by(*drafter);
    const grown draft(*drafter, 16);
    EXPECT(draft.after_root().size() == 2); // the root itself is not among them
    EXPECT(draft.source_of(8) == MP_BY_LAST && draft.source_of(7) == MP_BY_LAST);
}

CHECK(accepted_candidates_become_likelier_and_rejected_ones_less) {
    const auto probability_after = [](int32_t outcome) {
        const auto drafter = drafter_after({7, 7}); // too short for n-grams of earlier texts
        for (int i = 0; i < 25; i++) {
            const grown draft(*drafter, 2);
            EXPECT(draft.token == tokens({7, 7}));
            const tokens path = outcome == 7 ? tokens{0, 1} : tokens{0};
            const tokens emitted = outcome == 7 ? tokens{7, 8} : tokens{outcome};
            decoded_pass({7, 7}, {-1, 0}, {{{7, 0.05f}}, {{7, 0.05f}}}, path, emitted).observed_by(*drafter);
            const int32_t text[] = {7, 7};
            drafter->begin(text, 2);
        }
        return grown(*drafter, 2).probability[1];
    };
    EXPECT(probability_after(7) > probability_after(9));
}

CHECK(rejected_rows_speak_for_the_next_places) {
    const auto drafter = drafter_after({5, 6, 5});
    EXPECT(grown(*drafter, 3).token == tokens({5, 6, 5}));
    decoded_pass({5, 6, 5}, {-1, 0, 1}, {{{9, 0.9f}, {6, 0.1f}}, {{33, 0.7f}, {34, 0.2f}}, {{35, 0.8f}, {36, 0.1f}}}, {0},
                 {9})
        .observed_by(*drafter);
    const grown draft(*drafter, 16);
    EXPECT(draft.after_root().size() == 3); // 6 too, of the row before
    EXPECT(draft.source_of(33) == MP_BY_SIBLING && draft.source_of(34) == MP_BY_SIBLING);
    EXPECT(draft.find(draft.find(0, 33), 35) > 0 && draft.find(draft.find(0, 33), 36) > 0);
}

CHECK(rows_of_other_places_do_not_speak_for_the_next) {
    const auto drafter = drafter_after({5, 6, 5, 7, 5});
    const grown before(*drafter, 3); // 5 and two children, 6 and 7
    EXPECT(before.parent == tokens({-1, 0, 0}));
    decoded_pass(before.token, before.parent, {{{before.token[1], 0.9f}}, {{9, 0.9f}}, {{33, 0.9f}}}, {0, 1},
                 {before.token[1], 9})
        .observed_by(*drafter); // the rejected child stood one place before the new root's children
    for (int source : grown(*drafter, 16).source) {
        EXPECT(source != MP_BY_SIBLING);
    }
}

CHECK(a_mask_speaks_for_the_next_places) {
    const auto drafter = drafter_after({5});
    drafter->start();
    decoded_pass pass({5, 6}, {-1, 0}, {{{9, 0.9f}}, {{9, 0.9f}}, {{21, 0.9f}}, {{23, 0.9f}}, {{22, 0.9f}}}, {0}, {9});
    pass.owners = {0, 1, 0}; // node 1 was not accepted
    pass.observed_by(*drafter);
    const grown draft(*drafter, 16);
    EXPECT(draft.source_of(21) == MP_BY_MASK && draft.find(draft.find(0, 21), 22) > 0);
    EXPECT(draft.find(0, 23) < 0 && draft.find(draft.find(0, 21), 23) < 0);
}

CHECK(what_a_pass_left_is_for_the_next_draft_only) {
    const auto drafter = drafter_after({5});
    const auto passes_over = [&] {
        drafter->start();
        decoded_pass pass({5, 6}, {-1, 0}, {{{9, 0.9f}}, {{31, 0.9f}}, {{21, 0.9f}}}, {0}, {9});
        pass.owners = {0};
        pass.observed_by(*drafter);
    };
    passes_over();
    const int32_t token = 12;
    drafter->extend(&token, 1);
    EXPECT(grown(*drafter, 16).size() == 1);
    passes_over();
    drafter->begin(&token, 1);
    EXPECT(grown(*drafter, 16).size() == 1);
}

// As if those rows had not been decoded.
CHECK(rows_that_are_not_finite_teach_nothing) {
    const auto clean = new_knowledge(), spoiled = new_knowledge();
    const auto one = drafter_after({1, 2, 1}, clean), other = drafter_after({1, 2, 1}, spoiled);
    one->start();
    decoded_pass({1}, {-1}, {{{3, 0.5f}, {4, 0.2f}}}, {0}, {3}).observed_by(*one);
    EXPECT(grown(*other, 2).token == tokens({1, 2}));
    decoded_pass pass({1, 2}, {-1, 0}, {{{3, 0.5f}, {4, 0.2f}}, {{5, 0.5f}, {6, 0.2f}}, {{7, 0.5f}, {8, 0.2f}}}, {0}, {3});
    pass.owners = {0};
    pass.spoil(1);
    pass.spoil(2);
    pass.observed_by(*other);
    EXPECT(clean->save() == spoiled->save());
    EXPECT(grown(*one, 30) == grown(*other, 30));
}

CHECK(an_observed_draft_is_over) {
    const auto drafter = drafter_after({1, 2, 1});
    const grown draft(*drafter, 2);
    std::mt19937 random(4);
    random_pass(random, draft).observed_by(*drafter);
    EXPECT(drafter->n_nodes() == 0 && drafter->next() == 0.0f);
}

// Nodes were cut out before the pass; what was accepted is told by the nodes of the pass.
CHECK(a_part_of_the_draft_teaches_the_same_about_its_path) {
    for (uint32_t seed = 0; seed < 12; seed++) {
        std::mt19937 random(seed);
        std::vector<mp::example> examples[2];
        for (int part = 0; part < 2; part++) {
            const auto drafter = drafter_after({1, 2, 3, 1, 2}, learned(seed));
            drafter->record = &examples[part];
            const grown draft(*drafter, 24);
            const int32_t end = 12 + (int32_t) (seed % 12);
            std::vector<bool> on_path(draft.size());
            for (int32_t node = end; node >= 0; node = draft.parent[node]) {
                on_path[node] = true;
            }
            decoded_pass pass;
            tokens place(draft.size(), -1);
            for (int32_t node = 0; node < draft.size(); node++) {
                const bool has_parent = node == 0 || place[draft.parent[node]] >= 0;
                if (part == 0 || on_path[node] || (has_parent && node % 3 == 0)) {
                    place[node] = (int32_t) pass.token.size();
                    pass.token.push_back(draft.token[node]);
                    pass.parent.push_back(node == 0 ? -1 : place[draft.parent[node]]);
                    pass.add(random_row(random, 4));
                }
                if (on_path[node]) {
                    pass.path.push_back(place[node]);
                    pass.emitted.push_back(draft.token[node]);
                }
            }
            EXPECT(part == 0 || (int32_t) pass.token.size() < draft.size());
            pass.emitted.erase(pass.emitted.begin());
            pass.emitted.push_back(39);
            pass.observed_by(*drafter);
        }
        EXPECT(examples[0].size() == examples[1].size() && !examples[0].empty());
        for (size_t i = 0; i < examples[0].size(); i++) {
            EXPECT(examples[0][i].depth == examples[1][i].depth && examples[0][i].right == examples[1][i].right);
        }
    }
}

CHECK(nodes_that_the_draft_has_not_are_learned_from_as_rows) {
    const auto known = new_knowledge();
    const auto drafter = drafter_after({1, 2, 1}, known);
    EXPECT(grown(*drafter, 2).token == tokens({1, 2}));
    decoded_pass({1, 30, 31}, {-1, 0, 1}, {{{30, 0.9f}}, {{31, 0.9f}}, {{32, 0.9f}}}, {0, 1, 2}, {30, 31, 33})
        .observed_by(*drafter);
    EXPECT(grown(*drafter, 4).token[0] == 33);
    EXPECT(grown(*drafter_after({31}, known), 4).token == tokens({31, 32}));
}

CHECK(examples_are_recorded_where_they_are_wanted) {
    const auto drafter = drafter_after({1, 2, 3, 1, 2}, learned(2));
    std::vector<mp::example> examples;
    drafter->record = &examples;
    std::mt19937 random(7);
    int32_t n_right = 0, n_accepted = 0;
    for (int i = 0; i < 40; i++) {
        const decoded_pass pass = random_pass(random, grown(*drafter, 16));
        pass.observed_by(*drafter);
        n_accepted += (int32_t) pass.path.size() - 1;
        for (const mp::example & e : examples) {
            EXPECT(e.depth < mp::N_DEPTHS && e.right <= 1);
            n_right += e.right;
        }
    }
    EXPECT(n_accepted > 10 && n_right >= n_accepted); // the token after the path may have been a candidate too
    drafter->record = nullptr;
    examples.clear();
    walk(*drafter, random, 3);
    EXPECT(examples.empty());
}

// A mask after the root foretells a token that nothing else speaks for.
CHECK(what_masks_gain_is_learned) {
    for (bool right : {true, false}) {
        std::mt19937 random(5);
        const auto drafter = drafter_after({0});
        const double at_first = drafter->mask_gains()[0];
        int32_t newest = 0;
        for (int i = 0; i < 60; i++) {
            const auto foretold = (int32_t) (random() % N_VOCAB), emitted = (int32_t) (random() % N_VOCAB);
            drafter->start();
            decoded_pass pass({newest}, {-1}, {{{emitted, 0.05f}}, {{foretold, 0.95f}}}, {0}, {emitted});
            pass.owners = {0};
            pass.observed_by(*drafter);
            newest = right ? foretold : (int32_t) (random() % N_VOCAB);
            drafter->start();
            decoded_pass({emitted}, {-1}, {random_row(random, 1)}, {0}, {newest}).observed_by(*drafter);
        }
        EXPECT(right ? drafter->mask_gains()[0] > 2 * at_first : drafter->mask_gains()[0] < at_first / 2);
    }
}

// Text and n-grams double their room now and then: of 60 passes, at most one each.
CHECK(a_steady_step_allocates_nothing) {
    std::mt19937 random(8);
    const auto drafter = drafter_after({1, 2, 3});
    walk(*drafter, random, 400);
    int64_t n = 0;
    for (int i = 0; i < 60; i++) {
        const decoded_pass pass = random_pass(random, grown(*drafter, 32));
        const int64_t before = n_allocated;
        pass.observed_by(*drafter);
        drafter->start();
        for (int32_t node = 1; node < 32 && drafter->next() > 0; node++) {
            drafter->take();
        }
        n += n_allocated - before;
    }
    EXPECT(n <= 2);
}
