#include "gguf/rules.h"

#include "gguf.h"
#include "llama.h"

#include <bitset>
#include <cinttypes>
#include <cmath>
#include <deque>
#include <unordered_set>

namespace mp {

// llama.cpp's work per token grows with the length, for PLaMo's tokenizer with its third power.
static constexpr size_t MAX_TOKEN_LENGTH = 16384;
static constexpr size_t MAX_PLAMO_LENGTH = 1024;
static constexpr uint32_t NO_TOKEN = 0xFFFFFFFF;

namespace {

struct vocabulary {
    const gguf_file & file;
    std::string_view model; // tokenizer.ggml.model
    std::string_view pre;   // tokenizer.ggml.pre, or empty
    uint64_t n_tokens = 0;

    bool is_bpe() const { return model == "gpt2" || model == "hybriddna" || model == "whitespace" || model == "gemma4"; }
};

} // namespace

static std::string_view text_of(const gguf_file & file, const char * key) {
    const gguf_value * value = file.find(key, GGUF_TYPE_STRING, false);
    return value ? string_walk(*value).next() : std::string_view();
}

static void check_scores(const vocabulary & vocab) {
    const char * key = "tokenizer.ggml.scores";
    const gguf_value * scores = vocab.file.find(key);
    if (!scores) {
        return;
    }
    if (!scores->is_array || (scores->type != GGUF_TYPE_FLOAT32 && scores->type != GGUF_TYPE_INT32)) {
        vocab.file.refuse("%s must be an array of f32 or i32", key);
    }
    if (scores->count != vocab.n_tokens) {
        vocab.file.refuse("%s has %" PRIu64 " elements, the vocabulary has %" PRIu64, key, scores->count, vocab.n_tokens);
    }
    for (uint64_t i = 0; i < scores->count && scores->type == GGUF_TYPE_FLOAT32; i++) {
        if (!std::isfinite(gguf_number<float>(*scores, i))) {
            vocab.file.refuse("%s[%" PRIu64 "] is not a finite number", key, i);
        }
    }
}

// The types of all tokens, nullptr if the file has none.
static const gguf_value * check_types(const vocabulary & vocab) {
    const char * key = "tokenizer.ggml.token_type";
    const gguf_value * types = vocab.file.find(key, GGUF_TYPE_INT32, true);
    if (!types) {
        return nullptr;
    }
    if (types->count != vocab.n_tokens) {
        vocab.file.refuse("%s has %" PRIu64 " elements, the vocabulary has %" PRIu64, key, types->count, vocab.n_tokens);
    }
    for (uint64_t i = 0; i < types->count; i++) {
        const auto type = gguf_number<int32_t>(*types, i);
        if (type < LLAMA_TOKEN_TYPE_UNDEFINED || type > LLAMA_TOKEN_TYPE_BYTE) {
            vocab.file.refuse("%s[%" PRIu64 "] is %" PRId32 ", expected %d to %d", key, i, type, LLAMA_TOKEN_TYPE_UNDEFINED,
                              LLAMA_TOKEN_TYPE_BYTE);
        }
        if (type == LLAMA_TOKEN_TYPE_BYTE && vocab.model == "bert") {
            vocab.file.refuse("%s[%" PRIu64 "] is a byte, WordPiece vocabularies have none", key, i);
        }
    }
    return types;
}

// What RWKV's escaped token stands for, read as llama.cpp reads it, also where the escapes are wrong.
static std::string rwkv_bytes(std::string_view escaped) {
    std::string bytes;
    bool escaping = false;
    int n_hex = 0;
    uint8_t hex = 0;
    for (const char c : escaped) {
        if (n_hex > 0) {
            hex = (uint8_t) (hex * 16 + (c >= 'a' ? c - 'a' + 10 : c - '0'));
            if (--n_hex == 0) {
                bytes += (char) hex;
                hex = 0;
            }
        } else if (escaping) {
            escaping = false;
            if (c == 'x') {
                n_hex = 2;
            } else {
                bytes += c == 't' ? '\t' : c == 'n' ? '\n' : c == 'r' ? '\r' : c;
            }
        } else if (c == '\\') {
            escaping = true;
        } else {
            bytes += c;
        }
    }
    return bytes;
}

// What tokenizers fall back to, without asking whether it is there.
static void check_bytes(const vocabulary & vocab, const std::unordered_set<std::string_view> & texts) {
    if (vocab.model != "llama" && vocab.model != "plamo2") {
        return;
    }
    for (int byte = 0; byte < 256; byte++) {
        const char single = (char) byte;
        const std::string name = format("<0x%02X>", byte);
        const bool found = texts.count(name) || (byte != 0 && vocab.model == "llama" && texts.count({&single, 1}));
        if (!found) {
            vocab.file.refuse("the vocabulary has no token %s for the byte %d", name.c_str(), byte);
        }
    }
}

static void check_rwkv(const vocabulary & vocab, const gguf_value & tokens) {
    std::bitset<256> alone, first;
    string_walk walk(tokens);
    for (uint64_t i = 0; i < tokens.count; i++) {
        const std::string_view text = walk.next();
        const std::string bytes = rwkv_bytes(text.empty() ? "[EMPTY" : text);
        if (!bytes.empty()) {
            (bytes.size() == 1 ? alone : first).set((uint8_t) bytes[0]);
        }
    }
    // llama.cpp never leaves a byte behind that starts a token and is none
    for (int byte = 0; byte < 256; byte++) {
        if (first[byte] && !alone[byte]) {
            vocab.file.refuse("the vocabulary has no token for the byte %d, but longer ones that start with it", byte);
        }
    }
}

static void check_texts(const vocabulary & vocab, const gguf_value & tokens, const gguf_value * types) {
    std::unordered_set<std::string_view> texts;
    std::deque<std::string> made_up; // what llama.cpp calls tokens without a text
    texts.reserve(tokens.count);
    const size_t max_length = vocab.model == "plamo2" ? MAX_PLAMO_LENGTH : MAX_TOKEN_LENGTH;
    string_walk walk(tokens);
    for (uint64_t i = 0; i < tokens.count; i++) {
        std::string_view text = walk.next();
        if (text.size() > max_length) {
            vocab.file.refuse("token %" PRIu64 " has %zu bytes, the limit is %zu", i, text.size(), max_length);
        }
        if (text.empty()) {
            made_up.push_back(format("[EMPTY_%" PRIu64 "]", i));
            text = made_up.back();
        }
        if (!texts.insert(text).second) {
            vocab.file.refuse("token %" PRIu64 ", %s, is in the vocabulary twice", i, quoted(text).c_str());
        }
        // llama.cpp reads the byte from the fourth character on
        if (types && gguf_number<int32_t>(*types, i) == LLAMA_TOKEN_TYPE_BYTE && text.size() < 3) {
            vocab.file.refuse("token %" PRIu64 ", %s, is of type byte, but not named like <0x0A>", i, quoted(text).c_str());
        }
    }
    check_bytes(vocab, texts);
}

static void check_merges(const vocabulary & vocab) {
    const char * key = "tokenizer.ggml.merges";
    const gguf_value * merges = vocab.file.find(key, GGUF_TYPE_STRING, true);
    if (!merges) {
        if (vocab.pre != "kimi-k2") {
            vocab.file.refuse("the key %s is missing", key);
        }
        return;
    }
    string_walk walk(*merges);
    for (uint64_t i = 0; i < merges->count; i++) {
        const std::string_view text = walk.next();
        const size_t blank = text.size() > 1 ? text.find(' ', 1) : std::string_view::npos;
        if (blank == std::string_view::npos || blank + 1 == text.size()) {
            vocab.file.refuse("%s[%" PRIu64 "] is %s, expected two pieces and a blank", key, i, quoted(text).c_str());
        }
    }
}

// A special token's id; without the key, or where it says "none", llama.cpp's own, NO_TOKEN if that is not there either.
static uint32_t special_id(const vocabulary & vocab, const char * key, uint32_t absent) {
    const gguf_value * value = vocab.file.find(key, GGUF_TYPE_UINT32, false);
    const uint32_t id = value ? gguf_number<uint32_t>(*value) : NO_TOKEN;
    if (id != NO_TOKEN && id >= vocab.n_tokens) {
        vocab.file.refuse("%s is %" PRIu32 ", the vocabulary has %" PRIu64 " tokens", key, id, vocab.n_tokens);
    }
    return id != NO_TOKEN ? id : absent < vocab.n_tokens ? absent : NO_TOKEN;
}

static bool flag_of(const vocabulary & vocab, const char * key, bool absent) {
    const gguf_value * value = vocab.file.find(key, GGUF_TYPE_BOOL, false);
    return value ? *value->data != 0 : absent;
}

static void check_special_tokens(const vocabulary & vocab) {
    for (const char * key : {"eot", "eom", "unknown", "seperator", "padding", "cls", "mask", "fim_pre", "fim_suf", "fim_mid",
                             "fim_pad", "fim_rep", "fim_sep", "prefix", "suffix", "middle"}) {
        special_id(vocab, format("tokenizer.ggml.%s_token_id", key).c_str(), NO_TOKEN);
    }
    uint32_t bos = NO_TOKEN, eos = NO_TOKEN;
    bool add_bos = false, add_eos = false;
    if (vocab.model == "llama" || vocab.model == "plamo2") {
        bos = 1, eos = 2;
        add_bos = vocab.model == "llama";
    } else if (vocab.model == "bert") {
        bos = 101;
        add_bos = true;
    } else if (vocab.model == "t5") {
        eos = 1;
        add_eos = true;
    } else if (vocab.model == "gemma4") {
        add_bos = true;
    } else if (vocab.is_bpe()) {
        const bool glm = vocab.pre == "chatglm-bpe" || vocab.pre == "glm4" || vocab.pre == "glm5";
        bos = glm ? NO_TOKEN : 11;
        eos = 11;
        for (const char * pre : {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
                                 "jina-v5-nano", "tekken", "chameleon", "gemma4", "granite-embed-multi-311m"}) {
            add_bos = add_bos || vocab.pre == pre;
        }
    }
    bos = special_id(vocab, "tokenizer.ggml.bos_token_id", bos);
    eos = special_id(vocab, "tokenizer.ggml.eos_token_id", eos);
    add_bos = flag_of(vocab, "tokenizer.ggml.add_bos_token", add_bos) || vocab.model == "gemma4";
    add_eos = flag_of(vocab, "tokenizer.ggml.add_eos_token", add_eos);
    if (vocab.model == "rwkv" || vocab.model == "test") {
        return; // these add nothing
    }
    if (add_bos && bos == NO_TOKEN) {
        vocab.file.refuse("the tokenizer puts a token before the text, but tokenizer.ggml.bos_token_id is missing");
    }
    if (add_eos && eos == NO_TOKEN) {
        vocab.file.refuse("the tokenizer puts a token behind the text, but tokenizer.ggml.eos_token_id is missing");
    }
}

uint64_t check_vocabulary(const gguf_file & file) {
    vocabulary vocab = {file, text_of(file, "tokenizer.ggml.model"), text_of(file, "tokenizer.ggml.pre")};
    if (vocab.model.empty()) {
        file.refuse("the key tokenizer.ggml.model is missing");
    }
    if (vocab.model == "no_vocab" || vocab.model == "none") {
        fail(MP_ERR_UNSUPPORTED, "the model has no vocabulary: only models that read and write text are run");
    }
    bool known = vocab.is_bpe();
    for (const char * model : {"llama", "bert", "t5", "rwkv", "plamo2", "test"}) {
        known = known || vocab.model == model;
    }
    if (!known) {
        file.refuse("tokenizer.ggml.model is %s, which llama.cpp does not know", quoted(vocab.model).c_str());
    }
    const gguf_value * tokens = file.find("tokenizer.ggml.tokens", GGUF_TYPE_STRING, true);
    if (!tokens || tokens->count == 0) {
        file.refuse("the vocabulary is %s: tokenizer.ggml.tokens", tokens ? "empty" : "missing");
    }
    vocab.n_tokens = tokens->count;
    check_scores(vocab);
    const gguf_value * types = check_types(vocab);
    check_texts(vocab, *tokens, types);
    if (vocab.model == "rwkv") {
        check_rwkv(vocab, *tokens);
    }
    if (vocab.is_bpe()) {
        check_merges(vocab);
    }
    check_special_tokens(vocab);
    return vocab.n_tokens;
}

} // namespace mp
