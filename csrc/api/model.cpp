// The C functions of a model.
#include "model/model.h"

#include "engine/state_place.h"
#include "platform/fork_check.h"
#include "status.h"

#include <iterator>

using namespace mp;

mp_model_params mp_model_default_params(void) {
    mp_model_params params = {};
    params.n_gpu_layers = -1;
    params.use_mmap = true;
    params.self_check = true;
    params.load_mtp = true;
    return params;
}

mp_status mp_model_open(const char * path, const mp_model_params * params, mp_model ** out) {
    return guarded([&] {
        if (!path || !out) {
            fail(MP_ERR_ARGUMENT, "mp_model_open: path and out must not be NULL");
        }
        *out = nullptr;
        check_process();
        const mp_model_params p = params ? *params : mp_model_default_params();
        if (p.n_threads < 0 || p.n_threads > GGML_MAX_N_THREADS) {
            fail(MP_ERR_ARGUMENT, "n_threads = %d must be between 0 and %d", p.n_threads, GGML_MAX_N_THREADS);
        }
        if (p.n_loras < 0 || (p.n_loras > 0 && !p.loras)) {
            fail(MP_ERR_ARGUMENT, "n_loras = %d adapters, which must not be NULL", p.n_loras);
        }
        if (p.n_split < 0 || (p.n_split > 0 && !p.split)) {
            fail(MP_ERR_ARGUMENT, "n_split = %d shares, which must not be NULL", p.n_split);
        }
        *out = model_open(path, p);
    });
}

void mp_model_free(mp_model * model) {
    model_close(model);
}

mp_status mp_model_get_info(const mp_model * model, mp_model_info * out) {
    return guarded([&] {
        if (!model || !out) {
            fail(MP_ERR_ARGUMENT, "mp_model_get_info: model and out must not be NULL");
        }
        *out = model->info;
    });
}

const char * mp_model_metadata(const mp_model * model, const char * key) {
    if (!model || !key) {
        return nullptr;
    }
    const auto found = model->metadata.find(key);
    return found != model->metadata.end() ? found->second.c_str() : nullptr;
}

const char * mp_model_metadata_key(const mp_model * model, int32_t i) {
    if (!model || i < 0 || (size_t) i >= model->metadata.size()) {
        return nullptr;
    }
    return std::next(model->metadata.begin(), i)->first.c_str();
}

mp_status mp_model_identity(const mp_model * model, const char ** identity, const char ** heads) {
    static thread_local std::string heads_text;
    return guarded([&] {
        if (!model || !identity || !heads) {
            fail(MP_ERR_ARGUMENT, "mp_model_identity: model, identity and heads must not be NULL");
        }
        heads_text = heads_place(*model, model->identity());
        *identity = model->identity().c_str();
        *heads = heads_text.c_str();
    });
}

mp_status mp_model_embedding_rows(const mp_model * model, const int32_t * tokens, int32_t n, float * out) {
    return guarded([&] {
        if (!model || (n > 0 && (!tokens || !out)) || n < 0) {
            fail(MP_ERR_ARGUMENT, "mp_model_embedding_rows: model, tokens and out must not be NULL, n = %d must be >= 0", n);
        }
        model->embedding_rows(tokens, n, out);
    });
}
