// Where a model's state lies by default.
#pragma once

#include "model/model.h"

#include <string>

namespace mp {

// MASKPROBE_STATE_DIR, or maskprobe/state in the user's cache directory, and a name made of the model's identity.
// "" where the user has no home.
std::string default_place(const mp_model & model, const std::string & identity);

// Of heads that were trained for the model, beside it. "" likewise.
std::string heads_place(const mp_model & model, const std::string & identity);

} // namespace mp
