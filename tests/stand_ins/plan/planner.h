// Stands in for the times of passes in tests of the state alone: a text that does not begin with "bad".
#pragma once

#include <string>

namespace mp {

struct planner {
    std::string text;

    std::string save() const { return text; }

    bool load(const char * bytes, size_t n) {
        const std::string read(bytes, n);
        const bool sound = read.rfind("bad", 0) != 0;
        text = sound ? read : text;
        return sound;
    }
};

} // namespace mp
