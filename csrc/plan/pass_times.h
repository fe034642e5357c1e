// What a step with a pass of n rows takes, T(n), learned from the steps that are made anyway.
//
// Microseconds of the whole step, so that what drafting costs is in them. By depth: the number of tokens in the cache that a
// row looks at, in classes by powers of two. A step with another number of rows than the one before it builds a graph, which
// is not told apart: a number of rows that keeps alternating with others does cost that.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace mp {

class pass_times {
public:
    void observe(int32_t n_rows, int64_t depth, double us);

    // T(n_rows): learned, else between the known ones, else beyond them by the slope of the last two. Never less than that
    // of fewer rows. A depth never seen has the times of the nearest one. 0: nothing is known.
    double time(int32_t n_rows, int64_t depth) const;

    // T(n_rows) in hope: where it is unknown, or older than its pause, it may be no more than that of `fewer` rows, the
    // next smaller number, and no more than its share of the next larger one that is not old. Each time that this is tried
    // the pause until the next time grows.
    double hoped_time(int32_t n_rows, int32_t fewer, int64_t depth) const;

    // The largest number of rows whose time is known at this depth, 0 if there is none.
    int32_t widest(int64_t depth) const;

    std::string save() const;
    bool load(const char * bytes, size_t n); // false, and nothing changes, for what makes no sense

private:
    struct point {
        double us = 0;       // running mean
        double lent = 0;     // the nearest depth's when this one was first seen, 0: not known there
        double believed = 0; // no more than that of more rows
        int32_t n = 0;       // samples, up to as many as count
        int32_t pause = 0;   // steps after the last one until it is tried in hope
        int64_t last = 0;    // step of the last sample
    };
    struct depth_class {
        std::map<int32_t, point> points; // by number of rows
        double scale = 1;                // of what was lent, by this depth's own samples
        int32_t n_scale = 0;             // of which so many counted
        std::vector<double> curve;       // T(n), index n
    };

    static int32_t class_of(int64_t depth);
    const depth_class * find(int64_t depth) const; // or the nearest; nullptr: there is none
    depth_class & enter(int64_t depth);
    static void update(depth_class & here);

    std::map<int32_t, depth_class> classes;
    int64_t n_steps = 0;
};

} // namespace mp
