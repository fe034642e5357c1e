// The hosts that a model's layers lie on, as devices of ggml.
#pragma once

#include "ggml-backend.h"

#include <memory>
#include <string>
#include <vector>

namespace mp {

using rpc_link = std::unique_ptr<ggml_backend, decltype(&ggml_backend_free)>;

class rpc_hosts {
public:
    // `list` is "host:port,host:port". Each is checked before ggml sees it. Throws MP_ERR_ARGUMENT, MP_ERR_FILE,
    // MP_ERR_UNSUPPORTED.
    explicit rpc_hosts(const char * list);
    ~rpc_hosts();
    rpc_hosts(const rpc_hosts &) = delete;
    rpc_hosts & operator=(const rpc_hosts &) = delete;

    const std::string & names() const { return list; }

    // Theirs in their order and, as llama.cpp has it, the GPUs of this machine after them; ends with a nullptr.
    std::vector<ggml_backend_dev_t> devices_of_model() const;

    // Bytes that are free on all of them together. Asks each over the network.
    double free_memory() const;

private:
    std::string list;
    std::vector<std::string> opened;
    std::vector<ggml_backend_dev_t> devices;
    // One to each host: ggml's connection ends with the last thing that uses it.
    std::vector<rpc_link> links;
};

} // namespace mp
