// How many rows the next pass should have: as many as bring more tokens than the time they take is worth.
//
// With r the tokens per microsecond of the last passes, a pass of n rows brings E(n) - r T(n) more tokens than the same
// time spent as before; the n where this is largest makes the long run fastest. E(n) is 1 and the calibrated probabilities
// of the n - 1 most probable candidates. n = 1 is always among the choices.
//
// A new number of rows costs a new graph, which is much beside a pass of a tiny model. So there is a usual number, the one
// that would have brought most lately, and another one must pay for two graphs: now, and on the way back. A text that
// repeats itself has another usual number than one that does not, as drafts for it go further. Where planning itself is
// dear, some passes go on like the last one.
//
// Drafts have an account, in microseconds: what planned passes should have gained over plain ones, all their costs and a
// little doubt included, and a small share of all time. When it is empty nothing is drafted (a nap) until the share has
// filled it again. So drafts that do not pay cost no more than that share. Where the cost of a draft is lost in a pass, as
// on all but tiny models, there are no naps.
#pragma once

#include "maskprobe.h"
#include "plan/calibration.h"
#include "plan/cost_curve.h"
#include "plan/outside_cost.h"

#include <array>
#include <functional>

namespace mp {

constexpr std::array<int32_t, 10> PLANNED_ROWS = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32};

}

struct mp_planner {
    explicit mp_planner(int32_t n_rows_max);

    // Rows for a pass over the first nodes of a draft of up to n_max nodes. grow(n) takes it to n nodes, or as many as there
    // are, and returns the probability that is claimed for the next one, 0 if there is none. `repeats`: the text does.
    int32_t rows(const mp_draft & draft, int32_t n_max, bool repeats, const std::function<float(int32_t)> & grow);

    // What a pass brought. `draft` is nullptr for one that was made without.
    void observe(const mp_draft * draft, const mp_plan_result & result);

    // `n` passes were made in a nap. If the last n_repeated tokens were there before, there is a reason to draft again,
    // however little drafts have earned: the oftener in vain, the more of them it takes.
    void rest(int32_t n, int32_t n_repeated);

    // A first measurement.
    void measured(int32_t n_rows, double us);

    const int32_t n_rows_max;
    mp_outlook outlook = {};
    mp::cost_curve cost;
    mp::outside_cost outside; // of the steps with a draft
    mp::calibration claims;

private:
    void choose_usual(const mp_draft & draft, float next, double rate);
    void choose_trial(const mp_draft & draft, int32_t best, double rate);
    double step_us(int32_t n_rows, double n_tokens);
    void observe_plain(double total_us);
    double plain_pass_us();
    void book(double gained_us, double plain_us);

    double tokens = 0, time = 0; // of the last passes, fading
    double planned_us = 0;       // of a step outside the core, with a draft
    double plain_ratio = 0;      // all that a plain pass takes, as part of what one row takes in the core: a running mean
    int32_t n_plain = 0;         // of so many
    int32_t n_undrafted = 0;     // passes since the last one with a draft
    struct {
        // By the planned numbers of rows: what they would have brought over one row, in tokens per pass, a running mean.
        std::array<double, mp::PLANNED_ROWS.size()> gains = {};
        size_t usual = 0; // of PLANNED_ROWS
    } texts[2];           // [0] of text that does not repeat itself, [1] of text that does
    double slowness = 1;  // what passes take on average, as part of what the cost curve says
    double account = 0;
    bool has_account = false; // it starts when the cost of a draft is known
    int32_t n_waking;         // repeated tokens that end a nap
    int64_t n_plans = 0;
    int64_t n_trials = 0;
    int32_t trial = 0;          // rows to be measured again,
    int32_t n_trial_passes = 0; // in so many passes
};
