#include "gguf_rules.h"

#include "ggml.h"

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
static void check_projection(const gguf_file & file, const arch_info & arch, const layer_heads & heads,
                             const gguf_summary & summary, const gguf_tensor_info & tensor) {
    const std::string name(tensor.name);
    uint32_t il = 0;
    char part[32] = "";
    if (arch.kind != arch_kind::decoder || (arch.flags & LATENT_CACHE) || !heads.one_width ||
        sscanf(name.c_str(), "blk.%" SCNu32 ".%31s", &il, part) != 2 || il >= heads.q.size()) {
        return;
    }
    const int64_t n_q = heads.q[il], n_kv = heads.kv[il], k = summary.n_embd_head_k, v = summary.n_embd_head_v;
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
        check_projection(file, arch, heads, summary, tensor);
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

void check_companions(const gguf_file & file, const gguf_summary & summary) {
    std::unordered_set<std::string_view> names;
    for (const gguf_tensor & tensor : summary.tensors) {
        names.insert(tensor.name);
    }
    for (const companion & rule : COMPANIONS) {
        if (rule.archs && !is_one_of(summary.arch, rule.archs)) {
            continue;
        }
        for (int64_t il = 0; il < summary.n_layer; il++) {
            const auto has = [&](const char * part) { return part && names.count(format("blk.%" PRId64 ".%s", il, part)); };
            if (has(rule.present) && !has(rule.needed) && !has(rule.or_else)) {
                file.refuse("tensor blk.%" PRId64 ".%s is missing", il, rule.needed);
            }
        }
    }
}

} // namespace mp
