// What is kept of rows whose logits llama.cpp has, and the workers that read them.
#pragma once

#include "platform/worker_pool.h"
#include "session/top_k.h"

#include <atomic>
#include <cstdint>
#include <vector>

namespace mp {

struct row_outputs {
    int32_t n_rows = 0;
    int32_t n_top = 0;
    std::vector<const float *> logits; // (n_rows) of (n_vocab), llama.cpp's own until its next decode
    std::vector<const float *> hidden; // (n_rows) of (n_embd), likewise: states after the last norm; or empty
    std::vector<int32_t> best;         // (n_rows), -1 where the logits are not finite
    std::vector<int32_t> tokens;       // (n_rows, n_top), undefined where they are not
    std::vector<float> logprobs;       // (n_rows, n_top)
    std::vector<float> log_sum;        // (n_rows)

    void resize(int32_t n_rows, int32_t n_top, bool with_hidden);
};

// Finds the most likely tokens of rows of any number of outputs, with all workers at once.
class output_reader {
public:
    output_reader(worker_pool & workers, int32_t n_vocab, int32_t n_threads);

    // Rows [begin, end) of `outputs`, whose logits are set, are read by the next run().
    void add(row_outputs & outputs, int32_t begin, int32_t end);
    void run();

private:
    struct item {
        row_outputs * outputs;
        int32_t row;
    };

    void read(int32_t worker);

    worker_pool & workers;
    const int32_t n_vocab;
    std::vector<top_k_scratch> scratch; // (n_threads)
    std::vector<item> items;
    std::atomic<size_t> next_item{0};
};

} // namespace mp
