#include "session/session.h"

#include "session/nextn_bridge.h"
#include "status.h"

#include <algorithm>

using namespace mp;

constexpr int32_t MOST_WAITING = 32; // tokens that the layers for multi-token prediction have not seen

mp_session::mp_session(context_ref context_) : context(std::move(context_)), pass(*context->model, context->n_rows_max) {
    context->enter(*this);
    tokens.reserve(context->n_ctx);
}

mp_session::~mp_session() {
    if (!can_tree()) {
        remove_state();
    }
    if (context->mtp()) {
        context->mtp()->close(mtp);
    }
    context->leave(*this);
}

std::unique_ptr<mp_session> mp_session::fork() {
    auto copy = std::make_unique<mp_session>(context);
    drop_pass();
    rebuild_if_lost();
    if (!tokens.empty()) {
        llama_memory_seq_cp(context->memory, ids[0], copy->ids[0], -1, -1);
    }
    copy->tokens = tokens;
    copy->filled[0] = filled[0];
    if (context->mtp()) {
        context->mtp()->copy(mtp, copy->mtp);
    }
    if (!can_tree()) {
        copy->state_copy = state_copy;
        // llama.cpp would let both go on from one state, but forgets for the copy how far it was taken back.
        copy->lost = !tokens.empty() && !copy->write_state(read_state());
    }
    return copy;
}

// ---------------------------------------------------------------------------------------------------------------------
// what the cache holds

void mp_session::drop_pass() {
    has_outputs = false;
    if (n_in_pass == 0) {
        return;
    }
    if (!can_tree()) {
        lost = true;
    }
    for (; can_tree() && n_in_pass > 0; n_in_pass--) {
        context->remove(ids[n_in_pass - 1], filled[n_in_pass - 1]);
    }
    n_in_pass = 0;
}

// Takes the cache back to its first n_keep tokens, without a pass after them.
void mp_session::truncate(int32_t n_keep) {
    if (can_tree()) {
        for (size_t i = 0; i < ids.size(); i++) {
            if (filled[i] > n_keep) {
                context->remove(ids[i], n_keep);
                filled[i] = n_keep;
            }
        }
    } else {
        lost = true;
    }
    tokens.resize(n_keep);
    if (context->mtp()) {
        context->mtp()->cut(mtp, n_keep);
    }
    if (state_copy.n_tokens > n_keep) {
        state_copy.n_tokens = 0;
    }
}

void mp_session::show_mtp(int32_t n) {
    const auto at = (int32_t) tokens.size() - n;
    context->mtp()->follow(mtp, at, tokens.data() + at, n, states_of_new.data());
}

// Appends tokens to the trunk in pieces of n_batch; what is complete stays if a piece fails. The outputs after the last
// n_outputs of them go into prefix_outputs. llama.cpp gives hidden states of whole batches only, whose rows are all outputs.
void mp_session::evaluate(const int32_t * new_tokens, int32_t n, int32_t n_outputs, bool with_hidden) {
    mp_session * self = this;
    const int32_t size = std::min(context->n_batch, n);
    std::vector<llama_pos> pos(size);
    std::vector<int32_t> n_seq(size, 1);
    std::vector<llama_seq_id *> seq(size, ids.data());
    std::vector<int8_t> output(size);
    pass.clear();
    for (int32_t done = 0; done < n;) {
        const bool is_before = with_hidden && done < n - n_outputs;
        const int32_t n_piece = std::min(size, is_before ? n - n_outputs - done : n - done);
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
        context->has_unseen = true;
        const layer_taps::pass tapped(with_hidden && !is_before ? context->taps.get() : nullptr, n_piece);
        context->run(batch, 1, context->n_threads_batch, &self, 1, with_hidden && !is_before);
        n_in_pass = 0;
        tokens.insert(tokens.end(), new_tokens + done, new_tokens + done + n_piece);
        filled[0] = (int32_t) tokens.size();
        done += n_piece;
        if (context->mtp() && mtp.follows) {
            states_of_new.clear();
            for (int32_t i = 0; i < n_piece; i++) {
                states_of_new.push_back(nextn_state(context->ctx.get(), i));
            }
            show_mtp(n_piece);
            context->mtp()->catch_up(mtp);
        }
        prefix_readable = std::max(first_row, 0);
        prefix_at = context->n_decodes;
        const int32_t end_row = first_row + n_piece;
        for (int32_t row = prefix_readable; row < end_row; row++) {
            context->find_output(prefix_outputs, row, row - first_row);
        }
        if (prefix_readable < end_row) { // now: the next piece overwrites llama.cpp's logits
            context->reader.add(prefix_outputs, prefix_readable, end_row);
            context->reader.run();
            context->note_outputs(prefix_outputs, prefix_readable, end_row);
        }
    }
}

void mp_session::set_prefix(const int32_t * new_tokens, int32_t n, int32_t n_outputs, int32_t n_top, mp_prefix & out,
                            bool with_hidden) {
    const int32_t n_vocab = context->model->info.n_vocab;
    if (n_outputs < 0 || n_outputs > MP_N_ROWS_LIMIT) {
        fail(MP_ERR_ARGUMENT, "n_outputs = %d must be between 0 and %d", n_outputs, MP_N_ROWS_LIMIT);
    }
    if (n_outputs > 0) {
        context->check_n_top(n_top);
    }
    for (int32_t i = 0; i < n; i++) {
        if (new_tokens[i] < 0 || new_tokens[i] >= n_vocab) {
            fail(MP_ERR_ARGUMENT, "token %d at %d is out of range, the vocabulary has %d", new_tokens[i], i, n_vocab);
        }
    }
    if (n > context->n_ctx) {
        fail(MP_ERR_CONTEXT_FULL, "%d tokens do not fit into a context of %d", n, context->n_ctx);
    }
    context->free_closed_sessions();
    const bool had_unseen = context->has_unseen;
    take_prefix(new_tokens, n, n_outputs, n_top, out, with_hidden);
    if (context->is_spoilt && had_unseen) { // what was evaluated before may be the reason, and not these tokens
        take_prefix(new_tokens, n, n_outputs, n_top, out, with_hidden);
    }
}

void mp_session::take_prefix(const int32_t * new_tokens, int32_t n, int32_t n_outputs, int32_t n_top, mp_prefix & out,
                             bool with_hidden) {
    drop_pass();
    context->clean_cells();
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
    prefix_outputs.resize(n_outputs, n_outputs > 0 ? n_top : 0, with_hidden);
    prefix_first = n_outputs;
    evaluate(new_tokens + n_same, n - n_same, n_outputs, with_hidden);
    if (n_same < n) {
        copy_state();
    }
    // Without the wish for outputs nobody would see that a row is not finite: it is no failure.
    while (prefix_first > 0 && prefix_outputs.best[prefix_first - 1] >= 0) {
        prefix_first--;
    }
    out.n_reused = n_same;
    out.n_rows = n_outputs - prefix_first;
    out.n_top = prefix_outputs.n_top;
    out.top_tokens = prefix_outputs.tokens.data() + (size_t) prefix_first * out.n_top;
    out.top_logprobs = prefix_outputs.logprobs.data() + (size_t) prefix_first * out.n_top;
}

// ---------------------------------------------------------------------------------------------------------------------
// sequences of a tree

int32_t mp_session::n_full() const {
    const auto is_not_full = [&](int32_t n) { return n < (int32_t) tokens.size(); };
    return (int32_t) (std::find_if(filled.begin(), filled.end(), is_not_full) - filled.begin());
}

void mp_session::put_full_sequences_first() {
    size_t next = 1;
    for (size_t i = 1; i < ids.size(); i++) {
        if (filled[i] == (int32_t) tokens.size()) {
            std::swap(ids[i], ids[next]);
            std::swap(filled[i], filled[next]);
            next++;
        }
    }
}

void mp_session::top_up_sequences() {
    const int32_t n_past = (int32_t) tokens.size();
    for (int32_t i = 1; i < pass.n_sequences(); i++) {
        if (filled[i] < n_past) {
            llama_memory_seq_cp(context->memory, ids[0], ids[i], filled[i], n_past);
            filled[i] = n_past;
        }
    }
}

void mp_session::check_path(const int32_t * path, int32_t n) const {
    if (n_in_pass == 0) {
        fail(MP_ERR_STATE, "nothing to commit: no pass since the last commit");
    }
    for (int32_t i = 0; i < n; i++) {
        if (path[i] < 0 || path[i] >= pass.n_nodes() || (i == 0 ? path[i] != 0 : pass.parent(path[i]) != path[i - 1])) {
            fail(MP_ERR_ARGUMENT, "node %d at %d of the path is not %s", path[i], i,
                 i == 0 ? "the root" : "a child of the node before it");
        }
    }
}

void mp_session::check(const mp_tree & tree) const {
    pass.check(tree, (int32_t) tokens.size(), context->n_ctx);
}

void mp_session::commit(const int32_t * path, int32_t n) {
    if (n < 0 || (n > 0 && !path)) {
        fail(MP_ERR_ARGUMENT, "a path of %d nodes", n);
    }
    if (n == 0) {
        drop_pass();
        return;
    }
    check_path(path, n);
    const int32_t n_past = (int32_t) tokens.size();
    if (can_tree()) {
        // Each sequence keeps the nodes of the path that it carries. That of the last node has them all: it is the trunk
        // now.
        for (int32_t i = 0; i < n_in_pass; i++) {
            const int32_t n_kept = pass.n_on_path(i, path, n);
            if (pass.n_rows_of(i) > n_kept) {
                context->remove(ids[i], n_past + n_kept);
            }
            filled[i] = n_past + n_kept;
        }
        const int32_t own = pass.first_sequence(path[n - 1]);
        std::swap(ids[0], ids[own]);
        std::swap(filled[0], filled[own]);
    } else if (n < pass.n_rows() && (moved || !llama_memory_seq_rm(context->memory, ids[0], n_past + n, -1))) {
        lost = true;
    }
    for (int32_t i = 0; i < n; i++) {
        tokens.push_back(pass.token(path[i]));
    }
    n_in_pass = 0;
    if (context->mtp() && mtp.follows) {
        const bool has_states = outputs_at == context->n_decodes; // else there was a pass of others since
        states_of_new.clear();
        for (int32_t i = 0; i < n; i++) {
            states_of_new.push_back(has_states ? nextn_state(context->ctx.get(), first_row + path[i]) : nullptr);
        }
        show_mtp(n);
        if (mtp.n_waiting > MOST_WAITING) {
            context->mtp()->catch_up(mtp);
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// outputs

void mp_session::check_row(int32_t row) const {
    if (!has_outputs) {
        fail(MP_ERR_STATE, "there are no outputs: no pass since the last change of the prefix");
    }
    if (row < 0 || row >= outputs.n_rows) {
        fail(MP_ERR_ARGUMENT, "row %d is not one of the last pass's %d rows", row, outputs.n_rows);
    }
}

int32_t mp_session::best(int32_t row) const {
    check_row(row);
    return outputs.best[row];
}

const float * mp_session::logits(int32_t row) const {
    check_row(row);
    if (outputs_at != context->n_decodes) {
        fail(MP_ERR_STATE, "the logits of the pass are gone: another session of the context was evaluated since");
    }
    return outputs.logits[row];
}

const float * mp_session::hidden(int32_t row) const {
    logits(row); // checks the row
    return outputs.hidden.empty() ? nullptr : context->states(outputs.hidden[row], first_row + row);
}

float mp_session::logprob(int32_t row, int32_t token) const {
    const float * row_values = logits(row);
    if (token < 0 || token >= context->model->info.n_vocab) {
        fail(MP_ERR_ARGUMENT, "token %d is out of range, the vocabulary has %d", token, context->model->info.n_vocab);
    }
    return row_values[token] - outputs.log_sum[row];
}

const float * mp_session::hidden(int32_t row, int32_t layer) const {
    check_row(row);
    if (!context->taps) {
        fail(MP_ERR_STATE, "the context was opened without taps");
    }
    if (outputs_at != context->n_decodes) {
        fail(MP_ERR_STATE, "the hidden states of the pass are gone: there was another one in the context since");
    }
    return context->taps->state(layer, first_row + row);
}

const float * mp_session::prefix_logits(int32_t row) const {
    const int32_t n_rows = prefix_outputs.n_rows - prefix_first;
    if (row < 0 || row >= n_rows) {
        fail(MP_ERR_ARGUMENT, "row %d is not one of the last prefix's %d rows", row, n_rows);
    }
    if (prefix_at != context->n_decodes || prefix_first + row < prefix_readable) {
        fail(MP_ERR_STATE, "the logits of row %d of the prefix are gone: more was evaluated since", row);
    }
    return prefix_outputs.logits[prefix_first + row];
}

const float * mp_session::prefix_hidden(int32_t row) const {
    prefix_logits(row); // checks the row
    const int32_t at = prefix_first + row;
    return prefix_outputs.hidden.empty() ? nullptr : context->states(prefix_outputs.hidden[at], at - prefix_readable);
}

float mp_session::prefix_log_sum(int32_t row) const {
    prefix_logits(row); // checks the row
    return prefix_outputs.log_sum[prefix_first + row];
}
