#include "engine/open_heads.h"

#include "engine/state_place.h"
#include "heads/mtp_heads.h"
#include "heads/sampler_head.h"
#include "status.h"

#include <unistd.h>

namespace mp {

std::string heads_file(const mp_model & model, const char * path) {
    if (!path || path[0] != '\0') {
        return path ? path : "";
    }
    const std::string place = heads_place(model, model.identity());
    return !place.empty() && access(place.c_str(), F_OK) == 0 ? place : "";
}

static head_model wanted_by(const mp_model & model) {
    return {model.info.n_embd, model.info.n_vocab, model.info.n_layer, model.identity()};
}

static std::shared_ptr<head> open_sampler(const model_ref & model, const head_file & file) {
    if (!model->embeddings.is_open() || model->embeddings.n_embd() != model->info.n_embd ||
        model->embeddings.n_rows() < model->info.n_vocab) {
        fail(MP_ERR_UNSUPPORTED, "this %s model has no embedding table that heads can read", model->info.arch);
    }
    return std::make_shared<sampler_head>(file, [=](int32_t token, float * out) { model->embedding_rows(&token, 1, out); });
}

static std::shared_ptr<head> open_file(mp_context & context, const std::string & path) {
    context.check_hidden(true);
    const head_file file(path, wanted_by(*context.model));
    std::shared_ptr<head> opened;
    switch (file.kind()) {
    case head_kind::sampler:
        opened = open_sampler(context.model, file);
        break;
    case head_kind::mtp:
        opened = std::make_shared<mtp_heads>(file);
        break;
    }
    context.tap_for_heads(opened->layers());
    return opened;
}

std::shared_ptr<head> open_heads(mp_context & context, const char * path, std::string & note) {
    const std::string place = heads_file(*context.model, path);
    if (place.empty()) {
        return nullptr;
    }
    try {
        return open_file(context, place);
    } catch (const failure & e) {
        if (path[0] != '\0') {
            throw;
        }
        note = format("the heads %s are not used: %s", place.c_str(), e.what());
        return nullptr;
    }
}

bool heads_need_taps(const mp_model & model, const char * path) {
    const std::string place = heads_file(model, path);
    if (place.empty() || !model.info.can_tree) {
        return false;
    }
    try {
        const head_file file(place, wanted_by(model));
        return file.kind() == head_kind::mtp && !mtp_heads::layers_in(file).empty();
    } catch (const failure &) {
        return false;
    }
}

bool open_own_layers(mp_context & context, const char * path, std::string & note) {
    if (!path || path[0] != '\0' || context.model->info.n_layer_mtp == 0) {
        return false;
    }
    try {
        context.open_mtp();
    } catch (const failure & e) {
        note +=
            (note.empty() ? "" : "; ") + format("the file's layers for multi-token prediction are not used: %s", e.what());
        return false;
    }
    return true;
}

} // namespace mp
