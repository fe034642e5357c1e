#include "gguf/check.h"

#include "gguf/rules.h"

#include "gguf.h"

#include <cinttypes>
#include <memory>
#include <unordered_map>

namespace mp {

const gguf_tensor * gguf_summary::find(const std::string & tensor_name) const {
    for (const gguf_tensor & tensor : tensors) {
        if (tensor.name == tensor_name) {
            return &tensor;
        }
    }
    return nullptr;
}

std::string string_key(const gguf_file & file, const char * key) {
    const gguf_value * value = file.find(key, GGUF_TYPE_STRING, false);
    return value ? std::string(string_walk(*value).next()) : std::string();
}

// What the file says it is, for files that hold no model.
static void check_kind(const gguf_file & file) {
    const std::string type = string_key(file, "general.type");
    const std::string arch = string_key(file, "general.architecture");
    if (type == "adapter") {
        fail(MP_ERR_UNSUPPORTED, "it is a LoRA adapter: give the path of its base model");
    }
    if (type == "mmproj" || arch == "clip") {
        fail(MP_ERR_UNSUPPORTED, "it is the image or sound part (mmproj) of a model: give the path of the text model");
    }
    if (type == "imatrix" || arch == "imatrix") {
        fail(MP_ERR_UNSUPPORTED, "it is an importance matrix for quantisation, not a model");
    }
    if (type == "controlvector" || arch == "controlvector") {
        fail(MP_ERR_UNSUPPORTED, "it is a control vector: give the path of its base model");
    }
}

static arch_info check_arch(const gguf_file & file, std::string & name) {
    name = string_key(file, "general.architecture");
    if (name.empty()) {
        file.refuse("the key general.architecture is missing");
    }
    const arch_info arch = arch_lookup(name);
    const char * kind = nullptr;
    switch (arch.kind) {
    case arch_kind::decoder:
    case arch_kind::hybrid:
    case arch_kind::recurrent:
        return arch;
    case arch_kind::encoder:
        kind = "an encoder";
        break;
    case arch_kind::encoder_decoder:
        kind = "an encoder-decoder";
        break;
    case arch_kind::embedding:
        kind = "an embedding model";
        break;
    case arch_kind::diffusion:
        kind = "a diffusion model";
        break;
    case arch_kind::draft:
        kind = "a draft model, which needs another one to run";
        break;
    case arch_kind::speech:
        kind = "a speech model";
        break;
    case arch_kind::image:
    case arch_kind::no_loader:
    case arch_kind::unknown:
        fail(MP_ERR_UNSUPPORTED, "the architecture %s is unknown to this version of llama.cpp", quoted(name).c_str());
    }
    fail(MP_ERR_UNSUPPORTED, "%s is %s: only decoder-only models that write text are run", name.c_str(), kind);
}

// Models of a decoder's architecture that were trained for something else.
static void check_use(const gguf_file & file, const std::string & arch) {
    const gguf_value * causal = file.find(arch + ".attention.causal", GGUF_TYPE_BOOL, false);
    if (causal && *causal->data == 0) {
        fail(MP_ERR_UNSUPPORTED,
             "this %s model attends to later tokens (attention.causal is false): only models that write "
             "text token by token are run",
             arch.c_str());
    }
    static constexpr uint32_t UNSPECIFIED = 0xFFFFFFFF, NONE = 0, RANK = 4; // llama_pooling_type
    const gguf_value * value = file.find(arch + ".pooling_type", GGUF_TYPE_UINT32, false);
    const uint32_t pooling = value ? gguf_number<uint32_t>(*value) : NONE;
    if (pooling != UNSPECIFIED && pooling > RANK) {
        file.refuse("%s.pooling_type is %" PRIu32 ", expected 0 to %" PRIu32, arch.c_str(), pooling, RANK);
    }
    if (pooling != UNSPECIFIED && pooling != NONE) {
        fail(MP_ERR_UNSUPPORTED,
             "this %s model is an embedding or ranking model (pooling_type is %" PRIu32
             "): only models that write text are run",
             arch.c_str(), pooling);
    }
}

static uint16_t split_key(const gguf_file & file, const char * key) {
    const gguf_value * value = file.find(key, GGUF_TYPE_UINT16, false);
    return value ? gguf_number<uint16_t>(*value) : 0;
}

static std::string part_suffix(uint32_t part, uint32_t n_parts) {
    return format("-%05" PRIu32 "-of-%05" PRIu32 ".gguf", part + 1, n_parts);
}

using file_list = std::vector<std::unique_ptr<gguf_file>>;

// Opens the other parts next to the first one, whose name ends in -00001-of-0000N.gguf.
static void open_parts(file_list & files) {
    const gguf_file & first = *files.front();
    const uint32_t n_parts = split_key(first, "split.count");
    const uint32_t number = split_key(first, "split.no");
    if (n_parts <= 1) {
        return;
    }
    if (number >= n_parts) {
        first.refuse("it is part %" PRIu32 " of %" PRIu32 ": split.no and split.count do not fit", number + 1, n_parts);
    }
    const std::string suffix = part_suffix(number, n_parts);
    const std::string & path = first.path();
    if (path.size() <= suffix.size() || path.compare(path.size() - suffix.size(), suffix.size(), suffix) != 0) {
        first.refuse("it is part %" PRIu32 " of %" PRIu32 " of a split model: its name must end in %s", number + 1, n_parts,
                     suffix.c_str());
    }
    const std::string stem = path.substr(0, path.size() - suffix.size());
    if (number != 0) {
        first.refuse("it is part %" PRIu32 " of %" PRIu32 ": open the first, '%s'", number + 1, n_parts,
                     (stem + part_suffix(0, n_parts)).c_str());
    }
    for (uint32_t i = 1; i < n_parts; i++) {
        const std::string part = stem + part_suffix(i, n_parts);
        try {
            files.push_back(std::make_unique<gguf_file>(part));
        } catch (const failure & e) {
            if (e.status == MP_ERR_FILE) {
                first.refuse("it is one of %" PRIu32 " parts, which must lie together: %s", n_parts, e.what());
            }
            throw;
        }
        const gguf_file & file = *files.back();
        if (split_key(file, "split.no") != i || (file.find("split.count") && split_key(file, "split.count") != n_parts)) {
            file.refuse("it says it is part %d of %d, expected part %" PRIu32 " of %" PRIu32,
                        split_key(file, "split.no") + 1, split_key(file, "split.count"), i + 1, n_parts);
        }
    }
    const gguf_value * value = first.find("split.tensors.count", GGUF_TYPE_INT32, false);
    const int64_t announced = value ? gguf_number<int32_t>(*value) : -1;
    int64_t n_tensors = 0;
    for (const auto & file : files) {
        n_tensors += (int64_t) file->tensors().size();
    }
    if (announced != n_tensors) {
        first.refuse("split.tensors.count is %" PRId64 ", the %" PRIu32 " parts have %" PRId64 " tensors", announced,
                     n_parts, n_tensors);
    }
}

static void list_tensors(const file_list & files, gguf_summary & summary) {
    std::unordered_map<std::string_view, size_t> parts;
    for (size_t i = 0; i < files.size(); i++) {
        summary.files.push_back(files[i]->path());
        for (const gguf_tensor_info & tensor : files[i]->tensors()) {
            if (!parts.emplace(tensor.name, i).second) {
                files[i]->refuse("tensor %s is also in part %zu", quoted(tensor.name).c_str(), parts[tensor.name] + 1);
            }
            summary.tensors.push_back({std::string(tensor.name),
                                       tensor.type,
                                       {tensor.ne[0], tensor.ne[1], tensor.ne[2], tensor.ne[3]},
                                       tensor.offset,
                                       tensor.size,
                                       (int32_t) i,
                                       enters_products(tensor)});
        }
    }
}

gguf_summary gguf_check(const std::string & path) {
    file_list files;
    files.push_back(std::make_unique<gguf_file>(path));
    const gguf_file & first = *files.front();
    check_kind(first);
    open_parts(files);

    gguf_summary summary;
    list_tensors(files, summary);
    const arch_info arch = check_arch(first, summary.arch);
    summary.name = string_key(first, "general.name");
    check_use(first, summary.arch);
    const layer_sizes sizes = check_metadata(first, arch, summary);
    const uint64_t n_vocab = check_vocabulary(first);
    for (const auto & file : files) {
        check_tensors(*file, arch, sizes, n_vocab, summary);
    }
    if (summary.tensors.empty()) {
        fail(MP_ERR_UNSUPPORTED, "it has a vocabulary and no weights: give the path of the whole model");
    }
    if (!summary.find("token_embd.weight")) {
        first.refuse("tensor token_embd.weight is missing");
    }
    check_companions(first, sizes, summary);
    return summary;
}

} // namespace mp
