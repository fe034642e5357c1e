#include "worker_pool.h"

namespace mp {

worker_pool::worker_pool(int32_t n_threads) {
    for (int32_t i = 1; i < n_threads; i++) {
        threads.emplace_back([this] { work(); });
    }
}

worker_pool::~worker_pool() {
    {
        std::lock_guard<std::mutex> lock(mutex);
        stopping = true;
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

void worker_pool::work() {
    uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex);
    while (true) {
        wake.wait(lock, [&] { return stopping || generation != seen; });
        if (stopping) {
            return;
        }
        seen = generation;
        lock.unlock();
        take_items();
        lock.lock();
        if (--n_busy == 0) {
            done.notify_one();
        }
    }
}

void worker_pool::run(int32_t n, void (*new_job)(void *, int32_t), void * new_data) {
    {
        std::lock_guard<std::mutex> lock(mutex);
        job = new_job;
        data = new_data;
        n_items = n;
        n_busy = n > 1 ? (int32_t) threads.size() : 0;
        next.store(0);
        generation += n > 1; // a single item is not worth waking anybody
    }
    if (n > 1) {
        wake.notify_all();
    }
    take_items();
    std::unique_lock<std::mutex> lock(mutex);
    done.wait(lock, [&] { return n_busy == 0; });
}

} // namespace mp
