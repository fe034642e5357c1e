#include "platform/core_placement.h"

#if defined(__linux__)
#    include <cstring>
#    include <ctime>
#    include <pthread.h>
#    include <sched.h>
#    include <sys/syscall.h>
#    include <unistd.h>
#endif

namespace mp {

#if defined(__linux__)

// A moment's restriction moves the thread at once, and the system may move it again as it likes.
static void visit(pid_t thread, int core, bool is_target) {
    cpu_set_t allowed;
    if (core < 0 || core >= CPU_SETSIZE || sched_getaffinity(thread, sizeof(allowed), &allowed) != 0) {
        return;
    }
    cpu_set_t wanted = allowed;
    if (is_target) {
        CPU_ZERO(&wanted);
    }
    (is_target ? CPU_SET(core, &wanted) : CPU_CLR(core, &wanted));
    CPU_AND(&wanted, &wanted, &allowed);
    if (CPU_COUNT(&wanted) == 0 || sched_setaffinity(thread, sizeof(wanted), &wanted) != 0) {
        return;
    }
    cpu_set_t now;
    if (sched_getaffinity(thread, sizeof(now), &now) == 0 && !CPU_EQUAL(&now, &wanted)) {
        return; // somebody else has set it in between: that counts
    }
    if (sched_setaffinity(thread, sizeof(allowed), &allowed) != 0) { // these cores were taken away in between
        cpu_set_t all;
        memset(&all, 0xff, sizeof(all)); // the system takes those that the process may use
        sched_setaffinity(thread, sizeof(all), &all);
    }
}

int current_core() {
    return sched_getcpu();
}

movable_thread::movable_thread() : id(syscall(SYS_gettid)) {
    clockid_t found;
    clock = pthread_getcpuclockid(pthread_self(), &found) == 0 ? found : -1;
}

int64_t movable_thread::running_time() const {
    timespec t = {};
    return clock_gettime(clock, &t) == 0 ? t.tv_sec * 1000000000ll + t.tv_nsec : 0;
}

void movable_thread::move_to(int core) const {
    visit((pid_t) id, core, true);
}

void movable_thread::leave(int core) const {
    visit((pid_t) id, core, false);
}

#else

int current_core() {
    return -1;
}

movable_thread::movable_thread() {}

int64_t movable_thread::running_time() const {
    return 0;
}

void movable_thread::move_to(int) const {}

void movable_thread::leave(int) const {}

#endif

} // namespace mp
