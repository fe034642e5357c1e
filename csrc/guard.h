// Every public object has a guard: one thread at a time is inside, and no forked child.
#pragma once

#include "status.h"

#include <atomic>

#include <sys/types.h>
#include <unistd.h>

namespace mp {

class guard {
public:
    explicit guard(const char * what) : what(what), owner(getpid()) {}

    // False in a forked child, where worker threads do not exist: nothing may be used or freed there.
    bool is_own_process() const { return owner == getpid(); }

private:
    friend class entry;
    const char * const what; // "context", "sampler", ...
    const pid_t owner;
    std::atomic<bool> in_use{false};
};

// Held by every C function that works on the object. Throws MP_ERR_BUSY, or MP_ERR_STATE after a fork.
class entry {
public:
    entry(guard & entered, const char * function) : entered(entered) {
        if (!entered.is_own_process()) {
            fail(MP_ERR_STATE, "%s: the %s was opened in process %d and cannot be used after fork in %d: open one there",
                 function, entered.what, (int) entered.owner, (int) getpid());
        }
        if (entered.in_use.exchange(true)) {
            fail(MP_ERR_BUSY, "%s: another thread is inside this %s: one thread at a time", function, entered.what);
        }
    }
    ~entry() { entered.in_use.store(false); }
    entry(const entry &) = delete;
    entry & operator=(const entry &) = delete;

private:
    guard & entered;
};

} // namespace mp
