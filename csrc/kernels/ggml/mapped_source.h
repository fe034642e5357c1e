// Where weights are read from while they are packed. A mapped file need not stay in memory: its pages are given back as
// they have been read, and come from the file again if somebody touches them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mp {

// One load's. The mapping that was found last is remembered: the file stays mapped until the load is over.
class mapped_source {
public:
    // Whether all of it is mapped from a file and nobody can write there: it may also be a buffer that was read into.
    bool holds(const void * data, size_t size);

    // Gives the pages of [begin, end) back, with the one that begin lies in and without the one that end lies in: who
    // releases a range in parts releases all of it but the last page. Only where holds() said so.
    static void release(const void * begin, const void * end);

private:
    uintptr_t mapping_begin = 0;
    uintptr_t mapping_end = 0;
    bool is_read = false; // no mapping was found: llama.cpp reads the file
};

} // namespace mp
