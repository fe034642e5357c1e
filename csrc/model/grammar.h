// Follows a text through a grammar, and says which tokens may come next.
//
// The meaning is that of llama.cpp's own GBNF matcher, which keeps every way to read the text as a stack of its own: where
// n characters can be read in k ways each, that is k^n of them. Here ways that wait for the same rule at the same place
// share a frame, whose edges lead to all that called it, so that the work grows with the grammar and the text only.
#pragma once

#include "model/grammar_rules.h"
#include "model/model.h"
#include "model/token_pieces.h"

#include "llama.h"

#include <string>
#include <vector>

namespace mp {

class grammar {
public:
    grammar(const mp_model & model, const std::string & gbnf); // MP_ERR_ARGUMENT where it cannot be read

    // Whether the tokens may come next, one after the other.
    bool allows(const int32_t * tokens, int32_t n);
    // What may not come next gets a logit of minus infinity.
    void mask(llama_token_data_array & candidates);
    void accept(int32_t token); // one that may come next

private:
    // Where a reading of the text stands: an element that takes characters or a token, and what goes on after its rule.
    struct reading {
        uint32_t at, frame;
    };
    // A rule that was called somewhere in the text; where it ends, each edge goes on.
    struct frame {
        uint32_t first_edge;
    };
    struct edge {
        uint32_t go_on, frame, next; // the element after the call, the caller's frame, the frame's next edge
    };
    // All readings of a text.
    struct place {
        std::vector<reading> readings;
        bool is_complete = false; // the text may end here
        size_t n_frames = 0, n_edges = 0;

        bool is_dead() const { return readings.empty() && !is_complete; }
    };
    // The bytes of a character that a token has begun.
    struct unfinished {
        uint32_t value = 0;
        int32_t n_missing = 0;
    };

    class reading_set {
    public:
        void clear();
        bool insert(reading r); // false: it is in the set

    private:
        void grow();
        struct slot {
            uint64_t key = 0, round = 0;
        };
        std::vector<slot> slots = std::vector<slot>(64);
        uint64_t round = 1;
        size_t n = 0;
    };

    bool read(int32_t token, unfinished & rest);
    bool takes(const grammar_element & e, uint32_t character) const;
    bool may_take(const grammar_element & e, const unfinished & rest) const;
    bool may_go_on(const place & from, const unfinished & rest) const;
    bool may_be_token(int32_t token) const;
    bool takes_token(const grammar_element & e, int32_t token) const;

    void forget_trials();
    place & begin(size_t depth);
    void follow(reading r, place & to);
    void step(size_t depth, uint32_t character);
    size_t step_over(size_t depth, int32_t token, bool whole);
    void drop_unreachable();
    void spend(int64_t n);

    const mp_model & model;
    const token_pieces & pieces;
    const grammar_rules rules;

    std::vector<place> places; // [0]: after the text; the others are tried out
    unfinished pending;        // after the text
    std::vector<frame> frames; // [0]: the text as a whole
    std::vector<edge> edges;
    size_t n_reachable = 1; // of the frames, when that was looked at last

    // While a place is found.
    std::vector<reading> work;
    reading_set seen;
    size_t n_old_frames = 0;
    std::vector<uint32_t> frame_of; // (n_rules) made for this place, if it is one of the new frames and:
    std::vector<uint32_t> rule_of;  // (frames) the rule
    int64_t n_steps = 0;

    std::vector<uint32_t> characters; // of the token that was read last
    std::vector<uint32_t> path;       // the characters that led to places[1], [2], ...
    std::vector<bool> allowed;        // (n_vocab)
};

} // namespace mp
