// Keeps threads that compute together on different cores. Systems do not always: some wake a thread on the core of its
// waker, some (virtual machines above all) leave two on one core while another idles. Does nothing where the system has
// no such calls.
#pragma once

#include <cstdint>
#include <thread>

namespace mp {

// The core that this thread runs on, -1 if the system does not say.
int current_core();

// Moves this thread to another core than the one given, if it may use another. It is not bound to that one.
void leave_core(int core);

// Nanoseconds that the calling thread has run; 0 if the system does not say.
int64_t own_running_time();

// What another thread of this process needs to be asked about and moved. Made in that thread.
class movable_thread {
public:
    movable_thread();
    int64_t running_time() const; // as above
    void move_to(int core) const; // not bound to it

private:
    int64_t id = -1;    // the system's
    int32_t clock = -1; // of its running time
};

} // namespace mp
