// Stands in for the worth of claims in tests of the state alone: a number that is not negative.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>

namespace mp {

struct calibration {
    int64_t number = 0;

    std::string save() const { return std::string((const char *) &number, sizeof(number)); }

    bool load(const char * bytes, size_t n) {
        int64_t read = -1;
        if (n == sizeof(read)) {
            memcpy(&read, bytes, n);
        }
        number = read >= 0 ? read : number;
        return read >= 0;
    }
};

} // namespace mp
