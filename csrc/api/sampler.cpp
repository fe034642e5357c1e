// The C functions of a sampler.
#include "model/sampler.h"

#include "session/session.h"
#include "status.h"

using namespace mp;

mp_sampler_params mp_sampler_default_params(void) {
    mp_sampler_params params = {};
    params.temp = 0.8f;
    params.top_k = 40;
    params.top_p = 0.95f;
    params.min_p = 0.05f;
    params.penalty_last_n = 64;
    params.penalty_repeat = 1;
    params.seed = LLAMA_DEFAULT_SEED;
    return params;
}

mp_status mp_sampler_open(mp_model * model, const mp_sampler_params * params, mp_sampler ** out) {
    return guarded([&] {
        if (!model || !out) {
            fail(MP_ERR_ARGUMENT, "mp_sampler_open: model and out must not be NULL");
        }
        *out = nullptr;
        *out = new mp_sampler(model_retain(model), params ? *params : mp_sampler_default_params());
    });
}

void mp_sampler_free(mp_sampler * sampler) {
    if (sampler && !is_refused_child()) {
        delete sampler;
    }
}

mp_status mp_sampler_prime(mp_sampler * sampler, const int32_t * tokens, int32_t n) {
    return guarded([&] {
        if (!sampler || n < 0 || (n > 0 && !tokens)) {
            fail(MP_ERR_ARGUMENT, "mp_sampler_prime: sampler and tokens must not be NULL, n = %d", n);
        }
        const entry inside(sampler->guard);
        sampler->prime(tokens, n);
    });
}

mp_status mp_sampler_sample(mp_sampler * sampler, mp_session * session, int32_t row, int32_t * token) {
    return guarded([&] {
        if (!sampler || !session || !token) {
            fail(MP_ERR_ARGUMENT, "mp_sampler_sample: sampler, session and token must not be NULL");
        }
        const entry inside(sampler->guard);
        const entry inside_context(session->context->guard);
        if (sampler->model != session->context->model) {
            fail(MP_ERR_ARGUMENT, "the sampler belongs to another model than the session");
        }
        const float * logits = session->logits(row); // checks the row
        const int32_t best = session->best(row);
        if (best < 0) {
            fail(MP_ERR_NUMERIC,
                 "the logits of row %d have NaN or infinite values: the model file is damaged, or its weights overflow in "
                 "this cache type",
                 row);
        }
        *token = sampler->sample(logits, best);
        if (*token < 0) {
            fail(MP_ERR_STATE, "the grammar and the logit biases leave no token");
        }
    });
}
