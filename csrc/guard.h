// Every public object has a guard: one thread at a time is inside, and no forked child.
#pragma once

#include "platform/fork_check.h"
#include "status.h"

#include <atomic>

namespace mp {

class guard {
public:
    explicit guard(const char * what) : what(what) {}

private:
    friend class entry;
    const char * const what; // "context", "sampler", ...
    std::atomic<bool> in_use{false};
};

// Held by every C function that works on the object. Throws MP_ERR_BUSY, or MP_ERR_STATE after a fork.
class entry {
public:
    explicit entry(guard & entered) : entered(entered) {
        check_process();
        if (entered.in_use.exchange(true)) {
            fail(MP_ERR_BUSY, "another thread is inside this %s: one thread at a time", entered.what);
        }
    }
    ~entry() { entered.in_use.store(false); }
    entry(const entry &) = delete;
    entry & operator=(const entry &) = delete;

private:
    guard & entered;
};

} // namespace mp
