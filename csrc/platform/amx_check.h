// Whether a ggml with AMX kernels was built by a compiler that gets them right.
//
// GCC before 11.5, 12.4, 13.3 and 14.1 tells itself that _tile_loadconfig reads 8 of the 64 bytes of the tile
// configuration (GCC PR target/114098). The stores of the rest are dropped, and the first AMX product kills the process.
#pragma once

#include <string>

namespace mp {

// The compiler's own line in the shared library that holds `address`, "" if it left none (not ELF, stripped).
std::string compiler_of_library_at(const void * address);

// comment: for instance "GCC: (Debian 12.2.0-14) 12.2.0". Anything but an affected GCC is safe.
bool amx_compiler_is_safe(const std::string & comment);

} // namespace mp
