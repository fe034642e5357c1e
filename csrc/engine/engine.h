// Many generations, one pass for all of them. What it decides is decided elsewhere: which candidates in draft/ and in
// proposers, how many rows in plan/; here is the order in which things happen.
#pragma once

#include "draft/head.h"
#include "engine/generation.h"
#include "engine/own_guesses.h"
#include "engine/session_cache.h"
#include "engine/state.h"
#include "guard.h"
#include "plan/planner.h"
#include "session/context.h"

#include "maskprobe.h"

#include <atomic>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

struct mp_engine {
    mp_engine(mp::context_ref context, const mp_engine_params & params);
    ~mp_engine();

    std::shared_ptr<mp::generation> open(const int32_t * tokens, int32_t n, const mp_generation_params & params);
    void step(int32_t & n_active);
    void cancel(mp::generation & generation);
    double pass_us(int32_t n_rows) const;
    bool embed(const int32_t * tokens, int32_t n, float * out); // false: no session is free now
    const char * note();

    const mp::context_ref context;
    mp::guard guard{"engine"};

private:
    using generation_ref = std::shared_ptr<mp::generation>;

    void take_step();
    void retire();
    void admit();
    void seat(std::list<generation_ref>::iterator from);
    void share_seats();
    mp::generation * next_prompt();
    bool evaluate_piece();
    template <typename F> void with_room(F && work);
    void pass(int64_t started);
    void plan();
    void take_fixed();
    void leave_out_ended();
    template <typename F> void each(F && work);
    std::string setting() const;

    const std::vector<int32_t> & ends();

    const int32_t n_rows_fixed; // 0: planned
    const std::optional<mp::mask_kind> masks;
    const mp::masks_ref trained; // of masks from a file
    const std::shared_ptr<mp::state> state;
    std::string heads_note;
    const std::shared_ptr<mp::head> heads; // nullptr: none
    const bool has_own_layers;             // for multi-token prediction, of the model's file, instead of heads
    mp::own_guesses own;
    mp::calibration claims;            // of the engine's own drafts, as they are known when a pass begins: no callback is
                                       // called under the lock of the shared ones, since it may use another engine
    mp::calibration claims_of_callers; // of all proposers that callers brought
    mp::planner planner;
    int64_t depth = 0;     // tokens that a row of the last pass looked at
    double us_of_pass = 0; // running means, 0: not known
    double us_of_prompt_token = 0;
    bool owes_pass = false; // the last step ended with a prompt

    mp::session_cache cache;
    std::vector<generation_ref> active; // with a session
    bool takes_shortest = false;        // of the prompts, after a piece of the oldest

    // The pass under way, one entry for each generation that draws.
    std::vector<generation_ref> drawing;
    std::vector<mp::share> shares;
    std::vector<mp_session *> sessions;
    std::vector<mp_tree> trees;
    std::vector<mp_pass> passes;

    std::mutex mutex; // of what follows, and of changes to `active`: other threads open and cancel while one steps
    std::list<generation_ref> waiting; // for a session
    bool is_stepping = false;
    std::vector<int32_t> end_tokens; // found when the first generation ignores them
    bool stops_pass = false;         // the pass under way was stopped, as nobody wants it any more
    std::string last_note;
};
