// Trained heads for an engine: which file, and whether they can be used there.
#pragma once

#include "draft/head.h"
#include "session/context.h"

#include <memory>
#include <string>

namespace mp {

// `path`: a file; "" for the one at the model's place in the user's cache folder, if there is one that can be used: else
// `note` says why not; NULL for none. nullptr: there are none. Throws what is wrong with a file that was named.
// The context is tapped for them.
std::shared_ptr<head> open_heads(mp_context & context, const char * path, std::string & note);

// The file that they come from, "" where there is none.
std::string heads_file(const mp_model & model, const char * path);

// Whether they read states between layers, for which the context must have taps. false for those that cannot be used: what
// is wrong with them is said when they are opened.
bool heads_need_taps(const mp_model & model, const char * path);

// Without any, where `path` is "": the layers for multi-token prediction of the model's own file. Whether they are open in
// the context then; where it has some that cannot be used, `note` says why not.
bool open_own_layers(mp_context & context, const char * path, std::string & note);

} // namespace mp
