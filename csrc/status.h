// Status codes inside the library: failures are thrown as mp::failure and become codes in csrc/api.
#pragma once

#include "maskprobe.h"

#include <exception>
#include <string>

namespace mp {

struct failure : std::exception {
    mp_status status;
    std::string message; // one line, with the numbers and what to do

    failure(mp_status status, std::string message) : status(status), message(std::move(message)) {}
    const char * what() const noexcept override { return message.c_str(); }
};

#if defined(__GNUC__)
#    define MP_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#    define MP_PRINTF(fmt, args)
#endif

std::string format(const char * fmt, ...) MP_PRINTF(1, 2);

[[noreturn]] void fail(mp_status status, const char * fmt, ...) MP_PRINTF(2, 3);

// Keeps the line for mp_last_error() and returns the status.
mp_status set_last_error(mp_status status, const std::string & message) noexcept;

// That line of this thread, "" before the first failure.
const char * last_error() noexcept;

// Turns whatever `body` throws into a status: nothing ever leaves the C API as an exception.
template <typename F> mp_status guarded(F && body) noexcept {
    try {
        body();
        return MP_OK;
    } catch (const failure & e) {
        return set_last_error(e.status, e.message);
    } catch (const std::bad_alloc &) {
        return set_last_error(MP_ERR_MEMORY, "out of memory");
    } catch (const std::exception & e) {
        return set_last_error(MP_ERR_INTERNAL, std::string("unexpected error: ") + e.what());
    } catch (...) {
        return set_last_error(MP_ERR_INTERNAL, "unexpected error of unknown type");
    }
}

} // namespace mp
