// What is learned about a model: candidates that are likely, what claims are worth, what passes cost. All engines of a
// process that name the same model and file share it. The file is written now and then, and when the last of them lets go.
//
// It holds n-grams of prompts and answers and tokens that the model found likely: who has it can put texts together again.
// Only its owner can read the file.
#pragma once

#include "draft/knowledge.h"
#include "engine/state_format.h"
#include "engine/state_place.h"
#include "plan/calibration.h"
#include "plan/planner.h"

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace mp {

class state {
public:
    explicit state(int32_t n_vocab); // without a file: nothing is read or kept

    // With a file at `place`, an absolute path without links; `name` is what messages call it. Throws ARGUMENT where
    // something lies there that is no state. With `own_place`, which no user chose, a plain file is set aside instead, and
    // anything else, or what a link leads to, is left with a note.
    state(int32_t n_vocab, std::string identity, std::string place, std::string name, bool own_place);

    state(const state &) = delete;
    state & operator=(const state &) = delete;

    const std::shared_ptr<knowledge> known; // has a lock of its own

    std::mutex mutex;   // of `claims`
    calibration claims; // what claimed probabilities are worth

    // Gives a planner what an earlier one measured in this setting (machine, threads, kernels, ...), if one did.
    void restore(const std::string & setting, planner & to);

    // Takes over what a planner measured, and writes the file if anything was learned; not oftener than every few seconds,
    // unless `now`. The N_COSTS_MAX settings stay that were kept last. What goes wrong is noted, once; it never throws.
    // A forked child writes nothing. The caller must not hold `mutex`.
    void keep(const std::string & setting, const planner & from, bool now) noexcept;

    // One line about the file, "" where there is nothing to say. From any thread.
    std::string note() const;

private:
    friend std::shared_ptr<state> open_state(const mp_model & model, const char * path);

    void read(bool own_place);
    std::string load(const state_contents & contents); // "" or why it cannot be used: then all is as new
    void put_aside(const std::string & reason);
    std::string encoded();
    void write(bool now);
    void close() noexcept;
    void say(const std::string & line);

    const std::string identity, place, name;
    const pid_t owner; // the process: a forked child has a copy
    bool can_write = false;

    std::mutex costs_mutex;
    std::vector<std::pair<std::string, std::string>> costs; // setting and a planner's bytes, the last kept one last

    std::mutex writing;                               // of the next three
    uint64_t digest_of_kept = 0;                      // of what the file has, or what there was to keep before there was one
    std::chrono::steady_clock::time_point next_write; // not before
    bool told_failure = false;

    mutable std::mutex note_mutex;
    std::string noted;
};

// The state of a model. `path`: a file; "" for the model's place in the user's cache directory; NULL for none, which is not
// shared. It is the same object for the same model and file until the last owner lets go: then it is written.
// Throws ARGUMENT where something lies at the path that is no state; that is left as it is.
std::shared_ptr<state> open_state(const mp_model & model, const char * path);

} // namespace mp
