// Trained heads for an engine: which file, and whether they can be used there.
#pragma once

#include "draft/head.h"
#include "session/context.h"

#include <memory>
#include <string>

namespace mp {

// `path`: a file; "" for the one at the model's place in the user's cache folder, if there is one that can be used: else
// `note` says why not; NULL for none. nullptr: there are none. Throws what is wrong with a file that was named.
std::shared_ptr<head> open_heads(const mp_context & context, const char * path, std::string & note);

} // namespace mp
