#include "plan/planner.h"

#include <algorithm>

using namespace mp;

constexpr double FORGETTING = 0.97;        // per pass
constexpr int32_t FIRST_TRIAL = 32;        // plans before the first time,
constexpr int32_t TRIAL = 64;              // and between two times when another number of rows may be taken,
constexpr int64_t OLD = 256;               // if its last sample is so many samples old
constexpr double CHEAP_ROW = 0.02;         // of a plain pass: if rows cost no more, would it be worth it?
constexpr int32_t TRIAL_PASSES = 4;        // of which the first makes the graph
constexpr double GAINS_RATE = 1.0 / 16;    // of the newest draft,
constexpr double SLOWNESS_RATE = 1.0 / 64; // of the newest pass,
constexpr double PLAIN_RATE = 1.0 / 64;
constexpr double OUTSIDE_RATE = 0.1; // in running means
constexpr double MOST_SLOWNESS = 3;  // that a single pass counts for
constexpr double MOST_PLAIN = 2;     // times what plain passes take: likewise
constexpr int32_t PLAIN_EVERY = 64;  // plans between two times when some passes are made
constexpr int32_t PLAIN_PASSES = 8;  // without a draft, one after another, to see what that takes,
constexpr int32_t SETTLING = 2;      // of which the first do not count
constexpr double BEYOND = 0.7;   // of a candidate's probability beyond the draft, what the one behind it is taken to have
constexpr double CLEARLY = 0.02; // tokens per pass by which another number of rows must be better to become the usual one
constexpr int32_t SCHOOL = 64;   // first plans, where rows beside the root are taken for what is learned from them
constexpr int32_t SCHOOL_ROWS = 2;
constexpr double SCHOOL_PRICE = 1.5; // steps of one row that it may cost
constexpr int32_t STEADY = 7;        // passes behind a usual plan that go on like it
constexpr double DEAR = 0.05;        // of a plain pass: where a plan costs more, not each pass is planned;
constexpr double NOTABLE = 0.03;     // where it costs more than this, passes without one are timed,
constexpr double PLENTY = 0.3;       // except where drafts bring so many tokens per pass more than they cost,
constexpr double NEGLIGIBLE = 0.01;  // and what costs no more needs no account
constexpr double PLAIN_SHARE = 0.7;  // of the time outside the core, what is left without a draft,
constexpr int32_t ENOUGH_PLAIN = 6;  // until so many passes were made without one
constexpr double ALLOWANCE = 0.003;  // of all time, what drafts may lose
constexpr double DOUBT = 0.05;       // of a plain pass: gains of less may be errors of what is known of times
constexpr double FIRST_CREDIT = 12;  // plain passes that the account starts with,
constexpr double ENOUGH_CREDIT = 2;  // that end a nap,
constexpr double MOST_CREDIT = 24;   // and that past gains are worth at most

mp_planner::mp_planner(int32_t n_rows_max) : n_rows_max(n_rows_max), n_waking(MP_N_REPEATED) {}

int32_t mp_planner::rows(const mp_draft & draft, int32_t n_max, bool repeats, const std::function<float(int32_t)> & grow) {
    n_max = std::min(n_max, n_rows_max);
    n_plans++;
    outlook.repeats = repeats;
    const auto & text = texts[repeats];
    // What is never drafted would never be found worth it: now and then the draft is whole.
    const bool is_trial_turn = n_plans % TRIAL == 0 || n_plans == FIRST_TRIAL;
    float next = grow(is_trial_turn ? n_max : 1);

    const double rate = time > 0 ? tokens / time : 1 / cost.time(1);
    const auto gain_of = [&](int32_t n, double n_tokens) {
        const int32_t n_changes = (n != cost.last_n()) + (n != PLANNED_ROWS[text.usual]);
        return n_tokens - rate * (step_us(n, n_tokens) + n_changes * cost.change());
    };
    int32_t best = 1, n = 1;
    double best_expected = 1, expected = 1;
    for (size_t i = 0; i < PLANNED_ROWS.size(); i++) {
        for (const int32_t shape = std::min({PLANNED_ROWS[i], draft.n_nodes, n_max}); n < shape; n++) {
            expected += claims.probability(draft.probabilities[n]);
        }
        if (gain_of(n, expected) > gain_of(best, best_expected)) {
            best = n;
            best_expected = expected;
        }
        // Nodes further down are no more likely than the next one.
        const float claimed = n < draft.n_nodes ? draft.probabilities[n] : next;
        const double most = n < n_max && claimed > 0 ? claims.most_probable(claimed) : 0;
        bool may_pay = false;
        for (size_t j = i + 1; j < PLANNED_ROWS.size() && most > 0 && !may_pay; j++) {
            const int32_t wider = std::min(PLANNED_ROWS[j], n_max);
            may_pay = gain_of(wider, expected + (wider - n) * most) > gain_of(best, best_expected);
        }
        if (!may_pay) {
            break;
        }
        next = grow(std::min(PLANNED_ROWS[i + 1], n_max));
    }
    choose_usual(draft, next, rate);
    if (is_trial_turn) {
        choose_trial(draft, best, rate);
    }
    if (n_trial_passes > 0 && trial <= n_max) {
        n_trial_passes--;
        grow(trial);
        best = std::min(trial, draft.n_nodes);
    }
    const bool is_school = n_plans <= SCHOOL && has_account && step_us(SCHOOL_ROWS, 1) < SCHOOL_PRICE * step_us(1, 1);
    if (is_school && best < SCHOOL_ROWS) {
        grow(std::min(SCHOOL_ROWS, n_max));
        best = std::min({SCHOOL_ROWS, n_max, draft.n_nodes});
    }
    // Not at first: the very first ones may have taken long.
    const double share = planned_us / plain_pass_us();
    const bool is_plain_turn = n_plans == 16 || n_plans == 32 || n_plans % PLAIN_EVERY == 0;
    outlook.plain = is_plain_turn && share >= NOTABLE && text.gains[text.usual] < PLENTY;
    outlook.n_same = share >= DEAR && best > 1 && best == PLANNED_ROWS[text.usual] ? STEADY : 0;
    outlook.weakest = (float) claims.probability(draft.probabilities[best - 1]);
    return best;
}

double mp_planner::step_us(int32_t n_rows, double n_tokens) {
    return slowness * cost.time(n_rows) + outside.time(n_rows, n_tokens);
}

void mp_planner::choose_usual(const mp_draft & draft, float next, double rate) {
    auto & [gains, usual] = texts[outlook.repeats];
    const double one = 1 - rate * step_us(1, 1);
    double expected = 1, beyond = claims.probability(next);
    size_t best = 0;
    for (size_t i = 0, n = 1; i < gains.size() && PLANNED_ROWS[i] <= n_rows_max; i++) {
        for (; n < (size_t) PLANNED_ROWS[i]; n++) {
            if ((int32_t) n < draft.n_nodes) {
                expected += claims.probability(draft.probabilities[n]);
            } else {
                expected += beyond;
                beyond *= BEYOND;
            }
        }
        gains[i] += GAINS_RATE * (expected - rate * step_us((int32_t) n, expected) - one - gains[i]);
        best = gains[i] > gains[best] ? i : best;
    }
    usual = gains[best] > gains[usual] + CLEARLY ? best : usual;
}

// A time that was measured while something disturbed the machine would keep its number of rows from ever being taken again:
// now and then one beside the best is, for some passes, as the first one makes the graph. Times can rise in steps, behind
// which the next number but one may be better: both are tried, to either side.
void mp_planner::choose_trial(const mp_draft & draft, int32_t best, double rate) {
    const auto at = std::lower_bound(PLANNED_ROWS.begin(), PLANNED_ROWS.end(), best);
    constexpr int64_t STEPS[] = {1, -1, 2, -2};
    const int64_t to = at - PLANNED_ROWS.begin() + STEPS[n_trials++ % 4];
    trial = to >= 0 && to < (int64_t) PLANNED_ROWS.size() ? PLANNED_ROWS[to] : 0;
    double more = 0; // tokens that it would bring
    for (int32_t node = best; node < std::min(trial, draft.n_nodes); node++) {
        more += claims.probability(draft.probabilities[node]);
    }
    const int64_t age = trial > 0 ? cost.age(trial) : 0;
    if (age < OLD || more < CHEAP_ROW * (trial - best)) {
        trial = 0;
    } else if (trial > best) { // the older a time is, the less it is believed
        const double least_us = cost.time(trial) * ((double) OLD / (double) age);
        trial = more >= rate * slowness * (least_us - cost.time(best)) ? trial : 0;
    }
    n_trial_passes = trial > 0 ? TRIAL_PASSES : 0;
}

void mp_planner::observe(const mp_draft * draft, const mp_plan_result & r) {
    const double outside_us = r.total_us - r.core_us;
    const bool is_change = r.n_rows != cost.last_n();
    tokens = tokens * FORGETTING + r.n_path;
    time = time * FORGETTING + r.total_us;
    if (cost.age(r.n_rows) < INT64_MAX) {
        const double expected = cost.time(r.n_rows) + (is_change ? cost.change() : 0);
        slowness += SLOWNESS_RATE * (std::min(r.core_us / expected, MOST_SLOWNESS) - slowness);
    }
    cost.add(r.n_rows, r.core_us);
    if (!draft) {
        observe_plain(r.total_us);
        return;
    }
    n_undrafted = 0;
    double expected = 1;
    for (int32_t node = 1; node < r.n_nodes; node++) {
        expected += claims.probability(draft->probabilities[node]);
    }
    claims.learn(*draft, r);
    planned_us += OUTSIDE_RATE * (outside_us - planned_us);
    outside.add(r.n_rows, r.n_path, outside_us);
    const double plain = plain_pass_us();
    if (planned_us >= NEGLIGIBLE * plain) {
        const int32_t n_alike = 1 + (r.n_rows > 1 ? outlook.n_same : 0);
        // What it was expected to bring and to take: what it did is no more on average, and varies far more.
        const double gained_us = (expected - DOUBT) * plain - (1 - ALLOWANCE) * step_us(r.n_rows, expected);
        book(n_alike * gained_us - (is_change ? cost.change() : 0), plain);
    }
}

// Behind some others, which clear the caches of what drafting left there. As part of what the curve says of one row: the
// speed of a machine changes from minute to minute.
void mp_planner::observe_plain(double total_us) {
    n_undrafted++;
    if (outlook.napping || n_undrafted > SETTLING) {
        const double ratio = total_us / (slowness * cost.time(1));
        n_plain++;
        plain_ratio +=
            std::max(1.0 / n_plain, PLAIN_RATE) * (std::min(ratio, MOST_PLAIN * std::max(plain_ratio, 1.0)) - plain_ratio);
    }
    outlook.plain = outlook.plain && n_undrafted < PLAIN_PASSES;
}

void mp_planner::measured(int32_t n_rows, double us) {
    cost.add_measured(n_rows, us);
}

void mp_planner::rest(int32_t n, int32_t n_repeated) {
    const double plain = plain_pass_us();
    book(n * ALLOWANCE * plain, plain);
    if (n_repeated < MP_N_REPEATED) { // another text, or another part of it
        n_waking = MP_N_REPEATED;
    } else if (outlook.napping && n_repeated >= n_waking) {
        n_waking = 2 * std::min(n_repeated, 1 << 20); // the more of them, the later the next time
        account = std::max(account, plain);
        outlook.napping = false;
    }
}

double mp_planner::plain_pass_us() {
    const double core_us = slowness * cost.time(1);
    return n_plain >= ENOUGH_PLAIN ? plain_ratio * core_us : core_us + PLAIN_SHARE * outside.time(1, 1);
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
