// A few sleeping threads that share out the rows of one pass. They sleep on a condition variable between jobs: on a
// small device the cores belong to llama.cpp's own threads.
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

    // Calls job(data, i) for every i in [0, n), on all threads; returns when the last is done.
    void run(int32_t n, void (*job)(void * data, int32_t i), void * data);

private:
    void work();
    void take_items();

    std::vector<std::thread> threads;
    std::mutex mutex;
    std::condition_variable wake;
    std::condition_variable done;
    uint64_t generation = 0; // of jobs, so that a worker joins each once
    int32_t n_busy = 0;
    bool stopping = false;
    std::atomic<int32_t> next{0};
    int32_t n_items = 0;
    void (*job)(void *, int32_t) = nullptr;
    void * data = nullptr;
};

} // namespace mp
