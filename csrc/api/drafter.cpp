// The C functions of a drafter: what a caller gives is checked here; the work is in draft/.
#include "draft/drafter.h"

#include "status.h"

#include <algorithm>
#include <cstring>

using namespace mp;

constexpr int32_t MAX_PER_ROW = 1 << 20; // candidates; the rows times this still fit 32 bits

static mp_drafter & checked(mp_drafter * drafter, const char * function) {
    if (!drafter) {
        fail(MP_ERR_ARGUMENT, "%s: the drafter must not be NULL", function);
    }
    return *drafter;
}

static void check_tokens(const mp_drafter & drafter, const int32_t * tokens, int32_t n) {
    if (n < 0 || (n > 0 && !tokens)) {
        fail(MP_ERR_ARGUMENT, "%d tokens for the drafter", n);
    }
    for (int32_t i = 0; i < n; i++) {
        if (tokens[i] < 0 || tokens[i] >= drafter.n_vocab) {
            fail(MP_ERR_ARGUMENT, "token %d at index %d, the vocabulary has %d tokens", tokens[i], i, drafter.n_vocab);
        }
    }
}

static void check_text(const mp_drafter & drafter) {
    if (drafter.n_text() == 0) {
        fail(MP_ERR_STATE, "a drafter without a text: begin with at least one token");
    }
}

// What a model gave after tokens: (n_rows, n_top).
static void check_rows(const mp_drafter & drafter, int32_t n_rows, int32_t n_top, const int32_t * top_tokens,
                       const float * top_logprobs) {
    const int32_t n = n_rows * n_top;
    check_tokens(drafter, top_tokens, n);
    for (int32_t i = 0; i < n; i++) {
        if (!(top_logprobs[i] <= 0.01f)) {
            fail(MP_ERR_ARGUMENT, "a log-probability of %g at index %d", top_logprobs[i], i);
        }
    }
}

mp_status mp_drafter_open(int32_t n_vocab, mp_drafter ** out) {
    return guarded([&] {
        if (!out || n_vocab < 1) {
            fail(MP_ERR_ARGUMENT, "mp_drafter_open: a vocabulary of %d tokens, out must not be NULL", n_vocab);
        }
        *out = nullptr;
        *out = new mp_drafter(n_vocab);
    });
}

void mp_drafter_free(mp_drafter * drafter) {
    delete drafter;
}

mp_status mp_drafter_chains_only(mp_drafter * drafter, bool chains_only) {
    return guarded([&] { checked(drafter, "mp_drafter_chains_only").chains_only = chains_only; });
}

mp_status mp_drafter_begin(mp_drafter * drafter, const int32_t * tokens, int32_t n) {
    return guarded([&] {
        mp_drafter & d = checked(drafter, "mp_drafter_begin");
        check_tokens(d, tokens, n);
        d.begin(tokens, n);
    });
}

mp_status mp_drafter_learn_prompt(mp_drafter * drafter, int32_t n_rows, int32_t n_top, const int32_t * top_tokens,
                                  const float * top_logprobs) {
    return guarded([&] {
        mp_drafter & d = checked(drafter, "mp_drafter_learn_prompt");
        if (!top_tokens || !top_logprobs) {
            fail(MP_ERR_ARGUMENT, "mp_drafter_learn_prompt: the arrays must not be NULL");
        }
        if (n_rows < 1 || n_rows > MP_N_ROWS_LIMIT || n_rows >= d.n_text() || n_top < 1 || n_top > MAX_PER_ROW) {
            fail(MP_ERR_ARGUMENT, "%d rows with %d candidates each, before the newest of %d tokens; at most %d rows", n_rows,
                 n_top, d.n_text(), MP_N_ROWS_LIMIT);
        }
        check_rows(d, n_rows, n_top, top_tokens, top_logprobs);
        d.learn_prompt(n_rows, n_top, top_tokens, top_logprobs);
    });
}

mp_status mp_drafter_unseen(const mp_drafter * drafter, int32_t n_max, int32_t * tokens, int32_t * n) {
    return guarded([&] {
        if (!drafter || !n || n_max < 0 || (n_max > 0 && !tokens)) {
            fail(MP_ERR_ARGUMENT, "mp_drafter_unseen: %d tokens; the drafter and the arrays must not be NULL", n_max);
        }
        check_text(*drafter);
        const std::vector<int32_t> found = drafter->unseen(n_max);
        std::copy(found.begin(), found.end(), tokens);
        *n = (int32_t) found.size();
    });
}

mp_status mp_drafter_learn_unseen(mp_drafter * drafter, const int32_t * tokens, int32_t n, int32_t n_top,
                                  const int32_t * top_tokens, const float * top_logprobs) {
    return guarded([&] {
        mp_drafter & d = checked(drafter, "mp_drafter_learn_unseen");
        if (!top_tokens || !top_logprobs || n < 0 || n >= MP_N_ROWS_LIMIT || n_top < 1 || n_top > MAX_PER_ROW) {
            fail(MP_ERR_ARGUMENT, "mp_drafter_learn_unseen: %d tokens with %d candidates each, the arrays must not be NULL",
                 n, n_top);
        }
        check_text(d);
        check_tokens(d, tokens, n);
        check_rows(d, n + 1, n_top, top_tokens, top_logprobs);
        d.learn_unseen(tokens, n, n_top, top_tokens, top_logprobs);
    });
}

mp_status mp_drafter_extend(mp_drafter * drafter, const int32_t * tokens, int32_t n) {
    return guarded([&] {
        mp_drafter & d = checked(drafter, "mp_drafter_extend");
        check_tokens(d, tokens, n);
        d.extend(tokens, n);
    });
}

mp_status mp_drafter_grow(mp_drafter * drafter, int32_t n_max, mp_draft * out) {
    return guarded([&] {
        mp_drafter & d = checked(drafter, "mp_drafter_grow");
        if (!out || n_max < 1 || n_max > MP_N_ROWS_LIMIT) {
            fail(MP_ERR_ARGUMENT, "a draft of %d nodes: 1..%d, and out must not be NULL", n_max, MP_N_ROWS_LIMIT);
        }
        check_text(d);
        d.start(*out);
        d.grow(n_max, *out);
    });
}

mp_status mp_drafter_observe(mp_drafter * drafter, const mp_draft_result * result) {
    return guarded([&] {
        mp_drafter & d = checked(drafter, "mp_drafter_observe");
        if (!result || !result->top_tokens || !result->top_logprobs || !result->path || !result->emitted) {
            fail(MP_ERR_ARGUMENT, "mp_drafter_observe: the result and its arrays must not be NULL");
        }
        const mp_draft_result & r = *result;
        if (r.n_nodes < 1 || r.n_nodes > d.n_grown() || r.n_top < 1 || r.n_top > MAX_PER_ROW || r.n_masks < 0 ||
            r.n_masks > MP_N_ROWS_LIMIT || (r.n_masks > 0 && !r.mask_owners)) {
            fail(MP_ERR_ARGUMENT, "%d nodes and %d masks with %d candidates each, the draft has %d nodes", r.n_nodes,
                 r.n_masks, r.n_top, d.n_grown());
        }
        if (r.n_path < 1 || r.n_path > r.n_nodes) {
            fail(MP_ERR_ARGUMENT, "a path of %d nodes, the tree has %d", r.n_path, r.n_nodes);
        }
        for (int32_t i = 0; i < r.n_path; i++) {
            if (r.path[i] < 0 || r.path[i] >= r.n_nodes || d.parent_of(r.path[i]) != (i ? r.path[i - 1] : -1)) {
                fail(MP_ERR_ARGUMENT, "path[%d] = %d: it starts at node 0 and goes on to children, the tree has %d nodes", i,
                     r.path[i], r.n_nodes);
            }
        }
        check_tokens(d, r.emitted, r.n_path);
        check_rows(d, r.n_nodes + r.n_masks, r.n_top, r.top_tokens, r.top_logprobs);
        d.observe(r);
    });
}

mp_status mp_drafter_earned(const mp_drafter * drafter, int64_t earned[MP_N_SOURCES]) {
    return guarded([&] {
        if (!drafter || !earned) {
            fail(MP_ERR_ARGUMENT, "mp_drafter_earned: the drafter and the place for the counts must not be NULL");
        }
        memcpy(earned, drafter->earned, sizeof(drafter->earned));
    });
}

mp_status mp_drafter_examples(const mp_drafter * drafter, int32_t n_max, mp_example * examples, int32_t * n) {
    return guarded([&] {
        if (!drafter || !n || n_max < 0 || (n_max > 0 && !examples)) {
            fail(MP_ERR_ARGUMENT, "mp_drafter_examples: room for %d; the drafter and the arrays must not be NULL", n_max);
        }
        *n = (int32_t) drafter->examples.size();
        std::copy_n(drafter->examples.begin(), std::min(n_max, *n), examples);
    });
}

int32_t mp_drafter_n_repeated(const mp_drafter * drafter) {
    return drafter ? drafter->n_repeated() : 0;
}

mp_status mp_drafter_save(const mp_drafter * drafter, void * bytes, size_t capacity, size_t * n) {
    return guarded([&] {
        if (!drafter || !n) {
            fail(MP_ERR_ARGUMENT, "mp_drafter_save: the drafter and n must not be NULL");
        }
        const std::string saved = drafter->save();
        *n = saved.size();
        if (bytes && capacity >= saved.size()) {
            memcpy(bytes, saved.data(), saved.size());
        }
    });
}

mp_status mp_drafter_load(mp_drafter * drafter, const void * bytes, size_t n) {
    return guarded([&] {
        mp_drafter & d = checked(drafter, "mp_drafter_load");
        if (!bytes || !d.load((const char *) bytes, n)) {
            fail(MP_ERR_FORMAT, "%zu bytes that are no state of a drafter for %d tokens", n, d.n_vocab);
        }
    });
}
