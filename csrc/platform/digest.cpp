#include "platform/digest.h"

#include <cstring>

namespace mp {

// Each step is a bijection of `value`: no change of a single word is lost.
uint64_t digest(const char * bytes, size_t n, uint64_t seed) {
    uint64_t value = seed ^ 0xcbf29ce484222325u;
    const auto mix = [&](uint64_t word) {
        value = (value ^ word) * 0x9e3779b97f4a7c15u;
        value ^= value >> 32;
    };
    for (; n >= 8; bytes += 8, n -= 8) {
        uint64_t word;
        memcpy(&word, bytes, 8);
        mix(word);
    }
    uint64_t rest = n; // so that zeros at the end count
    for (size_t i = 0; i < n; i++) {
        rest = rest << 8 | (unsigned char) bytes[i];
    }
    mix(rest);
    return value;
}

} // namespace mp
