// What is tried out when a model is loaded.
//
// Does an embedding row mean the same to this model as the token it belongs to? Architectures differ: some scale token
// input only, some look further tables up by token id. So the same few tokens are decoded both ways and compared.
//
// Does a recurrent state go back? llama.cpp keeps the states after the last tokens for some architectures. So a chain is
// decoded, all but its first token taken back, and what follows compared.
#include "model/model.h"

#include "platform/abort_guard.h"
#include "platform/runtime.h"
#include "session/context_params.h"
#include "status.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

namespace mp {

static constexpr int32_t N_PROBE = 4;
static constexpr int32_t N_BACK = 2; // tokens that a state goes back
// Candidates of a chain, if it does: with the root 8 rows, which products like. Each costs a state, and in every pass, even
// of one row, llama.cpp copies as many.
static constexpr int32_t MAX_CHAIN = 7;
// Both ways run the same kernels on the same shapes; what is left is rounding.
static constexpr double TOLERANCE = 0.01; // of the logits' standard deviation

namespace {

struct probe_context {
    worker_pool workers;
    accel_link link{workers};
    std::unique_ptr<llama_context, decltype(&llama_free)> ctx{nullptr, llama_free};
    const mp_model & model;
    std::vector<int32_t> tokens;

    probe_context(const mp_model & model, int32_t n_threads, int32_t n_back) : workers(n_threads), model(model) {
        llama_context_params params = llama_context_default_params();
        params.n_ctx = 256;
        params.n_batch = 32;
        params.n_ubatch = 32;
        params.n_seq_max = 1;
        params.n_rs_seq = n_back;
        params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
        params.no_perf = true;
        ctx.reset(make_context(model, params, link));
        set_threads(ctx.get(), model, link, n_threads);
        for (int32_t i = 0; i < N_PROBE; i++) {
            tokens.push_back((int32_t) ((int64_t) model.info.n_vocab * (2 * i + 1) / (2 * N_PROBE)));
        }
    }

    llama_memory_t memory() { return llama_get_memory(ctx.get()); }

    // The logits of all probe tokens, (N_PROBE, n_vocab): as tokens where scale is 0, else as scaled embedding rows.
    std::vector<float> logits(float scale) {
        llama_memory_clear(memory(), false);
        return rows(0, tokens, scale);
    }

    // The logits of `input`, (n, n_vocab), at the places from `first` on.
    std::vector<float> rows(int32_t first, std::vector<int32_t> input, float scale) {
        const int32_t n = (int32_t) input.size();
        std::vector<float> embd;
        std::vector<llama_pos> pos;
        std::vector<int32_t> n_seq(n, 1);
        llama_seq_id seq_zero = 0;
        std::vector<llama_seq_id *> seq(n, &seq_zero);
        std::vector<int8_t> output(n, 1);
        for (int32_t j = 0; j < model.n_pos_per_embd; j++) {
            for (int32_t i = 0; i < n; i++) {
                pos.push_back(j < 3 ? first + i : 0);
            }
        }
        if (scale != 0) {
            embd.resize((size_t) n * model.info.n_embd);
            for (int32_t i = 0; i < n; i++) {
                model.embeddings.row(input[i], &embd[(size_t) i * model.info.n_embd]);
            }
            for (float & x : embd) {
                x *= scale;
            }
        }
        llama_batch batch = {};
        batch.n_tokens = n;
        batch.token = scale == 0 ? input.data() : nullptr;
        batch.embd = scale == 0 ? nullptr : embd.data();
        batch.pos = pos.data();
        batch.n_seq_id = n_seq.data();
        batch.seq_id = seq.data();
        batch.logits = output.data();
        clear_log_error();
        abort_guard guard; // an architecture that asserts on embedding rows has to be found out here
        const int32_t code = llama_decode(ctx.get(), batch);
        if (code != 0) {
            fail(MP_ERR_DECODE, "llama_decode returned %d for %s input: %s", code, scale == 0 ? "token" : "embedding",
                 last_log_error().c_str());
        }
        std::vector<float> result;
        for (int32_t i = 0; i < n; i++) {
            const float * row = llama_get_logits_ith(ctx.get(), i);
            result.insert(result.end(), row, row + model.info.n_vocab);
        }
        return result;
    }
};

} // namespace

// The largest difference, in standard deviations of `a`; infinite where either is not finite.
static double difference(const std::vector<float> & a, const std::vector<float> & b) {
    double sum = 0, squares = 0, largest = 0;
    for (size_t i = 0; i < a.size(); i++) {
        if (!std::isfinite(a[i]) || !std::isfinite(b[i])) {
            return INFINITY;
        }
        sum += a[i];
        squares += (double) a[i] * a[i];
        largest = std::max(largest, std::fabs((double) a[i] - b[i]));
    }
    const double mean = sum / a.size();
    const double variance = squares / a.size() - mean * mean;
    return largest == 0 ? 0 : largest / std::sqrt(std::max(variance, 1e-30));
}

// Constants by which known architectures multiply token embeddings but not embedding rows.
static std::vector<float> candidate_scales(mp_model & model) {
    std::vector<float> scales = {1.0f, std::sqrt((float) model.info.n_embd)};
    for (const char * key : {"embedding_scale", "scale_emb"}) {
        const char * text = mp_model_metadata(&model, (model.summary.arch + "." + key).c_str());
        const float value = text ? strtof(text, nullptr) : 0;
        if (value > 0) {
            scales.push_back(value);
        }
    }
    return scales;
}

void self_check(mp_model & model, int32_t n_threads) {
    mp_model_info & info = model.info;
    info.can_probe = false;
    info.embd_scale = 1;
    try {
        probe_context probe(model, n_threads, 0);
        const std::vector<float> expected = probe.logits(0);
        double smallest = INFINITY;
        for (const float scale : candidate_scales(model)) {
            const double d = difference(expected, probe.logits(scale));
            if (d < TOLERANCE) {
                info.can_probe = true;
                info.embd_scale = scale;
                return;
            }
            smallest = std::min(smallest, d);
        }
        snprintf(info.note, sizeof(info.note),
                 "probing is off: embedding input differs from token input on this %s model by %.2g standard deviations "
                 "of the logits, and no constant scale explains it",
                 info.arch, smallest);
    } catch (const failure & e) {
        snprintf(info.note, sizeof(info.note), "probing is off: the self-check failed: %s", e.what());
    }
}

// Of what follows a chain that was taken back, and of the same without it, in standard deviations of the logits.
static double difference_after_chain(probe_context & probe) {
    const std::vector<int32_t> & t = probe.tokens;
    static_assert(N_PROBE == N_BACK + 2, "a root, what is taken back, and what follows");
    llama_memory_clear(probe.memory(), false);
    probe.rows(0, {t[0], t[2], t[3]}, 0);
    if (!llama_memory_seq_rm(probe.memory(), 0, 1, -1)) {
        return INFINITY;
    }
    const std::vector<float> after = probe.rows(1, {t[1]}, 0);
    llama_memory_clear(probe.memory(), false);
    const std::vector<float> both = probe.rows(0, {t[0], t[1]}, 0);
    return difference(std::vector<float>(both.end() - after.size(), both.end()), after);
}

void chain_check(mp_model & model, int32_t n_threads, bool trial) {
    mp_model_info & info = model.info;
    snprintf(info.note, sizeof(info.note),
             "probing is off: %s keeps a recurrent state, which cannot drop rejected "
             "candidates; decoding plainly",
             info.arch);
    if (llama_model_is_recurrent(model.weights)) {
        return;
    }
    try {
        probe_context probe(model, n_threads, N_BACK);
        if (llama_n_rs_seq(probe.ctx.get()) < N_BACK) {
            return;
        }
        if (model.without_weights) {
            info.max_chain = MAX_CHAIN;
            return;
        }
        probe.rows(0, {probe.tokens[0]}, 0);
        info.state_size = (int64_t) llama_state_seq_get_size_ext(probe.ctx.get(), 0, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY);
        const double d = trial ? difference_after_chain(probe) : 0;
        if (d >= TOLERANCE) {
            snprintf(info.note, sizeof(info.note),
                     "decoding plainly: after a chain that was taken back the logits of this %s model differ by %.2g "
                     "standard deviations",
                     info.arch, d);
            return;
        }
        info.max_chain = MAX_CHAIN;
        const bool is_small = info.state_size < 1 << 20;
        snprintf(
            info.note, sizeof(info.note),
            "probing is off: %s keeps a recurrent state; chains of up to %d candidates instead of trees, with %d states "
            "of %.1f %s in memory",
            info.arch, MAX_CHAIN, 1 + MAX_CHAIN, info.state_size / (is_small ? 1024.0 : 1024.0 * 1024.0),
            is_small ? "KiB" : "MiB");
    } catch (const failure & e) {
        snprintf(info.note, sizeof(info.note), "decoding plainly: taking a chain of this %s model back failed: %s",
                 info.arch, e.what());
    }
}

} // namespace mp
