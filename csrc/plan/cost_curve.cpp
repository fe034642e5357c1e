#include "plan/cost_curve.h"

#include <algorithm>
#include <cmath>

namespace mp {

constexpr int32_t FIRST_ROWS[] = {1, 4, 8, 16};             // measured on first use,
constexpr int32_t MORE_ROWS[] = {1, 2, 3, 4, 6, 8, 12, 16}; // and these as long as it takes less than
constexpr double QUICK = 30000;                             // microseconds
constexpr double HOPELESS = 0.8;  // of 4 T(1): where T(4) costs more than that, wider passes are not tried at first
constexpr int32_t N_KEPT = 3;     // samples between runs, and until which first measurements go on
constexpr int32_t REFRESH = 8;    // passes between two looks at the samples
constexpr int32_t SHALLOWEST = 9; // bits: contexts of up to 512 tokens count as one depth
constexpr int32_t DEEPEST = 62;
constexpr int32_t MOST_ROWS = 1024;
constexpr double UNMEASURED_ROW = 0.25; // of T(1), where only T(1) is known

void cost_curve::ring::add(double value) {
    us[(oldest + n) % N_SAMPLES] = value;
    if (n < N_SAMPLES) {
        n++;
    } else {
        oldest = (oldest + 1) % N_SAMPLES;
    }
}

double cost_curve::ring::newest(int32_t back) const {
    return us[(oldest + n - 1 - back) % N_SAMPLES];
}

double cost_curve::ring::typical() const {
    double sorted[N_SAMPLES];
    std::copy_n(us, n, sorted);
    std::nth_element(sorted, sorted + (n - 1) / 4, sorted + n);
    return sorted[(n - 1) / 4];
}

cost_curve::cost_curve() : depth(SHALLOWEST), times(MOST_ROWS + 1) {}

bool cost_curve::measured() const {
    return std::any_of(samples.begin(), samples.end(), [](const auto & entry) { return entry.second.count(1) > 0; });
}

void cost_curve::at_depth(int64_t n_past) {
    int32_t wanted = SHALLOWEST;
    while (wanted < DEEPEST && n_past >> wanted) {
        wanted++;
    }
    enter(wanted);
}

void cost_curve::enter(int32_t wanted) {
    const auto at = samples.find(wanted);
    const bool known = at != samples.end() && !at->second.empty();
    if (wanted == depth && known) {
        return;
    }
    if (!known) {
        const by_rows * nearest = nullptr;
        int32_t least = DEEPEST + 1;
        for (const auto & [other, curve] : samples) {
            if (!curve.empty() && std::abs(other - wanted) < least) {
                least = std::abs(other - wanted);
                nearest = &curve;
            }
        }
        by_rows started;
        if (nearest) {
            for (const auto & [n_rows, times_of] : *nearest) {
                started[n_rows].add(times_of.typical());
                started[n_rows].is_borrowed = true;
            }
        }
        samples[wanted] = started;
    }
    depth = wanted;
    std::fill(times.begin(), times.end(), 0.0);
}

void cost_curve::add(int32_t n_rows, double us) {
    const bool changed = n_rows != n_last;
    n_last = n_rows;
    const auto known = here().find(n_rows);
    if (!changed || here().empty()) { // the very first pass of all counts as one that goes on as before
        add_steady(n_rows, us);
    } else if (known != here().end() && known->second.is_borrowed) {
        add_steady(n_rows, us > 2 * change_us ? us - change_us : us); // roughly is better than another depth's
    } else if (known != here().end()) {
        changes.add(std::max(us - time(n_rows), 0.0));
    }
}

// The first time of its own that a number of rows has at this depth.
void cost_curve::give_back(int32_t n_rows, double us) {
    const double factor = us / here()[n_rows].typical();
    for (auto & [other, times_of] : here()) {
        if (times_of.is_borrowed) {
            times_of.us[0] *= factor;
        }
    }
    here()[n_rows] = ring();
    std::fill(times.begin(), times.end(), 0.0);
}

void cost_curve::add_steady(int32_t n_rows, double us) {
    n_last = n_rows;
    const bool is_new = here().count(n_rows) == 0;
    if (!is_new && here()[n_rows].is_borrowed) {
        give_back(n_rows, us);
    }
    here()[n_rows].add(us);
    here()[n_rows].last_added = ++n_added;
    if (is_new || n_added % REFRESH == 0 || here()[n_rows].n <= N_KEPT) {
        std::fill(times.begin(), times.end(), 0.0);
        change_us = changes.n > 0 ? changes.typical() : 0;
    }
}

void cost_curve::add_measured(int32_t n_rows, double us) {
    measuring_us += 2 * us; // it was run twice
    add_steady(n_rows, us);
}

double cost_curve::time(int32_t n_rows) {
    n_rows = std::min(n_rows, MOST_ROWS);
    if (times[n_rows] == 0) {
        times[n_rows] = estimate(n_rows);
    }
    return times[n_rows];
}

double cost_curve::estimate(int32_t n_rows) const {
    const by_rows & known = samples.at(depth);
    if (known.count(n_rows)) {
        double least = known.at(n_rows).typical();
        for (auto more = known.upper_bound(n_rows); more != known.end(); ++more) {
            least = std::min(least, more->second.typical());
        }
        return least;
    }
    const double one = known.begin()->second.typical();
    if (known.size() == 1) {
        return one * (1 + UNMEASURED_ROW * (n_rows - known.begin()->first));
    }
    auto above = known.upper_bound(n_rows);
    above = above == known.end() ? std::prev(above) : above == known.begin() ? std::next(above) : above;
    const auto below = std::prev(above);
    const double t0 = below->second.typical(), t1 = above->second.typical();
    const double slope = (t1 - t0) / (above->first - below->first);
    return std::max(t0 + slope * (n_rows - below->first), one);
}

int64_t cost_curve::age(int32_t n_rows) const {
    const auto known = samples.find(depth);
    if (known == samples.end() || known->second.count(n_rows) == 0) {
        return INT64_MAX;
    }
    return n_added - known->second.at(n_rows).last_added;
}

int32_t cost_curve::next_to_measure(int32_t after, int32_t n_max) {
    for (int32_t n : FIRST_ROWS) {
        const bool is_wide = n > FIRST_ROWS[1] && !here().empty();
        if (n > n_max || (is_wide && time(FIRST_ROWS[1]) > HOPELESS * FIRST_ROWS[1] * time(1))) {
            break;
        }
        const auto known = here().find(n);
        if (n > after && (known == here().end() || known->second.n < N_KEPT)) {
            return n;
        }
    }
    int32_t least_known = N_KEPT, next = 0;
    for (int32_t n : MORE_ROWS) {
        const auto known = here().find(n);
        const int32_t n_known = known == here().end() ? 0 : known->second.n;
        if (measuring_us < QUICK && n <= n_max && n_known < least_known) {
            least_known = n_known;
            next = n;
        }
    }
    return next;
}

std::vector<mp_cost> cost_curve::save() const {
    std::vector<mp_cost> saved;
    for (const auto & [depth_class, curve] : samples) {
        if (curve.count(1) == 0 || curve.at(1).is_borrowed) {
            continue;
        }
        for (const auto & [n_rows, times_of] : curve) {
            for (int32_t back = times_of.is_borrowed ? 0 : std::min(times_of.n, N_KEPT); back-- > 0;) {
                saved.push_back({depth_class, n_rows, times_of.newest(back)});
            }
        }
    }
    return saved;
}

bool cost_curve::load(const mp_cost * costs, size_t n) {
    std::map<int32_t, by_rows> loaded;
    for (size_t i = 0; i < n; i++) {
        const mp_cost & cost = costs[i];
        if (cost.depth < SHALLOWEST || cost.depth > DEEPEST || cost.n_rows < 1 || cost.n_rows > MOST_ROWS ||
            !(cost.us > 0 && cost.us < 1e9)) {
            return false;
        }
        loaded[cost.depth][cost.n_rows].add(cost.us);
    }
    for (const auto & [depth_class, curve] : loaded) {
        if (!curve.count(1)) {
            return false;
        }
    }
    samples = std::move(loaded);
    enter(depth);
    std::fill(times.begin(), times.end(), 0.0);
    return true;
}

} // namespace mp
