// A worker of ggml's RPC, by its address, and whether it is one that can be worked with. ggml itself ends the process where
// it is not.
#pragma once

#include <string>

namespace mp {

struct rpc_endpoint {
    std::string text, host; // text: as ggml takes it, "192.168.1.2:50052"
    int port = 0;

    explicit rpc_endpoint(const std::string & text); // throws MP_ERR_ARGUMENT

    // Connects and asks for the version of the protocol. Throws MP_ERR_FILE where nothing or something else answers, or
    // not in time (a worker serves one program at a time), and MP_ERR_UNSUPPORTED for a version that ggml does not speak.
    void check() const;
};

} // namespace mp
