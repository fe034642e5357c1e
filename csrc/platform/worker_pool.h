// A few threads that share out the items of one job after another.
//
// Made for small devices: a thread that has nothing to do spins for some microseconds, in case the next job follows at
// once, and then sleeps. The caller never waits for a thread that has not joined the job yet (its core may be busy with
// something else): whoever is there takes the next item, and a lost core costs at most the item it was in.
// Each thread walks through its own stretch of the items, since neighbours often read neighbouring memory, and then helps
// the others from the ends of theirs.
// Threads are kept apart: a helper that finds itself on the caller's core goes to another, and one that has lost its core in
// the middle of an item is fetched to the caller's. The caller's thread is never moved: it belongs to the program.
//
// So a job wants several items for each thread: a slow core (of a big.LITTLE processor, or one that is shared with
// another program) takes fewer of them, and nobody waits long for the last.
#pragma once

#include "platform/core_placement.h"

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
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

    // How many threads, the caller's among them, the next jobs get at most: 1 up to those there are. At first all.
    void limit(int32_t n_threads);
    int32_t n_threads() const;

    // Calls job(data, i) for every i in [0, n), on whatever threads are free; returns when all are done. One caller at a
    // time. Jobs must not throw.
    void run(int32_t n, void (*job)(void * data, int32_t i), void * data);

private:
    struct helper {
        std::unique_ptr<movable_thread> place; // set by the thread itself before it joins a job
        std::atomic<bool> is_inside{false};
        std::thread thread;
    };

    // The items [begin, end) that are left of a thread's share: begin in the lower half, end in the upper one.
    struct alignas(64) stretch {
        std::atomic<uint64_t> left{0};
        bool take_first(int32_t & item);
        bool take_last(int32_t & item);
    };

    void work(helper & self);
    int32_t join(uint64_t & seen);
    void leave();
    void take_items(int32_t thread);
    void wait_for_the_others();
    void fetch_lost_helpers();

    // Of the current job: its number above bit 16, whether it can be joined (OPEN), and how many threads have joined.
    std::atomic<uint64_t> state{0};
    std::unique_ptr<stretch[]> stretches;
    int32_t n_stretches = 0;
    void (*job)(void *, int32_t) = nullptr;
    void * data = nullptr;
    std::atomic<int32_t> n_helpers; // threads beside the caller's that may join
    std::atomic<int> caller_core{-1};

    std::mutex mutex; // for sleeping only
    std::condition_variable wake;
    std::condition_variable finished;
    std::atomic<int32_t> n_sleeping{0};
    std::atomic<bool> caller_sleeps{false};
    std::atomic<bool> stopping{false};

    std::vector<std::unique_ptr<helper>> helpers; // last: their threads use all of the above
};

} // namespace mp
