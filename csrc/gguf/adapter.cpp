// What llama.cpp would crash on in a LoRA adapter, although the file is sound as a container. An adapter holds two matrices
// for each weight that it changes, NAME.lora_a (n_in, rank) and NAME.lora_b (rank, n_out).
#include "gguf/check.h"
#include "gguf/rules.h"

#include "ggml.h"
#include "gguf.h"

#include <cinttypes>
#include <cmath>
#include <map>

namespace mp {

static constexpr const char * TABLE_NAME = "token_embd.weight";

static void check_keys(const gguf_file & file, const gguf_summary & model) {
    const std::string type = string_key(file, "general.type");
    if (type != "adapter") {
        file.refuse("general.type is %s, expected 'adapter': it is no LoRA adapter", quoted(type).c_str());
    }
    const std::string kind = string_key(file, "adapter.type");
    if (kind != "lora") {
        file.refuse("adapter.type is %s, expected 'lora'", quoted(kind).c_str());
    }
    const std::string arch = string_key(file, "general.architecture");
    if (arch != model.arch) {
        file.refuse("it is an adapter of a model of the architecture %s, the model's is %s", quoted(arch).c_str(),
                    quoted(model.arch).c_str());
    }
    const gguf_value * alpha = file.find("adapter.lora.alpha", GGUF_TYPE_FLOAT32, false);
    if (alpha && !std::isfinite(gguf_number<float>(*alpha))) {
        file.refuse("adapter.lora.alpha is not finite");
    }
    if (file.find("adapter.alora.invocation_tokens")) {
        file.refuse("it works from certain tokens on only (aLoRA): such adapters are not supported");
    }
}

static bool ends_in(std::string_view text, std::string_view end) {
    return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

bool find_pair(const gguf_file & file, const gguf_tensor_info & tensor, std::map<std::string, matrix_pair> & pairs) {
    const std::string_view name = tensor.name;
    const bool is_a = ends_in(name, ".lora_a"), is_b = ends_in(name, ".lora_b");
    if (!is_a && !is_b) {
        return false;
    }
    const std::string base(name.substr(0, name.find(".lora_")));
    if (base.size() + sizeof(".lora_a") - 1 != name.size()) {
        file.refuse("tensor %s has two endings", quoted(name).c_str());
    }
    (is_a ? pairs[base].a : pairs[base].b) = &tensor;
    return true;
}

static std::map<std::string, matrix_pair> find_pairs(const gguf_file & file) {
    std::map<std::string, matrix_pair> pairs;
    for (const gguf_tensor_info & tensor : file.tensors()) {
        const std::string_view name = tensor.name;
        if (!find_pair(file, tensor, pairs) && !ends_in(name, "_norm.weight")) { // llama.cpp passes those over
            file.refuse("tensor %s is not part of an adapter: names end in .lora_a or .lora_b", quoted(name).c_str());
        }
        const int type = tensor.type;
        if (type != GGML_TYPE_F32 && type != GGML_TYPE_F16 && type != GGML_TYPE_BF16 && type != GGML_TYPE_Q8_0) {
            file.refuse("tensor %s has type %s, adapters have F32, F16, BF16 or Q8_0", quoted(name).c_str(),
                        ggml_type_name((ggml_type) type));
        }
    }
    if (pairs.empty()) {
        file.refuse("it has no tensors");
    }
    return pairs;
}

void check_pair(const gguf_file & file, const gguf_summary & model, const std::string & name, const matrix_pair & pair) {
    if (!pair.a || !pair.b) {
        file.refuse("tensor %s is missing", quoted(name + (pair.a ? ".lora_b" : ".lora_a")).c_str());
    }
    const gguf_tensor * weight = model.find(name);
    if (!weight) {
        file.refuse("it changes %s, which the model does not have", quoted(name).c_str());
    }
    const gguf_tensor_info & a = *pair.a;
    const gguf_tensor_info & b = *pair.b;
    // Rows are looked up in a, for the embedding of a token, rather than multiplied.
    const bool is_table = name == TABLE_NAME;
    if (is_table && !model.find("output.weight")) {
        file.refuse("it changes 'token_embd.weight', which is this model's output matrix as well: llama.cpp cannot do that");
    }
    if (weight->type == GGML_TYPE_NVFP4) {
        file.refuse("it changes %s, which is of type NVFP4: llama.cpp cannot do that", quoted(name).c_str());
    }
    const int64_t n_in = is_table ? b.ne[1] : a.ne[0], n_out = is_table ? a.ne[1] : b.ne[1];
    const int64_t rank = is_table ? a.ne[0] : a.ne[1];
    if (n_in != weight->ne[0] || n_out != weight->ne[1]) {
        file.refuse("it changes %s as a matrix of %" PRId64 " x %" PRId64 ", the model's has %" PRId64 " x %" PRId64,
                    quoted(name).c_str(), n_in, n_out, weight->ne[0], weight->ne[1]);
    }
    if (rank != b.ne[0]) {
        file.refuse("the two matrices of %s have the ranks %" PRId64 " and %" PRId64, quoted(name).c_str(), rank, b.ne[0]);
    }
    for (int dim = 2; dim < 4; dim++) {
        if (a.ne[dim] != weight->ne[dim] || b.ne[dim] != weight->ne[dim]) {
            file.refuse("it has %" PRId64 " and %" PRId64 " matrices for %s, the model has %" PRId64, a.ne[dim], b.ne[dim],
                        quoted(name).c_str(), weight->ne[dim]);
        }
    }
}

bool gguf_check_adapter(const std::string & path, const gguf_summary & model) {
    const gguf_file file(path);
    check_keys(file, model);
    const auto pairs = find_pairs(file);
    for (const auto & [name, pair] : pairs) {
        check_pair(file, model, name, pair);
    }
    return pairs.count(TABLE_NAME) > 0;
}

} // namespace mp
