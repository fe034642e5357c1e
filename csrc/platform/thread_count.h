// How many threads suit this processor.
#pragma once

#include <cstdint>

namespace mp {

// Threads that suit compute-bound work: one per physical core this process may use.
int32_t default_thread_count();

} // namespace mp
