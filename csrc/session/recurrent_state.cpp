// How a session comes back to its committed tokens: after a recurrent state went past them, or the cells were cleaned.
#include "session/session.h"

#include <cmath>
#include <cstring>

using namespace mp;

static constexpr llama_state_seq_flags STATE_ONLY = LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY; // without keys and values

std::vector<uint8_t> mp_session::read_state() const {
    llama_context * ctx = context->ctx.get();
    std::vector<uint8_t> state(llama_state_seq_get_size_ext(ctx, ids[0], STATE_ONLY));
    const size_t n_written = llama_state_seq_get_data_ext(ctx, state.data(), state.size(), ids[0], STATE_ONLY);
    return n_written == state.size() ? state : std::vector<uint8_t>();
}

bool mp_session::write_state(const std::vector<uint8_t> & state) {
    return !state.empty() &&
           llama_state_seq_set_data_ext(context->ctx.get(), state.data(), state.size(), ids[0], STATE_ONLY) == state.size();
}

void mp_session::rebuild_if_lost() {
    if (!lost) {
        return;
    }
    const std::vector<int32_t> all = tokens;
    const int32_t n_held = return_to_copy();
    tokens.resize(n_held);
    lost = false;
    try {
        evaluate(all.data() + n_held, (int32_t) all.size() - n_held, 0);
    } catch (...) {
        tokens = all;
        lost = true;
        throw;
    }
    copy_state();
}

// Makes the committed tokens a place to which the state can return.
void mp_session::copy_state() {
    if (can_tree() || state_copy.n_tokens == (int32_t) tokens.size()) {
        return;
    }
    state_copy.bytes = read_state();
    state_copy.n_tokens = state_copy.bytes.empty() ? 0 : (int32_t) tokens.size();
}

// Takes the cache back to the tokens after which the state was copied, or to none. Returns how many it holds then.
int32_t mp_session::return_to_copy() {
    if (state_copy.n_tokens > 0 && write_state(state_copy.bytes) &&
        llama_memory_seq_rm(context->memory, ids[0], state_copy.n_tokens, -1)) {
        return state_copy.n_tokens;
    }
    if (!can_tree()) {
        remove_state();
    }
    context->remove(ids[0], 0);
    return state_copy.n_tokens = 0;
}

// llama.cpp multiplies the state by zero when its place is taken next, and NaN stays NaN then: no place without a session
// may hold one. They are all written over, since it is llama.cpp who chooses the place.
void mp_session::remove_state() {
    std::vector<uint8_t> state = read_state();
    bool is_finite = true;
    for (size_t i = 0; i + sizeof(float) <= state.size(); i += sizeof(float)) { // counts among them are finite as floats
        float value;
        memcpy(&value, &state[i], sizeof(value));
        if (!std::isfinite(value)) {
            memset(&state[i], 0, sizeof(value));
            is_finite = false;
        }
    }
    if (is_finite) {
        return;
    }
    std::vector<llama_seq_id> written = context->free_ids;
    written.push_back(ids[0]);
    for (const llama_seq_id id : written) {
        llama_state_seq_set_data_ext(context->ctx.get(), state.data(), state.size(), id, STATE_ONLY);
    }
    for (const llama_seq_id id : context->free_ids) {
        context->remove(id, 0);
    }
}
