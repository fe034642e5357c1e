// Turns a GGML_ASSERT that fails on this thread into an error of the call.
#pragma once

#include <string>

namespace mp {

// While one is alive, a failed assertion inside ggml or llama.cpp on the thread that made it throws mp::failure
// (MP_ERR_FORMAT) out of the assertion; on all other threads it ends the process as ever. The exception passes C frames,
// which carry unwind tables on x86-64 and arm64. It leaks what those frames had allocated, so it is for calls whose
// failure is final: loading a model, making a context.
class abort_guard {
public:
    abort_guard();
    ~abort_guard();
    abort_guard(const abort_guard &) = delete;
    abort_guard & operator=(const abort_guard &) = delete;

    // The assertion that failed since the guard was made, empty if none did: llama.cpp catches what passes its loader.
    const std::string & reason() const;
};

} // namespace mp
