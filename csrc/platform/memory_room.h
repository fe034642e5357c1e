// What this process may still take: of the machine's memory, of its control group's, of its own limits.
#pragma once

#include <cstdint>
#include <string>

namespace mp {

constexpr uint64_t NO_LIMIT = UINT64_MAX; // also where the system does not say

// Bytes, each as far as its own limit goes.
struct memory_room {
    uint64_t resident = NO_LIMIT;  // of any memory, without swapping: what is free, or what a control group leaves
    uint64_t written = NO_LIMIT;   // of memory that no file has, RLIMIT_DATA (ulimit -d)
    uint64_t addresses = NO_LIMIT; // of everything, also of files that are mapped, RLIMIT_AS (ulimit -v)
    bool in_group = false;         // resident is what a control group leaves

    uint64_t least() const; // for memory that no file has: the smallest of them
};

memory_room find_memory_room();

// What something is about to take, as above.
struct memory_need {
    uint64_t resident, written, addresses;
};

std::string in_mib(uint64_t bytes); // "788 MiB"

// "788 MiB are needed, 512 MiB are left of the limit on addresses (ulimit -v)"; "" where it fits.
std::string shortage(const memory_need & need, const memory_room & room);

// What control groups leave of their limits, of the first version and of the second, as the files below `groups` (/sys/fs/
// cgroup) say for the process whose groups `own` (/proc/self/cgroup) lists. Cached files count as free.
uint64_t left_by_control_groups(const std::string & own, const std::string & groups);

} // namespace mp
