#include "plan/pass_times.h"

#include "maskprobe.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

namespace mp {

constexpr int32_t SHALLOWEST = 9;   // bits: up to 512 tokens count as one depth
constexpr int32_t DEEPEST = 40;     // that is kept
constexpr double MOST = 1.5;        // times the mean: all that a step counts for, as disturbances only add
constexpr int32_t N_MEAN = 16;      // samples that a mean goes over
constexpr int32_t N_OLD = 4;        // samples that an old mean counts for
constexpr double PRIOR_SLOPE = 0.2; // of T(1) for each further row, where one number of rows is known
constexpr int32_t FIRST_PAUSE = 4;  // steps
constexpr int32_t LAST_PAUSE = 512;
constexpr double LEAST_GAIN = 0.05; // that a trial must promise
constexpr double LONGEST_US = 1e9;  // of a time that is kept

int32_t pass_times::class_of(int64_t depth) {
    int32_t bits = SHALLOWEST;
    while (bits < DEEPEST && depth >> bits) {
        bits++;
    }
    return bits;
}

const pass_times::depth_class * pass_times::find(int64_t depth) const {
    const int32_t wanted = class_of(depth);
    const depth_class * nearest = nullptr;
    int32_t least = DEEPEST;
    for (const auto & [at, known] : classes) {
        if (std::abs(at - wanted) < least) {
            least = std::abs(at - wanted);
            nearest = &known;
        }
    }
    return nearest;
}

pass_times::depth_class & pass_times::enter(int64_t depth) {
    const depth_class * nearest = find(depth);
    const auto [at, is_new] = classes.try_emplace(class_of(depth));
    if (is_new && nearest) {
        for (const auto & [n_rows, p] : nearest->points) {
            point & mine = at->second.points[n_rows] = p;
            mine.lent = nearest->curve[n_rows];
            mine.n = 0;
        }
    }
    return at->second;
}

void pass_times::observe(int32_t n_rows, int64_t depth, double us) {
    if (!(us > 0) || n_rows < 1 || n_rows > MP_N_ROWS_LIMIT) {
        return;
    }
    depth_class & here = enter(depth);
    point & p = here.points[n_rows];
    if (p.lent > 0) {
        const double ratio = std::min(us / p.lent, MOST * here.scale);
        here.n_scale = std::min(here.n_scale + 1, N_MEAN);
        here.scale += (ratio - here.scale) / here.n_scale;
    }
    const bool is_old = n_steps - p.last > p.pause;
    if (is_old) {
        p.n = std::min(p.n, N_OLD);
    }
    if (p.n == 0) {
        p.us = p.lent > 0 ? std::min(us, MOST * p.lent * here.scale) : us;
    } else if (p.n == 1) {
        p.us = std::min(p.us, us); // the first one may have built a graph
    } else {
        p.us += (std::min(us, MOST * p.us) - p.us) / std::min(p.n, N_MEAN);
    }
    if (p.pause == 0 || is_old) {
        p.pause = std::clamp(2 * p.pause, FIRST_PAUSE, LAST_PAUSE);
    }
    p.n = std::min(p.n + 1, N_MEAN);
    p.last = n_steps++;
    update(here);
}

// Of two numbers that contradict each other the lower time is right, as what disturbs a machine only adds.
void pass_times::update(depth_class & here) {
    double least = INFINITY;
    for (auto p = here.points.rbegin(); p != here.points.rend(); ++p) {
        least = std::min(least, p->second.n > 0 ? p->second.us : p->second.lent * here.scale);
        p->second.believed = least;
    }
    here.curve.assign(MP_N_ROWS_LIMIT + 1, 0.0);
    const auto prior = [](int32_t n) { return 1 + PRIOR_SLOPE * (n - 1); };
    int32_t n0 = 0, n1 = 0; // the last two known
    double t0 = 0, t1 = 0;
    for (const auto & [n_rows, p] : here.points) {
        n0 = n1, t0 = t1;
        n1 = n_rows, t1 = p.believed;
        for (int32_t n = n0 + 1; n <= n1; n++) {
            here.curve[n] = n0 > 0 ? t0 + (t1 - t0) * (n - n0) / (n1 - n0) : t1 * prior(n) / prior(n1);
        }
    }
    for (int32_t n = n1 + 1; n <= MP_N_ROWS_LIMIT; n++) {
        here.curve[n] = n0 > 0 ? t1 + (t1 - t0) * (n - n1) / (n1 - n0) : t1 * prior(n) / prior(n1);
    }
}

double pass_times::time(int32_t n_rows, int64_t depth) const {
    const depth_class * here = find(depth);
    return here && n_rows > 0 ? here->curve[std::min<int32_t>(n_rows, MP_N_ROWS_LIMIT)] : 0;
}

double pass_times::hoped_time(int32_t n_rows, int32_t fewer, int64_t depth) const {
    const depth_class * here = find(depth);
    if (!here) {
        return 0;
    }
    const double expected = time(n_rows, depth);
    const auto is_new = [&](const auto & entry) { return n_steps - entry.second.last <= entry.second.pause; };
    const auto at = here->points.find(n_rows), less = here->points.find(fewer), end = here->points.end();
    if (at != end && is_new(*at)) {
        return expected;
    }
    const auto more = std::find_if(here->points.upper_bound(n_rows), end, is_new);
    double least = less != end && (more == end || is_new(*less)) ? less->second.believed : 0;
    if (more != end) {
        least = std::max(least, more->second.believed * n_rows / more->first);
    }
    return least > 0 ? std::min(expected, least * (1 + LEAST_GAIN)) : expected;
}

int32_t pass_times::widest(int64_t depth) const {
    const depth_class * here = find(depth);
    return here ? here->points.rbegin()->first : 0;
}

namespace {

struct kept_time {
    int32_t depth, n_rows;
    double us;
};

} // namespace

std::string pass_times::save() const {
    std::string bytes;
    for (const auto & [depth, here] : classes) {
        for (const auto & [n_rows, p] : here.points) {
            const kept_time kept = {depth, n_rows, here.curve[n_rows]};
            bytes.append((const char *) &kept, sizeof kept);
        }
    }
    return bytes;
}

bool pass_times::load(const char * bytes, size_t n) {
    if (n % sizeof(kept_time) != 0) {
        return false;
    }
    std::map<int32_t, depth_class> loaded;
    for (size_t at = 0; at < n; at += sizeof(kept_time)) {
        kept_time kept;
        std::memcpy(&kept, bytes + at, sizeof kept);
        if (kept.depth < SHALLOWEST || kept.depth > DEEPEST || kept.n_rows < 1 || kept.n_rows > MP_N_ROWS_LIMIT ||
            !(kept.us > 0 && kept.us < LONGEST_US) || loaded[kept.depth].points.count(kept.n_rows)) {
            return false;
        }
        point & p = loaded[kept.depth].points[kept.n_rows];
        p.us = kept.us;
        p.n = 2; // it counts for little where the machine has changed
        p.pause = FIRST_PAUSE;
    }
    for (auto & [depth, here] : loaded) {
        update(here);
    }
    classes = std::move(loaded);
    n_steps = 0;
    return true;
}

} // namespace mp
