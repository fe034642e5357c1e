// The layers for multi-token prediction (MTP) that a model's file brings: a llama.cpp context of their own on the same
// weights, with a cache that follows the texts of the main one.
//
// The layer is given a token x and the main model's state h in the row from which x was drawn, and says what follows x; its
// own state stands for h with the next token:
//
//     place          p - 1     p         p + 1              h(i): state of the main model after token i
//     main model     x h(p-1)  x h(p)                       committed: places up to p
//     MTP            x,h(p-2)  x,h(p-1)  root,h(p) -> guesses of place p + 2, state g
//                                                    best of these,g -> guesses of place p + 3, ...
//
// The cells of guesses are dropped at once. What a text holds is compared by its tokens: a state depends on these alone. A
// text whose states were not kept begins anew where they are, and the layer sees what came since.
#pragma once

#include "draft/guesses.h"
#include "kernels/ggml/accel_backend.h"
#include "model/model.h"
#include "platform/worker_pool.h"
#include "session/top_k.h"

#include "llama.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace mp {

// What the layers have of one session's text.
struct mtp_text {
    bool follows = false;       // its tokens' states are wanted
    llama_seq_id id = -1;       // -1: none yet
    int32_t first = 0;          // place of the first token that is held
    std::vector<int32_t> held;  // tokens from there on
    int32_t n_waiting = 0;      // the last of them, which have no cells yet
    std::vector<float> waiting; // (n_waiting, n_state) the state before each of them
    std::vector<float> newest;  // (n_state) the state after the token at `newest_at`
    int32_t newest_at = -1;     // -1: it is not known

    int32_t end() const { return first + (int32_t) held.size(); }
};

// Of their own context, beside the main one of these parameters, for n_texts.
llama_context_params mtp_context_params(const llama_context_params & of_main, int32_t n_texts);

// One thread at a time, that of the main context.
class mtp_layers {
public:
    // As the main context, which was opened with `of_main`, with sequences for n_texts. Throws as make_context(), and
    // MP_ERR_UNSUPPORTED where the file has no such layers or llama.cpp does not hand out states.
    mtp_layers(const mp_model & model, const llama_context_params & of_main, int32_t n_texts, worker_pool & workers,
               int32_t n_threads, int32_t n_threads_batch);

    // The main model evaluated tokens[0..n) at the places from `at` on; -1: an embedding row. states[i] (n_state): after
    // each, nullptr: not known.
    void follow(mtp_text & text, int32_t at, const int32_t * tokens, int32_t n, const float * const * states);
    void catch_up(mtp_text & text);            // now, and not with the next guess
    void cut(mtp_text & text, int32_t n_keep); // tokens from this place on are no more
    void copy(const mtp_text & from, mtp_text & to);
    void close(mtp_text & text);

    // A guess after each of n different texts and the root that follows it, all in one decode: what follows the root. Then,
    // for those that go on, what follows its most likely token, and so on.
    struct question {
        mtp_text * text;
        int32_t at, root; // place of the root
        guesses * answer; // emptied; where nothing can be said it stays empty
        bool goes_on;     // is asked again
    };
    // Adds the next distribution to each answer that goes on; goes_on is false afterwards where none could be given.
    void begin(std::vector<question> & questions);
    void ask(std::vector<question> & questions);
    void end(std::vector<question> & questions); // drops the cells of guesses

private:
    struct row {
        const mtp_text * text;
        int32_t token, at;
        const float * state;
    };

    const float * zeros() const { return no_state.data(); }
    void forget(mtp_text & text);
    void put_state(std::vector<float> & to, const float * state) const;
    void add_waiting(const mtp_text & text);
    bool decode(int32_t n_threads, bool with_outputs); // the rows; false: nothing came of it
    bool read(int32_t row, guesses & answer);          // the output of this row of the batch
    void clear();

    const mp_model & model;
    const int32_t n_state; // numbers of a state
    const int32_t n_threads, n_threads_batch;
    accel_link link;
    std::unique_ptr<llama_context, decltype(&llama_free)> ctx{nullptr, llama_free};
    llama_memory_t memory = nullptr;
    int32_t n_batch = 0;
    std::vector<llama_seq_id> free_ids;
    std::vector<mtp_text *> texts; // that have one
    std::vector<float> no_state;   // (n_state) zeros: before the first token, and where it is not known
    std::vector<float> before;     // (n_state) room

    // of the questions under way, one for each
    std::vector<float> states; // (n, n_state) before the token that is asked about next

    // the batch under way, (n rows) each
    std::vector<row> rows;
    std::vector<llama_token> tokens;
    std::vector<float> embd; // (n rows, n_state)
    std::vector<llama_pos> pos;
    std::vector<int32_t> n_seq;
    std::vector<llama_seq_id *> seq;
    std::vector<llama_seq_id> ids;
    std::vector<int8_t> output;
    top_k_scratch scratch;
    float log_sum = 0;
};

} // namespace mp
