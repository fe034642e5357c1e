// The C functions of a session.
#include "session/session.h"

#include "status.h"

using namespace mp;

// Lets one thread in, into all that shares the session's context.
static entry enter(mp_session * session) {
    if (!session) {
        fail(MP_ERR_ARGUMENT, "the session must not be NULL");
    }
    return entry(session->context->guard);
}

mp_status mp_session_open(mp_context * context, mp_session ** out) {
    return guarded([&] {
        if (!context || !out) {
            fail(MP_ERR_ARGUMENT, "mp_session_open: context and out must not be NULL");
        }
        *out = nullptr;
        const context_ref held = context_retain(context);
        const entry inside(held->guard);
        held->check_room_for_session();
        *out = new mp_session(held);
    });
}

mp_status mp_session_fork(mp_session * session, mp_session ** out) {
    return guarded([&] {
        if (!out) {
            fail(MP_ERR_ARGUMENT, "mp_session_fork: out must not be NULL");
        }
        *out = nullptr;
        const entry inside = enter(session);
        session->context->check_room_for_session();
        *out = session->fork().release();
    });
}

void mp_session_free(mp_session * session) {
    if (session && !is_refused_child()) {
        session->context->free_session(session);
    }
}

int32_t mp_session_n_past(const mp_session * session) {
    return session ? (int32_t) session->tokens.size() : 0;
}

mp_status mp_session_set_prefix(mp_session * session, const int32_t * tokens, int32_t n, int32_t n_outputs, int32_t n_top,
                                mp_prefix * out) {
    mp_prefix ignored;
    mp_prefix & prefix = out ? *out : ignored;
    prefix = {};
    return guarded([&] {
        const entry inside = enter(session);
        if (n < 0 || (n > 0 && !tokens)) {
            fail(MP_ERR_ARGUMENT, "a prefix of %d tokens", n);
        }
        session->set_prefix(tokens, n, n_outputs, n_top, prefix);
    });
}

mp_status mp_session_logits(mp_session * session, int32_t row, const float ** logits) {
    return guarded([&] {
        const entry inside = enter(session);
        if (!logits) {
            fail(MP_ERR_ARGUMENT, "mp_session_logits: logits must not be NULL");
        }
        *logits = session->logits(row);
    });
}

mp_status mp_session_logprob(mp_session * session, int32_t row, int32_t token, float * logprob) {
    return guarded([&] {
        const entry inside = enter(session);
        if (!logprob) {
            fail(MP_ERR_ARGUMENT, "mp_session_logprob: logprob must not be NULL");
        }
        *logprob = session->logprob(row, token);
    });
}

mp_status mp_session_hidden(mp_session * session, int32_t row, int32_t layer, const float ** state) {
    return guarded([&] {
        const entry inside = enter(session);
        if (!state) {
            fail(MP_ERR_ARGUMENT, "mp_session_hidden: state must not be NULL");
        }
        *state = session->hidden(row, layer);
    });
}

mp_status mp_session_commit(mp_session * session, const int32_t * path, int32_t n) {
    return guarded([&] {
        const entry inside = enter(session);
        session->commit(path, n);
    });
}
