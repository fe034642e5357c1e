// A grammar as it is followed: rules of alternatives of elements, repetitions written out.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace mp {

struct grammar_element {
    enum kind : uint8_t {
        end,         // of an alternative
        alternative, // between two of them, only while the text is read
        rule,        // value: which
        character,   // value: its code point
        one_of,      // value: which of grammar_rules::classes
        any,         // any character
        token,       // value: its id
        other_token, // any token but this one
    } is;
    uint32_t value;
};

// [a-z_] or [^a-z_]
struct character_class {
    bool is_negated;
    std::vector<std::pair<uint32_t, uint32_t>> ranges; // from, to: both are in it
};

struct grammar_rules {
    std::vector<grammar_element> elements; // of all alternatives, each with its end
    std::vector<uint32_t> starts;          // of each alternative among the elements, rule after rule
    std::vector<uint32_t> first;           // (n_rules + 1) each rule's first alternative among the starts
    std::vector<character_class> classes;
    std::vector<bool> may_be_empty; // (n_rules)
    uint32_t root = 0;              // the rule where a text begins

    uint32_t n_rules() const { return (uint32_t) first.size() - 1; }
};

} // namespace mp
