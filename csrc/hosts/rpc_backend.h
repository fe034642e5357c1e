// ggml's RPC backend: part of llama.cpp where that was built with it, else a module that is loaded when it is first wanted.
#pragma once

#include "ggml-backend.h"

namespace mp {

// One of its functions. Throws MP_ERR_UNSUPPORTED where there is no such backend, with the way to get it.
void * find_rpc_function(const char * name);

template <typename F> F rpc_function(const char * name) {
    return (F) find_rpc_function(name);
}

} // namespace mp
