// What a pass of n rows costs here, T(n): measured once, then kept up to date by the passes themselves.
//
// Microseconds, at every depth of the context seen so far (by powers of two). Lower quarters of the last samples, as what
// disturbs a machine only adds; between measured n a straight line, beyond the last the line of the last two.
#pragma once

#include "maskprobe.h"

#include <cstdint>
#include <map>
#include <vector>

namespace mp {

class cost_curve {
public:
    cost_curve();

    bool measured() const; // something has been, at any depth

    // Sets the number of tokens in the cache. A depth never seen borrows the times of the nearest one: the first sample of
    // its own scales all of them, and each number of rows has its own as soon as there is one.
    void at_depth(int64_t n_past);

    // One more sample. A pass of another number of rows than the one before it needs a new graph: it counts for change().
    void add(int32_t n_rows, double us);

    // A sample of a first measurement: a pass whose graph was there already.
    void add_measured(int32_t n_rows, double us);

    // T(n_rows). Something must have been measured.
    double time(int32_t n_rows);

    // Samples taken since one of n_rows was, at this depth; endless if none was.
    int64_t age(int32_t n_rows) const;

    // What another number of rows than last_n() adds, once.
    double change() const { return change_us; }
    int32_t last_n() const { return n_last; } // rows of the last pass

    // The next number of rows to measure at first, 0 for none: a few beyond `after`, up to n_max, no hopeless ones; then,
    // while that is quick, more of them, and repeatedly.
    int32_t next_to_measure(int32_t after, int32_t n_max);

    // The newest samples of every depth and number of rows.
    std::vector<mp_cost> save() const;
    bool load(const mp_cost * costs, size_t n); // false, and nothing changes, for what makes no sense

private:
    static constexpr int32_t N_SAMPLES = 9;

    struct ring {
        double us[N_SAMPLES] = {};
        int32_t n = 0, oldest = 0;
        int64_t last_added = 0;
        bool is_borrowed = false; // one sample, of another depth

        void add(double value);
        double newest(int32_t back) const; // back = 0 is the last one added
        double typical() const;            // the lower quarter
    };
    using by_rows = std::map<int32_t, ring>;

    void add_steady(int32_t n_rows, double us);
    void give_back(int32_t n_rows, double us);
    void enter(int32_t depth_class);
    double estimate(int32_t n_rows) const;
    by_rows & here() { return samples[depth]; }

    std::map<int32_t, by_rows> samples; // by class of depth
    int32_t depth;
    std::vector<double> times; // [n] of this depth, 0 if not asked for yet; a few passes old
    int64_t n_added = 0;
    ring changes;
    double change_us = 0;
    double measuring_us = 0; // of first measurements
    int32_t n_last = 0;
};

} // namespace mp
