// What is wrong with a grammar beyond its spelling: rules that are missing, or come back to themselves before a character.
#pragma once

#include "model/grammar_rules.h"
#include "model/model.h"

#include <string>

namespace mp {

// Reads and checks a grammar. Throws MP_ERR_ARGUMENT: one line that names the place and says what to do.
grammar_rules checked_grammar(const mp_model & model, const std::string & gbnf);

} // namespace mp
