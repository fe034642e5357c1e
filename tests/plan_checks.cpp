// Checks of what passes take, of calibration and of the planner's choices, by name. Without an argument: the names.
#include "maskprobe.h"
#include "plan/asking.h"
#include "plan_simulator.h"
#include "plan_times_checks.h"

#include <cstdio>
#include <functional>
#include <map>
#include <set>

using namespace mp;

// --- choice ----------------------------------------------------------------------------------------------------------

struct listed : candidates { // claims in a row
    std::vector<float> claimed;
    size_t n_taken = 0;

    explicit listed(std::vector<float> claimed) : claimed(std::move(claimed)) {}
    float next() override { return n_taken < claimed.size() ? claimed[n_taken] : 0; }
    void take() override {
        CHECK(n_taken < claimed.size());
        n_taken++;
    }
};

static calibration believed() {
    return trained({{0.9, 0.9}, {0.6, 0.6}, {0.4, 0.4}, {0.2, 0.2}, {0.1, 0.1}, {0.05, 0.05}}, 400);
}

static const std::map<int32_t, double> FLAT = {{1, 5000}, {8, 5000}, {64, 5001}, {256, 5002}};
static const std::map<int32_t, double> STEEP = {{1, 3000}, {4, 12000}, {64, 192000}, {256, 768000}};

static planner with_times(const std::map<int32_t, double> & us) {
    planner p;
    for (const auto & [n, t] : us) {
        p.observe(n, 0, t);
        p.observe(n, 0, t);
    }
    return p;
}

static void no_times_no_candidates() {
    listed drafts(std::vector<float>(30, 0.9f));
    const calibration claims = believed();
    share s = {&drafts, &claims, 32, 0};
    planner p;
    p.choose(&s, 1, 0, 32);
    CHECK(s.n_rows == 1 && drafts.n_taken == 1, "the first candidate is taken, its outcome is known without a row");
    p.observe(1, 0, 5000);
    listed more(std::vector<float>(30, 0.9f));
    s.from = &more;
    p.choose(&s, 1, 0, 32);
    CHECK(s.n_rows == 2, "%d: no more than twice what is known", s.n_rows);
}

static void many_rows_where_they_cost_nothing() {
    planner p = with_times(FLAT);
    listed drafts(std::vector<float>(31, 0.05f));
    const calibration claims = believed();
    share s = {&drafts, &claims, 32, 0};
    p.choose(&s, 1, 0, 64);
    CHECK(s.n_rows == 32 && drafts.n_taken == 31);
}

static void certain_candidates_need_no_trust() {
    const calibration unknown, liar = trained({{0.9, 0.0}});
    std::vector<float> claimed;
    for (int32_t i = 0; i < 20; i++) {
        claimed.push_back(0.95f - 0.01f * (float) i);
    }
    for (const calibration * claims : {&unknown, &liar}) {
        planner p = with_times({{1, 5000}, {2, 5500}});
        listed some(claimed), forced(claimed);
        share s = {&some, claims, 64, 0};
        p.choose(&s, 1, 0, 64);
        CHECK(s.n_rows <= 4, "%d: no more than twice what is known", s.n_rows);
        s = {&forced, claims, 64, 0, 20};
        p.choose(&s, 1, 0, 64);
        CHECK(s.n_rows == 21, "%d", s.n_rows);
    }
}

static void one_row_where_more_cost_too_much() {
    planner p = with_times(STEEP);
    const calibration claims = believed();
    for (int32_t i = 0; i < 50; i++) {
        listed drafts(std::vector<float>(31, 0.6f));
        share s = {&drafts, &claims, 32, 0};
        p.choose(&s, 1, 0, 64);
        p.observe(s.n_rows, 0, 3000 * s.n_rows);
        CHECK(s.n_rows == 1 || i < 45);
        CHECK(s.n_rows > 1 || drafts.n_taken <= 3, "%zu candidates taken for nothing", drafts.n_taken);
    }
}

static void limits_hold() {
    const calibration claims = believed();
    for (int32_t n_most : {1, 2, 5, 7, 31}) {
        for (int32_t n_rows_max : {1, 2, 6, 40}) {
            for (int32_t n_candidates : {0, 1, 4, 9, 60}) {
                planner p = with_times(FLAT);
                int32_t widest = 0;
                for (int32_t pass = 0; pass < 12; pass++) { // some of them try fewer rows
                    listed a(std::vector<float>(n_candidates, 0.9f)), b(std::vector<float>(3, 0.4f));
                    share s[] = {{&a, &claims, n_most, 0}, {&b, &claims, 32, 0}, {nullptr, nullptr, 8, 0}};
                    p.choose(s, 3, 0, n_rows_max);
                    const int32_t n = s[0].n_rows + s[1].n_rows + s[2].n_rows;
                    p.observe(n, 0, 5000 + n);
                    CHECK(s[0].n_rows >= 1 && s[0].n_rows <= std::min(n_most, n_candidates + 1));
                    CHECK(s[1].n_rows >= 1 && s[1].n_rows <= 4 && s[2].n_rows == 8);
                    CHECK((int32_t) a.n_taken >= s[0].n_rows - 1 && (int32_t) b.n_taken >= s[1].n_rows - 1);
                    widest = std::max(widest, n);
                }
                const int32_t expected = std::min(std::max(n_rows_max, 10), 12 + std::min(n_most, n_candidates + 1));
                CHECK(widest == expected, "%d of %d", widest, expected);
            }
        }
    }
}

static void few_shapes() {
    std::set<int32_t> seen;
    simulation s(ours(), {text()}, 5);
    for (int32_t n : s.run(1000).rows_of_pass) {
        seen.insert(n);
    }
    const std::set<int32_t> shapes = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64};
    for (int32_t n : seen) {
        CHECK(shapes.count(n), "%d rows", n);
    }
}

static void rows_go_to_the_most_probable() {
    planner p = with_times({{1, 1000}, {4, 1100}, {8, 1400}, {16, 3000}, {32, 9000}});
    const calibration claims = believed();
    listed good(std::vector<float>(30, 0.9f)), fair(std::vector<float>(30, 0.4f)), poor(std::vector<float>(30, 0.1f));
    share s[] = {{&poor, &claims, 32, 0}, {&good, &claims, 32, 0}, {&fair, &claims, 4, 0}};
    p.choose(s, 3, 0, 64);
    CHECK(s[0].n_rows == 1 && s[1].n_rows >= 6 && s[2].n_rows <= 4, "%d %d %d", s[0].n_rows, s[1].n_rows, s[2].n_rows);
}

static void each_generation_has_its_own_calibration() {
    planner p = with_times({{1, 1000}, {4, 1100}, {8, 1400}, {16, 3000}, {32, 9000}});
    const calibration honest = believed(), liar = trained({{0.9, 0.0}});
    int32_t n_liar = 0, n_honest = 0;
    for (int32_t pass = 0; pass < 20; pass++) {
        listed a({0.9f, 0.9f, 0.9f, 0.9f}), b({0.2f, 0.2f, 0.2f, 0.2f});
        share s[] = {{&a, &liar, 32, 0}, {&b, &honest, 32, 0}};
        p.choose(s, 2, 0, 6);
        n_liar += s[0].n_rows;
        n_honest += s[1].n_rows;
        p.observe(s[0].n_rows + s[1].n_rows, 0, 1000);
    }
    CHECK(n_liar == 20 && n_honest > 60, "%d %d", n_liar, n_honest);
}

// --- simulated texts on simulated machines ---------------------------------------------------------------------------

static void near_the_best_fixed_rows(const std::string & kind, double asked) {
    for (const scenario & s : scenarios()) {
        for (uint64_t seed = 1; s.kind == kind && seed <= 2; seed++) {
            const double part = s.rate(seed) / s.best_fixed_rate(seed);
            CHECK(part >= asked, "%s, seed %d: %.3f", s.name.c_str(), (int) seed, part);
        }
    }
}

static void adversary_costs_little() {
    text wrong;
    wrong.is_adversary = true;
    for (const machine & m : {ours(), stock(), metal()}) {
        for (uint64_t seed = 1; seed <= 4; seed++) {
            const double plain = simulation(m, {wrong}, seed).run(2000, PLAIN).rate();
            const outcome o = simulation(m, {wrong}, seed).run(2000);
            CHECK(o.rate() >= 0.98 * plain, "%.3f", o.rate() / plain);
            CHECK(o.rows[0] < 2050, "%d rows", (int) o.rows[0]);
        }
    }
}

static void spikes_are_forgotten() {
    text chain;
    chain.is_chain = true;
    chain.rate = 0.7;
    for (const machine & m : {ours(), stock(), metal()}) {
        for (uint64_t seed = 1; seed <= 4; seed++) {
            simulation s(m, {chain}, seed), calm(m, {chain}, seed);
            calm.on.spikes = 0;
            s.on.spikes = 0.5;
            s.run(40);
            calm.run(40);
            s.on.spikes = 0;
            s.run(400);
            calm.run(400);
            const double part = s.run(2000).rate() / calm.run(2000).rate();
            CHECK(part >= 0.95, "T(8) = %g T(1), seed %d: %.3f", m.ratio(8), (int) seed, part);
        }
    }
}

static void a_source_that_becomes_right_is_believed_again() {
    text wrong, right;
    wrong.is_adversary = true;
    right.repetitive = 1;
    simulation s(ours(), {wrong}, 4);
    s.run(1000);
    s.minds[0]->of = right;
    s.run(300);
    const outcome o = s.run(300);
    CHECK(o.rows[0] > 4 * 300, "%d rows in 300 passes", (int) o.rows[0]);
}

static void of_four_the_good_one_has_the_rows() {
    text good, wrong;
    good.repetitive = 0.7;
    wrong.is_adversary = true;
    const outcome o = simulation(ours(), {wrong, good, wrong, wrong}, 6).run(1000);
    CHECK(o.rows[1] > 2500 && o.rows[0] < 1050 && o.rows[2] < 1050 && o.rows[3] < 1050, "%d %d %d %d", (int) o.rows[0],
          (int) o.rows[1], (int) o.rows[2], (int) o.rows[3]);
}

static void what_is_kept_is_there_at_once() {
    text right;
    right.repetitive = 1;
    simulation first(metal(), {right}, 8), second(metal(), {right}, 9);
    first.run(1500);
    const std::string bytes = first.planner.save();
    CHECK(second.planner.load(bytes.data(), bytes.size()));
    second.minds[0]->claims = first.minds[0]->claims;
    CHECK(second.run(10).rows[0] > 150);
}

// --- asking ----------------------------------------------------------------------------------------------------------

// How many of 320 drafts ask at each depth, where answers are right with this probability. Questions take 100 us.
static std::vector<int32_t> asked_of(double right, double us_per_token) {
    asking pay;
    std::vector<int32_t> n(asking::MOST_DEPTH);
    for (int32_t i = 0; i < 320; i++) {
        pay.begin();
        double reach = 1;
        bool is_on_path = true;
        for (int32_t depth = 0; depth < asking::MOST_DEPTH && pay.pays(depth, reach, us_per_token); depth++) {
            n[depth]++;
            pay.took(depth, 100);
            const bool is_right = (i * 37 + depth * 11) % 100 < right * 100;
            pay.learn(depth, reach, is_on_path && is_right ? 1 : 0);
            is_on_path = is_on_path && is_right;
            reach *= std::max(right, 0.3);
        }
    }
    return n;
}

static void questions_that_pay_are_asked() {
    const std::vector<int32_t> n = asked_of(0.95, 1000);
    CHECK(n[0] == 320 && n[asking::MOST_DEPTH - 1] > 250, "%d, %d at the last depth", n[0], n[asking::MOST_DEPTH - 1]);
}

static void questions_that_do_not_pay_are_asked_now_and_then() {
    for (const auto & [right, us_per_token] : {std::make_pair(0.0, 1000.0), std::make_pair(0.9, 20.0)}) {
        const std::vector<int32_t> n = asked_of(right, us_per_token);
        CHECK(n[0] >= 10 && n[0] <= 100, "%g right, %g us: %d", right, us_per_token, n[0]);
    }
}

static void questions_go_as_deep_as_they_pay() {
    const std::vector<int32_t> n = asked_of(0.5, 400);
    CHECK(n[0] > 300 && n[asking::MOST_DEPTH - 1] < 100, "%d, %d at the last depth", n[0], n[asking::MOST_DEPTH - 1]);
}

static void without_times_all_is_asked() {
    const std::vector<int32_t> n = asked_of(0.0, 0);
    CHECK(n[0] == 320 && n[asking::MOST_DEPTH - 1] == 320);
}

#define NAMED(function) {#function, function}
#define BEST(name, kind, asked) {name, [] { near_the_best_fixed_rows(kind, asked); }}

static const std::vector<std::pair<std::string, std::function<void()>>> ALL = {
    NAMED(times_between_and_beyond),
    NAMED(times_of_one_known_number),
    NAMED(times_never_fall),
    NAMED(times_of_a_first_graph_are_forgotten),
    NAMED(times_bound_disturbances),
    NAMED(times_follow_the_machine),
    NAMED(times_of_depths),
    NAMED(times_that_make_no_sense),
    NAMED(times_are_kept),
    NAMED(times_refuse_nonsense),
    NAMED(hope_is_for_what_is_unknown_or_old),
    NAMED(hope_rests_ever_longer),
    NAMED(claims_of_a_stranger),
    NAMED(claims_that_are_always_wrong),
    NAMED(claims_come_to_be_what_they_are_worth),
    NAMED(claims_near_one_are_apart),
    NAMED(claims_are_forgotten),
    NAMED(claims_of_any_size),
    NAMED(claims_count_whose_parent_was_decoded),
    NAMED(claims_are_kept),
    NAMED(claims_refuse_nonsense),
    NAMED(no_times_no_candidates),
    NAMED(certain_candidates_need_no_trust),
    NAMED(many_rows_where_they_cost_nothing),
    NAMED(one_row_where_more_cost_too_much),
    NAMED(limits_hold),
    NAMED(few_shapes),
    NAMED(rows_go_to_the_most_probable),
    NAMED(each_generation_has_its_own_calibration),
    NAMED(adversary_costs_little),
    NAMED(spikes_are_forgotten),
    NAMED(a_source_that_becomes_right_is_believed_again),
    NAMED(of_four_the_good_one_has_the_rows),
    NAMED(what_is_kept_is_there_at_once),
    NAMED(questions_that_pay_are_asked),
    NAMED(questions_that_do_not_pay_are_asked_now_and_then),
    NAMED(questions_go_as_deep_as_they_pay),
    NAMED(without_times_all_is_asked),
    BEST("near_the_best_of_one_text", "one text", 0.97),
    BEST("near_the_best_of_repetitive_text", "repetitive", 0.97),
    BEST("near_the_best_of_steady_rates", "steady rate", 0.97),
    BEST("near_the_best_of_four", "four", 0.97),
    BEST("near_the_best_from_the_start", "first 200", 0.85),
    BEST("near_the_best_after_a_change", "change", 0.96),
};

int main(int argc, char ** argv) {
    for (const auto & [name, run] : ALL) {
        if (argc < 2) {
            printf("%s\n", name.c_str());
        } else if (name == argv[1]) {
            run();
            return n_failures == 0 ? 0 : 1;
        }
    }
    if (argc > 1) {
        fprintf(stderr, "no check has the name %s\n", argv[1]);
    }
    return argc < 2 ? 0 : 2;
}
