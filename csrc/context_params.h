// How large a llama.cpp context to ask for: what the caller wants, within what memory holds.
#pragma once

#include "model.h"

namespace mp {

// Throws MP_ERR_ARGUMENT (which value is out of which range) and MP_ERR_MEMORY (with the numbers).
// Threads and callbacks are left to the caller.
llama_context_params choose_context_params(const mp_model & model, const mp_session_params & params);

// llama_init_from_model with its reasons as failures. Throws MP_ERR_MEMORY, or MP_ERR_FORMAT for a failed assertion.
llama_context * make_context(const mp_model & model, const llama_context_params & params);

} // namespace mp
