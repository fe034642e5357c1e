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

// A moment's restriction moves the thread at once, and the system may move it again as it likes. A thread that may use all
// cores gets them back by a mask of everything: cores that are off right now must not be lost to it when they come back.
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
    if (CPU_COUNT(&allowed) >= sysconf(_SC_NPROCESSORS_ONLN)) {
        memset(&allowed, 0xFF, sizeof(allowed));
    }
    if (CPU_COUNT(&wanted) > 0 && sched_setaffinity(thread, sizeof(wanted), &wanted) == 0) {
        sched_setaffinity(thread, sizeof(allowed), &allowed);
    }
}

static int64_t nanoseconds_of(clockid_t clock) {
    timespec t = {};
    return clock_gettime(clock, &t) == 0 ? t.tv_sec * 1000000000ll + t.tv_nsec : 0;
}

int current_core() {
    return sched_getcpu();
}

void leave_core(int core) {
    visit(0, core, false);
}

int64_t own_running_time() {
    return nanoseconds_of(CLOCK_THREAD_CPUTIME_ID);
}

movable_thread::movable_thread() : id(syscall(SYS_gettid)) {
    clockid_t found;
    clock = pthread_getcpuclockid(pthread_self(), &found) == 0 ? found : -1;
}

int64_t movable_thread::running_time() const {
    return nanoseconds_of(clock);
}

void movable_thread::move_to(int core) const {
    visit((pid_t) id, core, true);
}

#else

int current_core() {
    return -1;
}

void leave_core(int) {}

int64_t own_running_time() {
    return 0;
}

movable_thread::movable_thread() {}

int64_t movable_thread::running_time() const {
    return 0;
}

void movable_thread::move_to(int) const {}

#endif

} // namespace mp
