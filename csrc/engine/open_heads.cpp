#include "engine/open_heads.h"

#include "engine/state_place.h"
#include "heads/sampler_head.h"
#include "status.h"

#include <unistd.h>

namespace mp {

static std::shared_ptr<head> open_file(const mp_context & context, const std::string & path, const std::string & identity) {
    const mp_model & model = *context.model;
    context.check_hidden(true);
    if (!model.embeddings.is_open() || model.embeddings.n_embd() != model.info.n_embd ||
        model.embeddings.n_rows() < model.info.n_vocab) {
        fail(MP_ERR_UNSUPPORTED, "this %s model has no embedding table that heads can read", model.info.arch);
    }
    const auto embedding = [of = context.model](int32_t token, float * out) { of->embedding_rows(&token, 1, out); };
    return std::make_shared<sampler_head>(path, head_model{model.info.n_embd, model.info.n_vocab, identity}, embedding);
}

std::shared_ptr<head> open_heads(const mp_context & context, const char * path, std::string & note) {
    if (!path) {
        return nullptr;
    }
    const std::string & identity = context.model->identity();
    if (path[0] != '\0') {
        return open_file(context, path, identity);
    }
    const std::string place = heads_place(*context.model, identity);
    if (place.empty() || access(place.c_str(), F_OK) != 0) {
        return nullptr;
    }
    try {
        return open_file(context, place, identity);
    } catch (const failure & e) {
        note = format("the heads %s are not used: %s", place.c_str(), e.what());
        return nullptr;
    }
}

} // namespace mp
