// A file of trained masks: their vectors, and for weights of the model two matrices that act on mask rows alone. Its layout
// is described in docs/masks.md.
#include "gguf/check.h"
#include "gguf/rules.h"

#include "ggml.h"
#include "gguf.h"

#include <algorithm>
#include <cinttypes>
#include <map>

namespace mp {

static constexpr const char * ARCHITECTURE = "maskprobe-masks";
static constexpr uint32_t VERSION = 1;
static constexpr int64_t MOST_MASKS = 64;

static uint32_t number_key(const gguf_file & file, const char * key) {
    const gguf_value * value = file.find(key, GGUF_TYPE_UINT32, false);
    if (!value) {
        file.refuse("%s is missing", key);
    }
    return gguf_number<uint32_t>(*value);
}

static void check_number(const gguf_file & file, const char * key, int64_t expected, const char * what) {
    const int64_t found = number_key(file, key);
    if (found != expected) {
        file.refuse("it was made for a model with %" PRId64 " %s, this one has %" PRId64, found, what, expected);
    }
}

// What is no sound text of this program is shown as such; a model's identity has several lines.
static std::string in_one_line(std::string text) {
    std::replace(text.begin(), text.end(), '\n', ' ');
    return quoted(text);
}

static void check_keys(const gguf_file & file, const gguf_summary & model, const std::string & identity, int32_t n_vocab) {
    const std::string arch = string_key(file, "general.architecture");
    if (arch != ARCHITECTURE) {
        file.refuse("general.architecture is %s, expected '%s': it is no file of trained masks", quoted(arch).c_str(),
                    ARCHITECTURE);
    }
    const uint32_t version = number_key(file, "maskprobe.masks.version");
    if (version != VERSION) {
        file.refuse("it is of version %u of its format, this program reads version %u", version, VERSION);
    }
    check_number(file, "maskprobe.masks.n_embd", model.n_embd, "values in an embedding");
    check_number(file, "maskprobe.masks.n_vocab", n_vocab, "tokens");
    const std::string of = string_key(file, "maskprobe.masks.model");
    if (of != identity) {
        file.refuse("it was made for another model: for %s, this one is %s", in_one_line(of).c_str(),
                    in_one_line(identity).c_str());
    }
}

static gguf_masks::tensor described(const gguf_tensor_info & info, const std::string & name) {
    return {name, info.type, {info.ne[0], info.ne[1]}, info.offset, info.size};
}

static void check_type(const gguf_file & file, const gguf_tensor_info & tensor, bool may_be_half) {
    if (tensor.type != GGML_TYPE_F32 && !(may_be_half && tensor.type == GGML_TYPE_F16)) {
        file.refuse("tensor %s has type %s, expected %s", quoted(tensor.name).c_str(),
                    ggml_type_name((ggml_type) tensor.type), may_be_half ? "F16 or F32" : "F32");
    }
}

// The weight must be one whose products have the rows of the batch.
static void check_weight(const gguf_file & file, const gguf_summary & model, const std::string & name) {
    const gguf_tensor * weight = model.find(name);
    const bool is_matrix = weight && weight->in_products && weight->ne[2] == 1 && weight->ne[3] == 1;
    if (weight && (!is_matrix || name.compare(0, 4, "blk.") != 0)) {
        file.refuse("it changes %s, which is no matrix of a layer", quoted(name).c_str());
    }
}

gguf_masks gguf_check_masks(const std::string & path, const gguf_summary & model, const std::string & identity,
                            int32_t n_vocab) {
    const gguf_file file(path);
    check_keys(file, model, identity, n_vocab);
    const int64_t n_masks = number_key(file, "maskprobe.masks.n_masks");
    if (n_masks < 1 || n_masks > MOST_MASKS) {
        file.refuse("maskprobe.masks.n_masks is %" PRId64 ", expected 1 to %" PRId64, n_masks, MOST_MASKS);
    }
    gguf_masks found = {};
    std::map<std::string, matrix_pair> pairs;
    for (const gguf_tensor_info & tensor : file.tensors()) {
        if (tensor.name == "mask.embd") {
            check_type(file, tensor, false);
            if (tensor.ne[0] != model.n_embd || tensor.ne[1] != n_masks || tensor.ne[2] != 1 || tensor.ne[3] != 1) {
                file.refuse("'mask.embd' has %" PRId64 " vectors of %" PRId64 " values, expected %" PRId64 " of %" PRId64,
                            tensor.ne[1], tensor.ne[0], n_masks, model.n_embd);
            }
            found.vectors = described(tensor, "mask.embd");
        } else if (find_pair(file, tensor, pairs)) {
            check_type(file, tensor, true);
        } else if (tensor.name.substr(0, 5) != "head.") { // the sampler head's are its own reader's business
            file.refuse("tensor %s is not known in a file of masks", quoted(tensor.name).c_str());
        }
    }
    if (found.vectors.size == 0) {
        file.refuse("tensor 'mask.embd' is missing");
    }
    for (const auto & [name, pair] : pairs) {
        check_weight(file, model, name);
        check_pair(file, model, name, pair);
        found.pairs.emplace_back(described(*pair.a, name), described(*pair.b, name));
    }
    return found;
}

} // namespace mp
