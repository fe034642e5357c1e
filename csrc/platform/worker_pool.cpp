#include "platform/worker_pool.h"

#include <algorithm>
#include <chrono>

#if defined(__x86_64__)
#    include <immintrin.h>
#endif

namespace mp {

static constexpr uint64_t OPEN = 1 << 15;
static constexpr uint64_t JOINED = OPEN - 1;
static constexpr int JOB_SHIFT = 16;

static void pause_briefly() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

static constexpr int64_t WAKING = 100 * 1000; // ns, about what waking a thread takes

static int64_t now_ns() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Looks for something again and again, for some time.
template <class Found> static bool spin_until(int64_t duration, Found found) {
    const int64_t end = now_ns() + duration;
    do {
        for (int i = 0; i < 32; i++) {
            if (found()) {
                return true;
            }
            pause_briefly();
        }
    } while (now_ns() < end);
    return false;
}

worker_pool::worker_pool(int32_t n_threads) : stretches(new stretch[n_threads]), n_helpers(n_threads - 1) {
    for (int32_t i = 1; i < n_threads; i++) {
        helpers.push_back(std::make_unique<helper>());
        helpers.back()->thread = std::thread([this, self = helpers.back().get()] { work(*self); });
    }
}

worker_pool::~worker_pool() {
    {
        std::lock_guard<std::mutex> lock(mutex);
        stopping.store(true);
    }
    wake.notify_all();
    for (auto & helper : helpers) {
        helper->thread.join();
    }
}

void worker_pool::limit(int32_t n) {
    n_helpers.store(std::clamp(n - 1, 0, (int32_t) helpers.size()));
}

int32_t worker_pool::n_threads() const {
    return n_helpers.load() + 1;
}

bool worker_pool::stretch::take_first(int32_t & item) {
    uint64_t now = left.load(std::memory_order_relaxed);
    do {
        item = (int32_t) now;
        if (item >= (int32_t) (now >> 32)) {
            return false;
        }
    } while (!left.compare_exchange_weak(now, now + 1, std::memory_order_relaxed));
    return true;
}

bool worker_pool::stretch::take_last(int32_t & item) {
    uint64_t now = left.load(std::memory_order_relaxed);
    do {
        item = (int32_t) (now >> 32) - 1;
        if (item < (int32_t) now) {
            return false;
        }
    } while (!left.compare_exchange_weak(now, now - (1ull << 32), std::memory_order_relaxed));
    return true;
}

void worker_pool::take_items(int32_t thread) {
    int32_t item;
    while (stretches[thread].take_first(item)) {
        job(data, item);
    }
    for (int32_t i = 1; i < n_stretches; i++) {
        while (stretches[(thread + i) % n_stretches].take_last(item)) {
            job(data, item);
        }
    }
}

// Joins the current job, unless this thread has been in it already (`seen`), it is closed or has all its threads. Returns
// which of its threads this one is, 0 if none: that is the caller.
int32_t worker_pool::join(uint64_t & seen) {
    uint64_t now = state.load(std::memory_order_acquire);
    while ((now & OPEN) && (now >> JOB_SHIFT) != seen && (int32_t) (now & JOINED) < n_helpers.load()) {
        if (state.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel)) {
            seen = now >> JOB_SHIFT;
            return (int32_t) (now & JOINED) + 1;
        }
    }
    return 0;
}

void worker_pool::leave() {
    const uint64_t before = state.fetch_sub(1);
    if ((before & JOINED) == 1 && caller_sleeps.load()) {
        std::lock_guard<std::mutex> lock(mutex);
        finished.notify_one();
    }
}

void worker_pool::work(helper & self) {
    self.place = std::make_unique<movable_thread>();
    uint64_t seen = 0;
    while (!stopping.load(std::memory_order_relaxed)) {
        int32_t joined = 0;
        if (!spin_until(WAKING, [&] { return (joined = join(seen)) != 0; })) {
            std::unique_lock<std::mutex> lock(mutex);
            n_sleeping++;
            wake.wait(lock, [&] { return stopping.load() || (joined = join(seen)) != 0; });
            n_sleeping--;
        }
        if (joined != 0) {
            self.is_inside.store(true);
            if (current_core() == caller_core.load()) {
                self.place->leave(current_core());
            }
            take_items(joined);
            self.is_inside.store(false);
            leave();
        }
    }
}

void worker_pool::fetch_lost_helpers() {
    for (auto & helper : helpers) {
        if (!helper->is_inside.load()) {
            continue;
        }
        const int64_t before = helper->place->running_time();
        if (!spin_until(WAKING / 2, [&] { return !helper->is_inside.load(); }) && helper->place->running_time() == before) {
            helper->place->move_to(current_core());
        }
    }
}

void worker_pool::wait_for_the_others() {
    const auto all_left = [this] { return (state.load() & JOINED) == 0; };
    if (spin_until(WAKING, all_left)) {
        return;
    }
    fetch_lost_helpers();
    std::unique_lock<std::mutex> lock(mutex);
    caller_sleeps.store(true);
    finished.wait(lock, all_left);
    caller_sleeps.store(false);
}

void worker_pool::run(int32_t n, void (*new_job)(void *, int32_t), void * new_data) {
    job = new_job;
    data = new_data;
    if (n <= 1 || n_helpers.load() == 0) { // not worth waking anybody
        for (int32_t i = 0; i < n; i++) {
            job(data, i);
        }
        return;
    }
    n_stretches = n_threads();
    for (int64_t i = 0; i < n_stretches; i++) {
        const uint64_t begin = n * i / n_stretches, end = n * (i + 1) / n_stretches;
        stretches[i].left.store(end << 32 | begin, std::memory_order_relaxed);
    }
    caller_core.store(current_core());
    const uint64_t number = (state.load(std::memory_order_relaxed) >> JOB_SHIFT) + 1;
    state.store(number << JOB_SHIFT | OPEN);
    if (n_sleeping.load() > 0) {
        std::lock_guard<std::mutex> lock(mutex); // a thread between its last look and its sleep must not miss this
        wake.notify_all();
    }
    take_items(0);
    state.fetch_and(~OPEN);
    wait_for_the_others();
}

} // namespace mp
