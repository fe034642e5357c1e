#include "gguf_rules.h"

#include "gguf.h"

#include <algorithm>
#include <cinttypes>
#include <cmath>

namespace mp {

static constexpr uint32_t MAX_LAYERS = 512; // llama.cpp's arrays per layer
static constexpr uint32_t MAX_EXPERTS = 1024;
static constexpr uint32_t MAX_HEADS = 1 << 16;
static constexpr uint32_t MAX_HEAD_WIDTH = 1 << 16;
static constexpr uint32_t MAX_INT = INT32_MAX;
// llama.cpp multiplies the window by up to 256 sequences in 32 bits
static constexpr uint32_t MAX_WINDOW = (1 << 24) - 1;

namespace {

// The keys "<architecture>.*" of a file, each with the type that llama.cpp demands.
class metadata {
public:
    metadata(const gguf_file & file, const std::string & arch) : file(file), prefix(arch + ".") {}

    std::string full(const char * key) const { return prefix + key; }
    bool has(const char * key) const { return file.find(full(key)) != nullptr; }

    uint32_t u32(const char * key, uint32_t low, uint32_t high) const {
        const gguf_value * value = file.find(full(key), GGUF_TYPE_UINT32, false);
        if (!value) {
            file.refuse("the key %s is missing", full(key).c_str());
        }
        const auto number = gguf_number<uint32_t>(*value);
        in_range(key, number, low, high);
        return number;
    }

    uint32_t u32_or(const char * key, uint32_t absent, uint32_t low, uint32_t high) const {
        return has(key) ? u32(key, low, high) : absent;
    }

    void f32(const char * key, bool positive) const {
        const gguf_value * value = file.find(full(key), GGUF_TYPE_FLOAT32, false);
        const float number = value ? gguf_number<float>(*value) : 1;
        if (!std::isfinite(number) || number < 0 || (positive && number == 0)) {
            file.refuse("%s is %g, it must be a number %s 0", full(key).c_str(), number, positive ? "above" : "not below");
        }
    }

    // One number for all layers, or an array with one for each.
    std::vector<uint32_t> per_layer(const char * key, uint32_t n_layer, uint32_t absent, uint32_t high) const {
        const gguf_value * value = file.find(full(key));
        if (!value || !value->is_array) {
            return std::vector<uint32_t>(n_layer, u32_or(key, absent, 0, high));
        }
        if (value->type != GGUF_TYPE_UINT32 && value->type != GGUF_TYPE_INT32) {
            file.refuse("%s is an array of %s, expected u32 or i32", full(key).c_str(), gguf_type_label(value->type));
        }
        if (value->count != n_layer) {
            file.refuse("%s has %" PRIu64 " elements, the model has %" PRIu32 " layers", full(key).c_str(), value->count,
                        n_layer);
        }
        std::vector<uint32_t> numbers;
        for (uint32_t il = 0; il < n_layer; il++) {
            numbers.push_back(gguf_number<uint32_t>(*value, il));
            in_range(key, numbers.back(), 0, high);
        }
        return numbers;
    }

    void in_range(const char * key, uint32_t number, uint32_t low, uint32_t high) const {
        if (number < low || number > high) {
            file.refuse("%s is %" PRIu32 ", it must be from %" PRIu32 " to %" PRIu32, full(key).c_str(), number, low, high);
        }
    }

    const gguf_file & file;
    const std::string prefix;
};

} // namespace

static layer_heads check_heads(const metadata & keys, const arch_info & arch, uint32_t n_layer, gguf_summary & summary) {
    layer_heads heads;
    heads.q = keys.per_layer("attention.head_count", n_layer, 0, MAX_HEADS);
    heads.kv =
        keys.has("attention.head_count_kv") ? keys.per_layer("attention.head_count_kv", n_layer, 0, MAX_HEADS) : heads.q;
    const bool all_layers = arch.kind == arch_kind::decoder && !(arch.flags & HEADLESS_LAYERS);
    for (uint32_t il = 0; il < n_layer && arch.kind != arch_kind::recurrent; il++) {
        const uint32_t q = heads.q[il], kv = heads.kv[il];
        if ((q == 0 || kv == 0) && !all_layers) {
            continue;
        }
        if (q == 0 || kv == 0 || q % kv != 0) {
            keys.file.refuse("layer %" PRIu32 " has %" PRIu32 " heads and %" PRIu32 " key-value heads (%s), expected a "
                             "multiple above 0",
                             il, q, kv, keys.full("attention.head_count").c_str());
        }
        if (all_layers && !(arch.flags & HEADS_PER_LAYER) && (q != heads.q[0] || kv != heads.kv[0])) {
            keys.file.refuse("layer %" PRIu32 " has %" PRIu32 " heads and %" PRIu32 " key-value heads, layer 0 has %" PRIu32
                             " and %" PRIu32 ": this architecture needs them equal",
                             il, q, kv, heads.q[0], heads.kv[0]);
        }
        summary.n_head_kv = std::max(summary.n_head_kv, (int64_t) kv);
    }
    return heads;
}

// Whether a switch is on for some layer: a number for all, or an element for each.
static bool is_set_anywhere(const metadata & keys, const char * key, uint32_t n_layer) {
    const gguf_value * value = keys.file.find(keys.full(key));
    const bool is_bool = value && value->type == GGUF_TYPE_BOOL;
    if (!value || (!is_bool && value->type != GGUF_TYPE_UINT32 && value->type != GGUF_TYPE_INT32)) {
        return true; // llama.cpp takes its default, or refuses the type
    }
    const uint64_t n_bytes = std::min<uint64_t>(value->count, n_layer) * (is_bool ? 1 : 4);
    return std::any_of(value->data, value->data + n_bytes, [](uint8_t byte) { return byte != 0; });
}

// What an architecture cannot do without: windows, indexers, experts, hyper-connections.
static void check_parts(const metadata & keys, const arch_info & arch, const gguf_summary & summary) {
    const auto n_layer = (uint32_t) summary.n_layer;
    const char * key = "attention.sliding_window_pattern";
    const uint32_t window = keys.u32_or("attention.sliding_window", 0, 0, MAX_WINDOW);
    const gguf_value * pattern = keys.file.find(keys.full(key));
    const bool every_first = pattern && !pattern->is_array && keys.u32(key, 0, MAX_INT) == 1; // "each 1st has no window"
    const bool no_window = pattern && (every_first || (pattern->is_array && !is_set_anywhere(keys, key, n_layer)));
    if (window > 0 && no_window && (arch.flags & WINDOW_PATTERN)) {
        keys.file.refuse("%s gives no layer a window, although %s is %" PRIu32, keys.full(key).c_str(),
                         keys.full("attention.sliding_window").c_str(), window);
    }
    if (is_one_of(summary.arch, "dots3note glm-dsa glm5-next hy_v4") &&
        !is_set_anywhere(keys, "attention.indexer.types", n_layer)) {
        keys.file.refuse("%s gives no layer an indexer", keys.full("attention.indexer.types").c_str());
    }
    if (is_one_of(summary.arch, "bailingmoe2 glm4moe grovemoe lfm2moe smallthinker")) {
        keys.u32("expert_count", 1, MAX_EXPERTS);
    }
    const gguf_value * scale = keys.file.find(keys.full("attention.temperature_scale"), GGUF_TYPE_FLOAT32, false);
    if (scale && gguf_number<float>(*scale) != 0 && is_one_of(summary.arch, "deepseek2 mistral4")) {
        keys.u32("attention.temperature_length", 1, MAX_INT);
    }
    if (is_one_of(summary.arch, "granitehybrid jamba mamba")) {
        const auto inner = (uint32_t) std::min<int64_t>(2 * summary.n_embd, MAX_INT);
        keys.u32("ssm.inner_size", inner, inner);
    }
    if (is_one_of(summary.arch, "deepseek4 glm5-next")) {
        keys.u32("hyper_connection.count", 4, 4);
    }
}

// The widths of keys and values, and what is rotated of them.
static void check_widths(const metadata & keys, const arch_info & arch, layer_heads & heads, gguf_summary & summary) {
    const gguf_file & file = keys.file;
    const uint32_t n_head = heads.q[0];
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
    heads.one_width = k == k_swa && v == v_swa;
    summary.n_embd_head_k = k;
    summary.n_embd_head_v = is_latent ? 0 : v;
}

static void check_experts(const metadata & keys, const std::string & arch, uint32_t n_layer) {
    uint32_t count = keys.u32_or("expert_count", 0, 0, MAX_EXPERTS);
    const std::vector<uint32_t> used_counts = keys.per_layer("expert_used_count", n_layer, 0, MAX_EXPERTS);
    uint32_t used = *std::max_element(used_counts.begin(), used_counts.end());
    if ((arch == "hunyuan-dense" || arch == "hunyuan_vl") && count <= 1) {
        count = used = 0; // llama.cpp reads those as dense
    }
    const uint32_t groups = keys.u32_or("expert_group_count", 0, 0, MAX_EXPERTS);
    const uint32_t groups_used = keys.u32_or("expert_group_used_count", 0, 0, MAX_EXPERTS);
    if (used > count || (count > 0 && used == 0)) {
        keys.file.refuse("%s is %" PRIu32 ", of %" PRIu32 " experts", keys.full("expert_used_count").c_str(), used, count);
    }
    const bool grouped = groups > 1;
    if ((groups > 0 && groups >= count) || (grouped && (count % groups != 0 || groups_used == 0 || groups_used >= groups))) {
        keys.file.refuse("%s is %" PRIu32 " with %" PRIu32 " used, of %" PRIu32 " experts",
                         keys.full("expert_group_count").c_str(), groups, groups_used, count);
    }
    // the others have a default
    const bool needs_gate =
        count > 0 && is_one_of(arch, "bailingmoe2 bailingmoe3 deepseek32 deepseek4 dots1 dots3note exaone-moe "
                                     "hy_v4 kimi-k3 kimi-linear lfm2moe minimax-m2 minimax-m3");
    keys.u32_or("expert_gating_func", 0, 0, 4);
    if (needs_gate) {
        keys.u32("expert_gating_func", 1, 4);
    }
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

layer_heads check_metadata(const gguf_file & file, const arch_info & arch, gguf_summary & summary) {
    const metadata keys(file, summary.arch);
    const uint32_t n_layer = keys.u32("block_count", 1, MAX_LAYERS);
    summary.n_layer = n_layer;
    summary.n_ctx_train = keys.u32("context_length", 1, MAX_INT);
    summary.n_embd = keys.u32("embedding_length", 1, MAX_INT);
    check_numbers(keys, summary);
    keys.per_layer("feed_forward_length", n_layer, 0, MAX_INT);
    keys.u32_or("n_deepstack_layers", 0, 0, n_layer);
    keys.u32_or("attention.shared_kv_layers", 0, 0, std::max(n_layer, 2u) - 2);
    if (keys.u32_or("nextn_predict_layers", 0, 0, n_layer) == n_layer) {
        fail(MP_ERR_UNSUPPORTED,
             "all %" PRIu32 " layers are for multi-token prediction: it is part of a model, give the "
             "path of the model itself",
             n_layer);
    }
    layer_heads heads = check_heads(keys, arch, n_layer, summary);
    check_widths(keys, arch, heads, summary);
    check_parts(keys, arch, summary);
    check_experts(keys, summary.arch, n_layer);
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
    return heads;
}

} // namespace mp
