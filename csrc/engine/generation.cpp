#include "engine/generation.h"

#include "model/text.h"
#include "session/context.h"

#include <algorithm>
#include <limits>

namespace mp {

static std::vector<std::string> strings(const char * const * stop, int32_t n) {
    return n > 0 ? std::vector<std::string>(stop, stop + n) : std::vector<std::string>();
}

generation::generation(model_ref model_, const int32_t * tokens, int32_t n, const mp_generation_params & params,
                       std::unique_ptr<proposer> source_)
    : model(std::move(model_)), text(tokens, tokens + n), n_prompt(n), n_to_evaluate(n),
      n_left(params.n_max < 0 ? std::numeric_limits<int64_t>::max() : params.n_max), n_top(params.n_top),
      n_rows(params.n_rows), gives_hidden(params.hidden), sampler(model, *params.sampler), source(std::move(source_)),
      stream(strings(params.stop, params.n_stop)) {
    counts.n_prompt = n;
    sampler.prime(tokens, n);
    if (params.constraint) {
        rules.emplace(*params.constraint, model->info.n_vocab);
    }
    if (source && (rules || sampler.has_grammar())) {
        source = std::make_unique<constrained_proposer>(std::move(source), rules ? &*rules : nullptr, sampler);
    }
}

int32_t generation::n_top_of_pass() const {
    return std::max({source ? source->n_top() : 0, n_top, std::min(2, model->info.n_vocab)}); // two for the margin
}

// --- the prompt ------------------------------------------------------------------------------------------------------

int32_t generation::evaluate_prompt(int32_t n) {
    if (n_evaluated == 0) {
        session->mtp.follows = source && source->wants_guesses();
        const auto & held = session->tokens;
        const size_t n_same = std::mismatch(text.begin(), text.end(), held.begin(), held.end()).first - text.begin();
        // The row of the prompt's last token is needed, so that one is evaluated in any case.
        n_evaluated = std::min((int32_t) n_same, is_resumed ? n_to_evaluate : n_prompt - 1);
        if (is_resumed || (int32_t) n_same > n_evaluated) {
            mp_prefix ignored = {};
            session->set_prefix(text.data(), n_evaluated, 0, 0, ignored);
        }
        if (!is_resumed) {
            std::lock_guard<std::mutex> lock(mutex);
            counts.n_prompt_reused = counts.n_prompt_done = n_evaluated;
        } else if (n_evaluated == n_to_evaluate) {
            return 0;
        }
    }
    const int32_t end = (int32_t) std::min<int64_t>((int64_t) n_evaluated + n, n_to_evaluate);
    const bool is_last = !is_resumed && end == n_prompt;
    const int32_t n_outputs = is_last ? 1 + (source ? source->n_prompt_rows() : 0) : 0;
    // A draft without them costs less than a batch of their own.
    const bool with_hidden = is_last && (gives_hidden || (wants_hidden() && end - n_evaluated <= n_outputs));
    mp_prefix rows = {};
    session->set_prefix(text.data(), end, n_outputs, n_top_of_pass(), rows, with_hidden);
    const int32_t n_new = end - rows.n_reused;
    n_evaluated = end;
    if (!is_resumed) {
        std::lock_guard<std::mutex> lock(mutex);
        counts.n_prompt_done = n_evaluated;
    }
    if (!is_last) {
        return n_new;
    }
    if (rows.n_rows == 0) {
        session->set_prefix(nullptr, 0, 0, 0, rows); // no later prompt may begin with what it left
        fail(MP_ERR_NUMERIC, "the logits after the prompt have NaN or infinite values: the model file is damaged, or its "
                             "weights overflow in this cache type");
    }
    if (n_left == 0) {
        finish(MP_FINISH_LENGTH);
        return n_new;
    }
    const int32_t row = rows.n_rows - 1;
    const int32_t * tops = rows.top_tokens + (size_t) row * rows.n_top;
    const float * logprobs = rows.top_logprobs + (size_t) row * rows.n_top;
    const float * logits = session->prefix_logits(row);
    path.clear();
    drawn.clear();
    if (draw(logits, tops[0])) {
        emit(logits[drawn[0]] - session->prefix_log_sum(row), MP_BY_MODEL, tops, logprobs, session->prefix_hidden(row));
        finish_if_full();
    }
    if (source && !is_ended) {
        source->begin(text, {rows, session->prefix_hidden(row)});
    }
    return n_new;
}

std::unique_ptr<mp_session> generation::suspend() {
    n_to_evaluate = (int32_t) text.size() - 1; // the newest is the root of the next pass
    n_evaluated = 0;
    is_resumed = true;
    return std::move(session);
}

// --- one pass --------------------------------------------------------------------------------------------------------

share generation::start_draft(int32_t room) {
    room = std::min(room, session->context->n_ctx - (int32_t) session->tokens.size());
    is_drafted = source && !is_suspect && n_left > 1 && room > 1; // the last token needs no candidates
    broken.reset();
    share rows = {nullptr, claims, 1, 1};
    if (is_drafted) {
        source->use_guesses(guessed.n > 0 ? &guessed : nullptr);
        source->start(text, room);
        if (const mp_tree * whole = source->whole()) {
            rows.n_most = rows.n_rows = whole->n_nodes + whole->n_masks;
        } else {
            rows.from = this;
            rows.n_most = room;
            rows.n_certain = source->n_forced();
        }
    }
    return rows;
}

// A caller's callback that fails while the planner asks all generations in turn concerns this one alone.
float generation::next() {
    try {
        return broken ? 0 : source->next();
    } catch (const failure & e) {
        broken.emplace(e);
        return 0;
    }
}

void generation::take() {
    source->take();
}

void generation::check_draft() const {
    if (broken) {
        throw *broken;
    }
    if (is_drafted && source->whole()) {
        try {
            session->check(*source->whole());
        } catch (const failure & e) {
            fail(MP_ERR_CALLBACK, "the proposer's draft: %s", e.what());
        }
    }
}

mp_tree generation::tree(int32_t n_rows) {
    static const int32_t no_parent = -1;
    decoded = {};
    decoded.n_nodes = 1;
    decoded.tokens = &text.back();
    decoded.parents = &no_parent;
    if (is_drafted && source->whole()) {
        decoded = *source->whole();
    } else if (is_drafted) {
        const draft_view draft = source->draft();
        decoded.n_nodes = std::min(n_rows, draft.n_nodes);
        decoded.tokens = draft.tokens;
        decoded.parents = draft.parents;
        source->add_masks(decoded, *claims);
    }
    decoded.n_top = n_top_of_pass();
    return decoded;
}

// The child of a node that carries this token and whose row can be drawn from, -1 without one.
int32_t generation::child(int32_t node, int32_t token, const mp_pass & pass) const {
    for (int32_t i = node + 1; i < decoded.n_nodes; i++) {
        if (decoded.parents[i] == node && decoded.tokens[i] == token && pass.best[i] >= 0) {
            return i;
        }
    }
    return -1;
}

// ESP, arXiv 2603.17942: exact match. The sampler draws once per emitted token, in order, whatever the tree holds.
void generation::accept(const mp_pass & pass) {
    path.clear();
    drawn.clear();
    if (pass.best[0] < 0) {
        session->commit(nullptr, 0);
        if (is_suspect) {
            fail(MP_ERR_NUMERIC, "the logits of a pass over one token have NaN or infinite values: the model file is "
                                 "damaged, or its weights overflow in this cache type");
        }
        is_suspect = true;
        return;
    }
    is_suspect = false;
    const draft_view draft = is_drafted && !source->whole() ? source->draft() : draft_view{};
    note_draft(draft); // before tokens are emitted: a root alone is the last token of the text
    int64_t n_accepted = 0;
    for (int32_t node = 0; node >= 0;) {
        path.push_back(node);
        if (!draw(session->logits(node), pass.best[node])) {
            break;
        }
        const int32_t next = child(node, drawn.back(), pass);
        n_accepted += next >= 0;
        const size_t tops = (size_t) node * pass.n_top;
        emit(session->logprob(node, drawn.back()), // the source is that of the child that had guessed it
             next < 0        ? MP_BY_MODEL
             : draft.sources ? (mp_source) draft.sources[next]
                             : MP_BY_PROPOSER,
             pass.top_tokens + tops, pass.top_logprobs + tops, session->hidden(node));
        node = is_ended ? -1 : next;
    }
    session->commit(path.data(), (int32_t) path.size());
    path.resize(drawn.size());
    finish_if_full();
    std::lock_guard<std::mutex> lock(mutex);
    counts.n_passes++;
    counts.n_rows += pass.n_rows;
    counts.n_drafted += decoded.n_nodes - 1;
    counts.n_accepted += n_accepted;
    noted.n_pass = counts.n_passes;
    noted.path = path;
    noted.emitted = drawn;
    std::swap(noted, newest);
}

void generation::note_draft(const draft_view & draft) {
    const int32_t n = decoded.n_nodes;
    noted.tokens.assign(decoded.tokens, decoded.tokens + n);
    noted.parents.assign(decoded.parents, decoded.parents + n);
    noted.sources.assign(n, MP_BY_PROPOSER);
    noted.sources[0] = MP_BY_MODEL;
    if (draft.sources) {
        noted.sources.assign(draft.sources, draft.sources + n);
    }
}

void generation::learn_claims(calibration & of) const {
    if (!path.empty() && !failed && is_drafted && !source->whole()) {
        const draft_view draft = source->draft();
        of.learn(draft.probabilities, draft.parents, draft.tokens, draft.n_nodes, decoded.n_nodes, path.data(), drawn.data(),
                 (int32_t) path.size(), 1 + source->n_forced());
    }
}

void generation::learn(const mp_pass & pass) {
    if (path.empty() || !source || failed) {
        return;
    }
    if (!is_drafted) {
        const mp_prefix rows = {0, 1, pass.n_top, pass.top_tokens, pass.top_logprobs};
        source->extend(drawn.data(), 1, {rows, session->hidden(0)});
        return;
    }
    source->observe({decoded, pass, path.data(), drawn.data(), (int32_t) path.size(), session->hidden(path.back())});
}

// --- emitting --------------------------------------------------------------------------------------------------------

// Draws the next token into `drawn`; false, and the generation ends, where nothing may be drawn.
bool generation::draw(const float * logits, int32_t best) {
    constraint * rule = rules ? &*rules : nullptr;
    const float * values = rule ? rule->changed(text, logits) : logits;
    const int32_t token = sampler.sample(values, values == logits ? best : -1, rule);
    if (token < 0) {
        finish(MP_FINISH_CONSTRAINT);
        return false;
    }
    if (rule) {
        rule->accept(token);
    }
    drawn.push_back(token);
    return true;
}

// The newest token of `drawn`.
void generation::emit(float logprob, mp_source source_of, const int32_t * tops, const float * logprobs,
                      const float * hidden) {
    const int32_t id = drawn.back();
    text.push_back(id);
    n_left--;
    fresh.emplace_back();
    emitted_token & e = fresh.back();
    e.token.id = id;
    e.token.logprob = logprob;
    e.token.margin = model->info.n_vocab > 1 ? logprobs[0] - logprobs[1] : 0;
    e.token.source = source_of;
    e.top_tokens.assign(tops, tops + n_top);
    e.top_logprobs.assign(logprobs, logprobs + n_top);
    if (gives_hidden && !hidden) {
        fail(MP_ERR_UNSUPPORTED, "llama.cpp's graph of this model has no hidden states after a tapped layer");
    }
    if (gives_hidden) {
        e.hidden.assign(hidden, hidden + (size_t) session->context->n_states() * model->info.n_embd);
    }
    const bool is_end = llama_vocab_is_eog(model->vocab, id);
    if (!is_end) {
        const std::string shown = token_text(*model, id, false);
        const std::string text_of = shown.empty() ? token_text(*model, id, true) : shown; // a special token's is not shown
        stream.push(text_of.data(), text_of.size(), !shown.empty());
    }
    e.text = stream.take();
    if (is_end || stream.stopped()) {
        finish(MP_FINISH_STOP);
    } else if (n_left == 0) {
        finish(MP_FINISH_LENGTH);
    }
}

void generation::finish_if_full() {
    if (!is_ended && (int32_t) session->tokens.size() >= session->context->n_ctx) {
        finish(MP_FINISH_CONTEXT);
    }
}

// The reason goes with the last token that nobody has read yet, or comes alone.
void generation::finish(mp_finish why) {
    is_ended = true;
    if (fresh.empty()) {
        fresh.emplace_back();
        fresh.back().token.id = -1;
        fresh.back().token.source = MP_BY_MODEL;
    }
    stream.finish();
    fresh.back().text += stream.take();
    fresh.back().token.finish = why;
}

void generation::fail_with(const failure & why) {
    is_ended = true;
    publish();
    std::lock_guard<std::mutex> lock(mutex);
    failed.emplace(why);
}

void generation::publish() {
    std::lock_guard<std::mutex> lock(mutex);
    for (emitted_token & e : fresh) {
        counts.n_gen += e.token.id >= 0;
        unread.push_back(std::move(e));
    }
    fresh.clear();
}

void generation::count_prompt(int64_t us) {
    std::lock_guard<std::mutex> lock(mutex);
    (is_resumed ? counts.gen_us : counts.prompt_us) += us;
}

void generation::count_pass(int64_t us, int64_t decode_us) {
    std::lock_guard<std::mutex> lock(mutex);
    counts.gen_us += us;
    counts.decode_us += decode_us;
}

// --- any thread ------------------------------------------------------------------------------------------------------

bool generation::read(emitted_token & out) {
    std::lock_guard<std::mutex> lock(mutex);
    if (!unread.empty()) {
        out = std::move(unread.front());
        unread.pop_front();
        has_told_end = out.token.finish != MP_FINISH_NONE;
        return true;
    }
    if (failed && !has_told_end) {
        has_told_end = true;
        throw *failed;
    }
    if (has_told_end) {
        mp::fail(MP_ERR_STATE, "the generation has ended: there is no next token");
    }
    return false;
}

void generation::newest_draft(drafted_tree & out) const {
    std::lock_guard<std::mutex> lock(mutex);
    out = newest;
}

mp_stats generation::stats() const {
    std::lock_guard<std::mutex> lock(mutex);
    return counts;
}

} // namespace mp
