#include "gguf/rules.h"

#include "ggml.h"
#include "gguf.h"

#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <unordered_set>

namespace mp {

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

bool enters_products(const gguf_tensor_info & tensor) {
    for (const char * table : {"position_embd", "token_types", "per_layer_token_embd", "tid2eid", "nextn.embed_tokens",
                               "compressor_ape"}) { // rows of these are looked up
        if (tensor.name.find(table) != std::string_view::npos) {
            return false;
        }
    }
    return !is_f32_role(tensor);
}

static void check_type(const gguf_file & file, const gguf_tensor_info & tensor) {
    const auto type = (ggml_type) tensor.type;
    const bool is_table = tensor.name.find("tid2eid") != std::string_view::npos; // token to expert
    const bool ok = is_table              ? type == GGML_TYPE_I32
                    : is_f32_role(tensor) ? type == GGML_TYPE_F32
                                          : type == GGML_TYPE_F32 || ggml_get_type_traits(type)->to_float != nullptr;
    if (!ok) {
        file.refuse("tensor %s has type %s, llama.cpp cannot compute with that here", quoted(tensor.name).c_str(),
                    ggml_type_name(type));
    }
}

// The graphs cut projections by the head counts and widths, without looking at the sizes of the tensors.
static void check_projection(const gguf_file & file, const arch_info & arch, const layer_sizes & sizes,
                             const gguf_summary & summary, const gguf_tensor_info & tensor) {
    const std::string name(tensor.name);
    uint32_t il = 0;
    char part[32] = "";
    if (sscanf(name.c_str(), "blk.%" SCNu32 ".%31s", &il, part) != 2 || il >= sizes.q.size()) {
        return;
    }
    const int64_t n_q = sizes.q[il], n_kv = sizes.kv[il], k = summary.n_embd_head_k, v = summary.n_embd_head_v;
    if (summary.arch == "laguna" && strcmp(part, "attn_gate.weight") == 0 && tensor.ne[1] != n_q &&
        tensor.ne[1] != n_q * k) {
        file.refuse("%s has %" PRId64 " rows, expected %" PRId64 " (one for a head) or %" PRId64 " (one for each element)",
                    name.c_str(), tensor.ne[1], n_q, n_q * k);
    }
    if (arch.kind != arch_kind::decoder || (arch.flags & LATENT_CACHE) || !sizes.one_width) {
        return;
    }
    const struct {
        const char * part;
        int dim;
        int64_t expected;
    } projections[] = {
        {"attn_qkv.weight", 1, n_q * k + n_kv * (k + v)},
        {"attn_k.weight", 1, n_kv * k},
        {"attn_v.weight", 1, n_kv * v},
        {"attn_output.weight", 0, n_q * v},
    };
    for (const auto & projection : projections) {
        const int64_t size = tensor.ne[projection.dim];
        if (strcmp(part, projection.part) == 0 && size != projection.expected) {
            file.refuse("%s has %" PRId64 " %s, the head counts and widths make %" PRId64, name.c_str(), size,
                        projection.dim == 0 ? "columns" : "rows", projection.expected);
        }
    }
}

void check_tensors(const gguf_file & file, const arch_info & arch, const layer_sizes & sizes, uint64_t n_vocab,
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
        check_projection(file, arch, sizes, summary, tensor);
    }
}

// In the architectures named (all, if none is), a layer that has the first tensor must have one of the others.
static const struct companion {
    const char * archs;
    const char * present;
    const char * needed;
    const char * or_else;
} COMPANIONS[] = {
    {"falcon-h1 granitehybrid nemotron_h nemotron_h_moe", "ssm_conv1d.weight", "ssm_conv1d.bias", nullptr},
    {"glm-dsa", "indexer.k_norm.weight", "indexer.attn_k.weight", nullptr},
    {"glm-dsa", "indexer.k_norm.weight", "indexer.attn_q_b.weight", nullptr},
    {"glm-dsa", "indexer.k_norm.weight", "indexer.proj.weight", nullptr},
    {nullptr, "ffn_down_exps.weight", "ffn_up_exps.weight", "ffn_gate_up_exps.weight"},
};

// Architectures whose loader does without the first layers, where the file has layers for multi-token prediction.
static const char MAY_LACK_TRUNK[] = "bailingmoe3 cohere2moe deepseek2 deepseek32 deepseek4 glm-dsa glm4moe hy_v3 mimo2 "
                                     "mistral4 nemotron_h nemotron_h_moe qwen35 qwen35moe qwen3next step35";

void check_companions(const gguf_file & file, const layer_sizes & sizes, const gguf_summary & summary) {
    std::unordered_set<std::string_view> names;
    for (const gguf_tensor & tensor : summary.tensors) {
        names.insert(tensor.name);
    }
    const std::string key = summary.arch + ".nextn_predict_layers";
    const gguf_value * value = file.find(key, GGUF_TYPE_UINT32, false);
    const int64_t n_predicting = value ? gguf_number<uint32_t>(*value) : 0;
    if (n_predicting > 0 && !names.count("blk.0.attn_norm.weight") && is_one_of(summary.arch, MAY_LACK_TRUNK)) {
        fail(MP_ERR_UNSUPPORTED,
             "tensor blk.0.attn_norm.weight is missing and %s is %" PRId64 ": it is the part of a model for multi-token "
             "prediction, give the path of the model itself",
             key.c_str(), n_predicting);
    }
    for (int64_t il = 0; il < summary.n_layer; il++) {
        const auto has = [&](const char * part) { return part && names.count(format("blk.%" PRId64 ".%s", il, part)); };
        for (const companion & rule : COMPANIONS) {
            const bool applies = !rule.archs || is_one_of(summary.arch, rule.archs);
            if (applies && has(rule.present) && !has(rule.needed) && !has(rule.or_else)) {
                file.refuse("tensor blk.%" PRId64 ".%s is missing", il, rule.needed);
            }
        }
        const bool has_experts = has("ffn_down_exps.weight") || has("ffn_down.0.weight");
        if (has_experts && sizes.experts[il] == 0 && il < summary.n_layer - n_predicting) {
            file.refuse("layer %" PRId64 " has experts, %s.expert_used_count is 0 there", il, summary.arch.c_str());
        }
    }
}

} // namespace mp
