#include "worker_pool.h"

#if defined(__x86_64__)
#    include <immintrin.h>
#endif

namespace mp {

static constexpr uint64_t OPEN = 1 << 15;
static constexpr uint64_t JOINED = OPEN - 1;
static constexpr int JOB_SHIFT = 16;
static constexpr int N_SPINS = 1000; // some ten microseconds

static void pause_briefly() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

worker_pool::worker_pool(int32_t n_threads) {
    for (int32_t i = 1; i < n_threads; i++) {
        threads.emplace_back([this] { work(); });
    }
}

worker_pool::~worker_pool() {
    {
        std::lock_guard<std::mutex> lock(mutex);
        stopping.store(true);
    }
    wake.notify_all();
    for (std::thread & thread : threads) {
        thread.join();
    }
}

void worker_pool::take_items() {
    for (int32_t i = next.fetch_add(1); i < n_items; i = next.fetch_add(1)) {
        job(data, i);
    }
}

// Joins the current job, unless this thread has been in it already (`seen`) or it is closed.
bool worker_pool::join(uint64_t & seen) {
    uint64_t now = state.load(std::memory_order_acquire);
    while ((now & OPEN) && (now >> JOB_SHIFT) != seen) {
        if (state.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel)) {
            seen = now >> JOB_SHIFT;
            return true;
        }
    }
    return false;
}

void worker_pool::work() {
    uint64_t seen = 0;
    while (!stopping.load(std::memory_order_relaxed)) {
        bool joined = false;
        for (int i = 0; i < N_SPINS && !joined; i++) {
            joined = join(seen);
            pause_briefly();
        }
        if (!joined) {
            std::unique_lock<std::mutex> lock(mutex);
            n_sleeping++;
            wake.wait(lock, [&] { return stopping.load() || (joined = join(seen)); });
            n_sleeping--;
        }
        if (joined) {
            take_items();
            state.fetch_sub(1, std::memory_order_release);
        }
    }
}

void worker_pool::run(int32_t n, void (*new_job)(void *, int32_t), void * new_data) {
    job = new_job;
    data = new_data;
    n_items = n;
    next.store(0, std::memory_order_relaxed);
    if (n <= 1 || threads.empty()) { // not worth waking anybody
        take_items();
        return;
    }
    const uint64_t number = (state.load(std::memory_order_relaxed) >> JOB_SHIFT) + 1;
    state.store(number << JOB_SHIFT | OPEN);
    if (n_sleeping.load() > 0) {
        std::lock_guard<std::mutex> lock(mutex); // a thread between its last look and its sleep must not miss this
        wake.notify_all();
    }
    take_items();
    state.fetch_and(~OPEN);
    for (int i = 0; state.load(std::memory_order_acquire) & JOINED; i++) {
        if (i < N_SPINS) {
            pause_briefly();
        } else {
            std::this_thread::yield(); // a thread in its last item has lost its core: give it this one
        }
    }
}

} // namespace mp
