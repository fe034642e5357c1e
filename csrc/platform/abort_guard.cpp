#include "platform/abort_guard.h"

#include "status.h"

#include "ggml.h"

#include <cstdio>
#include <cstring>
#include <mutex>

namespace mp {

// The callback is one per process: the first guard installs it, the last one takes it away.
static std::mutex mutex;
static int n_guards;
static ggml_abort_callback_t previous;

static thread_local int armed;
static thread_local std::string last_reason;

// "/build/tree/llama.cpp/src/file.cpp:12: GGML_ASSERT(x) failed" without the directories and line breaks.
static std::string assertion_of(const char * message) {
    const char * colon = strchr(message, ':');
    const char * start = message;
    for (const char * c = message; colon && c < colon; c++) {
        if (*c == '/' || *c == '\\') {
            start = c + 1;
        }
    }
    std::string text = start;
    for (char & c : text) {
        c = c == '\n' || c == '\r' ? ' ' : c;
    }
    text.erase(text.find_last_not_of(' ') + 1);
    return text;
}

static void on_abort(const char * message) {
    if (armed > 0) {
        last_reason = assertion_of(message);
        throw failure(MP_ERR_FORMAT, "llama.cpp refused the file: " + last_reason);
    }
    if (previous) {
        previous(message);
    } else {
        fprintf(stderr, "%s\n", message);
    }
}

abort_guard::abort_guard() {
    std::lock_guard<std::mutex> lock(mutex);
    if (n_guards++ == 0) {
        previous = ggml_set_abort_callback(on_abort);
    }
    if (armed++ == 0) {
        last_reason.clear();
    }
}

abort_guard::~abort_guard() {
    armed--;
    std::lock_guard<std::mutex> lock(mutex);
    if (--n_guards == 0) {
        ggml_set_abort_callback(previous);
    }
}

const std::string & abort_guard::reason() const {
    return last_reason;
}

} // namespace mp
