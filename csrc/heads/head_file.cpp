#include "heads/head_file.h"

#include "gguf/reader.h"
#include "status.h"

#include "ggml.h"
#include "gguf.h"

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstring>

namespace mp {

constexpr const char * ARCHITECTURE = "maskprobe-heads";
constexpr const char * KIND = "sampler";
constexpr uint32_t VERSION = 1;
constexpr int64_t WIDEST = 1 << 16;    // of the layer between the blocks
constexpr float LARGEST_WEIGHT = 1e6f; // of what is no matrix, and of the scales of one
constexpr float COLDEST = 0.01f, HOTTEST = 100.0f;

static const char * const NAMES[] = {
    "head.0.weight", "head.0.bias",        "head.0.norm.weight", "head.0.norm.bias", "head.1.weight",
    "head.1.bias",   "head.1.norm.weight", "head.1.norm.bias",   "short.tokens",     "short.weight",
};

// --- keys ------------------------------------------------------------------------------------------------------------

static std::string text_of(const gguf_file & file, const char * key) {
    const gguf_value * value = file.find(key, GGUF_TYPE_STRING, false);
    if (!value) {
        file.refuse("the key %s is missing", key);
    }
    return std::string(string_walk(*value).next());
}

static uint32_t number_of(const gguf_file & file, const char * key) {
    const gguf_value * value = file.find(key, GGUF_TYPE_UINT32, false);
    if (!value) {
        file.refuse("the key %s is missing", key);
    }
    return gguf_number<uint32_t>(*value);
}

static void check_keys(const gguf_file & file, const head_model & model) {
    const gguf_value * arch = file.find("general.architecture", GGUF_TYPE_STRING, false);
    const std::string found = arch ? std::string(string_walk(*arch).next()) : "";
    if (found != ARCHITECTURE) {
        file.refuse("general.architecture is %s, expected '%s': it is no file of heads", quoted(found).c_str(),
                    ARCHITECTURE);
    }
    const uint32_t version = number_of(file, "maskprobe.heads.version");
    if (version != VERSION) {
        file.refuse("maskprobe.heads.version is %" PRIu32 ", version %" PRIu32 " is read: train the heads again", version,
                    VERSION);
    }
    const std::string kind = text_of(file, "maskprobe.heads.kind");
    if (kind != KIND) {
        file.refuse("maskprobe.heads.kind is %s, this program has '%s'", quoted(kind).c_str(), KIND);
    }
    const uint32_t n_embd = number_of(file, "maskprobe.heads.n_embd");
    const uint32_t n_vocab = number_of(file, "maskprobe.heads.n_vocab");
    if (n_embd != (uint32_t) model.n_embd || n_vocab != (uint32_t) model.n_vocab) {
        file.refuse("its model has states of %" PRIu32 " numbers and %" PRIu32
                    " tokens, this one has %d and %d: train heads "
                    "for this model",
                    n_embd, n_vocab, model.n_embd, model.n_vocab);
    }
    const std::string of = text_of(file, "maskprobe.heads.model");
    if (of != model.identity) {
        file.refuse("it was trained for the model %s, this one is %s: train heads for this model", quoted(of).c_str(),
                    quoted(model.identity).c_str());
    }
}

static float temperature_of(const gguf_file & file) {
    const gguf_value * value = file.find("maskprobe.heads.temperature", GGUF_TYPE_FLOAT32, false);
    const float found = value ? gguf_number<float>(*value) : 1.0f;
    if (!(found >= COLDEST && found <= HOTTEST)) {
        file.refuse("maskprobe.heads.temperature is %g, it must be from %g to %g", found, COLDEST, HOTTEST);
    }
    return found;
}

// --- tensors ---------------------------------------------------------------------------------------------------------

namespace {

class tensors {
public:
    explicit tensors(const gguf_file & file) : file(file) {
        for (const gguf_tensor_info & tensor : file.tensors()) {
            const auto is_it = [&](const char * name) { return tensor.name == name; };
            if (std::none_of(std::begin(NAMES), std::end(NAMES), is_it)) {
                file.refuse("tensor %s is no part of a %s head", quoted(tensor.name).c_str(), KIND);
            }
        }
    }

    const gguf_tensor_info & find(const char * name) const {
        for (const gguf_tensor_info & tensor : file.tensors()) {
            if (tensor.name == name) {
                return tensor;
            }
        }
        file.refuse("tensor '%s' is missing", name);
    }

    // (n_out, n_in) of Q8_0
    packed_matrix matrix(const char * name, int64_t n_out, int64_t n_in) const {
        const uint8_t * block = data(name, GGML_TYPE_Q8_0, n_in, n_out);
        const size_t size = ggml_type_size(GGML_TYPE_Q8_0);
        const int64_t n_blocks = n_out * n_in / ggml_blck_size(GGML_TYPE_Q8_0);
        for (int64_t i = 0; i < n_blocks; i++) {
            ggml_fp16_t scale;
            memcpy(&scale, block + i * size, sizeof(scale)); // a block begins with it
            check(name, ggml_fp16_to_fp32(scale), i);
        }
        return packed_matrix(block, n_out, n_in);
    }

    std::vector<float> vector(const char * name, int64_t n) const {
        const auto * from = (const float *) data(name, GGML_TYPE_F32, n, 1);
        const std::vector<float> numbers(from, from + n);
        for (int64_t i = 0; i < n; i++) {
            check(name, numbers[i], i);
        }
        return numbers;
    }

    std::vector<int32_t> ids(const char * name, int64_t n, int32_t n_vocab) const {
        const auto * from = (const int32_t *) data(name, GGML_TYPE_I32, n, 1);
        const std::vector<int32_t> found(from, from + n);
        for (int64_t i = 0; i < n; i++) {
            if (found[i] < 0 || found[i] >= n_vocab || (i > 0 && found[i] <= found[i - 1])) {
                file.refuse("'%s' has token %" PRId32 " at %" PRId64 ": they must be ascending, the vocabulary has %" PRId32,
                            name, found[i], i, n_vocab);
            }
        }
        return found;
    }

private:
    // Of a tensor (n_rows, n).
    const uint8_t * data(const char * name, ggml_type type, int64_t n, int64_t n_rows) const {
        const gguf_tensor_info & tensor = find(name);
        if (tensor.type != type) {
            file.refuse("tensor '%s' has type %s, expected %s", name, ggml_type_name((ggml_type) tensor.type),
                        ggml_type_name(type));
        }
        if (tensor.ne[0] != n || tensor.ne[1] != n_rows || tensor.ne[2] != 1 || tensor.ne[3] != 1) {
            file.refuse("tensor '%s' has the shape (%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "), expected (%" PRId64
                        ", %" PRId64 ")",
                        name, tensor.ne[3], tensor.ne[2], tensor.ne[1], tensor.ne[0], n_rows, n);
        }
        return file.data(tensor);
    }

    void check(const char * name, float value, int64_t i) const {
        if (!(std::fabs(value) <= LARGEST_WEIGHT)) {
            file.refuse("tensor '%s' has %g at %" PRId64 ", it must be finite and %g at most", name, value, i,
                        LARGEST_WEIGHT);
        }
    }

    const gguf_file & file;
};

} // namespace

head_weights read_heads(const std::string & path, const head_model & model) {
    const gguf_file file(path);
    check_keys(file, model);
    const tensors all(file);
    const int64_t n_embd = model.n_embd;
    const int64_t n_hidden = all.find("head.0.weight").ne[1];
    const int64_t n_short = all.find("short.tokens").ne[0];
    if (n_hidden > WIDEST) {
        file.refuse("tensor 'head.0.weight' has %" PRId64 " rows, %" PRId64 " at most", n_hidden, WIDEST);
    }
    const auto block = [&](const std::string & name, int64_t n_out, int64_t n_in) {
        return head_block{all.matrix((name + ".weight").c_str(), n_out, n_in), all.vector((name + ".bias").c_str(), n_out),
                          all.vector((name + ".norm.weight").c_str(), n_out),
                          all.vector((name + ".norm.bias").c_str(), n_out)};
    };
    head_weights heads;
    heads.temperature = temperature_of(file);
    heads.tokens = all.ids("short.tokens", n_short, model.n_vocab);
    heads.first = block("head.0", n_hidden, 2 * n_embd);
    heads.second = block("head.1", n_embd, n_hidden);
    heads.unembedding = all.matrix("short.weight", n_short, n_embd);
    return heads;
}

} // namespace mp
