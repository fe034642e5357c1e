#include "planner.h"

#include <algorithm>

using namespace mp;

constexpr double FORGETTING = 0.97;  // per pass
constexpr double CAUTION = 2;        // times what a row costs, a candidate should bring: drafting it costs too
constexpr int32_t LOOK = 8;          // plans between two looks at what is worth a candidate
constexpr int32_t TRIAL = 32;        // plans between two in which another number of rows may be taken,
constexpr int64_t OLD = 256;         // if its last sample is so many samples old
constexpr double NEGLIGIBLE = 0.01;  // of a plain pass: a draft that costs no more is made every time
constexpr double OUTSIDE_RATE = 0.1; // of the newest pass, in running means
constexpr double PLAIN_SHARE = 0.4;  // of the time outside the core, what is left without a draft: until that is measured
constexpr double ALLOWANCE = 0.01;   // of all time, what drafts may lose
constexpr int32_t FIRST_WAKING = 4;  // repeated tokens that end a nap
constexpr double FIRST_CREDIT = 8;   // plain passes that the account starts with,
constexpr double ENOUGH_CREDIT = 4;  // that end a nap,
constexpr double MOST_CREDIT = 24;   // and that past gains are worth at most

mp_planner::mp_planner(int32_t n_rows_max) : n_rows_max(n_rows_max), n_waking(FIRST_WAKING) {}

int32_t mp_planner::rows(const mp_draft & draft) {
    const int32_t n_nodes = std::min(draft.n_nodes, n_rows_max);
    const double rate = time > 0 ? tokens / time : 1 / cost.time(1);
    int32_t best = 1, n = 1;
    double best_gain = -1e30, expected = 1, outside = 0;
    for (size_t i = 0; i < PLANNED_ROWS.size(); i++) {
        for (const int32_t shape = std::min(PLANNED_ROWS[i], n_nodes); n < shape; n++) {
            expected += claims.probability(draft.probabilities[n]);
        }
        outside = std::max(outside, outside_us[i]);
        const double us = cost.time(n) + outside + (n != cost.last_n() ? cost.change() : 0);
        const double gain = expected - rate * us;
        if (gain > best_gain) {
            best_gain = gain;
            best = n;
        }
        if (n == n_nodes) {
            break;
        }
    }
    n_plans++;
    if (n_plans % LOOK == 1) {
        outlook.least = least_worthwhile(rate);
    } else if (n_plans % TRIAL == TRIAL - 1) {
        outlook.least = 0; // the next draft is whole: what is never drafted would never be found worth it
    }
    best = n_plans % TRIAL < 2 ? on_trial(best, n_nodes) : best;
    outlook.weakest = (float) claims.probability(draft.probabilities[best - 1]);
    return best;
}

// A time that was measured while something disturbed the machine would keep its number of rows from ever being taken again:
// now and then one beside the best is, twice, as the first pass makes the graph. Times can rise in steps, behind which the
// next number but one may be better: both are tried, to either side.
int32_t mp_planner::on_trial(int32_t best, int32_t n_nodes) {
    if (n_plans % TRIAL == 0) {
        const auto at = std::lower_bound(PLANNED_ROWS.begin(), PLANNED_ROWS.end(), best);
        constexpr int64_t STEPS[] = {-2, 1, -1, 2};
        const int64_t to = at - PLANNED_ROWS.begin() + STEPS[n_plans / TRIAL % 4];
        trial = to >= 0 && to < (int64_t) PLANNED_ROWS.size() ? PLANNED_ROWS[to] : 0;
        if (trial > 0 && cost.age(trial) < OLD) {
            trial = 0;
        }
    }
    return trial > 0 && trial <= n_nodes ? trial : best;
}

// One more row costing as little as anywhere.
float mp_planner::least_worthwhile(double rate) {
    double row_us = 1e30;
    for (size_t i = 1; i < PLANNED_ROWS.size() && PLANNED_ROWS[i] <= n_rows_max; i++) {
        row_us = std::min(row_us, (cost.time(PLANNED_ROWS[i]) - cost.time(1)) / (PLANNED_ROWS[i] - 1));
    }
    return claims.smallest_worth(CAUTION * rate * row_us);
}

void mp_planner::observe(const mp_draft * draft, const mp_plan_result & r) {
    const double outside = r.total_us - r.core_us;
    tokens = tokens * FORGETTING + r.n_path;
    time = time * FORGETTING + r.total_us;
    cost.add(r.n_rows, r.core_us);
    outlook.n_any = r.n_rows;
    if (!draft) {
        plain_us += OUTSIDE_RATE * (outside - plain_us);
        return;
    }
    claims.learn(*draft, r);
    planned_us += OUTSIDE_RATE * (outside - planned_us);
    const size_t i = std::lower_bound(PLANNED_ROWS.begin(), PLANNED_ROWS.end(), r.n_rows) - PLANNED_ROWS.begin();
    if (i < PLANNED_ROWS.size()) {
        outside_us[i] += (outside_us[i] > 0 ? OUTSIDE_RATE : 1) * (outside - outside_us[i]);
    }
    const double plain = plain_pass_us();
    if (planned_us >= NEGLIGIBLE * plain) {
        book(r.n_path * plain - (1 - ALLOWANCE) * r.total_us, plain);
    }
}

void mp_planner::measured(int32_t n_rows, double us) {
    cost.add_steady(n_rows, us);
    outlook.n_any = n_rows;
}

void mp_planner::rest(int32_t n, int32_t n_repeated) {
    const double plain = plain_pass_us();
    book(n * ALLOWANCE * plain, plain);
    if (n_repeated < FIRST_WAKING) { // another text, or another part of it
        n_waking = FIRST_WAKING;
    } else if (outlook.napping && n_repeated >= n_waking) {
        n_waking = 2 * std::min(n_repeated, 1 << 20); // the more of them, the later the next time
        account = std::max(account, plain);
        outlook.napping = false;
    }
}

double mp_planner::plain_pass_us() {
    return cost.time(1) + (plain_us > 0 ? plain_us : PLAIN_SHARE * planned_us);
}

void mp_planner::book(double gained_us, double plain) {
    if (!has_account) {
        has_account = true;
        account = FIRST_CREDIT * plain;
    }
    account = std::min(account + gained_us, MOST_CREDIT * plain);
    if (account < 0) {
        outlook.napping = true;
    } else if (account >= ENOUGH_CREDIT * plain) {
        outlook.napping = false;
    }
}
