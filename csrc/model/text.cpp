#include "model/text.h"

#include "model/utf8.h"
#include "status.h"

#include <algorithm>
#include <cstring>

namespace mp {

int32_t tokenize(const mp_model & model, const char * text, size_t n_text, bool add_special, bool parse_special,
                 int32_t * tokens, int32_t capacity) {
    if (n_text > INT32_MAX / 2) {
        fail(MP_ERR_ARGUMENT, "a text of %zu bytes is too long, at most %d", n_text, INT32_MAX / 2);
    }
    if (const void * nul = memchr(text, 0, n_text)) {
        fail(MP_ERR_ARGUMENT, "the text has a NUL at byte %zu: it is not text", (size_t) ((const char *) nul - text));
    }
    const size_t n_valid = valid_utf8_length(text, n_text);
    if (n_valid < n_text) {
        fail(MP_ERR_ARGUMENT, "the text is not valid UTF-8 at byte %zu (0x%02x): convert it first", n_valid,
             (unsigned char) text[n_valid]);
    }
    const int32_t count = llama_tokenize(model.vocab, text, (int32_t) n_text, tokens, capacity, add_special, parse_special);
    if (count == INT32_MIN) {
        fail(MP_ERR_ARGUMENT, "a text of %zu bytes has more tokens than fit into a number", n_text);
    }
    return count < 0 ? -count : count;
}

int32_t token_bytes(const mp_model & model, int32_t token, bool special, char * bytes, int32_t capacity) {
    if (token < 0 || token >= model.info.n_vocab) {
        fail(MP_ERR_ARGUMENT, "token %d is out of range, the vocabulary has %d", token, model.info.n_vocab);
    }
    const int32_t count = llama_token_to_piece(model.vocab, token, bytes, capacity, 0, special);
    return count < 0 ? -count : count;
}

std::string token_text(const mp_model & model, int32_t token, bool special) {
    std::string text(64, '\0');
    const int32_t n = token_bytes(model, token, special, text.data(), (int32_t) text.size());
    const bool fits = n <= (int32_t) text.size();
    text.resize(n);
    if (!fits) {
        token_bytes(model, token, special, text.data(), n);
    }
    return text;
}

bool token_is_end(const mp_model & model, int32_t token) {
    return token >= 0 && token < model.info.n_vocab && llama_vocab_is_eog(model.vocab, token);
}

int32_t chat_format(const mp_model & model, const char * const * roles, const char * const * contents, int32_t n,
                    bool add_assistant, char * text, int32_t capacity) {
    const char * chat_template = llama_model_chat_template(model.weights, nullptr);
    if (!chat_template) {
        fail(MP_ERR_UNSUPPORTED, "this %s model has no chat template: give the prompt as it is", model.info.arch);
    }
    std::vector<llama_chat_message> messages;
    for (int32_t i = 0; i < n; i++) {
        messages.push_back({roles[i], contents[i]});
    }
    const int32_t count = llama_chat_apply_template(chat_template, messages.data(), n, add_assistant, text, capacity);
    if (count < 0) {
        fail(MP_ERR_UNSUPPORTED, "llama.cpp does not know this model's chat template: give the prompt as it is");
    }
    return count;
}

} // namespace mp
