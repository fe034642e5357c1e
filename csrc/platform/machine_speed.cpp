#include "platform/machine_speed.h"

#include "kernels/gemm/dot_rate.h"
#include "kernels/gemm/kernel_choice.h"
#include "platform/thread_count.h"
#include "platform/worker_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <vector>

namespace mp {

static constexpr size_t BUFFER = 256 << 20; // beyond every cache
static constexpr size_t PIECE = 1 << 20;
static constexpr int64_t ROUNDS = 1 << 17; // of dot products in one item
static constexpr int N_REPEATS = 7;        // the best of them counts: this is a ceiling

static double seconds_of(worker_pool & workers, int32_t n_items, void (*item)(void *, int32_t), void * data) {
    double best = 1e30;
    for (int i = 0; i < N_REPEATS; i++) {
        const auto start = std::chrono::steady_clock::now();
        workers.run(n_items, item, data);
        best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    return best;
}

static void read_piece(void * data, int32_t i) {
    const auto * from = (const uint64_t *) ((const char *) data + i * PIECE);
    uint64_t sums[8] = {};
    for (size_t j = 0; j < PIECE / sizeof(uint64_t); j += 8) {
        for (size_t k = 0; k < 8; k++) {
            sums[k] += from[j + k];
        }
    }
    static std::atomic<uint64_t> total; // so that the reading is for something
    total.fetch_add(sums[0] ^ sums[1] ^ sums[2] ^ sums[3] ^ sums[4] ^ sums[5] ^ sums[6] ^ sums[7]);
}

static double read_bytes_per_second(worker_pool & workers) {
    std::vector<char> buffer(BUFFER, 1);
    return BUFFER / seconds_of(workers, BUFFER / PIECE, read_piece, buffer.data());
}

static double int8_macs_per_second(worker_pool & workers) {
    const int32_t n_items = 8 * workers.n_threads();
    const int64_t macs = run_dot_rounds(kernels_in_use(), 1) * ROUNDS * n_items;
    const auto item = [](void *, int32_t) { run_dot_rounds(kernels_in_use(), ROUNDS); };
    return macs == 0 ? 0 : macs / seconds_of(workers, n_items, item, nullptr);
}

mp_machine_speed measure_machine(int32_t n_threads) {
    worker_pool workers(n_threads > 0 ? n_threads : default_thread_count());
    mp_machine_speed speed = {};
    speed.read_bytes_per_second = read_bytes_per_second(workers);
    speed.int8_macs_per_second = int8_macs_per_second(workers);
    return speed;
}

} // namespace mp
