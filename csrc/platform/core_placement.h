// Keeps threads that compute together on different cores. Systems do not always: some wake a thread on the core of its
// waker, some (virtual machines above all) leave two on one core while another idles. Does nothing where the system has
// no such calls.
#pragma once

#include <cstdint>
#include <thread>

namespace mp {

// The core that this thread runs on, -1 if the system does not say.
int current_core();

// What a thread of the pool needs to be asked about and moved. Made in that thread. The threads of callers have none: where
// they may run is their program's business.
class movable_thread {
public:
    movable_thread();
    int64_t running_time() const; // nanoseconds that it has run; 0 if the system does not say

    // It is bound to no core afterwards: it may use what it could use before.
    void move_to(int core) const;
    void leave(int core) const; // for another core, if it may use one

private:
    [[maybe_unused]] int64_t id = -1;    // the system's
    [[maybe_unused]] int32_t clock = -1; // of its running time
};

} // namespace mp
