#include "status.h"

#include <cstdarg>
#include <cstdio>
#include <new>

namespace mp {

static thread_local std::string last_error;

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
        last_error = message;
        for (char & c : last_error) {
            if (c == '\n' || c == '\r') {
                c = ' ';
            }
        }
    } catch (...) {
        last_error.clear();
    }
    return status;
}

} // namespace mp

const char * mp_last_error(void) {
    return mp::last_error.c_str();
}

const char * mp_status_name(mp_status status) {
    switch (status) {
    case MP_OK:
        return "ok";
    case MP_ERR_ARGUMENT:
        return "argument";
    case MP_ERR_FILE:
        return "file";
    case MP_ERR_FORMAT:
        return "format";
    case MP_ERR_UNSUPPORTED:
        return "unsupported";
    case MP_ERR_MEMORY:
        return "memory";
    case MP_ERR_CONTEXT_FULL:
        return "context full";
    case MP_ERR_CANCELLED:
        return "cancelled";
    case MP_ERR_DECODE:
        return "decode";
    case MP_ERR_NUMERIC:
        return "numeric";
    case MP_ERR_BUSY:
        return "busy";
    case MP_ERR_STATE:
        return "state";
    case MP_ERR_INTERNAL:
        return "internal";
    }
    return "unknown";
}
