// Where the worker pool moves threads, with the system's call replaced: it may move its own threads, for a moment, and never
// the caller's. Exits with 1 and a line where that does not hold.
#include "platform/core_placement.h"
#include "platform/worker_pool.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sched.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>

using namespace mp;

static std::atomic<int> n_calls{0}, n_of_caller{0}, failing_call{0}; // the number of the call that fails, 0: none
static std::atomic<bool> user_interferes{false};
static pid_t caller;
static cpu_set_t of_user;

static pid_t own_id() {
    return (pid_t) syscall(SYS_gettid);
}

static int set_affinity(pid_t thread, size_t size, const cpu_set_t * set) {
    return (int) syscall(SYS_sched_setaffinity, thread, size, set);
}

// Takes the place of the C library's, in this program.
extern "C" int sched_setaffinity(pid_t thread, size_t size, const cpu_set_t * set) noexcept {
    const int number = ++n_calls;
    const pid_t target = thread == 0 ? own_id() : thread;
    n_of_caller += target == caller;
    if (number == failing_call) {
        return -1;
    }
    const int result = set_affinity(target, size, set);
    if (user_interferes.exchange(false)) {
        set_affinity(target, sizeof(of_user), &of_user);
    }
    return result;
}

static void require(bool is_right, const char * what) {
    if (!is_right) {
        fprintf(stderr, "wrong: %s\n", what);
        exit(1);
    }
}

static cpu_set_t own_affinity() {
    cpu_set_t set;
    require(sched_getaffinity(0, sizeof(set), &set) == 0, "sched_getaffinity");
    return set;
}

static bool is_own_affinity(const cpu_set_t & expected) {
    const cpu_set_t set = own_affinity();
    return CPU_EQUAL(&set, &expected);
}

template <class F> static void in_a_thread(F body) {
    std::thread(body).join();
}

// Threads more than cores, and jobs long enough for the system to let others run.
static void the_caller_stays(int32_t n_threads, int32_t n_jobs) {
    const cpu_set_t before = own_affinity();
    caller = own_id();
    worker_pool workers(n_threads);
    for (int32_t i = 0; i < n_jobs; i++) {
        workers.run(
            256,
            [](void *, int32_t) {
                for (volatile int32_t k = 0; k < 4000; k = k + 1) {
                }
            },
            nullptr);
    }
    require(n_of_caller == 0, "the caller's thread was moved");
    require(is_own_affinity(before), "the caller's affinity is another one");
}

int main() {
    const cpu_set_t at_start = own_affinity();
    const int n_cores = CPU_COUNT(&at_start);
    the_caller_stays(2 * n_cores + 2, 400);
    the_caller_stays(1, 50);
    if (n_cores < 2) {
        return 0; // there is nowhere to go
    }
    in_a_thread([&] {
        const movable_thread self;
        n_calls = 0;
        self.leave(current_core());
        require(n_calls == 2 && is_own_affinity(at_start), "a thread that left its core is bound");
        n_calls = 0;
        self.move_to(current_core());
        require(n_calls == 2 && is_own_affinity(at_start), "a thread that was moved is bound");
    });
    in_a_thread([&] {
        const movable_thread self;
        n_calls = 0;
        failing_call = 2; // the one that gives the cores back
        self.leave(current_core());
        failing_call = 0;
        cpu_set_t set = own_affinity();
        CPU_AND(&set, &set, &at_start);
        require(n_calls == 3 && CPU_EQUAL(&set, &at_start), "a thread stays bound where giving back its cores fails");
    });
    in_a_thread([&] {
        const movable_thread self;
        CPU_ZERO(&of_user);
        CPU_SET(current_core(), &of_user);
        user_interferes = true;
        self.leave(current_core());
        require(is_own_affinity(of_user), "an affinity that was set in between is overwritten");
    });
    return 0;
}
