// Simulated tokens per second of the planner in all scenarios, one line each: kind, name, seed, tokens per second. With an
// argument, those of the best fixed number of rows.
#include "plan_simulator.h"

#include <cstdio>

int main(int argc, char **) {
    for (const scenario & s : scenarios()) {
        for (uint64_t seed = 1; seed <= 8; seed++) {
            const double rate = argc > 1 ? s.best_fixed_rate(seed) : s.rate(seed);
            printf("%s\t%s\t%d\t%.6f\n", s.kind.c_str(), s.name.c_str(), (int) seed, 1e6 * rate);
        }
    }
}
