// The C functions of text: tokens, and conversations.
#include "model/text.h"

#include "status.h"

using namespace mp;

mp_status mp_tokenize(const mp_model * model, const char * text, size_t n_text, bool add_special, bool parse_special,
                      int32_t * tokens, int32_t capacity, int32_t * n) {
    return guarded([&] {
        if (!model || !text || !n || capacity < 0 || (capacity > 0 && !tokens)) {
            fail(MP_ERR_ARGUMENT, "mp_tokenize: model, text, tokens and n must not be NULL, capacity = %d", capacity);
        }
        *n = tokenize(*model, text, n_text, add_special, parse_special, tokens, capacity);
    });
}

mp_status mp_token_bytes(const mp_model * model, int32_t token, bool special, char * bytes, int32_t capacity, int32_t * n) {
    return guarded([&] {
        if (!model || !n || capacity < 0 || (capacity > 0 && !bytes)) {
            fail(MP_ERR_ARGUMENT, "mp_token_bytes: model, bytes and n must not be NULL, capacity = %d", capacity);
        }
        *n = token_bytes(*model, token, special, bytes, capacity);
    });
}

bool mp_token_is_end(const mp_model * model, int32_t token) {
    return model && token_is_end(*model, token);
}

mp_status mp_chat_format(const mp_model * model, const char * const * roles, const char * const * contents, int32_t n,
                         bool add_assistant, char * text, int32_t capacity, int32_t * n_text) {
    return guarded([&] {
        if (!model || n < 1 || !roles || !contents || !n_text || capacity < 0 || (capacity > 0 && !text)) {
            fail(MP_ERR_ARGUMENT, "mp_chat_format: a conversation of %d messages, capacity = %d", n, capacity);
        }
        *n_text = chat_format(*model, roles, contents, n, add_assistant, text, capacity);
    });
}
