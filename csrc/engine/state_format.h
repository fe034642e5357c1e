// The bytes of a state file: a line that says what it is, a checksum, and sections with their lengths.
//
//     "maskprobe-state 5\n" | checksum of all that follows | bytes that follow | section, section, ...
//     section: kind | length | bytes           numbers are 64-bit, in the order of this machine
#pragma once

#include "platform/digest.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace mp {

constexpr size_t LARGEST_STATE = 64 << 20; // bytes; nothing that this program writes is as large
constexpr size_t N_COSTS_MAX = 16;         // settings whose costs are kept, the last used ones

struct state_contents {
    std::string model; // whose it is
    std::string known;
    std::string claims;
    std::vector<std::pair<std::string, std::string>> costs; // setting and the planner's bytes, the last used one last
};

std::string encode_state(const state_contents & contents);

// "", or why these bytes, which begin like a state, cannot be used.
std::string decode_state(const std::string & bytes, state_contents & contents);

// Whether it is a state of any version of this program, whole or not: what may be replaced or set aside.
bool begins_like_state(const std::string & bytes);

} // namespace mp
