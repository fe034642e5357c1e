// The C functions of an engine and its generations.
#include "engine/engine.h"
#include "engine/memory_needed.h"
#include "engine/open_heads.h"

#include "registry.h"
#include "status.h"

#include <cstring>

using namespace mp;

// The handle keeps the engine; the engine keeps what it still works on.
struct mp_generation {
    const std::shared_ptr<mp_engine> engine;
    const std::shared_ptr<generation> work;
    guard reading{"generation"};
    emitted_token last; // what mp_generation_next() pointed to
    drafted_tree draft; // mp_generation_get_draft()
};

static registry<mp_engine> & engines() {
    static auto & all = *new registry<mp_engine>("engine");
    return all;
}

mp_engine_params mp_engine_default_params(void) {
    mp_engine_params params = {};
    params.masks = "none";
    return params;
}

mp_status mp_heads_need_taps(const mp_model * model, const char * heads, bool * taps) {
    return guarded([&] {
        if (!model || !taps) {
            fail(MP_ERR_ARGUMENT, "mp_heads_need_taps: model and taps must not be NULL");
        }
        *taps = heads_need_taps(*model, heads);
    });
}

mp_status mp_memory_needed(const char * path, const mp_model_params * model, const mp_context_params * context,
                           const mp_engine_params * engine, mp_memory * out) {
    return guarded([&] {
        if (!path) {
            fail(MP_ERR_ARGUMENT, "mp_memory_needed: path must not be NULL");
        }
        const mp_model_params of_model = model ? *model : mp_model_default_params();
        const mp_context_params of_context = context ? *context : mp_context_default_params();
        if (out) {
            *out = memory_needed(path, of_model, of_context, engine);
        } else {
            refuse_what_does_not_fit(path, of_model, of_context, engine);
        }
    });
}

mp_status mp_engine_open(mp_context * context, const mp_engine_params * params, mp_engine ** out) {
    return guarded([&] {
        if (!context || !out) {
            fail(MP_ERR_ARGUMENT, "mp_engine_open: context and out must not be NULL");
        }
        *out = nullptr;
        *out = engines().add(
            std::make_shared<mp_engine>(context_retain(context), params ? *params : mp_engine_default_params()));
    });
}

void mp_engine_free(mp_engine * engine) {
    engines().remove(engine);
}

mp_status mp_engine_step(mp_engine * engine, int32_t * n_active) {
    return guarded([&] {
        const std::shared_ptr<mp_engine> held = engines().retain(engine);
        const entry inside(held->guard);
        int32_t ignored = 0;
        held->step(n_active ? *n_active : ignored);
    });
}

mp_status mp_engine_embed(mp_engine * engine, const int32_t * tokens, int32_t n, float * out) {
    bool is_done = false;
    const mp_status status = guarded([&] {
        const std::shared_ptr<mp_engine> held = engines().retain(engine);
        const entry inside(held->guard);
        if (!tokens || !out || n < 1) {
            fail(MP_ERR_ARGUMENT, "mp_engine_embed: n = %d tokens must be at least 1, tokens and out must not be NULL", n);
        }
        is_done = held->embed(tokens, n, out);
    });
    return status == MP_OK && !is_done ? MP_AGAIN : status;
}

mp_status mp_engine_pass_us(mp_engine * engine, int32_t n_rows, double * us) {
    return guarded([&] {
        const std::shared_ptr<mp_engine> held = engines().retain(engine);
        const entry inside(held->guard);
        if (!us || n_rows < 1 || n_rows > MP_N_ROWS_LIMIT) {
            fail(MP_ERR_ARGUMENT, "mp_engine_pass_us: n_rows = %d must be between 1 and %d, us must not be NULL", n_rows,
                 MP_N_ROWS_LIMIT);
        }
        *us = held->pass_us(n_rows);
    });
}

const char * mp_engine_note(const mp_engine * engine) {
    return engine && !is_refused_child() ? const_cast<mp_engine *>(engine)->note() : "";
}

mp_generation_params mp_generation_default_params(void) {
    mp_generation_params params = {};
    params.n_max = -1;
    params.draft = true;
    return params;
}

static void check(const mp_engine & engine, const int32_t * tokens, int32_t n, const mp_generation_params & p) {
    if (n < 1 || !tokens) {
        fail(MP_ERR_ARGUMENT, "a prompt of %d tokens: it needs one at least", n);
    }
    if (p.n_max < -1) {
        fail(MP_ERR_ARGUMENT, "n_max = %lld must be -1 (no limit) or a number from 0", (long long) p.n_max);
    }
    if (p.n_top < 0 || p.n_top > engine.context->n_top_max) {
        fail(MP_ERR_ARGUMENT, "n_top = %d must be between 0 and the context's n_top_max = %d", p.n_top,
             engine.context->n_top_max);
    }
    if (p.n_rows < 0 || p.n_rows > engine.context->n_rows_max) {
        fail(MP_ERR_ARGUMENT, "n_rows = %d must be between 0 (as the engine has it) and the context's n_rows_max = %d",
             p.n_rows, engine.context->n_rows_max);
    }
    if (p.n_stop < 0 || (p.n_stop > 0 && !p.stop)) {
        fail(MP_ERR_ARGUMENT, "%d stop strings need their array", p.n_stop);
    }
    for (int32_t i = 0; i < p.n_stop; i++) {
        if (!p.stop[i]) {
            fail(MP_ERR_ARGUMENT, "stop string %d is NULL", i);
        }
    }
    if (p.proposer && (p.proposer->n_top < 0 || p.proposer->n_top > engine.context->n_top_max)) {
        fail(MP_ERR_ARGUMENT, "the proposer wants n_top = %d candidates per row, the context keeps n_top_max = %d",
             p.proposer->n_top, engine.context->n_top_max);
    }
    if (p.constraint && p.constraint->forced && !p.constraint->allowed) {
        fail(MP_ERR_ARGUMENT, "a constraint that forces tokens must say which are allowed");
    }
}

mp_status mp_generation_open(mp_engine * engine, const int32_t * tokens, int32_t n, const mp_generation_params * params,
                             mp_generation ** out) {
    return guarded([&] {
        if (!out) {
            fail(MP_ERR_ARGUMENT, "mp_generation_open: out must not be NULL");
        }
        *out = nullptr;
        const std::shared_ptr<mp_engine> held = engines().retain(engine);
        const mp_generation_params p = params ? *params : mp_generation_default_params();
        check(*held, tokens, n, p);
        *out = new mp_generation{held, held->open(tokens, n, p)};
    });
}

void mp_generation_free(mp_generation * generation) {
    if (generation && !is_refused_child()) {
        generation->engine->cancel(*generation->work);
        delete generation;
    }
}

mp_status mp_generation_next(mp_generation * generation, mp_token * out) {
    bool has_one = false;
    const mp_status status = guarded([&] {
        if (!generation || !out) {
            fail(MP_ERR_ARGUMENT, "mp_generation_next: generation and out must not be NULL");
        }
        const entry inside(generation->reading);
        emitted_token & last = generation->last;
        has_one = generation->work->read(last);
        if (has_one) {
            *out = last.token;
            out->n_top = (int32_t) last.top_tokens.size();
            out->top_tokens = last.top_tokens.data();
            out->top_logprobs = last.top_logprobs.data();
            out->n_hidden = (int32_t) last.hidden.size();
            out->hidden = last.hidden.empty() ? nullptr : last.hidden.data();
            out->text = last.text.data();
            out->n_text = last.text.size();
        }
    });
    return status == MP_OK && !has_one ? MP_AGAIN : status;
}

void mp_generation_cancel(mp_generation * generation) {
    if (generation && !is_refused_child()) {
        generation->engine->cancel(*generation->work);
    }
}

mp_status mp_generation_get_stats(mp_generation * generation, mp_stats * out) {
    return guarded([&] {
        if (!generation || !out) {
            fail(MP_ERR_ARGUMENT, "mp_generation_get_stats: generation and out must not be NULL");
        }
        check_process();
        *out = generation->work->stats();
    });
}

const char * mp_source_name(mp_source source) {
    static const char * const names[MP_N_SOURCES] = {"token", "pair",       "triple",        "n-gram",
                                                     "mask",  "row before", "rejected rows", "earlier texts",
                                                     "heads", "proposer",   "constraint"};
    return source >= 0 && source < MP_N_SOURCES ? names[source] : "model";
}

mp_status mp_generation_get_draft(mp_generation * generation, mp_drafted * out) {
    return guarded([&] {
        if (!generation || !out) {
            fail(MP_ERR_ARGUMENT, "mp_generation_get_draft: generation and out must not be NULL");
        }
        const entry inside(generation->reading);
        drafted_tree & draft = generation->draft;
        generation->work->newest_draft(draft);
        *out = {draft.n_pass,         (int32_t) draft.tokens.size(), (int32_t) draft.path.size(),
                draft.tokens.data(),  draft.parents.data(),          draft.path.data(),
                draft.emitted.data(), draft.sources.data()};
    });
}
