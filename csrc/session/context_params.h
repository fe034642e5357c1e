// How large a llama.cpp context to ask for: what the caller wants, within what memory holds.
#pragma once

#include "kernels/ggml/accel_backend.h"
#include "model/model.h"

namespace mp {

// Throws MP_ERR_ARGUMENT: which value is out of which range.
void check_context_params(const mp_context_params & params);

// Sessions that the context has ids for: those of its callers, and where trunks cost no memory of their own those that an
// engine keeps as a cache of prompts.
int32_t n_sessions_held(const mp_model & model, const mp_context_params & params);

// Throws MP_ERR_ARGUMENT and MP_ERR_MEMORY (with the numbers). Threads and callbacks are left to the caller.
llama_context_params choose_context_params(const mp_model & model, const mp_context_params & params);

// Whether NaN in a cell harms rows that must not see it: attention that multiplies by zero rather than skip such cells.
bool spreads_nan(const mp_model & model, const llama_context_params & params);

// llama_init_from_model with its reasons as failures. `link` serves maskprobe's kernels and must outlive the context.
// Throws MP_ERR_MEMORY, or MP_ERR_FORMAT for a failed assertion.
llama_context * make_context(const mp_model & model, const llama_context_params & params, accel_link & link);

// Threads of the next passes. With maskprobe's kernels the workers of `link` get them and ggml's own operations run on one,
// unless some of those are worth more: ggml's threads wait for one another after every operation, and for very long where
// a core is busy.
void set_threads(llama_context * ctx, const mp_model & model, accel_link & link, int32_t n_threads);

} // namespace mp
