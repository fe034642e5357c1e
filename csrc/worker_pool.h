// A few threads that share out the items of one job after another.
//
// Made for small devices: a thread that has nothing to do spins for some microseconds, in case the next job follows at
// once, and then sleeps. The caller never waits for a thread that has not joined the job yet (its core may be busy with
// something else): whoever is there takes the next item, and a lost core costs at most the item it was in.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace mp {

class worker_pool {
public:
    explicit worker_pool(int32_t n_threads); // the caller's thread counts as one
    ~worker_pool();
    worker_pool(const worker_pool &) = delete;
    worker_pool & operator=(const worker_pool &) = delete;

    // Calls job(data, i) for every i in [0, n), on whatever threads are free; returns when all are done. One caller at a
    // time. Jobs must not throw.
    void run(int32_t n, void (*job)(void * data, int32_t i), void * data);

private:
    void work();
    bool join(uint64_t & seen);
    void take_items();

    // Of the current job: its number above bit 16, whether it can be joined (OPEN), and how many threads have joined.
    std::atomic<uint64_t> state{0};
    std::atomic<int32_t> next{0};
    int32_t n_items = 0;
    void (*job)(void *, int32_t) = nullptr;
    void * data = nullptr;

    std::mutex mutex; // for sleeping only
    std::condition_variable wake;
    std::atomic<int32_t> n_sleeping{0};
    std::atomic<bool> stopping{false};
    std::vector<std::thread> threads; // last: they use all of the above
};

} // namespace mp
