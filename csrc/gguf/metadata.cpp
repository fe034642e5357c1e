#include "gguf/keys.h"
#include "gguf/rules.h"

#include <algorithm>

namespace mp {

static constexpr uint32_t MAX_HEADS = 1 << 16;
static constexpr uint32_t MAX_HEAD_WIDTH = 1 << 16;

static layer_sizes check_heads(const metadata & keys, const arch_info & arch, uint32_t n_layer, gguf_summary & summary) {
    layer_sizes sizes;
    sizes.q = keys.per_layer("attention.head_count", n_layer, 0, MAX_HEADS);
    sizes.kv =
        keys.has("attention.head_count_kv") ? keys.per_layer("attention.head_count_kv", n_layer, 0, MAX_HEADS) : sizes.q;
    const bool all_layers = arch.kind == arch_kind::decoder && !(arch.flags & HEADLESS_LAYERS);
    for (uint32_t il = 0; il < n_layer && arch.kind != arch_kind::recurrent; il++) {
        const uint32_t q = sizes.q[il], kv = sizes.kv[il];
        if ((q == 0 || kv == 0) && !all_layers) {
            continue;
        }
        if (q == 0 || kv == 0 || q % kv != 0) {
            keys.file.refuse("layer %" PRIu32 " has %" PRIu32 " heads and %" PRIu32 " key-value heads (%s), expected a "
                             "multiple above 0",
                             il, q, kv, keys.full("attention.head_count").c_str());
        }
        if (all_layers && !(arch.flags & HEADS_PER_LAYER) && (q != sizes.q[0] || kv != sizes.kv[0])) {
            keys.file.refuse("layer %" PRIu32 " has %" PRIu32 " heads and %" PRIu32 " key-value heads, layer 0 has %" PRIu32
                             " and %" PRIu32 ": this architecture needs them equal",
                             il, q, kv, sizes.q[0], sizes.kv[0]);
        }
        summary.n_head_kv = std::max(summary.n_head_kv, (int64_t) kv);
    }
    return sizes;
}

// What an architecture cannot do without: temperatures, states, hyper-connections.
static void check_parts(const metadata & keys, const gguf_summary & summary) {
    const gguf_value * scale = keys.file.find(keys.full("attention.temperature_scale"), GGUF_TYPE_FLOAT32, false);
    if (scale && gguf_number<float>(*scale) != 0 && is_one_of(summary.arch, "deepseek2 mistral4")) {
        keys.u32("attention.temperature_length", 1, MAX_INT);
    }
    if (is_one_of(summary.arch, "granitehybrid jamba mamba")) {
        const auto inner = (uint32_t) std::min<int64_t>(2 * summary.n_embd, MAX_INT);
        keys.u32("ssm.inner_size", inner, inner);
    }
    if (is_one_of(summary.arch, "rwkv6 rwkv7")) {
        keys.u32_or("token_shift_count", 2, 2, 2);
    }
    if (is_one_of(summary.arch, "deepseek4 glm5-next")) {
        keys.u32("hyper_connection.count", 4, 4);
    }
}

// The widths of keys and values, and what is rotated of them.
static void check_widths(const metadata & keys, const arch_info & arch, layer_sizes & sizes, gguf_summary & summary) {
    const gguf_file & file = keys.file;
    const uint32_t n_head = sizes.q[0];
    if (n_head == 0) {
        return; // llama.cpp does not read the widths then
    }
    const bool is_latent = (arch.flags & LATENT_CACHE) && keys.u32_or("attention.key_length_mla", 0, 0, MAX_HEAD_WIDTH) > 0;
    const bool has_widths = keys.has("attention.key_length") && (is_latent || keys.has("attention.value_length"));
    const auto n_embd = (uint32_t) summary.n_embd;
    if (!has_widths && n_embd % n_head != 0) {
        file.refuse("%s is %" PRIu32 ", not a multiple of %" PRIu32 " heads", keys.full("embedding_length").c_str(), n_embd,
                    n_head);
    }
    const uint32_t k = keys.u32_or("attention.key_length", n_embd / n_head, 1, MAX_HEAD_WIDTH);
    const uint32_t v = keys.u32_or("attention.value_length", n_embd / n_head, 1, MAX_HEAD_WIDTH);
    const uint32_t k_swa = keys.u32_or("attention.key_length_swa", k, 1, MAX_HEAD_WIDTH);
    const uint32_t v_swa = keys.u32_or("attention.value_length_swa", v, 1, MAX_HEAD_WIDTH);
    const uint32_t rot = keys.u32_or("rope.dimension_count", k, 0, MAX_HEAD_WIDTH);
    const uint32_t rot_swa = keys.u32_or("rope.dimension_count_swa", rot, 0, MAX_HEAD_WIDTH);
    if (k == 0 || v == 0) {
        file.refuse("%s is %" PRIu32 ", less than %" PRIu32 " heads", keys.full("embedding_length").c_str(), n_embd, n_head);
    }
    const bool rot_missing = (rot == 0 || rot_swa == 0) && !(arch.flags & NO_ROPE);
    if (rot % 2 != 0 || rot > k || rot_swa % 2 != 0 || rot_swa > std::max(k_swa, k) || rot_missing) {
        file.refuse("%s is %" PRIu32 " (%" PRIu32 " in windowed layers), it must be even, above 0 and not above the key "
                    "length of %" PRIu32 " (%" PRIu32 ")",
                    keys.full("rope.dimension_count").c_str(), rot, rot_swa, k, k_swa);
    }
    if ((arch.flags & ONE_HEAD_WIDTH) && (k != v || k_swa != v_swa)) {
        file.refuse("%s is %" PRIu32 " and the value length %" PRIu32 ", this architecture needs them equal",
                    keys.full("attention.key_length").c_str(), k, v);
    }
    if ((arch.flags & ROPE_FILLS_HEAD) && rot != v && (rot_swa != v_swa || !(arch.flags & WINDOW_PATTERN))) {
        file.refuse("%s is %" PRIu32 ", this architecture needs the head's width of %" PRIu32,
                    keys.full("rope.dimension_count").c_str(), rot, v);
    }
    // compressed keys and values: the cache holds the latent, of which values are made, and what is rotated of the keys
    const uint32_t latent = is_latent ? keys.u32("attention.kv_lora_rank", 1, MAX_HEAD_WIDTH) : 0;
    if (is_latent) {
        keys.u32("attention.key_length_mla", rot + 1, MAX_HEAD_WIDTH);
        keys.u32("attention.value_length_mla", 1, MAX_HEAD_WIDTH);
    }
    if (is_latent && k != latent + rot) {
        file.refuse("%s is %" PRIu32 ", a latent of %" PRIu32 " and %" PRIu32 " rotated dimensions make %" PRIu32,
                    keys.full("attention.key_length").c_str(), k, latent, rot, latent + rot);
    }
    if (const gguf_value * value = file.find(keys.full("rope.dimension_sections"))) {
        if (!value->is_array || (value->type != GGUF_TYPE_INT32 && value->type != GGUF_TYPE_UINT32) || value->count > 4) {
            file.refuse("%s must be an array of up to 4 numbers", keys.full("rope.dimension_sections").c_str());
        }
        uint64_t sum = 0;
        for (uint64_t i = 0; i < value->count; i++) {
            sum += gguf_number<uint32_t>(*value, i);
        }
        if (sum > k || (sum == 0 && (arch.flags & ROPE_SECTIONS))) {
            file.refuse("%s sum to %" PRIu64 ", expected up to the key length of %" PRIu32,
                        keys.full("rope.dimension_sections").c_str(), sum, k);
        }
    }
    sizes.one_width = k == k_swa && v == v_swa;
    summary.n_embd_head_k = k;
    summary.n_embd_head_v = is_latent ? 0 : v;
}

static void check_rope(const metadata & keys) {
    for (const char * key : {"rope.freq_base", "rope.freq_base_swa"}) {
        keys.f32(key, true);
    }
    for (const char * key : {"rope.scale_linear", "rope.scaling.factor", "rope.scaling.attn_factor"}) {
        keys.f32(key, false);
    }
    const gguf_value * value = keys.file.find(keys.full("rope.scaling.type"), GGUF_TYPE_STRING, false);
    if (!value) {
        return;
    }
    const std::string_view type = string_walk(*value).next();
    if (type != "none" && type != "linear" && type != "yarn" && type != "longrope") {
        keys.file.refuse("%s is %s, expected none, linear, yarn or longrope", keys.full("rope.scaling.type").c_str(),
                         quoted(type).c_str());
    }
}

// What llama.cpp divides by or counts down, and for which architectures.
static const struct {
    const char * key;
    const char * archs;
} DIVISORS[] = {
    {"attention.indexer.block_size", "minimax-m3"},
    {"attention.output_group_count", "deepseek4"},
    {"experts_per_group", "grovemoe"},
    {"full_attention_interval", "minimax-01 qwen3next qwen35 qwen35moe qwen4exp"},
    {"hyper_connection.sinkhorn_iterations", "deepseek4 glm5-next"},
    {"num_loops", "nanbeige"},
    {"ssm.group_count", "falcon-h1 granitehybrid mamba2 nemotron_h nemotron_h_moe qwen3next qwen35 "
                        "qwen35moe qwen4exp"},
    {"ssm.time_step_rank", "falcon-h1 granitehybrid jamba mamba mamba2 nemotron_h nemotron_h_moe plamo2 "
                           "qwen3next qwen35 qwen35moe qwen4exp"},
};

static void check_numbers(const metadata & keys, const gguf_summary & summary) {
    // llama.cpp computes with all numbers of the architecture as signed 32-bit ones
    for (const auto & [key, value] : keys.file.values()) {
        if (value.is_array || key.substr(0, keys.prefix.size()) != keys.prefix) {
            continue;
        }
        const std::string name(key.substr(keys.prefix.size()));
        if (value.type == GGUF_TYPE_UINT32 && name != "pooling_type") {
            keys.u32(name.c_str(), 0, MAX_INT);
        }
        if (value.type == GGUF_TYPE_FLOAT32 && std::isnan(gguf_number<float>(value))) {
            keys.file.refuse("%s is not a number", quoted(key).c_str());
        }
    }
    for (const auto & divisor : DIVISORS) {
        if (is_one_of(summary.arch, divisor.archs)) {
            keys.u32_or(divisor.key, 1, 1, MAX_INT);
        }
    }
    const uint32_t state_width =
        is_one_of(summary.arch, "arwkv7 rwkv6 rwkv6qwen2 rwkv7") ? keys.u32("wkv.head_size", 1, MAX_INT) : 1;
    if (summary.n_embd % state_width != 0) {
        keys.file.refuse("%s is %" PRId64 ", not a multiple of the head size of %" PRIu32,
                         keys.full("embedding_length").c_str(), summary.n_embd, state_width);
    }
}

layer_sizes check_metadata(const gguf_file & file, const arch_info & arch, gguf_summary & summary) {
    const metadata keys(file, summary.arch);
    const uint32_t n_layer = keys.u32("block_count", 1, MAX_LAYERS);
    summary.n_layer = n_layer;
    summary.n_ctx_train = keys.u32("context_length", 1, MAX_INT);
    summary.n_embd = keys.u32("embedding_length", 1, MAX_INT);
    check_numbers(keys, summary);
    keys.u32_or("n_deepstack_layers", 0, 0, n_layer);
    keys.u32_or("attention.shared_kv_layers", 0, 0, std::max(n_layer, 2u) - 2);
    if (keys.u32_or("nextn_predict_layers", 0, 0, n_layer) == n_layer) {
        fail(MP_ERR_UNSUPPORTED,
             "all %" PRIu32 " layers are for multi-token prediction: it is part of a model, give the "
             "path of the model itself",
             n_layer);
    }
    layer_sizes sizes = check_heads(keys, arch, n_layer, summary);
    sizes.ff = keys.per_layer("feed_forward_length", n_layer, 0, MAX_INT);
    check_widths(keys, arch, sizes, summary);
    check_parts(keys, summary);
    check_layers(keys, arch, sizes, summary);
    check_rope(keys);
    bool has_epsilon = false;
    for (const char * key :
         {"attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon", "attention.group_norm_epsilon"}) {
        keys.f32(key, false);
        has_epsilon = has_epsilon || keys.has(key);
    }
    if (!has_epsilon) {
        file.refuse("the key %s is missing", keys.full("attention.layer_norm_rms_epsilon").c_str());
    }
    return sizes;
}

} // namespace mp
