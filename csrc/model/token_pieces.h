// The bytes of all tokens, in the order of their bytes: tokens that begin alike stand together.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

struct mp_model;

namespace mp {

class token_pieces {
public:
    explicit token_pieces(const mp_model & model);

    // Special tokens with their text. Of a token with a NUL in it, what comes before.
    std::string_view bytes(int32_t token) const {
        return std::string_view(all).substr(begins[token], begins[token + 1] - begins[token]);
    }
    bool is_end(int32_t token) const { return ends[token]; } // of a text
    const std::vector<int32_t> & sorted() const { return order; }

private:
    std::string all;
    std::vector<size_t> begins; // (n_vocab + 1)
    std::vector<bool> ends;     // (n_vocab)
    std::vector<int32_t> order; // (n_vocab)
};

} // namespace mp
