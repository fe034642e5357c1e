// One KV cache over a model, and the only place that says what it holds.
//
// Invariant, between any two calls: the cache holds exactly `tokens`. Sequence 0, the trunk, carries all of them; another
// sequence s carries the first `filled[s]` of them and is topped up when a tree needs it, so that a step pays only for
// the sequences it uses, and nothing when nothing was accepted beyond the root (the root carries them all).
//
// A model with a recurrent state has the trunk alone. llama.cpp keeps the states after the last tokens of a pass, but not
// the one before it: a chain goes back to an accepted node, while a pass that is dropped whole loses the state. It comes
// back from the copy that was made where the last prefix ended, and what was committed since is evaluated again.
#pragma once

#include "kernels/ggml/accel_backend.h"
#include "model/model.h"
#include "platform/worker_pool.h"
#include "session/top_k.h"
#include "session/tree_pass.h"

#include <atomic>
#include <memory>
#include <vector>

#include <sys/types.h>

struct mp_session {
    mp_session(mp::model_ref model, const mp_session_params & params);

    void set_prefix(const int32_t * new_tokens, int32_t n, int32_t n_outputs, int32_t n_top, mp_prefix & out);
    void decode(const mp_tree & tree, mp_pass & out);
    void commit(const int32_t * path, int32_t n);
    const float * logits(int32_t row) const;
    float logprob(int32_t row, int32_t token) const;
    bool part(int32_t i, mp_part & out) const; // false past the last one

    const mp::model_ref model;
    int32_t n_ctx = 0;
    int32_t max_chain = 0;         // candidates of a chain, where there can be no tree
    const int32_t n_threads;       // of tree passes
    const int32_t n_threads_batch; // while a prefix is evaluated
    std::atomic<bool> cancel_requested{false};
    std::atomic<bool> in_use{false};
    const pid_t owner; // a forked child must not touch the threads and buffers of its parent

    std::vector<int32_t> tokens; // committed, -1 where an embedding row stands
    std::vector<int32_t> best;   // (n_rows) of the last pass, -1 without an output

private:
    // What is kept of rows whose logits llama.cpp has.
    struct row_outputs {
        int32_t n_top = 0;
        std::vector<const float *> logits; // (n_rows) of (n_vocab), nullptr without an output
        std::vector<int32_t> tokens;       // (n_rows, n_top), the first of a row -1 where its logits are not finite
        std::vector<float> logprobs;       // (n_rows, n_top)
        std::vector<float> log_sum;        // (n_rows)
        void resize(int32_t n_rows, int32_t n_top);
    };

    void open_context(const mp_session_params & params);
    void drop_pass();
    void truncate(int32_t n_keep);
    void evaluate(const int32_t * new_tokens, int32_t n, int32_t n_outputs);
    void rebuild_if_lost();
    void copy_state();
    int32_t return_to_copy();
    void top_up_sequences(int32_t n_sequences);
    void run(const llama_batch & batch, int32_t n_threads_of_pass);
    void read_outputs(int32_t n_top);
    void check_n_top(int32_t n_top) const;
    void find_top_k(row_outputs & rows, int32_t begin, int32_t end);
    void find_top_k_rows(int32_t worker);

    mp::worker_pool workers; // of maskprobe's kernels and of the top-K
    mp::accel_link kernels{workers};
    std::unique_ptr<llama_context, decltype(&llama_free)> ctx{nullptr, llama_free};
    llama_memory_t memory = nullptr;
    int32_t n_batch = 0;
    int32_t n_top_max = 0;

    mp::tree_pass pass;
    std::vector<mp::top_k_scratch> scratch; // (n_threads)

    std::vector<int32_t> filled; // (n_rows_max) committed tokens that each sequence carries
    bool pass_in_cache = false;  // rows of an uncommitted pass lie behind the committed tokens
    bool has_outputs = false;    // the outputs of the last pass can be read
    bool lost = false;           // a recurrent state went past the committed tokens and must be built anew
    struct {
        int32_t n_tokens = 0; // the state after so many committed tokens, 0: there is none
        std::vector<uint8_t> bytes;
    } state_copy;

    row_outputs pass_outputs;   // of the last pass
    row_outputs prefix_outputs; // of the last tokens that were evaluated for a prefix

    // while the workers look for the most likely tokens
    row_outputs * looked_at = nullptr;
    std::atomic<int32_t> next_row{0};
    int32_t end_row = 0;
};

namespace mp {

// Held by every C function that works on a session: lets one thread in at a time, and no forked child.
class session_entry {
public:
    session_entry(mp_session * session, const char * function);
    ~session_entry();
    session_entry(const session_entry &) = delete;
    session_entry & operator=(const session_entry &) = delete;

private:
    mp_session * session;
};

} // namespace mp
