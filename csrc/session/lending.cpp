// Which session has which of the context's sequence ids.
#include "session/session.h"
#include "status.h"

#include <algorithm>

using namespace mp;

// Cells that may be looked at so that llama.cpp uses its graph again; making a new one takes longer.
static constexpr int64_t GRAPH_CELLS = 1 << 19;

void mp_context::remove(llama_seq_id id, int32_t first) {
    if (!llama_memory_seq_rm(memory, id, first, -1)) {
        fail(MP_ERR_DECODE, "llama.cpp does not take sequence %d back to its first %d tokens: set the prefix again", id,
             first);
    }
}

// Sequences that the session holds and nothing needs now.
int32_t mp_context::n_spare(const mp_session & session, int32_t n, mp_session * const * in_pass) const {
    const bool is_in_pass = std::find(in_pass, in_pass + n, &session) != in_pass + n;
    const int32_t n_needed = is_in_pass ? session.pass.n_sequences() : session.n_in_pass;
    return (int32_t) session.ids.size() - std::max(n_needed, 1);
}

// A free id, or the last one of whoever has most to spare.
void mp_context::lend_one(mp_session & session, int32_t n, mp_session * const * in_pass) {
    if (free_ids.empty()) {
        mp_session & lender = **std::max_element(sessions.begin(), sessions.end(), [&](mp_session * a, mp_session * b) {
            return n_spare(*a, n, in_pass) < n_spare(*b, n, in_pass);
        });
        if (n_spare(lender, n, in_pass) <= 0) {
            fail(MP_ERR_CONTEXT_FULL, "all sequences of the context are in passes that are not committed yet");
        }
        remove(lender.ids.back(), 0);
        free_ids.push_back(lender.ids.back());
        lender.ids.pop_back();
        lender.filled.pop_back();
    }
    session.ids.push_back(free_ids.back());
    session.filled.push_back(0);
    free_ids.pop_back();
}

int32_t mp_context::lend_sequences(int32_t n, mp_session * const * in_pass, int32_t n_rows) {
    if (!model->info.can_tree) {
        return n;
    }
    int32_t n_needed = 0, n_lacking = 0;
    for (int32_t i = 0; i < n; i++) {
        const int32_t n_of_tree = in_pass[i]->pass.n_sequences();
        n_needed += n_of_tree;
        n_lacking += std::max(0, n_of_tree - (int32_t) in_pass[i]->ids.size());
    }
    if (n_lacking > 0) {
        int32_t n_available = (int32_t) free_ids.size();
        for (const mp_session * session : sessions) {
            n_available += std::max(0, n_spare(*session, n, in_pass));
        }
        if (n_lacking > n_available) {
            fail(MP_ERR_CONTEXT_FULL,
                 "the trees of the pass need %d sequences, %d more than are left beside the %d other sessions: use trees "
                 "with "
                 "fewer leaves, or free sessions",
                 n_needed, n_lacking - n_available, (int) sessions.size() - n);
        }
    }
    for (int32_t i = 0; i < n; i++) {
        while ((int32_t) in_pass[i]->ids.size() < in_pass[i]->pass.n_sequences()) {
            lend_one(*in_pass[i], n, in_pass);
        }
        in_pass[i]->put_full_sequences_first();
    }
    if (n_rows == graph_rows && n_needed < graph_sequences) {
        n_needed += lend_to_use_the_graph_again(n, in_pass, graph_sequences - n_needed);
    }
    for (int32_t i = 0; i < n; i++) {
        in_pass[i]->top_up_sequences();
    }
    return n_needed;
}

// llama.cpp uses a graph again only for the same number of sequences: roots carry n_missing more than their trees need, if
// that costs less than a new graph. Returns how many they carry.
int32_t mp_context::lend_to_use_the_graph_again(int32_t n, mp_session * const * in_pass, int32_t n_missing) {
    int32_t n_full = 0, n_others = (int32_t) free_ids.size();
    for (int32_t i = 0; i < n; i++) {
        const mp_session & session = *in_pass[i];
        const int32_t n_own = (int32_t) session.ids.size() - session.pass.n_sequences();
        const int32_t n_own_full = std::max(0, session.n_full() - session.pass.n_sequences());
        n_full += n_own_full;
        n_others += n_own - n_own_full;
    }
    const int32_t n_copied = std::max(0, n_missing - n_full); // each copy looks at all cells
    if (n_copied > n_others || (int64_t) n_copied * llama_n_ctx(ctx.get()) > GRAPH_CELLS) {
        return 0;
    }
    int32_t n_left = n_missing;
    for (const bool only_full : {true, false}) {
        for (int32_t i = 0; i < n; i++) {
            mp_session & session = *in_pass[i];
            const int32_t n_own = only_full ? session.n_full() : (int32_t) session.ids.size();
            const int32_t n_added = std::clamp(n_own - session.pass.n_sequences(), 0, n_left);
            session.pass.add_sequences(n_added);
            n_left -= n_added;
        }
    }
    in_pass[0]->pass.add_sequences(n_left);
    for (; n_left > 0; n_left--) {
        lend_one(*in_pass[0], n, in_pass);
    }
    return n_missing;
}
