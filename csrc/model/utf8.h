// UTF-8: what of a text is valid, and bytes to valid UTF-8, in pieces cut anywhere.
#pragma once

#include <cstddef>
#include <string>

namespace mp {

// Holds an incomplete character back until its bytes have come. What is not UTF-8 becomes U+FFFD: one for the longest
// beginning of a character, one for each other byte, as the Unicode standard recommends and Python's decoder does.
class utf8_decoder {
public:
    void push(const char * bytes, size_t n, std::string & text); // appends to text
    void finish(std::string & text);                             // an incomplete character becomes U+FFFD

private:
    void begin(unsigned char first, std::string & text);

    std::string pending;                   // the bytes of an incomplete character
    int n_missing = 0;                     // bytes until it is complete
    unsigned char low = 0x80, high = 0xBF; // what its next byte may be
};

// The byte at which valid UTF-8 ends, n if all of it is valid.
size_t valid_utf8_length(const char * text, size_t n);

} // namespace mp
