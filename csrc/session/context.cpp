#include "session/context.h"

#include "platform/fork_check.h"
#include "platform/runtime.h"
#include "platform/thread_count.h"
#include "registry.h"
#include "session/context_params.h"
#include "session/nextn_bridge.h"
#include "session/session.h"
#include "status.h"

#include <algorithm>
#include <cstdio>

using namespace mp;

static bool on_abort(void * data) {
    return ((const std::atomic<bool> *) data)->load(std::memory_order_relaxed);
}

static int32_t thread_count(int32_t wanted, int32_t automatic) {
    return wanted > 0 ? wanted : automatic;
}

static registry<mp_context> & contexts() {
    static auto & all = *new registry<mp_context>("context");
    return all;
}

mp_context * mp::context_open(model_ref model, const mp_context_params & params) {
    check_context_params(params); // before anything is made of these sizes
    if (model->vocab_only) {
        fail(MP_ERR_UNSUPPORTED, "the weights of this model are not in this process: nothing can be evaluated with it here");
    }
    return contexts().add(std::make_shared<mp_context>(std::move(model), params));
}

context_ref mp::context_retain(mp_context * context) {
    return contexts().retain(context);
}

void mp::context_close(mp_context * context) {
    if (const context_ref last = contexts().remove(context)) {
        last->try_to_free_closed_sessions();
    }
}

mp_context::mp_context(model_ref model_, const mp_context_params & params)
    : model(std::move(model_)), n_sessions_max(params.n_sessions_max), n_sessions_held(mp::n_sessions_held(*model, params)),
      n_rows_max(params.n_rows_max), n_top_max(std::min(params.n_top_max, model->info.n_vocab)),
      n_threads(thread_count(params.n_threads, default_thread_count())),
      n_threads_batch(thread_count(params.n_threads_batch, n_threads)), workers(std::max(n_threads, n_threads_batch)),
      batch(*model, n_rows_max, MP_N_ROWS_LIMIT), reader(workers, model->info.n_vocab, n_threads) {
    llama_context_params cp = choose_context_params(*model, params);
    cp.abort_callback = on_abort;
    cp.abort_callback_data = &cancel_requested;
    if (params.taps) {
        if (!model->info.can_tree) { // llama.cpp puts rows of recurrent states in an order of its own
            fail(MP_ERR_UNSUPPORTED, "a %s model has no taps: %s", model->info.arch, model->info.note);
        }
        taps = std::make_unique<layer_taps>(model->info.n_layer, model->info.n_embd);
        taps->install(cp);
    }
    ctx.reset(make_context(*model, cp, kernels));
    opened_with = cp;
    spreads = spreads_nan(*model, cp);
    memory = llama_get_memory(ctx.get());
    n_ctx = (int32_t) llama_n_ctx(ctx.get()) / n_sessions_max;
    if (model->summary.n_ctx_max > 0) { // llama.cpp rounds the context up, a table of positions ends where it ends
        n_ctx = (int32_t) std::min<int64_t>(n_ctx, model->summary.n_ctx_max);
    }
    n_batch = (int32_t) llama_n_batch(ctx.get());
    max_chain = model->info.can_tree ? 0 : (int32_t) llama_n_rs_seq(ctx.get());
    for (int32_t id = (int32_t) cp.n_seq_max - 1; id >= 0; id--) {
        free_ids.push_back(id); // taken from the end: the lowest first
    }
}

void mp_context::open_mtp() {
    if (!mtp_opened) {
        mtp_opened = std::make_unique<mtp_layers>(*model, opened_with, n_sessions_held, workers, n_threads, n_threads_batch);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// sessions

void mp_context::check_room_for_session() {
    free_closed_sessions();
    if ((int32_t) sessions.size() >= n_sessions_max) {
        fail(MP_ERR_STATE, "all n_sessions_max = %d sessions of the context are open: free one, or open it for more",
             n_sessions_max);
    }
}

void mp_context::enter(mp_session & session) {
    free_closed_sessions();
    if ((int32_t) sessions.size() == n_sessions_held) {
        fail(MP_ERR_STATE, "all %d sessions of the context and its cache are open", n_sessions_held);
    }
    lend_one(session, 0, nullptr);
    sessions.push_back(&session);
}

void mp_context::leave(mp_session & session) {
    sessions.erase(std::find(sessions.begin(), sessions.end(), &session));
    for (const llama_seq_id id : session.ids) {
        if (llama_memory_seq_rm(memory, id, -1, -1)) { // else it is never lent again
            free_ids.push_back(id);
        }
    }
}

void mp_context::free_session(mp_session * session) {
    {
        std::lock_guard<std::mutex> lock(closed_mutex);
        closed.push_back(session);
    }
    const context_ref keep = shared_from_this(); // beyond its last session
    try_to_free_closed_sessions();
}

void mp_context::try_to_free_closed_sessions() {
    try {
        const entry inside(guard);
        free_closed_sessions();
    } catch (const failure &) {
        // another thread is inside: the next one who comes does it
    }
}

void mp_context::free_closed_sessions() {
    std::vector<mp_session *> now;
    {
        std::lock_guard<std::mutex> lock(closed_mutex);
        now.swap(closed);
    }
    for (mp_session * session : now) {
        delete session;
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// one call of llama.cpp

void mp_context::run(const llama_batch & rows, int32_t n_sequences, int32_t n_threads_of_pass, mp_session * const * in_pass,
                     int32_t n, bool with_hidden) {
    check_process(); // a callback may have made a child, and come back in it
    if (cancel_requested.exchange(false)) {
        fail(MP_ERR_CANCELLED, "cancelled");
    }
    set_threads(ctx.get(), *model, kernels, n_threads_of_pass);
    llama_set_embeddings(ctx.get(), with_hidden);
    if (mtp_opened) {
        keep_nextn_states(ctx.get(), std::any_of(in_pass, in_pass + n, [](const auto * s) { return s->mtp.follows; }),
                          false);
    }
    clear_log_error();
    for (mp_session * session : sessions) {
        session->moved = session->moved || session->n_in_pass > 0;
    }
    for (int32_t i = 0; i < n; i++) {
        in_pass[i]->n_in_pass = in_pass[i]->pass.n_sequences();
        in_pass[i]->moved = false;
    }
    graph_rows = rows.n_tokens;
    graph_sequences = n_sequences;
    n_decodes++;
    int32_t code = 0;
    try {
        code = llama_decode(ctx.get(), rows);
        if (code == 0) {
            llama_synchronize(ctx.get());
            return;
        }
    } catch (const std::exception & e) {
        drop_failed_pass(in_pass, n);
        fail(MP_ERR_DECODE, "llama.cpp failed in a pass of %d rows: %s", rows.n_tokens, e.what());
    }
    const std::string reason = last_log_error();
    drop_failed_pass(in_pass, n);
    if (code == 2) {
        cancel_requested.store(false);
        fail(MP_ERR_CANCELLED, "cancelled");
    }
    if (code == 1) {
        fail(MP_ERR_CONTEXT_FULL, "llama.cpp found no room for %d rows in a context of %d sessions of %d tokens",
             rows.n_tokens, n_sessions_max, n_ctx);
    }
    fail(MP_ERR_DECODE, "llama_decode returned %d for %d rows: %s", code, rows.n_tokens,
         reason.empty() ? "it gave no reason" : reason.c_str());
}

void mp_context::drop_failed_pass(mp_session * const * in_pass, int32_t n) {
    graph_rows = 0;
    if (model->info.can_tree) {
        for (int32_t i = 0; i < n; i++) {
            in_pass[i]->drop_pass();
        }
        return;
    }
    // llama.cpp moves recurrent states of other sessions in a pass too.
    for (mp_session * session : sessions) {
        session->n_in_pass = 0;
        session->lost = true;
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// one pass

void mp_context::check_sessions(int32_t n, mp_session * const * in_pass) const {
    if (n < 1 || n > n_sessions_max) {
        fail(MP_ERR_ARGUMENT, "a pass over n = %d sessions must be over 1 to n_sessions_max = %d", n, n_sessions_max);
    }
    for (int32_t i = 0; i < n; i++) {
        if (std::find(sessions.begin(), sessions.end(), in_pass[i]) == sessions.end()) {
            fail(MP_ERR_ARGUMENT, "session %d of the pass is not one of this context", i);
        }
        const auto same = std::find(in_pass, in_pass + i, in_pass[i]);
        if (same != in_pass + i) {
            fail(MP_ERR_ARGUMENT, "session %d of the pass is its session %d too: one tree for each", i,
                 (int) (same - in_pass));
        }
    }
}

void mp_context::check_n_top(int32_t n_top) const {
    if (n_top < 1 || n_top > n_top_max) {
        fail(MP_ERR_ARGUMENT, "n_top = %d must be between 1 and the context's n_top_max = %d", n_top, n_top_max);
    }
}

int32_t mp_context::lay_out(int32_t n, mp_session * const * in_pass, const mp_tree * trees) {
    int32_t n_rows = 0;
    for (int32_t i = 0; i < n; i++) {
        mp_session & session = *in_pass[i];
        try {
            check_n_top(trees[i].n_top);
            session.pass.lay_out(trees[i], (int32_t) session.tokens.size(), n_ctx, max_chain);
        } catch (const failure & e) {
            if (n == 1) {
                throw;
            }
            fail(e.status, "tree %d: %s", i, e.what());
        }
        n_rows += session.pass.n_rows();
        const int32_t n_first = in_pass[0]->pass.n_rows();
        if (!model->info.can_tree && session.pass.n_rows() != n_first) {
            fail(MP_ERR_UNSUPPORTED,
                 "chains of %d and of %d rows in one pass on a %s model: those of one pass must have one length", n_first,
                 session.pass.n_rows(), model->info.arch);
        }
    }
    if (n_rows > n_rows_max) {
        fail(MP_ERR_ARGUMENT, "the %d trees have %d rows together, the context takes n_rows_max = %d", n, n_rows,
             n_rows_max);
    }
    return n_rows;
}

const llama_batch & mp_context::make_batch(int32_t n, mp_session * const * in_pass, const mp_tree * trees, int32_t n_rows) {
    const bool with_embeddings =
        std::any_of(in_pass, in_pass + n, [](const mp_session * session) { return session->pass.has_embeddings(); });
    batch.begin(n_rows, with_embeddings);
    kernels.added.begin(n_rows);
    for (int32_t i = 0, row = 0; i < n; row += in_pass[i++]->pass.n_rows()) {
        const tree_pass & pass = in_pass[i]->pass;
        batch.add(trees[i], pass, in_pass[i]->ids.data());
        if (pass.trained() && trees[i].n_masks > 0) {
            kernels.added.add(pass.trained()->low_rank, row + pass.n_nodes(), trees[i].n_masks);
        }
    }
    return batch.finish();
}

void mp_context::check_hidden(bool with_logits) const {
    if (llama_model_n_embd_out(model->weights) != model->info.n_embd) {
        fail(MP_ERR_UNSUPPORTED, "this %s model has hidden states of another size at its end", model->info.arch);
    }
    if (with_logits && has_states_or_logits(model->summary.arch)) {
        fail(MP_ERR_UNSUPPORTED, "llama.cpp gives hidden states or logits of this %s model, not both", model->info.arch);
    }
}

void mp_context::find_output(row_outputs & outputs, int32_t row, int32_t batch_row) const {
    outputs.logits[row] = llama_get_logits_ith(ctx.get(), batch_row);
    if (!outputs.hidden.empty()) {
        outputs.hidden[row] = llama_get_embeddings_ith(ctx.get(), batch_row);
    }
}

void mp_context::read_outputs(int32_t n, mp_session * const * in_pass, const mp_tree * trees, bool with_hidden) {
    int32_t batch_row = 0;
    for (int32_t i = 0; i < n; i++) {
        mp_session & session = *in_pass[i];
        const int32_t n_rows = session.pass.n_rows();
        session.first_row = batch_row;
        session.outputs.resize(n_rows, trees[i].n_top, with_hidden);
        for (int32_t row = 0; row < n_rows; row++) {
            // Asked for here: the first call puts the rows in order, which is not for several threads.
            find_output(session.outputs, row, batch_row++);
        }
        reader.add(session.outputs, 0, n_rows);
        session.has_outputs = true;
        session.outputs_at = n_decodes;
    }
    reader.run();
    for (int32_t i = 0; i < n; i++) {
        note_outputs(in_pass[i]->outputs, 0, in_pass[i]->outputs.n_rows);
    }
}

int64_t mp_context::run_trees(int32_t n, mp_session * const * in_pass, const mp_tree * trees, bool with_hidden) {
    for (int32_t i = 0; i < n; i++) {
        in_pass[i]->drop_pass();
    }
    const bool is_clean = clean_cells();
    for (int32_t i = 0; i < n; i++) {
        in_pass[i]->rebuild_if_lost();
    }
    has_unseen = has_unseen && !is_clean;
    const int32_t n_rows = lay_out(n, in_pass, trees);
    const int32_t n_sequences = lend_sequences(n, in_pass, n_rows);
    const added_rows::scope until_the_end(kernels.added); // prefixes have no such rows
    const llama_batch & rows = make_batch(n, in_pass, trees, n_rows);
    const layer_taps::pass tapped(taps.get(), n_rows);
    const int64_t t_decode = ggml_time_us();
    run(rows, n_sequences, n_threads, in_pass, n, with_hidden);
    const int64_t decode_us = ggml_time_us() - t_decode;
    read_outputs(n, in_pass, trees, with_hidden);
    return decode_us;
}

void mp_context::decode(int32_t n, mp_session * const * in_pass, const mp_tree * trees, mp_pass * passes, bool with_hidden) {
    free_closed_sessions();
    check_sessions(n, in_pass);
    const int64_t t_start = ggml_time_us();
    int64_t decode_us = run_trees(n, in_pass, trees, with_hidden);
    if (is_spoilt && has_unseen) { // what was evaluated before may be the reason, and not this pass
        decode_us += run_trees(n, in_pass, trees, with_hidden);
    }
    const int64_t engine_us = ggml_time_us() - t_start - decode_us;
    for (int32_t i = 0; i < n; i++) {
        const row_outputs & outputs = in_pass[i]->outputs;
        passes[i] = {outputs.n_rows, outputs.n_top, outputs.best.data(), outputs.tokens.data(), outputs.logprobs.data(),
                     decode_us,      engine_us};
    }
}

void mp_context::tap(const int32_t * layers, int32_t n) {
    if (!taps) {
        fail(MP_ERR_STATE, "the context was opened without taps");
    }
    if (has_heads) {
        fail(MP_ERR_STATE, "the layers that are tapped are those of the engine's heads");
    }
    taps->choose(layers, n);
}

void mp_context::tap_for_heads(const std::vector<int32_t> & layers) {
    const bool are_others = taps ? taps->between() != layers : !layers.empty();
    if (are_others && (!taps || has_heads)) {
        fail(MP_ERR_STATE, "these heads read hidden states of %d layers, %s", (int) layers.size(),
             taps ? "other heads of the context those of others" : "the context was opened without taps");
    }
    if (are_others) {
        taps->choose(layers.data(), (int32_t) layers.size());
    }
    has_heads = true;
}

const float * mp_context::states(const float * last, int32_t batch_row) const {
    if (n_states() == 1) {
        return last;
    }
    const size_t n_embd = model->info.n_embd;
    gathered.resize(n_states() * n_embd);
    std::copy_n(last, n_embd, gathered.end() - n_embd);
    return taps->gather(batch_row, gathered.data()) ? gathered.data() : nullptr;
}

bool mp_context::part(int32_t i, mp_part & out) const {
    const auto is_it = [&](const part_cost & cost, const char * name) {
        if (cost.n_ops == 0 || i-- > 0) {
            return false;
        }
        snprintf(out.name, sizeof(out.name), "%s", name);
        out.n_ops = cost.n_ops;
        out.ns = cost.ns;
        out.bytes = cost.bytes;
        out.macs = cost.macs;
        return true;
    };
    const cost_counters & costs = kernels.costs;
    for (int type = 0; type < GGML_TYPE_COUNT; type++) {
        if (is_it(costs.products[type], ggml_type_name((ggml_type) type))) {
            return true;
        }
    }
    return is_it(costs.head, "head") || is_it(costs.attention, "attention");
}
