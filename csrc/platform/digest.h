// A checksum, the same for the same bytes on every run.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mp {

// `seed` is the digest of what came before, for bytes in pieces.
uint64_t digest(const char * bytes, size_t n, uint64_t seed = 0);

} // namespace mp
