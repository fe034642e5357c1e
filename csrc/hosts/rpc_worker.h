// This process as a host for the layers of others' models.
#pragma once

#include <cstdint>

namespace mp {

// Serves this machine's GPUs, or else its processor, at `endpoint` (an IPv4 address and a port), one program at a time.
// Returns only by throwing: MP_ERR_ARGUMENT, MP_ERR_UNSUPPORTED (no RPC backend), MP_ERR_FILE (it cannot listen there).
// cache: a folder that keeps large tensors, so that they are sent once; NULL: none.
[[noreturn]] void rpc_serve(const char * endpoint, int32_t n_threads, const char * cache);

} // namespace mp
