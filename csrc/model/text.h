// Text in and out: libllama's tokenizer and chat templates. What comes out goes into a buffer of `capacity` places; each
// function returns how many it takes, which may be more.
#pragma once

#include "model/model.h"

#include <string>

namespace mp {

// The text must be valid UTF-8 without a NUL.
int32_t tokenize(const mp_model & model, const char * text, size_t n_text, bool add_special, bool parse_special,
                 int32_t * tokens, int32_t capacity);

int32_t token_bytes(const mp_model & model, int32_t token, bool special, char * bytes, int32_t capacity);

std::string token_text(const mp_model & model, int32_t token, bool special);

bool token_is_end(const mp_model & model, int32_t token);

// The conversation of n messages in the format of llama.cpp's list that fits the model's chat template.
int32_t chat_format(const mp_model & model, const char * const * roles, const char * const * contents, int32_t n,
                    bool add_assistant, char * text, int32_t capacity);

} // namespace mp
