// A function of llama.cpp that its library exports and its public headers lack: what a context takes of each kind of
// memory. Declared as in src/llama-ext.h; see nextn_bridge.h for why that is safe.
#pragma once

#include "ggml-backend.h"
#include "llama.h"

#include <cstddef>
#include <map>

struct llama_memory_breakdown_data { // bytes
    size_t model, context, compute;
};
using llama_memory_breakdown = std::map<ggml_backend_buffer_type_t, llama_memory_breakdown_data>;

#ifdef __APPLE__
__attribute__((weak_import)) llama_memory_breakdown llama_get_memory_breakdown(const llama_context * ctx);
#else
__attribute__((weak)) llama_memory_breakdown llama_get_memory_breakdown(const llama_context * ctx);
#endif
