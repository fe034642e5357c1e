#include "gguf/keys.h"
#include "gguf/rules.h"

#include <algorithm>

namespace mp {

static constexpr uint32_t MAX_EXPERTS = 1024; // llama.cpp's array of them
// llama.cpp multiplies the window by up to 256 sequences in 32 bits
static constexpr uint32_t MAX_WINDOW = (1 << 24) - 1;

// A switch for each layer, from one number for all or an element for each. Empty where llama.cpp takes its default, or
// refuses the type.
static std::vector<bool> switches(const metadata & keys, const char * key, uint32_t n_layer) {
    const gguf_value * value = keys.file.find(keys.full(key));
    const bool is_bool = value && value->type == GGUF_TYPE_BOOL;
    if (!value || (!is_bool && value->type != GGUF_TYPE_UINT32 && value->type != GGUF_TYPE_INT32)) {
        return {};
    }
    std::vector<bool> on(n_layer); // the array may be shorter
    for (uint64_t il = 0; il < n_layer && (!value->is_array || il < value->count); il++) {
        const uint64_t i = value->is_array ? il : 0;
        on[il] = is_bool ? value->data[i] != 0 : gguf_number<uint32_t>(*value, i) != 0;
    }
    return on;
}

static bool has(const std::vector<bool> & on, bool wanted) {
    return std::find(on.begin(), on.end(), wanted) != on.end();
}

// Sliding windows: where some layer must have one.
static void check_windows(const metadata & keys, const arch_info & arch, uint32_t n_trunk) {
    const char * key = "attention.sliding_window_pattern";
    const uint32_t window = keys.u32_or("attention.sliding_window", 0, 0, MAX_WINDOW);
    const gguf_value * pattern = keys.file.find(keys.full(key));
    const bool every_first = pattern && !pattern->is_array && keys.u32(key, 0, MAX_INT) == 1; // "each 1st has no window"
    const std::vector<bool> on = pattern && pattern->is_array ? switches(keys, key, n_trunk) : std::vector<bool>();
    const bool no_window = every_first || (!on.empty() && !has(on, true));
    if (window > 0 && no_window && (arch.flags & WINDOW_PATTERN)) {
        keys.file.refuse("%s gives no layer a window, although %s is %" PRIu32, keys.full(key).c_str(),
                         keys.full("attention.sliding_window").c_str(), window);
    }
}

// Which layers of a hybrid keep a recurrent state and which attend. llama.cpp prepares the inputs of both, and stops where
// no layer takes one of them.
static void check_hybrid(const metadata & keys, const std::string & arch, const layer_sizes & sizes, uint32_t n_trunk) {
    std::vector<bool> recurrent;
    const char * key = "attention.head_count_kv";
    if (is_one_of(arch, "bailingmoe3 glm5-next granitehybrid jamba kimi-k3 kimi-linear lfm2 lfm2moe plamo2")) {
        for (uint32_t il = 0; il < n_trunk; il++) {
            recurrent.push_back(sizes.kv[il] == 0);
        }
    } else if (is_one_of(arch, "nemotron_h nemotron_h_moe")) {
        for (uint32_t il = 0; il < n_trunk; il++) {
            if (sizes.ff[il] == 0) { // the others have neither
                recurrent.push_back(sizes.kv[il] == 0);
            }
        }
    } else if (is_one_of(arch, "minimax-01 qwen3next qwen35 qwen35moe qwen4exp")) {
        key = "attention.recurrent_layers";
        recurrent = switches(keys, key, n_trunk);
        if (!keys.has(key)) {
            key = "full_attention_interval";
            const uint32_t interval = keys.u32_or(key, arch == "minimax-01" ? 8 : 4, 1, MAX_INT);
            for (uint32_t il = 0; il < n_trunk; il++) {
                recurrent.push_back((il + 1) % interval != 0);
            }
        } else if (recurrent.empty()) {
            return; // of a type that llama.cpp refuses
        }
    } else {
        return;
    }
    for (const bool wanted : {false, true}) {
        if (!has(recurrent, wanted)) {
            keys.file.refuse("of %" PRIu32 " layers none has %s (%s), %s models need some", n_trunk,
                             wanted ? "a recurrent state" : "attention", keys.full(key).c_str(), arch.c_str());
        }
    }
}

// Layers that must be there for llama.cpp to use all of its inputs.
static void check_layer_count(const metadata & keys, const std::string & arch, uint32_t n_trunk) {
    const uint32_t needed = arch == "llama4" ? 4 : is_one_of(arch, "cohere2moe laguna smallthinker") ? 2 : 1;
    if (n_trunk < needed) {
        keys.file.refuse("%s leaves %" PRIu32 " layers, %s models need %" PRIu32 " or more",
                         keys.full("block_count").c_str(), n_trunk, arch.c_str(), needed);
    }
    if (arch == "nanbeige") {
        keys.u32_or("num_loops", 1, 1, MAX_LAYERS / n_trunk);
    }
    if (arch == "hrm_text") {
        const uint64_t stack = keys.u32("hrm.layers_per_stack", 1, MAX_INT), high = keys.u32("hrm.h_cycles", 1, MAX_LAYERS);
        const uint64_t n_slots = stack * high * (keys.u32("hrm.l_cycles", 1, MAX_LAYERS) + 1);
        if (n_slots != n_trunk) {
            keys.file.refuse("%s leaves %" PRIu32 " layers, the stacks and cycles of hrm.* make %" PRIu64,
                             keys.full("block_count").c_str(), n_trunk, n_slots);
        }
    }
    if (arch == "deepseek4") {
        const char * key = "attention.compress_ratios";
        const gguf_value * value = keys.file.find(keys.full(key));
        if (value && value->count > MAX_LAYERS) {
            keys.file.refuse("%s has %" PRIu64 " elements, the limit is %" PRIu32, keys.full(key).c_str(), value->count,
                             MAX_LAYERS);
        }
        const std::vector<uint32_t> ratios = value && value->is_array && value->count >= n_trunk
                                                 ? keys.per_layer(key, (uint32_t) value->count, 0, MAX_INT)
                                                 : std::vector<uint32_t>(n_trunk, 4);
        if (std::find(ratios.begin(), ratios.begin() + n_trunk, 4) == ratios.begin() + n_trunk) {
            keys.file.refuse("%s gives none of %" PRIu32 " layers the ratio 4, %s models need some", keys.full(key).c_str(),
                             n_trunk, arch.c_str());
        }
    }
}

static void check_experts(const metadata & keys, const std::string & arch, layer_sizes & sizes, uint32_t n_trunk) {
    const char * key = "expert_used_count";
    uint32_t count = keys.u32_or("expert_count", 0, 0, MAX_EXPERTS);
    sizes.experts = keys.per_layer(key, (uint32_t) sizes.q.size(), 0, MAX_EXPERTS);
    if ((arch == "hunyuan-dense" || arch == "hunyuan_vl") && count <= 1) {
        count = 0; // llama.cpp reads those as dense
        std::fill(sizes.experts.begin(), sizes.experts.end(), 0);
    }
    const uint32_t used = *std::max_element(sizes.experts.begin(), sizes.experts.end());
    const uint32_t groups = keys.u32_or("expert_group_count", 0, 0, MAX_EXPERTS);
    const uint32_t groups_used = keys.u32_or("expert_group_used_count", 0, 0, MAX_EXPERTS);
    if (used > count || (count > 0 && used == 0)) {
        keys.file.refuse("%s is %" PRIu32 ", of %" PRIu32 " experts", keys.full(key).c_str(), used, count);
    }
    const bool is_nemotron = is_one_of(arch, "nemotron_h nemotron_h_moe");
    for (uint32_t il = 0; il < n_trunk && count > 0; il++) {
        // all others select as many as in layer 0 and add up as many as the layer says
        if (!is_nemotron && sizes.experts[il] > sizes.experts[0]) {
            keys.file.refuse("%s is %" PRIu32 " in layer %" PRIu32 " and %" PRIu32
                             " in layer 0: %s models select the number "
                             "of layer 0",
                             keys.full(key).c_str(), sizes.experts[il], il, sizes.experts[0], arch.c_str());
        }
        if (is_nemotron && sizes.ff[il] > 0 && sizes.experts[il] == 0) {
            keys.file.refuse("%s is 0 in layer %" PRIu32 ", which has experts", keys.full(key).c_str(), il);
        }
    }
    const bool grouped = groups > 1;
    if ((groups > 0 && groups >= count) || (grouped && (count % groups != 0 || groups_used == 0 || groups_used >= groups))) {
        keys.file.refuse("%s is %" PRIu32 " with %" PRIu32 " used, of %" PRIu32 " experts",
                         keys.full("expert_group_count").c_str(), groups, groups_used, count);
    }
    const uint32_t per_group = arch == "grovemoe" ? keys.u32_or("experts_per_group", 1, 1, MAX_INT) : 1;
    if (used > count / per_group) {
        keys.file.refuse("%s is %" PRIu32 ", of %" PRIu32 " groups of %" PRIu32 " experts", keys.full(key).c_str(), used,
                         count / per_group, per_group);
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

void check_layers(const metadata & keys, const arch_info & arch, layer_sizes & sizes, const gguf_summary & summary) {
    const uint32_t n_trunk = (uint32_t) summary.n_layer - keys.u32_or("nextn_predict_layers", 0, 0, MAX_LAYERS);
    check_windows(keys, arch, n_trunk);
    check_hybrid(keys, summary.arch, sizes, n_trunk);
    check_layer_count(keys, summary.arch, n_trunk);
    if (is_one_of(summary.arch, "dots3note glm-dsa glm5-next hy_v4")) {
        const char * key = "attention.indexer.types";
        const std::vector<bool> on = switches(keys, key, n_trunk);
        if (!on.empty() && !has(on, true)) {
            keys.file.refuse("%s gives no layer an indexer", keys.full(key).c_str());
        }
    }
    if (is_one_of(summary.arch, "bailingmoe2 glm4moe grovemoe lfm2moe qwen35moe qwen4exp smallthinker")) {
        keys.u32("expert_count", 1, MAX_EXPERTS);
    }
    check_experts(keys, summary.arch, sizes, n_trunk);
}

} // namespace mp
