// Which layers of a loaded model lie on which host.
#pragma once

#include "llama.h"

#include <string>

namespace mp {

// "layers 0-14 at 192.168.1.2:50052, 15-29 and the output at 192.168.1.3:50052". "" where llama.cpp does not tell.
std::string describe_placement(const llama_model * weights);

} // namespace mp
