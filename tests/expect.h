// Conditions that a test program checks: those that do not hold are told and counted.
#pragma once

#include "maskprobe.h"

#include <atomic>
#include <cstdio>

static std::atomic<int> n_failed{0};

#define EXPECT(condition)                                                                                                   \
    do {                                                                                                                    \
        if (!(condition)) {                                                                                                 \
            fprintf(stderr, "line %d: %s (last error: %s)\n", __LINE__, #condition, mp_last_error());                       \
            n_failed++;                                                                                                     \
        }                                                                                                                   \
    } while (0)
