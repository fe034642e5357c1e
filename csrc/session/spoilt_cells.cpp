// NaN in cells. Some attention multiplies what a row must not see by zero, and 0 * NaN is NaN: a spoilt cell then harms
// every row of the context, also after its session has given it back. All cells are cleared before the next pass, and each
// session evaluates its committed tokens again when its turn comes.
#include "session/session.h"

#include <algorithm>

void mp_context::note_outputs(const mp::row_outputs & outputs, int32_t begin, int32_t end) {
    const auto first = outputs.best.begin();
    is_spoilt |= spreads && std::any_of(first + begin, first + end, [](int32_t best) { return best < 0; });
}

// Not where a session cannot come back: it has a pass that is not committed, or a vector among its tokens.
bool mp_context::clean_cells() {
    const auto must_stay = [](const mp_session * session) {
        const auto & tokens = session->tokens;
        return session->n_in_pass > 0 || std::find(tokens.begin(), tokens.end(), -1) != tokens.end();
    };
    if (!is_spoilt || std::any_of(sessions.begin(), sessions.end(), must_stay)) {
        return false;
    }
    llama_memory_clear(memory, true);
    for (mp_session * session : sessions) {
        session->forget_cells();
    }
    is_spoilt = false;
    return true;
}

void mp_session::forget_cells() {
    std::fill(filled.begin(), filled.end(), 0);
    state_copy.n_tokens = 0;
    lost = !tokens.empty();
}
