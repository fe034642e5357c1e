// How many rows the next pass has, and for which generations.
//
// The candidates of all generations compete: with the n most probable rows a pass is expected to emit E(n) tokens, one for
// each generation and the calibrated probabilities of its candidates, and the step takes T(n). With r the tokens per
// microsecond of the last passes, the pass has the n where E(n) - r T(n) is highest: more rows where candidates are good and
// fewer where they are not than by E(n) / T(n) (bench/results/planner.md). One row for each generation is always possible.
// llama.cpp uses its graph again for an equal number of rows only, so n is one of few, but where candidates or limits end.
//
// One thread at a time; a calibration that engines share is locked by its owner.
#pragma once

#include "plan/calibration.h"
#include "plan/pass_times.h"

#include <cstdint>
#include <vector>

namespace mp {

// Candidates of one generation, the most probable first.
class candidates {
public:
    virtual ~candidates() = default;
    virtual float next() = 0; // claimed probability of the next one, 0: there is none
    virtual void take() = 0;  // it becomes the draft's next node
};

struct share {
    candidates * from;          // nullptr: none beside the rows that it has in any case, n_most of them
    const calibration * claims; // what they are worth
    int32_t n_most;             // rows that this generation may have, >= 1
    int32_t n_rows;             // result: the root and the first candidates taken
    int32_t n_certain = 0;      // of the candidates, the first: what they claim needs no calibration
};

class planner {
public:
    // Where a number of rows costs much when it comes for the first time: passes have only few numbers of them.
    void keep_to_few_shapes() { few_shapes = true; }

    // The rows of a pass, at most n_rows_max but one for each share. Candidates are taken while they may pay: those taken
    // beyond the result are not to be decoded. The first one is always taken: its outcome is known without a row.
    void choose(share * shares, int32_t n_shares, int64_t depth, int32_t n_rows_max);

    // The step with that pass took so long, all in all.
    void observe(int32_t n_rows, int64_t depth, double step_us);

    double time(int32_t n_rows, int64_t depth) const { return times.time(n_rows, depth); }
    // What a token took in the last passes, 0: not known.
    double us_per_token() const { return plain_rate > 0 ? plain / (plain_rate * emitted) : 0; }

    std::string save() const { return times.save(); }
    bool load(const char * bytes, size_t n) { return times.load(bytes, n); }

private:
    struct offer {          // of one share
        double probability; // calibrated, of the next candidate that is not in the pass; 0: there is none
        double most;        // of any later one
        int32_t n_rows, n_taken;
    };

    void ask(const share & from, offer & to);
    double add_best(const share * shares);

    double with_change(int32_t n_rows, double step_us) const; // and with the graph of another number of rows
    void list_shapes(int32_t n_given, int64_t n_most, int64_t depth);

    pass_times times;
    bool few_shapes = false;
    int32_t n_last = 0;            // rows of the last pass
    double emitted = 4, plain = 4; // tokens expected of the last passes, and of plain ones in their time, fading
    double expected = 0;           // of the pass chosen last, 0: observed already
    double plain_rate = 0;         // tokens per microsecond of plain passes like that one
    std::vector<offer> offers;     // of the shares
    std::vector<int32_t> shapes;   // numbers of rows that this pass may have,
    std::vector<double> us;        // and what they take, in hope
};

} // namespace mp
