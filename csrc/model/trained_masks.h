// Masks that were trained for a model: their vectors, and matrices of low rank that act on mask rows alone.
#pragma once

#include "kernels/ggml/row_additions.h"
#include "model/model.h"

#include "ggml-backend.h"

#include <memory>
#include <string>
#include <vector>

struct mp_masks {
    // Throws FILE, FORMAT (one line for what is wrong with the file), UNSUPPORTED (a model that cannot be probed, or whose
    // products are not maskprobe's), MEMORY.
    mp_masks(mp::model_ref model, const std::string & path);

    const mp::model_ref model;
    std::vector<float> vectors;       // (n_masks, n_embd), in the space of token embeddings
    mp::low_rank_of_weights low_rank; // may be empty

    int32_t n_masks() const { return (int32_t) (vectors.size() / model->info.n_embd); }

private:
    std::unique_ptr<ggml_context, decltype(&ggml_free)> tensors{nullptr, ggml_free};
    std::unique_ptr<ggml_backend_buffer, decltype(&ggml_backend_buffer_free)> memory{nullptr, ggml_backend_buffer_free};
};

namespace mp {

// Handles share the object, as a model's do.
using masks_ref = std::shared_ptr<mp_masks>;
mp_masks * masks_open(model_ref model, const std::string & path);
masks_ref masks_retain(const mp_masks * masks); // MP_ERR_STATE where it is closed
void masks_close(mp_masks * masks);

} // namespace mp
