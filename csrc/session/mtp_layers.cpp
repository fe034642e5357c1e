#include "session/mtp_layers.h"

#include "session/context_params.h"
#include "session/nextn_bridge.h"
#include "status.h"

#include <algorithm>
#include <cmath>

namespace mp {

constexpr int32_t N_CTX_GRAIN = 256;
constexpr int32_t MOST_BESIDE_ROOT = 8; // tokens that wait and are decoded with the root after them

llama_context_params mtp_context_params(const llama_context_params & of_main, int32_t n_texts) {
    llama_context_params cp = of_main;
    cp.ctx_type = LLAMA_CONTEXT_TYPE_MTP;
    const uint32_t n_ctx = of_main.n_ctx + n_texts * MOST_GUESSED; // the guesses of each beside its text
    cp.n_ctx = (n_ctx + N_CTX_GRAIN - 1) / N_CTX_GRAIN * N_CTX_GRAIN;
    cp.n_seq_max = n_texts;
    cp.n_rs_seq = 0; // these layers attend
    cp.cb_eval = nullptr;
    cp.cb_eval_user_data = nullptr;
    cp.abort_callback = nullptr; // a pass that is stopped stops in the main context
    cp.abort_callback_data = nullptr;
    return cp;
}

mtp_layers::mtp_layers(const mp_model & model, const llama_context_params & of_main, int32_t n_texts, worker_pool & workers,
                       int32_t n_threads, int32_t n_threads_batch)
    : model(model), n_state(llama_model_n_embd_out(model.weights)), n_threads(n_threads), n_threads_batch(n_threads_batch),
      link{workers}, no_state(n_state), scratch(model.info.n_vocab) {
    if (model.info.n_layer_mtp == 0) {
        fail(MP_ERR_UNSUPPORTED, "this %s model was loaded without layers for multi-token prediction", model.info.arch);
    }
    if (!has_nextn_states()) {
        fail(MP_ERR_UNSUPPORTED, "this llama.cpp does not hand out the states that they need");
    }
    ctx.reset(make_context(model, mtp_context_params(of_main, n_texts), link));
    keep_nextn_states(ctx.get(), true, true);
    memory = llama_get_memory(ctx.get());
    n_batch = (int32_t) llama_n_batch(ctx.get());
    for (llama_seq_id id = n_texts - 1; id >= 0; id--) {
        free_ids.push_back(id);
    }
}

// --- texts -----------------------------------------------------------------------------------------------------------

// Nothing is held; the newest state stays.
void mtp_layers::forget(mtp_text & text) {
    llama_memory_seq_rm(memory, text.id, -1, -1);
    text.held.clear();
    text.waiting.clear();
    text.n_waiting = 0;
}

void mtp_layers::cut(mtp_text & text, int32_t n_keep) {
    if (text.newest_at >= n_keep) {
        text.newest_at = -1;
    }
    if (n_keep >= text.end()) {
        return;
    }
    if (n_keep <= text.first) {
        forget(text);
        return;
    }
    const int32_t n_cells = (int32_t) text.held.size() - text.n_waiting;
    text.held.resize(n_keep - text.first);
    if ((int32_t) text.held.size() < n_cells) {
        llama_memory_seq_rm(memory, text.id, n_keep, -1);
    }
    text.n_waiting = std::max((int32_t) text.held.size() - n_cells, 0);
    text.waiting.resize((size_t) text.n_waiting * n_state);
}

// A state that is not finite would stay in the cells, and nothing could be said from there on.
void mtp_layers::put_state(std::vector<float> & to, const float * state) const {
    const bool is_good = state && std::all_of(state, state + n_state, [](float x) { return std::isfinite(x); });
    to.insert(to.end(), is_good ? state : zeros(), (is_good ? state : zeros()) + n_state);
}

void mtp_layers::follow(mtp_text & text, int32_t at, const int32_t * new_tokens, int32_t n, const float * const * after) {
    if (n == 0 || (text.id < 0 && free_ids.empty())) {
        return;
    }
    if (text.id < 0) {
        text.id = free_ids.back();
        free_ids.pop_back();
        texts.push_back(&text);
    }
    if (text.held.empty() || at < text.first || at > text.end()) { // what came between is not known
        forget(text);
        text.first = at;
    }
    int32_t i = 0;
    while (i < n && at + i < text.end() && text.held[at + i - text.first] == new_tokens[i]) {
        i++;
    }
    const bool goes_on = text.newest_at == at - 1;
    cut(text, at + i);
    before.clear();
    put_state(before, i == 0 && goes_on ? text.newest.data() : nullptr);
    for (; i < n; i++) {
        if (new_tokens[i] < 0) { // the layers take tokens only
            forget(text);
            text.first = at + i + 1;
            continue;
        }
        text.held.push_back(new_tokens[i]);
        put_state(text.waiting, i > 0 ? after[i - 1] : before.data());
        text.n_waiting++;
    }
    text.newest.clear();
    put_state(text.newest, after[n - 1]);
    text.newest_at = at + n - 1;
}

void mtp_layers::copy(const mtp_text & from, mtp_text & to) {
    if (from.id < 0 || free_ids.empty()) {
        return;
    }
    const llama_seq_id id = free_ids.back();
    free_ids.pop_back();
    to = from;
    to.id = id;
    texts.push_back(&to);
    if ((int32_t) from.held.size() > from.n_waiting) {
        llama_memory_seq_cp(memory, from.id, id, -1, -1);
    }
}

void mtp_layers::close(mtp_text & text) {
    if (text.id >= 0) {
        forget(text);
        free_ids.push_back(text.id);
        texts.erase(std::find(texts.begin(), texts.end(), &text));
        text.id = -1;
    }
}

// All cells are as new: what is not finite in one harms rows that do not see it.
void mtp_layers::clear() {
    for (mtp_text * text : texts) {
        forget(*text);
    }
    llama_memory_clear(memory, true);
}

// --- one decode ------------------------------------------------------------------------------------------------------

void mtp_layers::add_waiting(const mtp_text & text) {
    const auto n_held = (int32_t) text.held.size();
    for (int32_t i = 0; i < text.n_waiting; i++) {
        const int32_t at = n_held - text.n_waiting + i;
        rows.push_back({&text, text.held[at], text.first + at, &text.waiting[(size_t) i * n_state]});
    }
}

// with_outputs: of all rows, or of none. Of some architectures llama.cpp keeps the states of the outputs, of others those of
// the first rows of the batch: they are the same only where all are outputs.
bool mtp_layers::decode(int32_t n_threads_of_it, bool with_outputs) {
    const size_t n = rows.size();
    tokens.resize(n);
    embd.resize(n * n_state);
    pos.resize(n);
    n_seq.assign(n, 1);
    ids.resize(n);
    seq.resize(n);
    output.assign(n, with_outputs);
    for (size_t i = 0; i < n; i++) {
        tokens[i] = rows[i].token;
        std::copy_n(rows[i].state, n_state, &embd[i * n_state]);
        pos[i] = rows[i].at;
        ids[i] = rows[i].text->id;
        seq[i] = &ids[i];
    }
    llama_batch batch = {};
    batch.n_tokens = (int32_t) n;
    batch.token = tokens.data();
    batch.embd = embd.data();
    batch.pos = pos.data();
    batch.n_seq_id = n_seq.data();
    batch.seq_id = seq.data();
    batch.logits = output.data();
    set_threads(ctx.get(), model, link, n_threads_of_it);
    bool is_done = false;
    try {
        is_done = llama_decode(ctx.get(), batch) == 0;
        llama_synchronize(ctx.get());
    } catch (const std::exception &) { // it is a guess that is missing, no more
        is_done = false;
    }
    return is_done;
}

void mtp_layers::catch_up(mtp_text & text) {
    while (text.n_waiting > 0) {
        rows.clear();
        add_waiting(text);
        const int32_t n = std::min(text.n_waiting, n_batch);
        rows.resize(n);
        if (!decode(n_threads_batch, false)) {
            forget(text);
            return;
        }
        text.n_waiting -= n;
        text.waiting.erase(text.waiting.begin(), text.waiting.begin() + (ptrdiff_t) n * n_state);
    }
    text.waiting.shrink_to_fit(); // of a prompt it is much
}

bool mtp_layers::read(int32_t row, guesses & answer) {
    const float * logits = llama_get_logits_ith(ctx.get(), row);
    distribution & to = answer.likely[answer.n];
    const int32_t n = std::min(N_LIKELY, model.info.n_vocab);
    if (!logits || !top_k(logits, model.info.n_vocab, n, scratch, to.tokens, to.probabilities, &log_sum)) {
        return false;
    }
    to.n = n;
    for (int32_t i = 0; i < n; i++) {
        to.probabilities[i] = std::exp(to.probabilities[i]);
    }
    answer.n++;
    return true;
}

// --- guesses ---------------------------------------------------------------------------------------------------------

void mtp_layers::begin(std::vector<question> & questions) {
    states.clear();
    for (question & q : questions) {
        q.answer->n = 0;
        q.goes_on = q.text->id >= 0 && q.text->newest_at == q.at - 1;
        if (q.goes_on && q.text->end() > q.at) { // a root that was asked about before, or another one
            cut(*q.text, q.at);
        }
        states.insert(states.end(), q.goes_on ? q.text->newest.data() : zeros(),
                      (q.goes_on ? q.text->newest.data() : zeros()) + n_state);
    }
}

void mtp_layers::ask(std::vector<question> & questions) {
    for (question & q : questions) {
        if (q.goes_on && q.text->n_waiting > std::min(MOST_BESIDE_ROOT, n_batch / (int32_t) questions.size() - 1)) {
            catch_up(*q.text);
        }
    }
    rows.clear();
    bool is_root = false;
    for (size_t i = 0; i < questions.size(); i++) {
        question & q = questions[i];
        if (!q.goes_on) {
            continue;
        }
        const int32_t depth = q.answer->n;
        is_root = depth == 0;
        if (depth == 0 && q.text->end() < q.at) { // it was forgotten
            q.text->first = q.at;
        }
        add_waiting(*q.text);
        rows.push_back(
            {q.text, depth == 0 ? q.root : q.answer->likely[depth - 1].tokens[0], q.at + depth, &states[i * n_state]});
    }
    if (rows.empty()) {
        return;
    }
    const bool is_done = decode(n_threads, true);
    bool is_finite = true;
    int32_t row = 0;
    for (size_t i = 0; i < questions.size(); i++) {
        question & q = questions[i];
        if (!q.goes_on) {
            continue;
        }
        row += q.text->n_waiting;
        if (!is_done) {
            forget(*q.text);
            q.goes_on = false;
            continue;
        }
        if (is_root) { // its cell stays: the same is true of it once it is committed
            q.text->held.push_back(q.root);
            q.text->n_waiting = 0;
            q.text->waiting.clear();
        }
        const float * state = nextn_state(ctx.get(), row);
        q.goes_on = read(row, *q.answer) && state;
        is_finite = is_finite && q.goes_on;
        if (q.goes_on) {
            std::copy_n(state, n_state, &states[i * n_state]);
        }
        q.goes_on = q.goes_on && q.answer->n < MOST_GUESSED;
        row++;
    }
    if (!is_finite) {
        clear();
        for (question & q : questions) {
            q.goes_on = false;
        }
    }
}

void mtp_layers::end(std::vector<question> & questions) {
    for (question & q : questions) {
        if (q.answer->n > 1 && !q.text->held.empty()) {
            llama_memory_seq_rm(memory, q.text->id, q.at + 1, -1);
        }
    }
}

} // namespace mp
