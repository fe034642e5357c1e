// What the machine itself can do: the ceilings that the time of a pass is held against.
#pragma once

#include "maskprobe.h"

namespace mp {

// With 0 threads: as many as passes use by default.
mp_machine_speed measure_machine(int32_t n_threads);

} // namespace mp
