// One llama.cpp context with its workers, its cells and its sequence ids, shared by the sessions that are open in it.
//
// Sequence ids: each session has one for its committed tokens, its trunk. A tree needs more, one for each leaf; they are
// lent, and stay with their session together with the committed tokens they carry. Only where none is free are some taken
// from sessions that hold more than they need now. Every call that changes a sequence looks at all cells of the context,
// so there are as few of them as possible: none for a chain whose candidates are all accepted.
#pragma once

#include "guard.h"
#include "kernels/ggml/accel_backend.h"
#include "model/model.h"
#include "platform/worker_pool.h"
#include "session/layer_taps.h"
#include "session/mtp_layers.h"
#include "session/row_batch.h"
#include "session/row_outputs.h"

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

namespace mp {

using context_ref = std::shared_ptr<mp_context>;

// Throws MP_ERR_ARGUMENT and MP_ERR_MEMORY. The context lives until context_close(), and as long as a session is open.
mp_context * context_open(model_ref model, const mp_context_params & params);
context_ref context_retain(mp_context * context); // MP_ERR_STATE where it is closed
void context_close(mp_context * context);

} // namespace mp

struct mp_context : std::enable_shared_from_this<mp_context> {
    mp_context(mp::model_ref model, const mp_context_params & params); // for context_open()

    // One pass over the trees of n different sessions; passes[i] is what came of trees[i]. with_hidden: and of all rows the
    // hidden states, which check_hidden() must allow.
    void decode(int32_t n, mp_session * const * sessions, const mp_tree * trees, mp_pass * passes, bool with_hidden = false);

    // MP_ERR_UNSUPPORTED where llama.cpp gives no states of n_embd after the last norm, or none together with logits.
    void check_hidden(bool with_logits) const;

    // Layers whose hidden states are read in the passes that follow. MP_ERR_STATE where it was not opened for that, and
    // where heads need others.
    void tap(const int32_t * layers, int32_t n);
    bool has_taps() const { return taps != nullptr; }

    // Taps these layers, ascending, from now on. MP_ERR_STATE without taps, and where other heads need others.
    void tap_for_heads(const std::vector<int32_t> & layers);

    // Of a row's hidden states there are n_states: after the tapped layers, ascending, and after the last norm.
    int32_t n_states() const { return taps ? 1 + (int32_t) taps->between().size() : 1; }

    // Opens the layers for multi-token prediction, where they are not open yet. Throws as they do.
    void open_mtp();
    mp::mtp_layers * mtp() { return mtp_opened.get(); } // nullptr: not open

    bool part(int32_t i, mp_part & out) const; // false past the last one

    void check_room_for_session(); // MP_ERR_STATE where n_sessions_max are open

    // Frees the session now, or where another thread is inside the context, with the next call there.
    void free_session(mp_session * session);

    const mp::model_ref model;
    int32_t n_ctx = 0; // tokens of each session
    const int32_t n_sessions_max;
    const int32_t n_sessions_held; // with those of an engine's cache, in the cells of n_sessions_max
    const int32_t n_rows_max;
    const int32_t n_top_max;
    int32_t max_chain = 0;         // candidates of a chain, where there can be no tree
    const int32_t n_threads;       // of tree passes
    const int32_t n_threads_batch; // while a prefix is evaluated
    mp::guard guard{"context"};
    std::atomic<bool> cancel_requested{false};

private:
    friend struct mp_session;
    friend void mp::context_close(mp_context *);

    // sessions
    void enter(mp_session & session); // MP_ERR_STATE where n_sessions_held are open
    void leave(mp_session & session); // its cells and ids are free then
    void free_closed_sessions();
    void try_to_free_closed_sessions();

    // a pass
    void check_sessions(int32_t n, mp_session * const * in_pass) const;
    void check_n_top(int32_t n_top) const;
    int32_t lay_out(int32_t n, mp_session * const * in_pass, const mp_tree * trees); // returns the rows
    const llama_batch & make_batch(int32_t n, mp_session * const * in_pass, const mp_tree * trees, int32_t n_rows);
    int64_t run_trees(int32_t n, mp_session * const * in_pass, const mp_tree * trees,
                      bool with_hidden); // us in llama_decode
    void read_outputs(int32_t n, mp_session * const * in_pass, const mp_tree * trees, bool with_hidden);
    // Notes where llama.cpp has the outputs of a row of its last batch, until its next decode.
    void find_output(mp::row_outputs & outputs, int32_t row, int32_t batch_row) const;
    // (n_states, n_embd) of a row of the last batch, of which `last` is that after the last norm; nullptr where the graph
    // has no states after a tapped layer.
    const float * states(const float * last, int32_t batch_row) const;

    // llama_decode with its codes as failures, after which all sessions hold their committed tokens only. The rows of the
    // batch are of in_pass[0..n) and carry n_sequences; with hidden states, all of them must be outputs.
    void run(const llama_batch & rows, int32_t n_sequences, int32_t n_threads_of_pass, mp_session * const * in_pass,
             int32_t n, bool with_hidden);
    void drop_failed_pass(mp_session * const * in_pass, int32_t n);

    // NaN in cells: spoilt_cells.cpp
    void note_outputs(const mp::row_outputs & outputs, int32_t begin, int32_t end);
    bool clean_cells(); // true: sessions with tokens have lost them from the cache

    // sequences: lending.cpp
    int32_t lend_sequences(int32_t n, mp_session * const * in_pass, int32_t n_rows); // returns how many the pass has
    int32_t n_spare(const mp_session & session, int32_t n, mp_session * const * in_pass) const;
    void lend_one(mp_session & session, int32_t n, mp_session * const * in_pass);
    int32_t lend_to_use_the_graph_again(int32_t n, mp_session * const * in_pass, int32_t n_missing);
    void remove(llama_seq_id id, int32_t first); // its tokens from place `first` on

    mp::worker_pool workers; // of maskprobe's kernels and of the top-K
    mp::accel_link kernels{workers};
    std::unique_ptr<mp::layer_taps> taps; // null where the context was not opened for them
    bool has_heads = false;               // which need the layers that are tapped
    mutable std::vector<float> gathered;  // what states() gave
    std::unique_ptr<llama_context, decltype(&llama_free)> ctx{nullptr, llama_free};
    llama_memory_t memory = nullptr;
    int32_t n_batch = 0;
    llama_context_params opened_with = {};
    std::unique_ptr<mp::mtp_layers> mtp_opened;

    std::vector<mp_session *> sessions;
    std::vector<llama_seq_id> free_ids;
    mp::row_batch batch;
    mp::output_reader reader;
    int64_t n_decodes = 0; // llama.cpp's logits are those of the last one

    // Of llama.cpp's last graph, which it uses again for the same numbers of rows and sequences.
    int32_t graph_rows = 0;
    int32_t graph_sequences = 0;

    bool spreads = false;    // NaN in a cell harms rows that do not see it, also once the cell is free
    bool is_spoilt = false;  // a row was not finite since the cells were cleaned,
    bool has_unseen = false; // or may have been: without outputs nobody knows

    std::mutex closed_mutex;
    std::vector<mp_session *> closed; // while another thread was inside
};
