#include "plan/planner.h"

#include <algorithm>

namespace mp {

constexpr int32_t SHAPES[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256};
constexpr double CHANGE = 0.03; // of a step, for another number of rows than the last
constexpr double FADING = 0.99; // per pass
constexpr int32_t WIDENING = 2; // times the largest number of rows whose time is known: more are tried for certain ones only

void planner::ask(const share & from, offer & to) {
    const float claimed = to.n_rows < from.n_most ? from.from->next() : 0;
    const bool is_certain = to.n_rows <= from.n_certain; // the root is one of the rows
    to.probability = claimed <= 0 ? 0 : is_certain ? claimed : from.claims->probability(claimed);
    to.most = claimed <= 0 ? 0 : std::max(to.probability, from.claims->most_probable(claimed));
}

// Puts the most probable candidate of all shares into the pass. Its probability, 0: there is none.
double planner::add_best(const share * shares) {
    size_t best = 0;
    for (size_t i = 1; i < offers.size(); i++) {
        best = offers[i].probability > offers[best].probability ? i : best;
    }
    offer & o = offers[best];
    const double probability = o.probability;
    if (probability > 0) {
        if (o.n_taken < o.n_rows) {
            shares[best].from->take();
            o.n_taken++;
        }
        o.n_rows++;
        ask(shares[best], o);
    }
    return probability;
}

void planner::choose(share * shares, int32_t n_shares, int64_t depth, int32_t n_rows_max) {
    offers.assign(n_shares, {0, 0, 1, 0});
    int32_t n_given = 0; // rows that the pass has in any case
    int32_t n_certain = 0;
    int64_t n_most = 0;
    for (int32_t i = 0; i < n_shares; i++) {
        offers[i].n_rows = shares[i].n_rows = shares[i].from ? 1 : shares[i].n_most;
        n_given += shares[i].n_rows;
        n_most += shares[i].n_most;
        n_certain += shares[i].from ? shares[i].n_certain : 0;
        if (shares[i].from && shares[i].n_most > 1) {
            ask(shares[i], offers[i]);
        }
        if (offers[i].probability > 0) {
            shares[i].from->take();
            offers[i].n_taken = 1;
        }
    }
    n_most = std::min<int64_t>({n_most, n_rows_max, std::max(n_given + n_certain, WIDENING * times.widest(depth))});
    list_shapes(n_given, n_most, depth);

    const double plain_us = times.time(n_shares, depth);
    plain_rate = plain_us > 0 ? n_shares / plain_us : 0;
    const double rate = plain_rate * emitted / plain;
    expected = n_shares;
    double tokens = n_shares, best = tokens - rate * us[0];
    for (size_t i = 1; i < shapes.size(); i++) {
        // Later candidates are no more probable than the next ones.
        double most = 0;
        for (const offer & o : offers) {
            most = std::max(most, o.most);
        }
        int32_t n = shapes[i - 1];
        bool may_pay = false;
        for (size_t j = i; j < shapes.size() && !may_pay; j++) {
            may_pay = tokens + most * (shapes[j] - n) - rate * us[j] > best;
        }
        if (!may_pay) {
            break;
        }
        double p = 1;
        while (n < shapes[i] && (p = add_best(shares)) > 0) {
            tokens += p;
            n++;
        }
        if (few_shapes && n < shapes[i]) { // too few candidates for it: any other number would be a new one
            break;
        }
        const double gain = tokens - rate * (n == shapes[i] ? us[i] : with_change(n, times.time(n, depth)));
        if (gain > best) {
            best = gain;
            expected = tokens;
            for (int32_t j = 0; j < n_shares; j++) {
                shares[j].n_rows = offers[j].n_rows;
            }
        }
        if (n < shapes[i]) {
            break;
        }
    }
}

// The numbers of rows that a pass may have, and what each takes in hope.
void planner::list_shapes(int32_t n_given, int64_t n_most, int64_t depth) {
    shapes.assign(1, n_given);
    for (int32_t shape : SHAPES) {
        const bool is_wanted = !few_shapes || (shape & (shape - 1)) == 0; // powers of two
        if (is_wanted && shape > n_given && shapes.back() < n_most) {
            shapes.push_back((int32_t) std::min<int64_t>(shape, n_most));
        }
    }
    us.clear();
    for (size_t i = 0; i < shapes.size(); i++) {
        us.push_back(with_change(shapes[i], times.hoped_time(shapes[i], i > 0 ? shapes[i - 1] : 0, depth)));
    }
}

double planner::with_change(int32_t n_rows, double step_us) const {
    return n_rows == n_last ? step_us : step_us * (1 + CHANGE);
}

void planner::observe(int32_t n_rows, int64_t depth, double step_us) {
    times.observe(n_rows, depth, step_us);
    n_last = n_rows;
    if (expected > 0 && plain_rate > 0) {
        emitted = FADING * emitted + expected;
        plain = FADING * plain + plain_rate * times.time(n_rows, depth); // no single disturbance
        expected = 0;
    }
}

} // namespace mp
