#include "engine/engine.h"

#include "engine/open_heads.h"
#include "hosts/rpc_hosts.h"
#include "model/text.h"
#include "status.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include <unistd.h>

using namespace mp;

constexpr int32_t MOST_PLANNED = 32;   // rows of one generation, where the planner chooses, beside what is forced
constexpr int32_t LARGEST_PIECE = 512; // tokens of a prompt at once,
constexpr int32_t LEAST_PIECE = 8;     // and where others wait for it
constexpr double PIECE_PASSES = 1.5;   // usual passes that a piece may take then at least
constexpr double RATE = 1.0 / 8;       // of the newest value, in running means

static constexpr const char * OF_FILE = "file:";

static std::optional<mask_kind> parse_masks(const char * name) {
    const std::string kind = name ? name : "none";
    if (kind == "none") {
        return std::nullopt;
    }
    if (kind.rfind(OF_FILE, 0) == 0) {
        return mask_kind::file;
    }
    if (kind != "mean" && kind != "soft") {
        fail(MP_ERR_ARGUMENT, "masks = '%s' must be none, mean, soft or file:PATH", name);
    }
    return kind == "mean" ? mask_kind::mean : mask_kind::soft;
}

static masks_ref open_masks(const model_ref & model, std::optional<mask_kind> kind, const char * name) {
    if (kind != mask_kind::file) {
        return nullptr;
    }
    return masks_ref(masks_open(model, name + strlen(OF_FILE)), masks_close); // trees name it by its handle
}

static void move_mean(double & mean, double value) {
    mean += mean > 0 ? RATE * (value - mean) : value;
}

mp_engine::mp_engine(context_ref context_, const mp_engine_params & params)
    : context(std::move(context_)), n_rows_fixed(params.n_rows), masks(parse_masks(params.masks)),
      trained(open_masks(context->model, masks, params.masks)), state(open_state(*context->model, params.state)),
      heads(open_heads(*context, params.heads, heads_note)),
      has_own_layers(!heads && open_own_layers(*context, params.heads, heads_note)), cache(context) {
    if (params.n_rows < 0 || params.n_rows > context->n_rows_max) {
        fail(MP_ERR_ARGUMENT, "n_rows = %d must be between 0 (as many as pay) and the context's n_rows_max = %d",
             params.n_rows, context->n_rows_max);
    }
    if (context->n_rows_max < context->n_sessions_max) {
        fail(MP_ERR_ARGUMENT, "a pass of n_rows_max = %d rows has no room for %d sessions", context->n_rows_max,
             context->n_sessions_max);
    }
    if (context->model->hosts) { // ggml asks them for the sizes of each new number of rows
        planner.keep_to_few_shapes();
    }
    state->restore(setting(), planner);
}

mp_engine::~mp_engine() {
    state->keep(setting(), planner, true);
}

// What the times of passes depend on.
std::string mp_engine::setting() const {
    char machine[256] = "";
    gethostname(machine, sizeof(machine) - 1);
    const auto & hosts = context->model->hosts;
    return format("%s, %d threads, %s, %d tokens x %d%s", machine, context->n_threads, context->model->info.kernels,
                  context->n_ctx, context->n_sessions_max, hosts ? (", hosts " + hosts->names()).c_str() : "");
}

// ---------------------------------------------------------------------------------------------------------------------
// one step

void mp_engine::step(int32_t & n_active) {
    const entry inside(context->guard);
    {
        const std::lock_guard<std::mutex> lock(mutex);
        is_stepping = true;
    }
    const auto end = [&] {
        const std::lock_guard<std::mutex> lock(mutex);
        is_stepping = false;
        n_active = (int32_t) (active.size() + waiting.size());
        if (stops_pass) {
            stops_pass = false;
            context->cancel_requested.store(false);
            return true;
        }
        return false;
    };
    try {
        retire();
        admit();
        take_step();
        retire();
        end();
    } catch (...) {
        for (const generation_ref & g : active) {
            g->publish();
            g->session->commit(nullptr, 0);
        }
        retire();
        const bool is_stopped = end();
        try {
            throw;
        } catch (const failure & e) {
            if (!is_stopped || e.status != MP_ERR_CANCELLED) {
                throw;
            }
        }
    }
}

// A first token is handed out at once: the pass that would follow its prompt comes with the next step.
void mp_engine::take_step() {
    if (!owes_pass && evaluate_piece()) {
        owes_pass = true;
        return;
    }
    owes_pass = false;
    drawing.clear();
    for (const generation_ref & g : active) {
        if (!g->has_prompt_left() && !g->ended()) {
            drawing.push_back(g);
        }
    }
    const auto suspect = std::find_if(drawing.begin(), drawing.end(), [](const auto & g) { return g->wants_pass_alone(); });
    if (suspect != drawing.end()) {
        drawing.assign(1, generation_ref(*suspect));
    }
    if (!drawing.empty()) {
        const int64_t started = ggml_time_us();
        plan();
        pass(started);
    }
}

// Who gets how many rows.
void mp_engine::plan() {
    {
        const std::lock_guard<std::mutex> lock(state->mutex);
        claims = state->claims;
    }
    int32_t most = context->n_rows_max / (int32_t) drawing.size(); // a root of each has its place in any case
    if (!context->model->info.can_tree) {
        most = std::min(most, 1 + context->max_chain);
    }
    if (has_own_layers) {
        own.ask(*context->mtp(), drawing, planner.us_per_token());
    }
    shares.assign(drawing.size(), {});
    each([&](size_t i) {
        const int32_t own = drawing[i]->n_rows_wanted();
        const int32_t wanted = own > 0 ? own : n_rows_fixed;
        shares[i] = drawing[i]->start_draft(wanted > 0 ? std::min(most, wanted) : most);
    });
    leave_out_ended();
    if (drawing.empty()) {
        return;
    }
    depth = 0;
    for (const generation_ref & g : drawing) {
        depth += (int64_t) g->session->tokens.size() / (int64_t) drawing.size();
    }
    if (n_rows_fixed == 0) {
        for (share & s : shares) {
            s.n_most = s.from ? std::min(s.n_most, MOST_PLANNED + s.n_certain) : s.n_most;
        }
    }
    n_rows_fixed > 0 ? take_fixed() : planner.choose(shares.data(), (int32_t) shares.size(), depth, context->n_rows_max);
    each([&](size_t i) { drawing[i]->check_draft(); });
    leave_out_ended();
    if (!context->model->info.can_tree) { // chains of one pass have one length
        int32_t fewest = context->n_rows_max;
        for (const share & s : shares) {
            fewest = std::min(fewest, s.n_rows);
        }
        for (share & s : shares) {
            s.n_rows = fewest;
        }
    }
}

void mp_engine::take_fixed() {
    for (share & s : shares) {
        for (; s.from && s.n_rows < s.n_most && s.from->next() > 0; s.n_rows++) {
            s.from->take();
        }
    }
}

// A generation whose draft failed is not in the pass.
void mp_engine::leave_out_ended() {
    for (size_t i = drawing.size(); i-- > 0;) {
        if (drawing[i]->ended()) {
            drawing.erase(drawing.begin() + i);
            shares.erase(shares.begin() + i);
        }
    }
}

// Decode, accept, commit, learn: one llama_decode for all generations that draw.
void mp_engine::pass(int64_t started) {
    if (drawing.empty()) {
        return;
    }
    sessions.clear();
    trees.clear();
    passes.assign(drawing.size(), {});
    for (size_t i = 0; i < drawing.size(); i++) {
        sessions.push_back(drawing[i]->session.get());
        trees.push_back(drawing[i]->tree(shares[i].n_rows));
    }
    const bool hidden = std::any_of(drawing.begin(), drawing.end(), [](const auto & g) { return g->wants_hidden(); });
    with_room([&] { context->decode((int32_t) drawing.size(), sessions.data(), trees.data(), passes.data(), hidden); });
    each([&](size_t i) { drawing[i]->accept(passes[i]); });
    {
        const std::lock_guard<std::mutex> lock(state->mutex);
        each([&](size_t i) { drawing[i]->learn_claims(drawing[i]->claims == &claims ? state->claims : claims_of_callers); });
    }
    each([&](size_t i) { drawing[i]->learn(passes[i]); });
    each([&](size_t i) { own.learn(*drawing[i]); });
    const double us = (double) (ggml_time_us() - started);
    int32_t n_rows = 0;
    for (size_t i = 0; i < drawing.size(); i++) {
        n_rows += passes[i].n_rows;
        drawing[i]->count_pass((int64_t) us, passes[i].decode_us);
        drawing[i]->publish();
    }
    planner.observe(n_rows, depth, us);
    move_mean(us_of_pass, us);
}

// What fails in one generation ends that one.
template <typename F> void mp_engine::each(F && work) {
    for (size_t i = 0; i < drawing.size(); i++) {
        try {
            work(i);
        } catch (const failure & e) {
            drawing[i]->session->commit(nullptr, 0);
            drawing[i]->fail_with(e);
        }
    }
}

// Of the prompts that are not complete, the oldest and the shortest in turns: a long one goes on, a short one need not wait
// for its end.
generation * mp_engine::next_prompt() {
    generation * oldest = nullptr;
    generation * shortest = nullptr;
    for (const generation_ref & g : active) {
        if (g->has_prompt_left() && !g->ended()) {
            oldest = oldest ? oldest : g.get();
            shortest = shortest && shortest->n_prompt_left() <= g->n_prompt_left() ? shortest : g.get();
        }
    }
    takes_shortest = !takes_shortest;
    return takes_shortest ? oldest : shortest;
}

// Where the cells do not suffice, what is cached has to go.
template <typename F> void mp_engine::with_room(F && work) {
    for (;;) {
        try {
            return work();
        } catch (const failure & e) {
            if (e.status != MP_ERR_CONTEXT_FULL || !cache.drop_oldest()) {
                throw;
            }
        }
    }
}

// A piece of a prompt. Others wait no longer for it than for a few passes. True where a first token came with it.
bool mp_engine::evaluate_piece() {
    generation * const found = next_prompt();
    if (!found) {
        return false;
    }
    generation & g = *found;
    const auto n_drawing = std::count_if(active.begin(), active.end(), [](const generation_ref & other) {
        return !other->has_prompt_left() && !other->ended();
    });
    int32_t n = LARGEST_PIECE;
    if (n_drawing > 0) {
        // Where many wait for their prompts, these get the same share of the time as those that draw.
        const double n_passes = std::max(PIECE_PASSES, (double) (active.size() - n_drawing) / n_drawing);
        const double fits = us_of_prompt_token > 0 ? n_passes * us_of_pass / us_of_prompt_token : 0;
        n = (int32_t) std::clamp(fits, (double) LEAST_PIECE, (double) LARGEST_PIECE);
    }
    const int64_t started = ggml_time_us();
    int32_t n_evaluated = 0;
    try {
        with_room([&] { n_evaluated = g.evaluate_prompt(n); });
    } catch (const failure & e) {
        if (e.status == MP_ERR_CANCELLED) {
            throw;
        }
        g.fail_with(e);
    }
    const int64_t us = ggml_time_us() - started;
    g.count_prompt(us);
    g.publish();
    if (n_evaluated > 0) {
        move_mean(us_of_prompt_token, (double) us / n_evaluated);
    }
    return !g.has_prompt_left() && !g.was_suspended();
}

// ---------------------------------------------------------------------------------------------------------------------
// any thread

std::shared_ptr<generation> mp_engine::open(const int32_t * tokens, int32_t n, const mp_generation_params & given) {
    const model_ref & model = context->model;
    if (n > context->n_ctx) {
        fail(MP_ERR_CONTEXT_FULL, "the prompt has %d tokens, the context holds %d", n, context->n_ctx);
    }
    mp_generation_params params = given;
    mp_sampler_params sampling = params.sampler ? *params.sampler : mp_sampler_default_params();
    params.sampler = &sampling;
    std::vector<int32_t> tokens_of_bias(sampling.bias_tokens, sampling.bias_tokens + std::max(sampling.n_logit_bias, 0));
    std::vector<float> biases(sampling.bias_values, sampling.bias_values + std::max(sampling.n_logit_bias, 0));
    if (params.ignore_end) {
        for (const int32_t token : ends()) {
            tokens_of_bias.push_back(token);
            biases.push_back(-std::numeric_limits<float>::infinity());
        }
        sampling.n_logit_bias = (int32_t) biases.size();
        sampling.bias_tokens = tokens_of_bias.data();
        sampling.bias_values = biases.data();
    }
    if (params.hidden) {
        context->check_hidden(true);
    }
    const bool can_draft = params.draft && (model->info.can_tree || context->max_chain > 0);
    const bool chains_only = !model->info.can_tree;
    std::unique_ptr<proposer> source;
    if (can_draft && params.proposer) {
        source = std::make_unique<plugged_proposer>(*params.proposer, model->info.n_vocab, chains_only);
    } else if (can_draft) {
        std::unique_ptr<mask_source> vectors;
        if (masks && model->info.can_tree && model->info.can_probe) {
            vectors = std::make_unique<mask_source>(*model, *masks, state->known, trained);
        }
        source = std::make_unique<evidence_proposer>(state->known, chains_only, std::move(vectors), heads, has_own_layers);
    }
    auto made = std::make_shared<generation>(model, tokens, n, params, std::move(source));
    made->claims = params.proposer ? &claims_of_callers : &claims;
    const std::lock_guard<std::mutex> lock(mutex);
    waiting.push_back(made);
    return made;
}

// All tokens that end a text. The first use looks through the whole vocabulary.
const std::vector<int32_t> & mp_engine::ends() {
    const std::lock_guard<std::mutex> lock(mutex);
    if (end_tokens.empty()) {
        for (int32_t token = 0; token < context->model->info.n_vocab; token++) {
            if (token_is_end(*context->model, token)) {
                end_tokens.push_back(token);
            }
        }
    }
    return end_tokens;
}

// A pass that nobody wants any more is stopped.
void mp_engine::cancel(generation & g) {
    const std::lock_guard<std::mutex> lock(mutex);
    g.cancelled.store(true);
    const auto is_cancelled = [](const generation_ref & other) { return other->cancelled.load(); };
    const bool is_active =
        std::any_of(active.begin(), active.end(), [&](const generation_ref & a) { return a.get() == &g; });
    if (is_stepping && is_active && std::all_of(active.begin(), active.end(), is_cancelled)) {
        stops_pass = true;
        context->cancel_requested.store(true);
    }
}

bool mp_engine::embed(const int32_t * tokens, int32_t n, float * out) {
    const entry inside(context->guard);
    if (n > context->n_ctx) { // before anything that is cached goes for it
        fail(MP_ERR_CONTEXT_FULL, "%d tokens do not fit into a context of %d", n, context->n_ctx);
    }
    retire();
    if ((int32_t) active.size() == context->n_sessions_held) {
        return false;
    }
    std::unique_ptr<mp_session> session = cache.take_oldest(active.size());
    with_room([&] { session->mean_embedding(tokens, n, out); });
    return true; // what the session holds is no prompt: it is not cached
}

double mp_engine::pass_us(int32_t n_rows) const {
    return us_of_pass > 0 ? planner.time(n_rows, depth) : 0;
}

const char * mp_engine::note() {
    last_note = state->note();
    last_note += (last_note.empty() || heads_note.empty() ? "" : "; ") + heads_note;
    return last_note.c_str();
}
