// The checks of tests/plan_checks.cpp of what passes take and of what claims are worth.
#pragma once

#include "plan/calibration.h"
#include "plan/pass_times.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <map>
#include <string>

using namespace mp;

static int n_failures = 0;

#define CHECK(ok, ...)                                                                                                      \
    do {                                                                                                                    \
        if (!(ok)) {                                                                                                        \
            n_failures++;                                                                                                   \
            fprintf(stderr, "%s:%d: %s:", __FILE__, __LINE__, #ok);                                                         \
            fprintf(stderr, " " __VA_ARGS__);                                                                               \
            fputc('\n', stderr);                                                                                            \
        }                                                                                                                   \
    } while (0)

static bool near(double a, double b, double part = 1e-9) {
    return std::abs(a - b) <= part * std::abs(b);
}

// --- what passes take ------------------------------------------------------------------------------------------------

static pass_times known(const std::map<int32_t, double> & us, int64_t depth = 100) {
    pass_times times;
    for (const auto & [n, t] : us) {
        for (int32_t i = 0; i < 3; i++) {
            times.observe(n, depth, t);
        }
    }
    return times;
}

static void times_between_and_beyond() {
    const pass_times times = known({{1, 100}, {4, 160}, {16, 400}});
    CHECK(near(times.time(1, 0), 100) && near(times.time(4, 0), 160) && near(times.time(16, 0), 400));
    CHECK(near(times.time(2, 0), 120) && near(times.time(10, 0), 280));
    CHECK(near(times.time(32, 0), 720), "the last two go on: %g", times.time(32, 0));
    CHECK(times.widest(0) == 16);
}

static void times_of_one_known_number() {
    CHECK(pass_times().time(1, 0) == 0 && pass_times().widest(0) == 0);
    const pass_times one = known({{1, 100}}), four = known({{4, 100}});
    CHECK(one.time(8, 0) > 150 && one.time(8, 0) < 400, "%g", one.time(8, 0));
    CHECK(near(four.time(8, 0) / four.time(1, 0), one.time(8, 0) / one.time(1, 0)));
}

static void times_never_fall() {
    const pass_times times = known({{1, 100}, {4, 300}, {8, 250}, {16, 260}});
    for (int32_t n = 1; n < MP_N_ROWS_LIMIT; n++) {
        CHECK(times.time(n + 1, 0) >= times.time(n, 0), "n = %d", n);
    }
    CHECK(near(times.time(4, 0), 250), "the lower one is right: %g", times.time(4, 0));
}

static void times_of_a_first_graph_are_forgotten() {
    pass_times times;
    times.observe(1, 0, 900);
    times.observe(1, 0, 100);
    CHECK(near(times.time(1, 0), 100));
}

static void times_bound_disturbances() {
    pass_times times = known({{1, 100}});
    double most = 0;
    for (int32_t i = 0; i < 200; i++) {
        times.observe(1, 0, i % 20 == 10 ? 1e9 : 100);
        most = std::max(most, times.time(1, 0));
    }
    CHECK(most < 130, "%g", most);
}

static void times_follow_the_machine() {
    pass_times times = known({{1, 100}});
    for (double us : {180.0, 60.0, 400.0}) {
        for (int32_t i = 0; i < 100; i++) {
            times.observe(1, 0, us);
        }
        CHECK(near(times.time(1, 0), us, 0.02), "%g", times.time(1, 0));
    }
}

static void times_of_depths() {
    pass_times times = known({{1, 100}, {4, 200}, {8, 400}}, 100);
    CHECK(near(times.time(4, 511), 200) && near(times.time(4, 100000), 200), "the nearest depth's");
    times.observe(4, 3000, 280);
    CHECK(near(times.time(1, 3000), 140) && near(times.time(8, 3000), 560), "scaled by its first sample");
    CHECK(near(times.time(1, 100), 100) && near(times.time(8, 511), 400), "the others stay");
    for (int32_t i = 0; i < 100; i++) {
        times.observe(4, 3000, 300);
        times.observe(1, 3000, 110);
    }
    CHECK(near(times.time(4, 3000), 300, 0.02) && near(times.time(1, 3000), 110, 0.02));
    CHECK(near(times.time(4, 9000), 300, 0.02), "the nearest depth is 3,000 now");
}

static void times_that_make_no_sense() {
    pass_times times = known({{1, 100}});
    const std::string before = times.save();
    for (double us : {0.0, -1.0, std::nan("")}) {
        times.observe(1, 0, us);
    }
    times.observe(0, 0, 5);
    times.observe(MP_N_ROWS_LIMIT + 1, 0, 5);
    CHECK(times.save() == before);
    CHECK(near(times.time(1, -5), 100) && near(times.time(1, INT64_MAX), 100));
    CHECK(times.time(0, 0) == 0 && times.time(1 << 30, 0) == times.time(MP_N_ROWS_LIMIT, 0));
}

static void times_are_kept() {
    pass_times times = known({{1, 100}, {4, 160}, {16, 400}}), again;
    times.observe(4, 5000, 200);
    const std::string bytes = times.save();
    CHECK(again.load(bytes.data(), bytes.size()));
    for (int32_t n = 1; n < 40; n++) {
        CHECK(near(again.time(n, 100), times.time(n, 100)) && near(again.time(n, 5000), times.time(n, 5000)), "n = %d", n);
    }
    CHECK(again.save() == bytes);
    CHECK(again.load("", 0) && again.time(1, 0) == 0, "nothing known is kept too");
}

static void times_refuse_nonsense() {
    struct {
        int32_t depth, n_rows;
        double us;
    } const bad[] = {{8, 1, 5},
                     {41, 1, 5},
                     {-1, 1, 5},
                     {9, 0, 5},
                     {9, -1, 5},
                     {9, 257, 5},
                     {9, 1, 0},
                     {9, 1, -3},
                     {9, 1, 1e10},
                     {9, 1, std::nan("")},
                     {9, 1, std::numeric_limits<double>::infinity()}};
    pass_times times = known({{1, 100}});
    const std::string good = times.save();
    for (const auto & b : bad) {
        const std::string bytes = good + std::string((const char *) &b, sizeof b);
        CHECK(!times.load(bytes.data(), bytes.size()), "depth %d, rows %d, %g us", b.depth, b.n_rows, b.us);
    }
    CHECK(!times.load(good.data(), good.size() - 1));
    const std::string twice = good + good;
    CHECK(!times.load(twice.data(), twice.size()), "the same number of rows twice");
    CHECK(times.save() == good && near(times.time(1, 0), 100));
}

static void hope_is_for_what_is_unknown_or_old() {
    pass_times times = known({{1, 100}, {4, 300}});
    CHECK(times.hoped_time(4, 1, 0) == times.time(4, 0), "it is new");
    CHECK(times.hoped_time(8, 4, 0) < 1.1 * times.time(4, 0), "unknown: as the next smaller number");
    CHECK(times.hoped_time(16, 12, 0) == times.time(16, 0), "of 12 nothing is known either");
    CHECK(times.hoped_time(2, 1, 0) >= 150, "at least its share of more rows: %g", times.hoped_time(2, 1, 0));
    for (int32_t i = 0; i < 100; i++) {
        times.observe(1, 0, 100);
    }
    CHECK(times.hoped_time(4, 1, 0) < 0.5 * times.time(4, 0), "it is old");
}

static void hope_rests_ever_longer() {
    pass_times times = known({{1, 100}});
    std::vector<int32_t> tried;
    for (int32_t i = 0; i < 4000; i++) {
        const bool hopes =
            times.hoped_time(2, 1, 0) < 200 && (tried.empty() || times.hoped_time(2, 1, 0) < times.time(2, 0));
        times.observe(hopes ? 2 : 1, 0, hopes ? 300 : 100);
        if (hopes) {
            tried.push_back(i);
        }
    }
    CHECK(tried.size() > 8 && tried.size() < 20, "%zu times", tried.size());
    for (size_t i = 2; i < tried.size(); i++) {
        const int32_t pause = tried[i] - tried[i - 1], before = tried[i - 1] - tried[i - 2];
        CHECK(pause >= before && pause <= 520, "%d after %d steps", pause, before);
    }
}

// --- calibration -----------------------------------------------------------------------------------------------------

// The only candidate after the root claims this, and comes, or not.
static void learn_one(calibration & claims, double claimed, bool right, int32_t n_decoded = 2) {
    const float probabilities[] = {1, (float) claimed};
    const int32_t parents[] = {-1, 0}, tokens[] = {5, 1}, path[] = {0, 1}, emitted[] = {right ? 1 : 99, 7};
    claims.learn(probabilities, parents, tokens, 2, n_decoded, path, emitted, right && n_decoded == 2 ? 2 : 1);
}

static calibration trained(const std::map<double, double> & rates, int32_t n = 600) {
    calibration claims;
    std::mt19937 random(3);
    for (int32_t i = 0; i < n; i++) {
        for (const auto & [claimed, rate] : rates) {
            learn_one(claims, claimed, std::uniform_real_distribution<>(0, 1)(random) < rate);
        }
    }
    return claims;
}

static void claims_of_a_stranger() {
    for (double claimed : {0.05, 0.4, 0.9}) {
        const double p = calibration().probability(claimed);
        CHECK(p >= 0.5 * claimed && p < claimed, "%g of %g", p, claimed);
    }
}

static void claims_that_are_always_wrong() {
    const calibration claims = trained({{0.9, 0}, {0.3, 0}, {0.02, 0}});
    for (double claimed : {0.99, 0.9, 0.3, 0.1, 0.02}) {
        CHECK(claims.probability(claimed) < 0.01, "%g", claimed);
    }
}

static void claims_come_to_be_what_they_are_worth() {
    const std::map<double, double> rates = {{0.95, 0.95}, {0.6, 0.3}, {0.4, 0.4}, {0.2, 0.1}, {0.1, 0.2}};
    const calibration claims = trained(rates);
    for (const auto & [claimed, rate] : rates) {
        CHECK(near(claims.probability(claimed), rate, 0.25), "%g: %g", claimed, claims.probability(claimed));
    }
    CHECK(claims.probability(1) <= 1);
    CHECK(claims.most_probable(0.11) >= claims.probability(0.1) && claims.most_probable(0.7) >= claims.probability(0.45));
}

static void claims_near_one_are_apart() {
    const calibration claims = trained({{0.99, 0.99}, {0.8, 0.2}});
    CHECK(claims.probability(0.99) > 0.9 && claims.probability(0.8) < 0.35);
}

static void claims_are_forgotten() {
    calibration claims = trained({{0.4, 0.4}}, 1000);
    for (int32_t i = 0; i < 3000; i++) {
        learn_one(claims, 0.4, false);
    }
    CHECK(claims.probability(0.4) < 0.02);
}

static void claims_of_any_size() {
    for (double claimed : {1.0, 0.5, 1e-3, 1e-8, 1e-40, 0.0}) {
        calibration claims;
        learn_one(claims, claimed, true);
        CHECK(claims.probability(claimed) >= 0 && claims.probability(claimed) <= 1, "%g", claimed);
    }
}

static void claims_count_whose_parent_was_decoded() {
    // 0 - 1 - 2 - 3 and 0 - 4, of which 0 and 1 were decoded: 3 alone is not known.
    const float claimed[] = {1, 0.9f, 0.4f, 0.2f, 0.1f};
    const int32_t parents[] = {-1, 0, 1, 2, 0}, tokens[] = {5, 6, 7, 8, 9}, path[] = {0, 1}, emitted[] = {6, 7};
    calibration claims;
    claims.learn(claimed, parents, tokens, 5, 2, path, emitted, 2);
    const double first = calibration().probability(0.2) / 0.2;
    CHECK(claims.probability(0.4) / 0.4 > first, "it came, though it was not decoded");
    calibration same;
    const int32_t others[] = {-1, 0, 1, 2, 0};
    same.learn(claimed, others, tokens, 3, 2, path, emitted, 2);
    const float rest[] = {1, 0.1f};
    const int32_t rest_tokens[] = {5, 9};
    same.learn(rest, parents, rest_tokens, 2, 1, path, emitted, 1);
    CHECK(claims.save() == same.save());
}

static void claims_are_kept() {
    const calibration claims = trained({{0.8, 0.5}, {0.1, 0.2}});
    calibration again;
    const std::string bytes = claims.save();
    CHECK(again.load(bytes.data(), bytes.size()));
    for (double claimed : {0.9, 0.8, 0.3, 0.1, 0.001}) {
        CHECK(again.probability(claimed) == claims.probability(claimed));
    }
    CHECK(again.save() == bytes);
}

static void claims_refuse_nonsense() {
    calibration claims = trained({{0.5, 0.5}}, 20);
    const std::string good = claims.save();
    for (double bad : {-1.0, 1e6, std::nan(""), std::numeric_limits<double>::infinity()}) {
        for (size_t at : {(size_t) 0, good.size() - sizeof bad}) {
            std::string bytes = good;
            std::memcpy(&bytes[at], &bad, sizeof bad);
            CHECK(!claims.load(bytes.data(), bytes.size()), "%g", bad);
        }
    }
    CHECK(!claims.load(good.data(), good.size() - 8) && !claims.load("", 0));
    CHECK(claims.save() == good);
}
