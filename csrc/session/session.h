// One sequence in a context, and the only place that says what the context holds of it.
//
// Invariant, between any two calls: the cache holds exactly `tokens`. ids[0], the trunk, carries all of them; another id
// carries the first `filled` of them and is topped up when a tree needs it.
//
// A model with a recurrent state has the trunk alone. llama.cpp keeps the states after the last tokens of a pass, but not
// the one before it: a chain goes back to an accepted node, while a pass that is dropped whole loses the state. It comes
// back from the copy that was made where the last prefix ended, and what was committed since is evaluated again.
#pragma once

#include "session/context.h"
#include "session/row_outputs.h"
#include "session/tree_pass.h"

#include <memory>
#include <vector>

struct mp_session {
    explicit mp_session(mp::context_ref context); // empty. MP_ERR_STATE where n_sessions_held are open
    ~mp_session();
    mp_session(const mp_session &) = delete;
    mp_session & operator=(const mp_session &) = delete;

    // Another session of the context with the same committed tokens, whose cells they share.
    std::unique_ptr<mp_session> fork();

    // with_hidden: of the outputs the hidden states too, for which those rows are a batch of their own.
    void set_prefix(const int32_t * new_tokens, int32_t n, int32_t n_outputs, int32_t n_top, mp_prefix & out,
                    bool with_hidden = false);

    // Makes the session hold exactly `text` and writes the mean of the last hidden states after its tokens, (n_embd).
    void mean_embedding(const int32_t * text, int32_t n, float * out);

    // Of row i of the last prefix. MP_ERR_STATE where a later decode of the context has overwritten it.
    const float * prefix_logits(int32_t row) const;
    float prefix_log_sum(int32_t row) const;
    const float * prefix_hidden(int32_t row) const; // as hidden()

    void check(const mp_tree & tree) const; // whether it can be decoded now: as tree_pass::check()
    void commit(const int32_t * path, int32_t n);

    // Of the rows of the last pass.
    const float * logits(int32_t row) const;
    // The context's (n_states, n_embd), valid until the next call; nullptr where they were not wanted.
    const float * hidden(int32_t row) const;
    float logprob(int32_t row, int32_t token) const;
    int32_t best(int32_t row) const;                        // -1: the row is not finite
    const float * hidden(int32_t row, int32_t layer) const; // (n_embd)

    const mp::context_ref context;
    std::vector<int32_t> tokens; // committed, -1 where an embedding row stands
    mp::mtp_text mtp;            // what the layers for multi-token prediction have of them

private:
    friend struct mp_context;

    void drop_pass();
    void forget_cells(); // the cache has none of its tokens any more
    void take_prefix(const int32_t * new_tokens, int32_t n, int32_t n_outputs, int32_t n_top, mp_prefix & out,
                     bool with_hidden);
    void truncate(int32_t n_keep);
    void evaluate(const int32_t * new_tokens, int32_t n, int32_t n_outputs, bool with_hidden = false);
    void show_mtp(int32_t n); // the newest n committed tokens, with states_of_new
    void check_path(const int32_t * path, int32_t n) const;
    void check_row(int32_t row) const;
    bool can_tree() const { return context->model->info.can_tree; }

    // sequences
    int32_t n_full() const; // how many ids from the first on carry all committed tokens
    void put_full_sequences_first();
    void top_up_sequences(); // those of the pass

    // recurrent_state.cpp
    void rebuild_if_lost();
    void copy_state();
    int32_t return_to_copy();
    void remove_state();
    std::vector<uint8_t> read_state() const; // empty where there is none
    bool write_state(const std::vector<uint8_t> & state);

    std::vector<llama_seq_id> ids;
    std::vector<int32_t> filled; // of each id
    mp::tree_pass pass;
    int32_t n_in_pass = 0; // ids that may have rows of an uncommitted pass after the committed tokens

    mp::row_outputs outputs;  // of the last pass
    bool has_outputs = false; // no change of the prefix came after it
    int64_t outputs_at = 0;   // the context's n_decodes
    int32_t first_row = 0;    // of the context's pass

    mp::row_outputs prefix_outputs; // of the last tokens that were evaluated for a prefix
    int32_t prefix_first = 0;       // of its rows, the first that the caller was given,
    int32_t prefix_readable = 0;    // and the first whose logits llama.cpp has
    int64_t prefix_at = -1;         // if this is the context's n_decodes

    std::vector<const float *> states_of_new; // room: (n tokens) of (n_embd_out), llama.cpp's until its next decode

    bool lost = false;  // the cells were cleaned, or the recurrent state went past the committed tokens: to be built anew
    bool moved = false; // a pass of others came after the pass: llama.cpp cannot go back within it
    struct {
        int32_t n_tokens = 0; // the state after so many committed tokens, 0: there is none
        std::vector<uint8_t> bytes;
    } state_copy;
};
