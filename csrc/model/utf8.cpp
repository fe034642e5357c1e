#include "model/utf8.h"

#include <algorithm>

namespace mp {

constexpr const char * REPLACEMENT = "\xEF\xBF\xBD"; // U+FFFD

void utf8_decoder::push(const char * bytes, size_t n, std::string & text) {
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = bytes[i];
        if (n_missing > 0 && c >= low && c <= high) {
            pending += (char) c;
            low = 0x80;
            high = 0xBF;
            if (--n_missing == 0) {
                text += pending;
                pending.clear();
            }
            continue;
        }
        finish(text);
        begin(c, text);
    }
}

void utf8_decoder::finish(std::string & text) {
    if (n_missing > 0) {
        text += REPLACEMENT;
    }
    pending.clear();
    n_missing = 0;
}

// The bounds of the second byte keep out overlong forms, surrogates and what lies above U+10FFFF.
void utf8_decoder::begin(unsigned char first, std::string & text) {
    if (first < 0x80) {
        text += (char) first;
        return;
    }
    if (first < 0xC2 || first > 0xF4) {
        text += REPLACEMENT;
        return;
    }
    pending = (char) first;
    n_missing = first < 0xE0 ? 1 : first < 0xF0 ? 2 : 3;
    low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
}

size_t valid_utf8_length(const char * text, size_t n) {
    std::string decoded;
    utf8_decoder decoder;
    decoder.push(text, n, decoded);
    decoder.finish(decoded);
    if (decoded.size() == n && decoded.compare(0, n, text, n) == 0) {
        return n;
    }
    // What is valid stays as it is. The U+FFFD that comes then may begin like what it takes the place of.
    size_t end = std::mismatch(text, text + n, decoded.begin(), decoded.end()).first - text;
    while (end > 0 && ((unsigned char) decoded[end] & 0xC0) == 0x80) {
        end--;
    }
    return end;
}

} // namespace mp
