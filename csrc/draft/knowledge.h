// What is known of one model: shared by all texts that are generated with it, from any thread.
#pragma once

#include "draft/acceptance_model.h"
#include "draft/evidence_tables.h"

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>

namespace mp {

constexpr int32_t N_MASKS_EACH = 8; // that a draft puts after one node at most

class knowledge {
public:
    explicit knowledge(int32_t n_vocab) : n_vocab(n_vocab) {}

    const int32_t n_vocab;

    struct tables {
        static constexpr int32_t N_SUCCESSOR_SLOTS = 1 << 15;
        static constexpr int32_t N_EARLIER_SLOTS = 1 << 17; // of the last 30 thousand tokens or so
        static constexpr size_t SIZE = 3 * N_SUCCESSOR_SLOTS * sizeof(successors) + N_EARLIER_SLOTS * sizeof(continuations);

        tables();

        acceptance_model model;
        successor_table by_token, by_pair, by_triple;
        continuation_table by_earlier; // n-grams of all texts
    };

    // The tables for one thread, as long as this lives: briefly, and one at a time.
    class held {
    public:
        explicit held(knowledge & of) : lock(of.mutex), known(of.known) {}
        tables * operator->() const { return &known; }

    private:
        std::lock_guard<std::mutex> lock;
        tables & known;
    };

    // To be kept between runs. load() returns false for bytes that make no sense; then all is as new.
    std::string save() const;
    bool load(const char * bytes, size_t n);

private:
    mutable std::mutex mutex;
    tables known;
};

} // namespace mp
