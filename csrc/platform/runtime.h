// What is shared by the whole process: llama.cpp's backends and devices, its log, its version.
#pragma once

#include "maskprobe.h"

#include <cstdint>
#include <string>

namespace mp {

// Starts llama.cpp's backends and takes over its log. Throws MP_ERR_STATE if the loaded ggml is not the one that
// this library was compiled against. Cheap after the first call.
void runtime_init();

// llama.cpp's last error line on this thread since the last clear, "" if there was none: the reason for a bare NULL.
std::string last_log_error();
void clear_log_error();

// Whether llama.cpp's log goes to standard error.
void set_verbose(bool value);

// The devices of all backends. Starts them.
int32_t device_count();
void describe_device(int32_t i, mp_device & out); // i < device_count()

// Whether weights may be repacked for the processor. False where the loaded ggml has AMX kernels built by a compiler
// whose ldtilecfg loses part of the tile configuration: they crash, and without repacking they are never reached.
bool repacking_is_safe();

bool has_gpu();

// The folder of the ggml that is loaded, "." where the system does not tell.
std::string ggml_folder();

} // namespace mp
