// The C functions of a context.
#include "session/context.h"

#include "platform/runtime.h"
#include "session/session.h"
#include "status.h"

using namespace mp;

mp_context_params mp_context_default_params(void) {
    mp_context_params params = {};
    params.n_sessions_max = 1;
    params.n_batch = 2048;
    params.n_rows_max = 64;
    params.n_top_max = 64;
    params.type_k = "f16";
    params.type_v = "f16";
    params.flash_attn = -1;
    params.offload_kqv = true;
    return params;
}

mp_status mp_context_open(mp_model * model, const mp_context_params * params, mp_context ** out) {
    return guarded([&] {
        if (!model || !out) {
            fail(MP_ERR_ARGUMENT, "mp_context_open: model and out must not be NULL");
        }
        *out = nullptr;
        check_process();
        runtime_init();
        *out = context_open(model_retain(model), params ? *params : mp_context_default_params());
    });
}

void mp_context_free(mp_context * context) {
    context_close(context);
}

int32_t mp_context_n_ctx(const mp_context * context) {
    return context ? context->n_ctx : 0;
}

int32_t mp_context_n_threads(const mp_context * context) {
    return context ? context->n_threads : 0;
}

int32_t mp_context_max_chain(const mp_context * context) {
    return context ? context->max_chain : 0;
}

mp_status mp_context_decode(mp_context * context, int32_t n, mp_session * const * sessions, const mp_tree * trees,
                            mp_pass * passes) {
    return guarded([&] {
        if (!context || !sessions || !trees || !passes) {
            fail(MP_ERR_ARGUMENT, "mp_context_decode: context, sessions, trees and passes must not be NULL");
        }
        const entry inside(context->guard);
        context->decode(n, sessions, trees, passes);
    });
}

mp_status mp_context_tap(mp_context * context, const int32_t * layers, int32_t n) {
    return guarded([&] {
        if (!context || n < 0 || (n > 0 && !layers)) {
            fail(MP_ERR_ARGUMENT, "mp_context_tap: %d layers of a context, which must not be NULL", n);
        }
        const entry inside(context->guard);
        context->tap(layers, n);
    });
}

mp_status mp_context_get_part(mp_context * context, int32_t i, mp_part * out) {
    return guarded([&] {
        if (!context || !out) {
            fail(MP_ERR_ARGUMENT, "mp_context_get_part: context and out must not be NULL");
        }
        const entry inside(context->guard);
        if (i < 0 || !context->part(i, *out)) {
            fail(MP_ERR_ARGUMENT, "mp_context_get_part: there is no part %d", i);
        }
    });
}

void mp_context_cancel(mp_context * context) {
    if (context) {
        context->cancel_requested.store(true);
    }
}
