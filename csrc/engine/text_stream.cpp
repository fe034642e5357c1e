#include "engine/text_stream.h"

#include "status.h"

#include <algorithm>

namespace mp {

// The table of Knuth, Morris and Pratt: each byte is looked at once per stop string, however they repeat themselves.
static std::vector<size_t> borders_of(const std::string & text) {
    std::vector<size_t> borders(text.size(), 0);
    for (size_t i = 1, n = 0; i < text.size(); i++) {
        while (n > 0 && text[i] != text[n]) {
            n = borders[n - 1];
        }
        n += text[i] == text[n];
        borders[i] = n;
    }
    return borders;
}

bool text_stream::stop_string::advance(char c) {
    while (n_matched > 0 && text[n_matched] != c) {
        n_matched = borders[n_matched - 1];
    }
    n_matched += text[n_matched] == c;
    return n_matched == text.size();
}

text_stream::text_stream(const std::vector<std::string> & stop) {
    for (size_t i = 0; i < stop.size(); i++) {
        if (stop[i].empty()) {
            fail(MP_ERR_ARGUMENT, "stop string %zu is empty: every text would end before it begins", i);
        }
        if (valid_utf8_length(stop[i].data(), stop[i].size()) < stop[i].size()) {
            fail(MP_ERR_ARGUMENT, "stop string %zu of %zu bytes is not valid UTF-8: convert it first", i, stop[i].size());
        }
        stops.push_back({stop[i], borders_of(stop[i])});
    }
}

void text_stream::push(const char * bytes, size_t n, bool visible) {
    if (n == 0) {
        return;
    }
    std::string decoded;
    if (visible != is_visible) {
        decoder.finish(decoded);
        match(decoded);
        decoded.clear();
        is_visible = visible;
    }
    decoder.push(bytes, n, decoded);
    match(decoded);
}

void text_stream::finish() {
    std::string decoded;
    decoder.finish(decoded);
    match(decoded);
    release(held.size());
    for (stop_string & stop : stops) {
        stop.n_matched = 0;
    }
}

std::string text_stream::take() {
    std::string taken;
    taken.swap(certain);
    return taken;
}

void text_stream::match(const std::string & decoded) {
    if (has_stopped) {
        return;
    }
    const size_t n_before = held.size();
    held += decoded;
    shown.resize(held.size(), is_visible);
    for (size_t i = n_before; i < held.size(); i++) {
        size_t n_stop = 0; // bytes of the longest stop string that ends here
        for (stop_string & stop : stops) {
            if (stop.advance(held[i])) {
                n_stop = std::max(n_stop, stop.text.size());
            }
        }
        if (n_stop > 0) {
            release(i + 1 - n_stop);
            held.clear();
            shown.clear();
            has_stopped = true;
            return;
        }
    }
    size_t n_possible = 0;
    for (const stop_string & stop : stops) {
        n_possible = std::max(n_possible, stop.n_matched);
    }
    release(held.size() - n_possible);
}

void text_stream::release(size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (shown[i]) {
            certain += held[i];
        }
    }
    held.erase(0, n);
    shown.erase(shown.begin(), shown.begin() + (ptrdiff_t) n);
}

} // namespace mp
