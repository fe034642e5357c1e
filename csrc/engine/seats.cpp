// Which generations have a session of the engine's context, and which wait for one.
#include "engine/engine.h"

#include <algorithm>

using namespace mp;

constexpr int64_t TURN = 64; // tokens that a generation has more than one that waits, before it gives way

// Generations that have ended give their sessions back; what those hold may be the beginning of a later prompt.
void mp_engine::retire() {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto is_over = [](const generation_ref & g) {
        if (g->cancelled.load() && !g->ended()) {
            g->finish(MP_FINISH_CANCELLED);
            g->publish();
        }
        return g->ended();
    };
    waiting.remove_if(is_over);
    const auto over =
        std::stable_partition(active.begin(), active.end(), [&](const generation_ref & g) { return !is_over(g); });
    if (over != active.end()) {
        for (auto g = over; g != active.end(); ++g) {
            cache.give_back(std::move((*g)->session));
        }
        active.erase(over, active.end());
        state->keep(setting(), planner, false);
    }
}

void mp_engine::admit() {
    const std::lock_guard<std::mutex> lock(mutex);
    while (!waiting.empty() && (int32_t) active.size() < context->n_sessions_max) {
        seat(waiting.begin());
    }
    if (context->n_sessions_held > context->n_sessions_max) { // else what is suspended would be lost
        share_seats();
    }
}

void mp_engine::seat(std::list<generation_ref>::iterator from) {
    sessions.clear();
    for (const generation_ref & g : active) {
        sessions.push_back(g->session.get());
    }
    const generation_ref g = *from;
    g->session = cache.take(g->tokens(), sessions);
    active.push_back(g);
    waiting.erase(from);
}

// Nobody waits while others have twice his tokens: the one that has most gives its session to the one that has least.
void mp_engine::share_seats() {
    const auto has_less = [](const generation_ref & a, const generation_ref & b) { return a->n_emitted() < b->n_emitted(); };
    while (!waiting.empty()) {
        const auto poorest = std::min_element(waiting.begin(), waiting.end(), has_less);
        const auto richest = std::max_element(active.begin(), active.end(), [&](const auto & a, const auto & b) {
            return (a->has_prompt_left() ? -1 : a->n_emitted()) < (b->has_prompt_left() ? -1 : b->n_emitted());
        });
        const int64_t n_poor = (*poorest)->n_emitted();
        if ((*richest)->has_prompt_left() || (*richest)->n_emitted() < std::max(2 * n_poor, n_poor + TURN)) {
            return;
        }
        const generation_ref suspended = *richest;
        active.erase(richest);
        cache.give_back(suspended->suspend());
        waiting.push_back(suspended); // first: where no session can be had, it waits as well
        seat(poorest);
    }
}
