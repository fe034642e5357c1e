// Two functions of llama.cpp that its library exports and its public headers lack: the hidden states that a layer for
// multi-token prediction (MTP, "nextn") starts from, and its own for the token after that. Declared as in src/llama-ext.h.
//
// Their names say which arguments they take, so a library with other ones has none of these; and maskprobe starts only with
// the exact ggml that it was built for (platform/runtime.cpp).
#pragma once

#include "llama.h"

// Where they are missing, they are null.
#ifdef __APPLE__
__attribute__((weak_import)) void llama_set_embeddings_nextn(llama_context * ctx, bool value, bool masked);
__attribute__((weak_import)) float * llama_get_embeddings_nextn_ith(llama_context * ctx, int32_t i);
#else
__attribute__((weak)) void llama_set_embeddings_nextn(llama_context * ctx, bool value, bool masked);
__attribute__((weak)) float * llama_get_embeddings_nextn_ith(llama_context * ctx, int32_t i);
#endif

namespace mp {

inline bool has_nextn_states() {
    return llama_set_embeddings_nextn != nullptr && llama_get_embeddings_nextn_ith != nullptr;
}

// The decodes that follow keep the states: of all rows, or with `outputs_only` of the output rows. Free where it is off.
inline void keep_nextn_states(llama_context * ctx, bool wanted, bool outputs_only) {
    llama_set_embeddings_nextn(ctx, wanted, outputs_only);
}

// (n_embd_out) of a row of the last decode's batch, nullptr where there is none. Valid until the next decode.
inline const float * nextn_state(llama_context * ctx, int32_t row) {
    return llama_get_embeddings_nextn_ith(ctx, row);
}

} // namespace mp
