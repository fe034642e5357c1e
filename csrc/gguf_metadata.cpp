#include "gguf_rules.h"

#include "ggml.h"
#include "gguf.h"

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstring>

namespace mp {

static constexpr uint32_t MAX_LAYERS     = 512;     // llama.cpp's arrays per layer
static constexpr uint32_t MAX_EXPERTS    = 1024;
static constexpr uint32_t MAX_HEADS      = 1 << 16;
static constexpr uint32_t MAX_HEAD_WIDTH = 1 << 16;
static constexpr uint32_t MAX_INT        = INT32_MAX;
// llama.cpp multiplies the window by up to 256 sequences in 32 bits
static constexpr uint32_t MAX_WINDOW     = (1 << 24) - 1;

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
    heads.kv = keys.has("attention.head_count_kv") ? keys.per_layer("attention.head_count_kv", n_layer, 0, MAX_HEADS)
                                                   : heads.q;
    const bool all_layers = arch.kind == arch_kind::decoder && !(arch.flags & HEADLESS_LAYERS);
    for (uint32_t il = 0; il < n_layer && arch.kind != arch_kind::recurrent; il++) {
        const uint32_t q = heads.q[il], kv = heads.kv[il];
        if ((q == 0 || kv == 0) && !all_layers) {
            continue;
        }
        if (q == 0 || kv == 0 || q % kv != 0) {
            keys.file.refuse("layer %" PRIu32 " has %" PRIu32 " heads and %" PRIu32 " key-value heads (%s), expected a "
                             "multiple above 0", il, q, kv, keys.full("attention.head_count").c_str());
        }
        summary.n_head_kv = std::max(summary.n_head_kv, (int64_t) kv);
    }
    return heads;
}

// The widths of keys and values, and what is rotated of them.
static void check_widths(const metadata & keys, const arch_info & arch, uint32_t n_head, gguf_summary & summary) {
    const gguf_file & file = keys.file;
    const bool has_widths = keys.has("attention.key_length") && keys.has("attention.value_length");
    if (n_head == 0) {
        return; // llama.cpp does not read the widths then
    }
    const auto n_embd = (uint32_t) summary.n_embd;
    if (!has_widths && n_embd % n_head != 0) {
        file.refuse("%s is %" PRIu32 ", not a multiple of %" PRIu32 " heads", keys.full("embedding_length").c_str(), n_embd,
                    n_head);
    }
    const uint32_t k = keys.u32_or("attention.key_length",   n_embd / n_head, 1, MAX_HEAD_WIDTH);
    const uint32_t v = keys.u32_or("attention.value_length", n_embd / n_head, 1, MAX_HEAD_WIDTH);
    const uint32_t k_swa = keys.u32_or("attention.key_length_swa", k, 1, MAX_HEAD_WIDTH);
    const uint32_t v_swa = keys.u32_or("attention.value_length_swa", v, 1, MAX_HEAD_WIDTH);
    const uint32_t rot = keys.u32_or("rope.dimension_count", k, 0, MAX_HEAD_WIDTH);
    const uint32_t rot_swa = keys.u32_or("rope.dimension_count_swa", rot, 0, MAX_HEAD_WIDTH);
    if (k == 0 || v == 0) {
        file.refuse("%s is %" PRIu32 ", less than %" PRIu32 " heads", keys.full("embedding_length").c_str(), n_embd, n_head);
    }
    if (rot % 2 != 0 || rot > k || rot_swa % 2 != 0 || rot_swa > std::max(k_swa, k)) {
        file.refuse("%s is %" PRIu32 " (%" PRIu32 " in windowed layers), it must be even and not above the key length of "
                    "%" PRIu32 " (%" PRIu32 ")", keys.full("rope.dimension_count").c_str(), rot, rot_swa, k, k_swa);
    }
    if ((arch.flags & ONE_HEAD_WIDTH) && (k != v || k_swa != v_swa)) {
        file.refuse("%s is %" PRIu32 " and the value length %" PRIu32 ", this architecture needs them equal",
                    keys.full("attention.key_length").c_str(), k, v);
    }
    if ((arch.flags & ROPE_FILLS_HEAD) && rot != v && rot_swa != v_swa) {
        file.refuse("%s is %" PRIu32 ", this architecture needs the head's width of %" PRIu32,
                    keys.full("rope.dimension_count").c_str(), rot, v);
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
    summary.n_embd_head_k = k;
    summary.n_embd_head_v = v;
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
    keys.u32_or("expert_gating_func", 0, 0, 4);
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

// What llama.cpp divides by, and for which architectures.
static const struct {
    const char * key;
    const char * archs;
} DIVISORS[] = {
    {"attention.indexer.block_size",     "minimax-m3"},
    {"attention.output_group_count",     "deepseek4"},
    {"experts_per_group",                "grovemoe"},
    {"full_attention_interval",          "minimax-01 qwen3next qwen35 qwen35moe qwen4exp"},
    {"num_loops",                        "nanbeige"},
    {"ssm.group_count",                  "falcon-h1 granitehybrid mamba2 nemotron_h nemotron_h_moe qwen3next qwen35 "
                                         "qwen35moe qwen4exp"},
    {"ssm.time_step_rank",               "falcon-h1 granitehybrid jamba mamba mamba2 nemotron_h nemotron_h_moe plamo2 "
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
    const uint32_t state_width = is_one_of(summary.arch, "arwkv7 rwkv6 rwkv6qwen2 rwkv7") ? keys.u32("wkv.head_size", 1, MAX_INT) : 1;
    if (summary.n_embd % state_width != 0) {
        keys.file.refuse("%s is %" PRId64 ", not a multiple of the head size of %" PRIu32,
                         keys.full("embedding_length").c_str(), summary.n_embd, state_width);
    }
    keys.u32_or("attention.sliding_window", 0, 0, MAX_WINDOW);
}

layer_heads check_metadata(const gguf_file & file, const arch_info & arch, gguf_summary & summary) {
    const metadata keys(file, summary.arch);
    const uint32_t n_layer = keys.u32("block_count", 1, MAX_LAYERS);
    summary.n_layer     = n_layer;
    summary.n_ctx_train = keys.u32("context_length", 1, MAX_INT);
    summary.n_embd      = keys.u32("embedding_length", 1, MAX_INT);
    check_numbers(keys, summary);
    keys.per_layer("feed_forward_length", n_layer, 0, MAX_INT);
    keys.u32_or("n_deepstack_layers", 0, 0, n_layer);
    keys.u32_or("attention.shared_kv_layers", 0, 0, n_layer - 1);
    if (keys.u32_or("nextn_predict_layers", 0, 0, n_layer) == n_layer) {
        fail(MP_ERR_UNSUPPORTED, "all %" PRIu32 " layers are for multi-token prediction: it is part of a model, give the "
             "path of the model itself", n_layer);
    }
    layer_heads heads = check_heads(keys, arch, n_layer, summary);
    check_widths(keys, arch, heads.q[0], summary);
    check_experts(keys, summary.arch, n_layer);
    check_rope(keys);
    bool has_epsilon = false;
    for (const char * key : {"attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon",
                             "attention.group_norm_epsilon"}) {
        keys.f32(key, false);
        has_epsilon = has_epsilon || keys.has(key);
    }
    if (!has_epsilon) {
        file.refuse("the key %s is missing", keys.full("attention.layer_norm_rms_epsilon").c_str());
    }
    return heads;
}

// Whether ggml adds, multiplies or scans with this tensor, which it does in F32 only; all others enter matrix products.
static bool is_f32_role(const gguf_tensor_info & tensor) {
    const std::string_view name = tensor.name;
    const auto has = [&](const char * part) { return name.find(part) != std::string_view::npos; };
    if (has(".lora_a") || has(".lora_b") || has("ffn_gate_inp")) {
        return has(".bias");
    }
    const size_t dot = name.find_last_of('.');
    if (tensor.n_dims == 1 || dot == std::string_view::npos || name.substr(dot) != ".weight") {
        return true;
    }
    for (const char * part : {"_norm", "ssm_conv1d", "shortconv.conv", "time_mix_first", "time_mix_lerp",
                              "time_mix_decay.weight", "rope_freqs", "rope_factors", "attn_sinks"}) {
        if (has(part)) {
            return true;
        }
    }
    return false;
}

static void check_type(const gguf_file & file, const gguf_tensor_info & tensor) {
    const auto type = (ggml_type) tensor.type;
    const bool is_table = tensor.name.find("tid2eid") != std::string_view::npos; // token to expert
    const bool ok = is_table ? type == GGML_TYPE_I32 : is_f32_role(tensor) ? type == GGML_TYPE_F32
                             : type == GGML_TYPE_F32 || ggml_get_type_traits(type)->to_float != nullptr;
    if (!ok) {
        file.refuse("tensor %s has type %s, llama.cpp cannot compute with that here", quoted(tensor.name).c_str(),
                    ggml_type_name(type));
    }
}

void check_tensors(const gguf_file & file, const arch_info & arch, const layer_heads & heads, uint64_t n_vocab,
                   gguf_summary & summary) {
    for (const gguf_tensor_info & tensor : file.tensors()) {
        check_type(file, tensor);
        const std::string name(tensor.name);
        if (name == "token_embd.weight" && tensor.ne[0] != summary.n_embd) {
            file.refuse("token_embd.weight has rows of %" PRId64 ", %s.embedding_length is %" PRId64, tensor.ne[0],
                        summary.arch.c_str(), summary.n_embd);
        }
        if (name == "token_embd.weight" && (uint64_t) tensor.ne[1] != n_vocab) {
            file.refuse("token_embd.weight has %" PRId64 " rows, the vocabulary has %" PRIu64 " tokens", tensor.ne[1],
                        n_vocab);
        }
        if (name == "position_embd.weight") {
            summary.n_ctx_max = tensor.ne[1];
        }
        // the graphs cut a fused projection by the head counts, without looking at its size
        uint32_t il = 0;
        char rest[32] = "";
        if (arch.kind == arch_kind::decoder && sscanf(name.c_str(), "blk.%" SCNu32 ".%31s", &il, rest) == 2 &&
                strcmp(rest, "attn_qkv.weight") == 0 && il < heads.q.size()) {
            const int64_t expected = heads.q[il] * summary.n_embd_head_k +
                                     heads.kv[il] * (summary.n_embd_head_k + summary.n_embd_head_v);
            if (tensor.ne[1] != expected) {
                file.refuse("%s has %" PRId64 " rows, the head counts and widths make %" PRId64, name.c_str(), tensor.ne[1],
                            expected);
            }
        }
    }
}

} // namespace mp
