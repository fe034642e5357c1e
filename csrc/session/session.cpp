#include "session/session.h"

#include "platform/runtime.h"
#include "platform/thread_count.h"
#include "session/context_params.h"
#include "status.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include <unistd.h>

using namespace mp;

static bool on_abort(void * data) {
    return ((const std::atomic<bool> *) data)->load(std::memory_order_relaxed);
}

// The caller's number, at most ggml's limit: open_context refuses more.
static int32_t thread_count(int32_t wanted, int32_t automatic) {
    return wanted > 0 ? std::min(wanted, GGML_MAX_N_THREADS) : automatic;
}

mp_session::mp_session(model_ref model_, const mp_session_params & params)
    : model(std::move(model_)), n_threads(thread_count(params.n_threads, default_thread_count())),
      n_threads_batch(thread_count(params.n_threads_batch, n_threads)), owner(getpid()),
      workers(std::max(n_threads, n_threads_batch)), n_top_max(std::min(params.n_top_max, model->info.n_vocab)),
      pass(*model, params.n_rows_max), scratch(n_threads, top_k_scratch(model->info.n_vocab)), filled(params.n_rows_max, 0) {
    open_context(params);
    best.resize(params.n_rows_max);
    pass_outputs.resize(params.n_rows_max, n_top_max);
    tokens.reserve(n_ctx);
}

void mp_session::row_outputs::resize(int32_t n_rows, int32_t n_top_) {
    n_top = n_top_;
    logits.resize(n_rows);
    tokens.resize((size_t) n_rows * n_top);
    logprobs.resize((size_t) n_rows * n_top);
    log_sum.resize(n_rows);
}

void mp_session::open_context(const mp_session_params & params) {
    llama_context_params cp = choose_context_params(*model, params);
    cp.abort_callback = on_abort;
    cp.abort_callback_data = &cancel_requested;
    ctx.reset(make_context(*model, cp, kernels));
    memory = llama_get_memory(ctx.get());
    n_ctx = (int32_t) llama_n_ctx(ctx.get());
    if (model->summary.n_ctx_max > 0) { // llama.cpp rounds the context up, a table of positions ends where it ends
        n_ctx = (int32_t) std::min<int64_t>(n_ctx, model->summary.n_ctx_max);
    }
    n_batch = (int32_t) llama_n_batch(ctx.get());
    max_chain = model->info.can_tree ? 0 : (int32_t) llama_n_rs_seq(ctx.get());
}

// ---------------------------------------------------------------------------------------------------------------------
// what the cache holds

// Takes the cache back to its first n_keep tokens.
void mp_session::truncate(int32_t n_keep) {
    pass_in_cache = false;
    if (model->info.can_tree) {
        llama_memory_seq_rm(memory, -1, n_keep, -1);
        for (int32_t & n : filled) {
            n = std::min(n, n_keep);
        }
    } else if (n_keep < (int32_t) tokens.size()) {
        lost = true;
    }
    tokens.resize(n_keep);
    if (state_copy.n_tokens > n_keep) {
        state_copy.n_tokens = 0;
    }
}

void mp_session::drop_pass() {
    has_outputs = false;
    if (pass_in_cache) {
        lost = lost || !model->info.can_tree;
        truncate((int32_t) tokens.size());
    }
}

void mp_session::rebuild_if_lost() {
    if (!lost) {
        return;
    }
    const std::vector<int32_t> all = tokens;
    const int32_t n_held = return_to_copy();
    tokens.resize(n_held);
    lost = false;
    try {
        evaluate(all.data() + n_held, (int32_t) all.size() - n_held, 0);
    } catch (...) {
        tokens = all;
        lost = true;
        throw;
    }
    copy_state();
}

// Makes the committed tokens a place to which a recurrent state can return.
void mp_session::copy_state() {
    if (model->info.can_tree || state_copy.n_tokens == (int32_t) tokens.size()) {
        return;
    }
    const size_t size = llama_state_seq_get_size_ext(ctx.get(), 0, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY);
    state_copy.bytes.resize(size);
    const size_t n_written =
        llama_state_seq_get_data_ext(ctx.get(), state_copy.bytes.data(), size, 0, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY);
    state_copy.n_tokens = size > 0 && n_written == size ? (int32_t) tokens.size() : 0;
}

// Takes the cache back to the tokens after which the state was copied, or to none. Returns how many it holds then.
int32_t mp_session::return_to_copy() {
    const size_t size = state_copy.bytes.size();
    if (state_copy.n_tokens > 0 &&
        llama_state_seq_set_data_ext(ctx.get(), state_copy.bytes.data(), size, 0, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY) ==
            size &&
        llama_memory_seq_rm(memory, 0, state_copy.n_tokens, -1)) {
        return state_copy.n_tokens;
    }
    llama_memory_clear(memory, false);
    return state_copy.n_tokens = 0;
}

// Appends tokens to the trunk in pieces of n_batch; what is complete stays if a piece fails. The outputs behind the last
// n_outputs of them go into prefix_outputs.
void mp_session::evaluate(const int32_t * new_tokens, int32_t n, int32_t n_outputs) {
    static llama_seq_id trunk = 0;
    const int32_t size = std::min(n_batch, n);
    std::vector<llama_pos> pos(size);
    std::vector<int32_t> n_seq(size, 1);
    std::vector<llama_seq_id *> seq(size, &trunk);
    std::vector<int8_t> output(size);
    for (int32_t done = 0; done < n;) {
        const int32_t n_piece = std::min(size, n - done);
        const int32_t first_row = done - (n - n_outputs); // of the piece's first token; negative: none before -first_row
        for (int32_t i = 0; i < n_piece; i++) {
            pos[i] = (llama_pos) tokens.size() + i;
            output[i] = first_row + i >= 0;
        }
        llama_batch batch = {};
        batch.n_tokens = n_piece;
        batch.token = const_cast<llama_token *>(new_tokens + done);
        batch.pos = pos.data();
        batch.n_seq_id = n_seq.data();
        batch.seq_id = seq.data();
        batch.logits = output.data();
        run(batch, n_threads_batch);
        tokens.insert(tokens.end(), new_tokens + done, new_tokens + done + n_piece);
        filled[0] = (int32_t) tokens.size();
        pass_in_cache = false;
        done += n_piece;
        const int32_t begin_row = std::max(first_row, 0), end_row = first_row + n_piece;
        for (int32_t row = begin_row; row < end_row; row++) {
            prefix_outputs.logits[row] = llama_get_logits_ith(ctx.get(), row - first_row);
        }
        if (begin_row < end_row) { // now: the next piece overwrites llama.cpp's logits
            find_top_k(prefix_outputs, begin_row, end_row);
        }
    }
}

void mp_session::set_prefix(const int32_t * new_tokens, int32_t n, int32_t n_outputs, int32_t n_top, mp_prefix & out) {
    const int32_t n_vocab = model->info.n_vocab;
    if (n_outputs < 0 || n_outputs > MP_N_ROWS_LIMIT) {
        fail(MP_ERR_ARGUMENT, "n_outputs = %d must be between 0 and %d", n_outputs, MP_N_ROWS_LIMIT);
    }
    if (n_outputs > 0) {
        check_n_top(n_top);
    }
    for (int32_t i = 0; i < n; i++) {
        if (new_tokens[i] < 0 || new_tokens[i] >= n_vocab) {
            fail(MP_ERR_ARGUMENT, "token %d at %d is out of range, the vocabulary has %d", new_tokens[i], i, n_vocab);
        }
    }
    if (n > n_ctx) {
        fail(MP_ERR_CONTEXT_FULL, "%d tokens do not fit into a context of %d", n, n_ctx);
    }
    drop_pass();
    int32_t n_same = 0;
    while (n_same < n && n_same < (int32_t) tokens.size() && tokens[n_same] == new_tokens[n_same]) {
        n_same++;
    }
    if (n_same < (int32_t) tokens.size()) {
        truncate(n_same);
    }
    if (lost) {
        n_same = return_to_copy();
        tokens.resize(n_same);
        lost = false;
    }
    n_outputs = std::min(n_outputs, n - n_same);
    if (n_outputs > 0) {
        prefix_outputs.resize(n_outputs, n_top);
    }
    evaluate(new_tokens + n_same, n - n_same, n_outputs);
    if (n_same < n) {
        copy_state();
    }
    out.n_reused = n_same;
    if (n_outputs > 0) {
        int32_t first = n_outputs; // without such a wish nobody would see that a row is not finite: it is no failure
        while (first > 0 && prefix_outputs.tokens[(size_t) (first - 1) * n_top] >= 0) {
            first--;
        }
        out.n_rows = n_outputs - first;
        out.n_top = n_top;
        out.top_tokens = prefix_outputs.tokens.data() + (size_t) first * n_top;
        out.top_logprobs = prefix_outputs.logprobs.data() + (size_t) first * n_top;
    }
}

void mp_session::top_up_sequences(int32_t n_sequences) {
    const int32_t n_past = (int32_t) tokens.size();
    for (int32_t s = 1; s < n_sequences; s++) {
        if (filled[s] < n_past) {
            llama_memory_seq_cp(memory, 0, s, filled[s], n_past);
            filled[s] = n_past;
        }
    }
}

void mp_session::commit(const int32_t * path, int32_t n) {
    if (n < 0 || (n > 0 && !path)) {
        fail(MP_ERR_ARGUMENT, "a path of %d nodes", n);
    }
    if (n == 0) {
        drop_pass();
        return;
    }
    if (!pass_in_cache) {
        fail(MP_ERR_STATE, "nothing to commit: no pass since the last commit");
    }
    for (int32_t i = 0; i < n; i++) {
        if (path[i] < 0 || path[i] >= pass.n_nodes() || (i == 0 ? path[i] != 0 : pass.parent(path[i]) != path[i - 1])) {
            fail(MP_ERR_ARGUMENT, "node %d at %d of the path is not %s", path[i], i,
                 i == 0 ? "the root" : "a child of the node before it");
        }
    }
    const int32_t n_past = (int32_t) tokens.size();
    const int32_t n_keep = n_past + n;
    if (model->info.can_tree) {
        // The root carries every sequence of the pass, deeper nodes only those of their descendants: the path's own
        // sequence becomes the trunk, the others fall back to the root.
        const int32_t n_sequences = pass.n_sequences();
        const llama_seq_id own = pass.sequence(path[n - 1]);
        for (llama_seq_id s = 0; n > 1 && s < n_sequences; s++) {
            if (s != own) {
                llama_memory_seq_rm(memory, s, n_past + 1, -1);
            }
        }
        llama_memory_seq_rm(memory, -1, n_keep, -1);
        if (n > 1 && own != 0) {
            llama_memory_seq_cp(memory, own, 0, n_past + 1, n_keep);
        }
        for (llama_seq_id s = 0; s < n_sequences; s++) {
            filled[s] = n_past + 1;
        }
        filled[own] = filled[0] = n_keep;
    } else if (n < pass.n_rows() && !llama_memory_seq_rm(memory, 0, n_keep, -1)) {
        lost = true;
    }
    for (int32_t i = 0; i < n; i++) {
        tokens.push_back(pass.token(path[i]));
    }
    pass_in_cache = false;
}

// ---------------------------------------------------------------------------------------------------------------------
// one call of llama.cpp, and the most likely tokens of its rows

// llama_decode with its codes as failures. Afterwards, also after a failure, pass_in_cache says that rows may lie
// behind the committed tokens.
void mp_session::run(const llama_batch & batch, int32_t n_threads_of_pass) {
    if (cancel_requested.exchange(false)) {
        fail(MP_ERR_CANCELLED, "cancelled");
    }
    set_threads(ctx.get(), *model, kernels, n_threads_of_pass);
    clear_log_error();
    pass_in_cache = true;
    int32_t code = 0;
    try {
        code = llama_decode(ctx.get(), batch);
        if (code == 0) {
            llama_synchronize(ctx.get());
        }
    } catch (const std::exception & e) {
        drop_pass();
        fail(MP_ERR_DECODE, "llama.cpp failed in a pass of %d rows: %s", batch.n_tokens, e.what());
    }
    if (code == 0) {
        return;
    }
    drop_pass();
    if (code == 2) {
        cancel_requested.store(false);
        fail(MP_ERR_CANCELLED, "cancelled");
    }
    if (code == 1) {
        fail(MP_ERR_CONTEXT_FULL, "no room for %d rows: %zu of the context's %d places are taken", batch.n_tokens,
             tokens.size(), n_ctx);
    }
    const std::string reason = last_log_error();
    fail(MP_ERR_DECODE, "llama_decode returned %d for %d rows: %s", code, batch.n_tokens,
         reason.empty() ? "it gave no reason" : reason.c_str());
}

void mp_session::check_n_top(int32_t n_top) const {
    if (n_top < 1 || n_top > n_top_max) {
        fail(MP_ERR_ARGUMENT, "n_top = %d must be between 1 and the session's n_top_max = %d", n_top, n_top_max);
    }
}

// Of rows [begin, end), whose logits are set.
void mp_session::find_top_k(row_outputs & rows, int32_t begin, int32_t end) {
    looked_at = &rows;
    next_row.store(begin);
    end_row = end;
    workers.run(n_threads, [](void * data, int32_t worker) { ((mp_session *) data)->find_top_k_rows(worker); }, this);
}

void mp_session::find_top_k_rows(int32_t worker) {
    row_outputs & rows = *looked_at;
    for (int32_t row = next_row.fetch_add(1); row < end_row; row = next_row.fetch_add(1)) {
        const size_t start = (size_t) row * rows.n_top;
        if (!rows.logits[row] || !top_k(rows.logits[row], model->info.n_vocab, rows.n_top, scratch[worker],
                                        &rows.tokens[start], &rows.logprobs[start], &rows.log_sum[row])) {
            rows.tokens[start] = -1;
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// one pass

void mp_session::decode(const mp_tree & tree, mp_pass & out) {
    drop_pass();
    rebuild_if_lost();
    const int64_t t_start = ggml_time_us();
    check_n_top(tree.n_top);
    pass.lay_out(tree, (int32_t) tokens.size(), n_ctx, max_chain);
    if (model->info.can_tree) {
        top_up_sequences(pass.n_sequences());
    }
    const int64_t t_decode = ggml_time_us();
    run(pass.batch(), n_threads);
    const int64_t decode_us = ggml_time_us() - t_decode;
    read_outputs(tree.n_top);
    has_outputs = true;

    out.n_rows = pass.n_rows();
    out.n_top = tree.n_top;
    out.best = best.data();
    out.top_tokens = pass_outputs.tokens.data();
    out.top_logprobs = pass_outputs.logprobs.data();
    out.decode_us = decode_us;
    out.engine_us = ggml_time_us() - t_start - decode_us;
}

void mp_session::read_outputs(int32_t n_top) {
    const int32_t n_rows = pass.n_rows();
    pass_outputs.n_top = n_top;
    for (int32_t row = 0; row < n_rows; row++) {
        // Asked for here: the first call puts the rows in order, which is not for several threads.
        pass_outputs.logits[row] = pass.has_output(row) ? llama_get_logits_ith(ctx.get(), row) : nullptr;
    }
    find_top_k(pass_outputs, 0, n_rows);
    for (int32_t row = 0; row < n_rows; row++) {
        best[row] = pass_outputs.tokens[(size_t) row * n_top];
        if (pass_outputs.logits[row] && best[row] < 0) {
            drop_pass();
            fail(MP_ERR_NUMERIC,
                 "the logits of row %d have NaN or infinite values: the model file is damaged, or its weights "
                 "overflow in this cache type",
                 row);
        }
    }
}

const float * mp_session::logits(int32_t row) const {
    if (!has_outputs) {
        fail(MP_ERR_STATE, "there are no logits: no pass since the last change of the prefix");
    }
    if (row < 0 || row >= pass.n_rows() || !pass_outputs.logits[row]) {
        fail(MP_ERR_ARGUMENT, "row %d of the last pass's %d rows has no output", row, pass.n_rows());
    }
    return pass_outputs.logits[row];
}

bool mp_session::part(int32_t i, mp_part & out) const {
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

float mp_session::logprob(int32_t row, int32_t token) const {
    const float * row_values = logits(row);
    if (token < 0 || token >= model->info.n_vocab) {
        fail(MP_ERR_ARGUMENT, "token %d is out of range, the vocabulary has %d", token, model->info.n_vocab);
    }
    return row_values[token] - pass_outputs.log_sum[row];
}

session_entry::session_entry(mp_session * session, const char * function) : session(session) {
    if (!session) {
        fail(MP_ERR_ARGUMENT, "%s: the session must not be NULL", function);
    }
    if (session->owner != getpid()) {
        fail(MP_ERR_STATE, "%s: the session was opened in process %d and cannot be used after fork in %d: open one there",
             function, (int) session->owner, (int) getpid());
    }
    if (session->in_use.exchange(true)) {
        fail(MP_ERR_BUSY, "%s: another thread is inside this session: one thread at a time", function);
    }
}

session_entry::~session_entry() {
    session->in_use.store(false);
}
