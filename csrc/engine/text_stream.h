// Bytes of tokens in, text out: never half a character, and nothing of a stop string.
#pragma once

#include "model/utf8.h"

#include <cstddef>
#include <string>
#include <vector>

namespace mp {

// Held back: an incomplete character, and text that may be the beginning of a stop string. The text ends before the stop
// string that is complete first, of several with the same end before the longest. What comes out in total does not depend
// on how the bytes were cut. Invalid bytes become U+FFFD, and stop strings are compared with the text after that.
class text_stream {
public:
    // Throws ARGUMENT for a stop string that is empty or not UTF-8.
    explicit text_stream(const std::vector<std::string> & stop);

    // The bytes of the next token. With visible = false they take part in the search for stop strings, but are not shown.
    // A character has all its bytes on one side: it is incomplete where the other side begins.
    void push(const char * bytes, size_t n, bool visible);

    // The end of the bytes: what is held back is certain now. An incomplete character becomes U+FFFD.
    void finish();

    // The text that has become certain since the last call.
    std::string take();

    // A stop string is complete. Nothing that is pushed afterwards counts.
    bool stopped() const { return has_stopped; }

private:
    struct stop_string {
        std::string text;
        std::vector<size_t> borders; // [n]: length of the longest end of text[0..n] that begins text and is not all of it
        size_t n_matched = 0;        // length of the longest end of all that came that begins text

        bool advance(char c); // whether it is complete
    };

    void match(const std::string & decoded);
    void release(size_t n); // the first n bytes of what is held are certain

    std::vector<stop_string> stops;
    utf8_decoder decoder;
    bool is_visible = true; // what the decoder is at
    bool has_stopped = false;
    std::string held;
    std::vector<bool> shown; // (held.size())
    std::string certain;
};

} // namespace mp
