// LoRA adapters: two small matrices for each weight that they change, whose product is added to it.
#pragma once

#include "model/model.h"

namespace mp {

// Checks the adapter's file and adds it to the model, for all contexts that are made afterwards. Throws mp::failure.
// Returns whether it changes the embeddings of tokens, which llama.cpp computes with any kernels.
bool add_adapter(mp_model & model, const mp_lora & lora);

// Has a new context use the adapters of its model.
void use_adapters(llama_context * ctx, const mp_model & model);

} // namespace mp
