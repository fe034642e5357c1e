// What tells a model from others.
#pragma once

#include "model/model.h"

#include <string>

namespace mp {

// Its own figures, and its adapters by their contents and scales.
std::string model_identity(const mp_model & model);

} // namespace mp
