#include "platform/fork_check.h"

#include "status.h"

#include <atomic>

#include <pthread.h>

namespace mp {

static std::atomic<int> n_reasons{0}; // to refuse a child that is made now
static std::atomic<bool> is_refused{false};

static void in_child() {
    if (n_reasons.load() > 0) {
        is_refused.store(true);
    }
}

// Not by comparing process ids: in another namespace a child may have its parent's.
[[maybe_unused]] static const int registered = pthread_atfork(nullptr, nullptr, in_child);

void refuse_children() {
    static std::atomic<bool> done{false};
    if (!done.exchange(true)) {
        n_reasons++;
    }
}

refuse_children_meanwhile::refuse_children_meanwhile() {
    n_reasons++;
}

refuse_children_meanwhile::~refuse_children_meanwhile() {
    n_reasons--;
}

bool is_refused_child() noexcept {
    return is_refused.load(std::memory_order_relaxed);
}

void check_process() {
    if (is_refused_child()) {
        fail(MP_ERR_STATE, "this process was forked from one in which maskprobe had run, and has none of its threads: start "
                           "processes by spawn instead (in Python multiprocessing.set_start_method(\"spawn\")), or fork "
                           "before the first model is opened");
    }
}

} // namespace mp
