#include "status.h"

#include <cstdarg>
#include <cstdio>
#include <new>

namespace mp {

static thread_local std::string last_line;

static std::string vformat(const char * fmt, va_list args) {
    va_list again;
    va_copy(again, args);
    const int n = vsnprintf(nullptr, 0, fmt, args);
    std::string text(n > 0 ? n : 0, '\0');
    if (n > 0) {
        vsnprintf(&text[0], n + 1, fmt, again);
    }
    va_end(again);
    return text;
}

std::string format(const char * fmt, ...) {
    va_list args;
    va_start(args, fmt);
    std::string text = vformat(fmt, args);
    va_end(args);
    return text;
}

void fail(mp_status status, const char * fmt, ...) {
    va_list args;
    va_start(args, fmt);
    std::string text = vformat(fmt, args);
    va_end(args);
    throw failure(status, std::move(text));
}

mp_status set_last_error(mp_status status, const std::string & message) noexcept {
    try {
        last_line = message;
        for (char & c : last_line) {
            const bool is_control = (unsigned char) c < ' ' || c == 0x7f;
            c = is_control ? ' ' : c;
        }
    } catch (...) {
        last_line.clear();
    }
    return status;
}

const char * last_error() noexcept {
    return last_line.c_str();
}

} // namespace mp
