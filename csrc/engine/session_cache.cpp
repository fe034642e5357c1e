#include "engine/session_cache.h"

#include <algorithm>

namespace mp {

constexpr int32_t WORTH_A_FORK = 8; // tokens that are not evaluated again, or not lost

static int32_t n_shared(const mp_session & session, const std::vector<int32_t> & text) {
    const auto end = std::mismatch(text.begin(), text.end(), session.tokens.begin(), session.tokens.end());
    return (int32_t) (end.first - text.begin());
}

std::unique_ptr<mp_session> session_cache::take(const std::vector<int32_t> & text,
                                                const std::vector<mp_session *> & active) {
    auto best = idle.end();
    int32_t n_held = -1; // by the best; of equals the one that was used longest ago
    for (auto i = idle.begin(); i != idle.end(); ++i) {
        if (const int32_t n = n_shared(**i, text); n > n_held) {
            best = i;
            n_held = n;
        }
    }
    if (context->model->info.can_tree) {
        mp_session * source = nullptr;
        int32_t n_forked = std::max(n_held, 0) + WORTH_A_FORK - 1;
        for (mp_session * session : active) {
            if (const int32_t n = n_shared(*session, text); n > n_forked) {
                n_forked = n;
                source = session;
            }
        }
        // Taken itself, an idle one would lose what it holds beyond the common beginning.
        if (!source && n_held >= WORTH_A_FORK && (int32_t) (*best)->tokens.size() - n_held >= WORTH_A_FORK) {
            source = best->get();
        }
        if (source && make_room(active.size(), source)) {
            return source->fork();
        }
    }
    const bool is_room = (int32_t) (active.size() + idle.size()) < context->n_sessions_held;
    const bool is_worth_it = n_held >= WORTH_A_FORK || (!context->model->info.can_tree && !is_room);
    return is_worth_it ? take_at(best) : take_oldest(active.size());
}

std::unique_ptr<mp_session> session_cache::take_oldest(size_t n_active) {
    if ((int32_t) (n_active + idle.size()) < context->n_sessions_held) {
        return std::make_unique<mp_session>(context);
    }
    return take_at(idle.begin());
}

void session_cache::give_back(std::unique_ptr<mp_session> session) {
    session->commit(nullptr, 0);
    idle.push_back(std::move(session));
}

bool session_cache::drop_oldest() {
    if (idle.empty()) {
        return false;
    }
    idle.erase(idle.begin());
    return true;
}

// For one session more, without `kept`; false where that cannot be.
bool session_cache::make_room(size_t n_active, const mp_session * kept) {
    if ((int32_t) (n_active + idle.size()) < context->n_sessions_held) {
        return true;
    }
    const auto oldest = std::find_if(idle.begin(), idle.end(), [&](const auto & session) { return session.get() != kept; });
    if (oldest == idle.end()) {
        return false;
    }
    idle.erase(oldest);
    return true;
}

std::unique_ptr<mp_session> session_cache::take_at(place at) {
    std::unique_ptr<mp_session> taken = std::move(*at);
    idle.erase(at);
    return taken;
}

} // namespace mp
