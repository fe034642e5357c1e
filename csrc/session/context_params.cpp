#include "session/context_params.h"

#include "gguf/reader.h"
#include "hosts/rpc_hosts.h"
#include "model/adapters.h"
#include "model/weights_memory.h"
#include "platform/abort_guard.h"
#include "platform/memory_room.h"
#include "platform/runtime.h"
#include "status.h"

#include <algorithm>
#include <cstring>
#include <memory>

namespace mp {

static constexpr int64_t SCORE_BYTES = 512ll << 20; // the attention scores of one graph should stay below this
static constexpr int32_t N_CTX_GRAIN = 256;         // llama.cpp pads contexts to this, after it has made n_batch smaller
static constexpr int64_t N_CELLS_MOST = 1 << 30;
// Rows from which ggml's attention multiplies keys and values that a row must not see by zero: with NaN among them, of
// another session, that is NaN. Fewer rows skip them.
static constexpr uint32_t GGML_TILE_ROWS = 64;
static constexpr int32_t N_CACHED = 12;         // sessions that an engine may keep beside those of its generations
static constexpr double STATES_SHARE = 1.0 / 8; // of the free memory, what the recurrent states may take
static constexpr double LOGITS_SHARE = 1.0 / 8; // and the logits of one graph, where its size was not asked for

struct cache_type {
    const char * name;
    ggml_type type;
};

static ggml_type parse_cache_type(const char * name, const char * which) {
    static const cache_type types[] = {
        {"f32", GGML_TYPE_F32},   {"f16", GGML_TYPE_F16},   {"bf16", GGML_TYPE_BF16}, {"q8_0", GGML_TYPE_Q8_0},
        {"q5_1", GGML_TYPE_Q5_1}, {"q5_0", GGML_TYPE_Q5_0}, {"q4_1", GGML_TYPE_Q4_1}, {"q4_0", GGML_TYPE_Q4_0},
    };
    for (const cache_type & t : types) {
        if (name && strcmp(name, t.name) == 0) {
            return t.type;
        }
    }
    fail(MP_ERR_ARGUMENT, "%s = %s is not a cache type: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1 or q4_0", which,
         quoted(name ? name : "NULL").c_str());
}

static void check_range(const char * name, int64_t value, int64_t low, int64_t high) {
    if (value < low || value > high) {
        fail(MP_ERR_ARGUMENT, "%s = %lld must be between %lld and %lld", name, (long long) value, (long long) low,
             (long long) high);
    }
}

// Bytes that a context of the model may take: what is free, without what the weights need of that.
static double room_for_context(const mp_model & model) {
    const memory_need & need = model.uncounted;
    memory_room room = find_memory_room();
    for (const auto & [left, taken] : {std::pair(&room.resident, need.resident), std::pair(&room.written, need.written),
                                       std::pair(&room.addresses, need.addresses)}) {
        *left = *left == NO_LIMIT ? NO_LIMIT : *left - std::min(*left, taken);
    }
    return (double) room.least();
}

// Of the hosts together where the layers lie on others, and the cache with them.
static double free_memory(const mp_model & model, const mp_context_params & params) {
    return model.hosts && params.offload_kqv ? model.hosts->free_memory() : room_for_context(model);
}

// Tokens of each session.
static int64_t choose_n_ctx(const mp_model & model, const mp_context_params & params, double bytes_per_token) {
    const double available = free_memory(model, params);
    const int64_t n_positions = model.summary.n_ctx_max;
    const int32_t n_sessions = params.n_sessions_max;
    const double bytes_per_place = n_sessions * bytes_per_token;
    if (n_positions > 0 && params.n_ctx > n_positions) {
        fail(MP_ERR_ARGUMENT, "n_ctx = %d is more than the %lld positions that this %s model was made for", params.n_ctx,
             (long long) n_positions, model.info.arch);
    }
    if ((int64_t) params.n_ctx * n_sessions > N_CELLS_MOST) {
        fail(MP_ERR_ARGUMENT, "n_ctx = %d for n_sessions_max = %d are more than %lld tokens together", params.n_ctx,
             n_sessions, (long long) N_CELLS_MOST);
    }
    if (params.n_ctx > 0) {
        if (params.n_ctx * bytes_per_place > available && !model.without_weights) { // else who asks for sizes is told
            fail(MP_ERR_MEMORY,
                 "%d sessions of %d tokens need %.1f GiB for their cache, %.1f GiB are free: use a smaller context, fewer "
                 "sessions or a quantised cache",
                 n_sessions, params.n_ctx, params.n_ctx * bytes_per_place / (1 << 30), available / (1 << 30));
        }
        return params.n_ctx;
    }
    // The model's own context, as far as half of the memory that buffers leave holds it: the rest is for others.
    const double for_cache = std::max(available - (double) least_buffers(model.summary), 0.0) / 2;
    int64_t n_ctx = std::clamp<int64_t>(model.info.n_ctx_train, 1, N_CELLS_MOST / n_sessions);
    if (bytes_per_place > 0 && n_ctx * bytes_per_place > for_cache) {
        n_ctx = (int64_t) (for_cache / bytes_per_place) / N_CTX_GRAIN * N_CTX_GRAIN;
        n_ctx = std::max<int64_t>(n_ctx, N_CTX_GRAIN);
    }
    return n_ctx;
}

static bool is_shared_on_stock_kernels(const mp_model & model, const mp_context_params & params) {
    return params.n_sessions_max > 1 && !model.own_kernels;
}

static uint32_t choose_n_ubatch(const mp_model & model, const mp_context_params & params, uint32_t n_ctx) {
    if (params.n_ubatch > 0) {
        if (params.n_ubatch < params.n_rows_max) {
            fail(MP_ERR_ARGUMENT, "a tree pass of n_rows_max = %d rows must fit into n_ubatch = %d", params.n_rows_max,
                 params.n_ubatch);
        }
        return params.n_ubatch;
    }
    const int64_t row_bytes = (int64_t) n_ctx * std::max(llama_model_n_head(model.weights), 1) * sizeof(float);
    const double logits_room =
        LOGITS_SHARE * room_for_context(model) / sizeof(float) / std::max(model.info.n_vocab, 1); // rows
    uint32_t n_ubatch = 512;
    while (n_ubatch > 64 && (n_ubatch * row_bytes > SCORE_BYTES || n_ubatch > logits_room)) {
        n_ubatch /= 2;
    }
    if (is_shared_on_stock_kernels(model, params) && model.info.can_tree) {
        return std::min(n_ubatch, GGML_TILE_ROWS - 1); // a larger pass is more than one graph
    }
    return std::max<uint32_t>(n_ubatch, params.n_rows_max);
}

static llama_flash_attn_type choose_flash_attn(const mp_model & model, const mp_context_params & params, ggml_type type_v) {
    if (params.flash_attn > 0) {
        return LLAMA_FLASH_ATTN_TYPE_ENABLED;
    }
    if (params.n_sessions_max > 1) { // without it the values that a row must not see are multiplied by zero, and may be NaN
        if (params.flash_attn == 0) {
            fail(MP_ERR_ARGUMENT, "n_sessions_max = %d sessions in one context need flash attention, which is off",
                 params.n_sessions_max);
        }
        return LLAMA_FLASH_ATTN_TYPE_ENABLED;
    }
    if (ggml_is_quantized(type_v)) { // llama.cpp stores V transposed without it, which cannot be quantised
        if (params.flash_attn == 0) {
            fail(MP_ERR_ARGUMENT, "a V cache of type %s needs flash attention, which is off", params.type_v);
        }
        return LLAMA_FLASH_ATTN_TYPE_ENABLED;
    }
    if (params.flash_attn < 0 && model.own_kernels) {
        return LLAMA_FLASH_ATTN_TYPE_ENABLED; // the operation that maskprobe's attention takes over
    }
    // llama.cpp's on the CPU is slower for passes of few rows, and its rounding depends on how many there are.
    // It is off on an RPC host too: all kinds of them call themselves a GPU.
    return params.flash_attn < 0 && has_gpu() && !model.hosts ? LLAMA_FLASH_ATTN_TYPE_AUTO : LLAMA_FLASH_ATTN_TYPE_DISABLED;
}

// Candidates of the longest chain: each session has the state after each and after the root, as far as memory holds them.
static int32_t choose_max_chain(const mp_model & model, const mp_context_params & params) {
    const double n_states = STATES_SHARE * free_memory(model, params) / std::max<int64_t>(model.info.state_size, 1);
    int32_t n = std::min(model.info.max_chain, params.n_rows_max - 1);
    while (n > 0 && (1.0 + n) * params.n_sessions_max > n_states) {
        n--;
    }
    return n;
}

void check_context_params(const mp_context_params & params) {
    check_range("n_ctx", params.n_ctx, 0, 1 << 28);
    check_range("n_sessions_max", params.n_sessions_max, 1, MP_N_SESSIONS_LIMIT);
    check_range("n_batch", params.n_batch, 1, 1 << 24);
    check_range("n_ubatch", params.n_ubatch, 0, 1 << 24);
    check_range("n_rows_max", params.n_rows_max, 1, MP_N_ROWS_LIMIT);
    check_range("n_top_max", params.n_top_max, 1, 1 << 20);
    check_range("n_threads", params.n_threads, 0, GGML_MAX_N_THREADS);
    check_range("n_threads_batch", params.n_threads_batch, 0, GGML_MAX_N_THREADS);
    check_range("flash_attn", params.flash_attn, -1, 1);
}

// With llama.cpp's kernels the rows of a pass would be multiplied with the keys of cached sessions too, and sharing a
// context restricts it in other ways (choose_n_ubatch, choose_flash_attn).
int32_t n_sessions_held(const mp_model & model, const mp_context_params & params) {
    const int32_t n_cached = model.info.can_tree && model.own_kernels ? N_CACHED : 0;
    const int32_t most =
        std::max(params.n_sessions_max, std::min(+MP_N_SESSIONS_LIMIT, MP_N_ROWS_LIMIT - params.n_rows_max));
    return std::min(params.n_sessions_max + n_cached, most);
}

llama_context_params choose_context_params(const mp_model & model, const mp_context_params & params) {
    if (params.n_sessions_max > 1 && model.summary.arch == "deepseek4") { // its compressed keys have no sequences
        fail(MP_ERR_ARGUMENT, "n_sessions_max = %d: llama.cpp keeps one state of a deepseek4 model in a context: open 1",
             params.n_sessions_max);
    }
    const bool can_tree = model.info.can_tree;
    const int32_t max_chain = choose_max_chain(model, params);
    const ggml_type type_k = parse_cache_type(params.type_k, "type_k");
    const ggml_type type_v = parse_cache_type(params.type_v, "type_v");
    llama_context_params cp = llama_context_default_params();
    const int64_t n_ctx = choose_n_ctx(model, params, can_tree ? cache_bytes_per_token(model.summary, type_k, type_v) : 0);
    const int64_t n_cells = n_ctx * params.n_sessions_max; // a session never fills the room of another
    cp.n_ctx = (uint32_t) ((n_cells + N_CTX_GRAIN - 1) / N_CTX_GRAIN * N_CTX_GRAIN);
    cp.n_ubatch = std::max<uint32_t>(choose_n_ubatch(model, params, cp.n_ctx), max_chain + 2); // llama.cpp asserts this
    // A trunk for each session, and one for each row of a pass, of which one may be a trunk.
    cp.n_seq_max = can_tree ? std::min(params.n_rows_max + n_sessions_held(model, params) - 1, +MP_N_ROWS_LIMIT)
                            : params.n_sessions_max;
    cp.n_batch = std::max({(uint32_t) params.n_batch, cp.n_ubatch, (uint32_t) params.n_rows_max, cp.n_seq_max});
    cp.n_rs_seq = max_chain;
    cp.kv_unified = true; // one cache for all sequences, else a shared prefix is refused
    cp.swa_full = true;   // a sliding window must not have dropped what a rollback goes back to
    cp.type_k = type_k;
    cp.type_v = type_v;
    cp.offload_kqv = params.offload_kqv;
    cp.pooling_type = LLAMA_POOLING_TYPE_NONE; // hidden states row by row, where they are wanted
    cp.no_perf = true;
    cp.flash_attn_type = choose_flash_attn(model, params, type_v);
    return cp;
}

bool spreads_nan(const mp_model & model, const llama_context_params & params) {
    const bool is_ours = model.own_kernels && !ggml_is_quantized(params.type_k) && !ggml_is_quantized(params.type_v);
    return params.flash_attn_type != LLAMA_FLASH_ATTN_TYPE_ENABLED || has_gpu() || model.hosts ||
           (!is_ours && params.n_ubatch >= GGML_TILE_ROWS);
}

llama_context * make_context(const mp_model & model, const llama_context_params & params, accel_link & link) {
    clear_log_error();
    abort_guard guard;
    const accel_opening opening(model.own_kernels ? &link : nullptr);
    std::unique_ptr<llama_context, decltype(&llama_free)> ctx(llama_init_from_model(model.weights, params), llama_free);
    if (!ctx) {
        const std::string reason = guard.reason().empty() ? last_log_error() : guard.reason();
        fail(MP_ERR_MEMORY, "llama.cpp made no context of %u tokens: %s", params.n_ctx, reason.c_str());
    }
    use_adapters(ctx.get(), model);
    return ctx.release();
}

void set_threads(llama_context * ctx, const mp_model & model, accel_link & link, int32_t n_threads) {
    link.workers.limit(n_threads);
    const int32_t n_ggml = model.own_kernels && !link.leaves_work ? 1 : n_threads;
    llama_set_n_threads(ctx, n_ggml, n_ggml); // llama.cpp's own choice between two numbers goes by the rows
}

} // namespace mp
