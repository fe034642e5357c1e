#include "heads/head_file.h"

#include "status.h"

#include "ggml.h"
#include "gguf.h"

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstring>

namespace mp {

constexpr const char * ARCHITECTURE = "maskprobe-heads";
constexpr uint32_t VERSION = 1;
constexpr int64_t WIDEST = 1 << 16;    // of the layer between the blocks
constexpr float LARGEST_WEIGHT = 1e6f; // of what is no matrix, and of the scales of one
constexpr float COLDEST = 0.01f, HOTTEST = 100.0f;

static constexpr const char * KINDS[] = {"sampler", "mtp"}; // by head_kind
static constexpr const char * BLOCK[] = {".weight", ".bias", ".norm.weight", ".norm.bias"};

head_file::head_file(const std::string & path, const head_model & model) : gguf(path), wanted(model), found(check_keys()) {}

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

head_kind head_file::check_keys() const {
    const gguf_value * arch = gguf.find("general.architecture", GGUF_TYPE_STRING, false);
    const std::string architecture = arch ? std::string(string_walk(*arch).next()) : "";
    if (architecture != ARCHITECTURE) {
        gguf.refuse("general.architecture is %s, expected '%s': it is no file of heads", quoted(architecture).c_str(),
                    ARCHITECTURE);
    }
    const uint32_t version = number_of(gguf, "maskprobe.heads.version");
    if (version != VERSION) {
        gguf.refuse("maskprobe.heads.version is %" PRIu32 ", version %" PRIu32 " is read: train the heads again", version,
                    VERSION);
    }
    const std::string kind = text_of(gguf, "maskprobe.heads.kind");
    const auto * known = std::find(std::begin(KINDS), std::end(KINDS), kind);
    if (known == std::end(KINDS)) {
        gguf.refuse("maskprobe.heads.kind is %s, this program has '%s' and '%s'", quoted(kind).c_str(), KINDS[0], KINDS[1]);
    }
    const uint32_t n_embd = number_of(gguf, "maskprobe.heads.n_embd");
    const uint32_t n_vocab = number_of(gguf, "maskprobe.heads.n_vocab");
    if (n_embd != (uint32_t) wanted.n_embd || n_vocab != (uint32_t) wanted.n_vocab) {
        gguf.refuse("its model has states of %" PRIu32 " numbers and %" PRIu32
                    " tokens, this one has %d and %d: train heads "
                    "for this model",
                    n_embd, n_vocab, wanted.n_embd, wanted.n_vocab);
    }
    const std::string of = text_of(gguf, "maskprobe.heads.model");
    if (of != wanted.identity) {
        gguf.refuse("it was trained for the model %s, this one is %s: train heads for this model", quoted(of).c_str(),
                    quoted(wanted.identity).c_str());
    }
    return (head_kind) (known - KINDS);
}

uint32_t head_file::number(const char * key, uint32_t least, uint32_t most) const {
    const uint32_t value = number_of(gguf, key);
    if (value < least || value > most) {
        gguf.refuse("%s is %" PRIu32 ", it must be from %" PRIu32 " to %" PRIu32, key, value, least, most);
    }
    return value;
}

float head_file::temperature() const {
    const gguf_value * value = gguf.find("maskprobe.heads.temperature", GGUF_TYPE_FLOAT32, false);
    const float of_logits = value ? gguf_number<float>(*value) : 1.0f;
    if (!(of_logits >= COLDEST && of_logits <= HOTTEST)) {
        gguf.refuse("maskprobe.heads.temperature is %g, it must be from %g to %g", of_logits, COLDEST, HOTTEST);
    }
    return of_logits;
}

// --- tensors ---------------------------------------------------------------------------------------------------------

void head_file::expect(const std::vector<std::string> & names) const {
    for (const gguf_tensor_info & tensor : gguf.tensors()) {
        if (std::find(names.begin(), names.end(), tensor.name) == names.end()) {
            gguf.refuse("tensor %s is no part of a file of %s heads", quoted(tensor.name).c_str(), KINDS[(int) found]);
        }
    }
}

const gguf_tensor_info & head_file::find(const std::string & name) const {
    for (const gguf_tensor_info & tensor : gguf.tensors()) {
        if (tensor.name == name) {
            return tensor;
        }
    }
    gguf.refuse("tensor '%s' is missing", name.c_str());
}

packed_matrix head_file::matrix(const std::string & name, int64_t n_out, int64_t n_in) const {
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

std::vector<float> head_file::vector(const std::string & name, int64_t n) const {
    const auto * from = (const float *) data(name, GGML_TYPE_F32, n, 1);
    const std::vector<float> numbers(from, from + n);
    for (int64_t i = 0; i < n; i++) {
        check(name, numbers[i], i);
    }
    return numbers;
}

std::vector<int32_t> head_file::numbers(const std::string & name, int32_t end) const {
    const int64_t n = find(name).ne[0];
    const auto * from = (const int32_t *) data(name, GGML_TYPE_I32, n, 1);
    const std::vector<int32_t> values(from, from + n);
    for (int64_t i = 0; i < n; i++) {
        if (values[i] < 0 || values[i] >= end || (i > 0 && values[i] <= values[i - 1])) {
            gguf.refuse("'%s' has %" PRId32 " at %" PRId64 ": they must be ascending, from 0 and below %" PRId32,
                        name.c_str(), values[i], i, end);
        }
    }
    return values;
}

void head_file::add_block_names(std::vector<std::string> & names, const std::string & name) {
    for (const char * part : BLOCK) {
        names.push_back(name + part);
    }
}

int64_t head_file::n_inner(const std::string & name) const {
    const int64_t n = find(name + BLOCK[0]).ne[1];
    if (n > WIDEST) {
        gguf.refuse("tensor '%s%s' has %" PRId64 " rows, %" PRId64 " at most", name.c_str(), BLOCK[0], n, WIDEST);
    }
    return n;
}

head_block head_file::block(const std::string & name, int64_t n_out, int64_t n_in) const {
    return {matrix(name + BLOCK[0], n_out, n_in), vector(name + BLOCK[1], n_out), vector(name + BLOCK[2], n_out),
            vector(name + BLOCK[3], n_out)};
}

short_list head_file::listed() const {
    std::vector<int32_t> tokens = numbers("short.tokens", wanted.n_vocab);
    const auto n = (int64_t) tokens.size();
    return {std::move(tokens), matrix("short.weight", n, wanted.n_embd), temperature()};
}

const uint8_t * head_file::data(const std::string & name, int32_t type, int64_t n, int64_t n_rows) const {
    const gguf_tensor_info & tensor = find(name);
    if (tensor.type != type) {
        gguf.refuse("tensor '%s' has type %s, expected %s", name.c_str(), ggml_type_name((ggml_type) tensor.type),
                    ggml_type_name((ggml_type) type));
    }
    if (tensor.ne[0] != n || tensor.ne[1] != n_rows || tensor.ne[2] != 1 || tensor.ne[3] != 1) {
        gguf.refuse("tensor '%s' has the shape (%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "), expected (%" PRId64
                    ", %" PRId64 ")",
                    name.c_str(), tensor.ne[3], tensor.ne[2], tensor.ne[1], tensor.ne[0], n_rows, n);
    }
    return gguf.data(tensor);
}

void head_file::check(const std::string & name, float value, int64_t i) const {
    if (!(std::fabs(value) <= LARGEST_WEIGHT)) {
        gguf.refuse("tensor '%s' has %g at %" PRId64 ", it must be finite and %g at most", name.c_str(), value, i,
                    LARGEST_WEIGHT);
    }
}

} // namespace mp
