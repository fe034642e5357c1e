// The C functions of a session.
#include "session/session.h"

#include "platform/runtime.h"
#include "status.h"

#include <unistd.h>

using namespace mp;

mp_session_params mp_session_default_params(void) {
    mp_session_params params = {};
    params.n_batch = 2048;
    params.n_rows_max = 64;
    params.n_top_max = 64;
    params.type_k = "f16";
    params.type_v = "f16";
    params.flash_attn = -1;
    params.offload_kqv = true;
    return params;
}

mp_status mp_session_open(mp_model * model, const mp_session_params * params, mp_session ** out) {
    return guarded([&] {
        if (!model || !out) {
            fail(MP_ERR_ARGUMENT, "mp_session_open: model and out must not be NULL");
        }
        *out = nullptr;
        runtime_init();
        *out = new mp_session(model_retain(model), params ? *params : mp_session_default_params());
    });
}

void mp_session_free(mp_session * session) {
    // In a forked child the worker threads do not exist: joining them would wait for ever.
    if (session && session->owner == getpid()) {
        delete session;
    }
}

int32_t mp_session_n_ctx(const mp_session * session) {
    return session ? session->n_ctx : 0;
}

int32_t mp_session_n_past(const mp_session * session) {
    return session ? (int32_t) session->tokens.size() : 0;
}

int32_t mp_session_n_threads(const mp_session * session) {
    return session ? session->n_threads : 0;
}

int32_t mp_session_max_chain(const mp_session * session) {
    return session ? session->max_chain : 0;
}

mp_status mp_session_set_prefix(mp_session * session, const int32_t * tokens, int32_t n, int32_t n_outputs, int32_t n_top,
                                mp_prefix * out) {
    mp_prefix ignored;
    mp_prefix & prefix = out ? *out : ignored;
    prefix = {};
    return guarded([&] {
        const session_entry entry(session, __func__);
        if (n < 0 || (n > 0 && !tokens)) {
            fail(MP_ERR_ARGUMENT, "a prefix of %d tokens", n);
        }
        session->set_prefix(tokens, n, n_outputs, n_top, prefix);
    });
}

mp_status mp_session_decode(mp_session * session, const mp_tree * tree, mp_pass * out) {
    return guarded([&] {
        const session_entry entry(session, __func__);
        if (!tree || !out) {
            fail(MP_ERR_ARGUMENT, "mp_session_decode: tree and out must not be NULL");
        }
        session->decode(*tree, *out);
    });
}

mp_status mp_session_logits(mp_session * session, int32_t row, const float ** logits) {
    return guarded([&] {
        const session_entry entry(session, __func__);
        if (!logits) {
            fail(MP_ERR_ARGUMENT, "mp_session_logits: logits must not be NULL");
        }
        *logits = session->logits(row);
    });
}

mp_status mp_session_logprob(mp_session * session, int32_t row, int32_t token, float * logprob) {
    return guarded([&] {
        const session_entry entry(session, __func__);
        if (!logprob) {
            fail(MP_ERR_ARGUMENT, "mp_session_logprob: logprob must not be NULL");
        }
        *logprob = session->logprob(row, token);
    });
}

mp_status mp_session_get_part(mp_session * session, int32_t i, mp_part * out) {
    return guarded([&] {
        const session_entry entry(session, __func__);
        if (i < 0 || !out || !session->part(i, *out)) {
            fail(MP_ERR_ARGUMENT, "mp_session_get_part: there is no part %d", i);
        }
    });
}

mp_status mp_session_commit(mp_session * session, const int32_t * path, int32_t n) {
    return guarded([&] {
        const session_entry entry(session, __func__);
        session->commit(path, n);
    });
}

void mp_session_cancel(mp_session * session) {
    if (session) {
        session->cancel_requested.store(true);
    }
}
