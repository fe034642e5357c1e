// GBNF as llama.cpp reads it, within limits. llama.cpp's own reader has none: a stack overflow ends the process where groups
// are nested deeply, and {3,1} or a repetition of repetitions takes all memory.
#pragma once

#include "model/grammar_rules.h"
#include "model/model.h"

#include <string>
#include <string_view>

namespace mp {

// A rule of the text, or one that stands for a group or a repetition of it.
struct read_rule {
    std::string_view name; // of the rule of the text, and there: one name may be that of many parts
    int32_t line = 0;      // where it is first named
    bool is_defined = false;
    std::vector<grammar_element> elements; // with `alternative` between alternatives and `end` after the last
};

struct read_grammar {
    std::vector<read_rule> rules;
    std::vector<character_class> classes;
    int32_t root = -1; // -1: no rule has this name
};

// Throws MP_ERR_ARGUMENT with the line and what to do. The text must live as long as what is read. The model's tokenizer
// reads <tokens>.
read_grammar read_gbnf(const mp_model & model, const std::string & text);

} // namespace mp
