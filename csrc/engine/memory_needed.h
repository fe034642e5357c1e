// What a model, a context and an engine would take of memory, found out with llama.cpp's own sizes before any weights are
// read.
#pragma once

#include "maskprobe.h"

namespace mp {

// Throws as model_open() and context_open() do, but that something does not fit is said in mp_memory::problem.
mp_memory memory_needed(const char * path, const mp_model_params & model, const mp_context_params & context,
                        const mp_engine_params * engine);

// Throws MP_ERR_MEMORY where a context of a size that was asked for does not fit, and as memory_needed(). Where there is
// plenty of memory only the file's metadata are read for it.
void refuse_what_does_not_fit(const char * path, const mp_model_params & model, const mp_context_params & context,
                              const mp_engine_params * engine);

} // namespace mp
