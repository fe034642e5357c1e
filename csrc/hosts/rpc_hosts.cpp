#include "hosts/rpc_hosts.h"

#include "gguf/reader.h"
#include "hosts/rpc_backend.h"
#include "hosts/rpc_endpoint.h"
#include "platform/abort_guard.h"
#include "status.h"

#include "ggml-rpc.h"
#include "llama.h"

#include <algorithm>
#include <map>
#include <mutex>

namespace mp {

// How many models of this process are on a host. ggml has one connection to it for all of them, and the worker takes no
// second one: so it is not checked again.
static std::mutex in_use_mutex;
static std::map<std::string, int> & in_use() {
    static auto & hosts = *new std::map<std::string, int>;
    return hosts;
}

static std::vector<std::string> split(const std::string & list) {
    std::vector<std::string> parts;
    for (size_t start = 0, end; start <= list.size(); start = end + 1) {
        end = std::min(list.find(',', start), list.size());
        parts.push_back(list.substr(start, end - start));
    }
    return parts;
}

static ggml_backend_reg_t add_server(const std::string & endpoint, std::vector<rpc_link> & links) {
    const auto add = rpc_function<decltype(&ggml_backend_rpc_add_server)>("ggml_backend_rpc_add_server");
    const abort_guard guard; // it may be gone since it was checked
    try {
        ggml_backend_reg_t server = add(endpoint.c_str());
        if (server) {
            links.emplace_back(ggml_backend_dev_init(ggml_backend_reg_dev_get(server, 0), nullptr), ggml_backend_free);
            return server;
        }
    } catch (const failure &) {
        fail(MP_ERR_FILE, "the RPC worker at %s ended the connection", endpoint.c_str());
    }
    fail(MP_ERR_UNSUPPORTED, "the RPC worker at %s has no device", endpoint.c_str());
}

rpc_hosts::rpc_hosts(const char * list) : list(list) {
    find_rpc_function("ggml_backend_rpc_add_server"); // without it nobody need be asked
    std::vector<rpc_endpoint> endpoints;
    for (const std::string & part : split(list)) {
        endpoints.emplace_back(part);
        if (std::count_if(endpoints.begin(), endpoints.end(), [&](const auto & e) { return e.text == part; }) > 1) {
            fail(MP_ERR_ARGUMENT, "the RPC host %s comes twice", quoted(part).c_str());
        }
    }
    const std::lock_guard<std::mutex> lock(in_use_mutex);
    for (const rpc_endpoint & endpoint : endpoints) {
        if (in_use().count(endpoint.text) == 0) {
            endpoint.check();
        }
        ggml_backend_reg_t server = add_server(endpoint.text, links);
        for (size_t i = 0; i < ggml_backend_reg_dev_count(server); i++) {
            devices.push_back(ggml_backend_reg_dev_get(server, i));
        }
    }
    if (devices_of_model().size() > llama_max_devices()) {
        fail(MP_ERR_ARGUMENT, "%d devices of RPC hosts and of this one are more than llama.cpp's %d",
             (int) devices_of_model().size() - 1, (int) llama_max_devices() - 1);
    }
    for (const rpc_endpoint & endpoint : endpoints) {
        in_use()[endpoint.text]++;
        opened.push_back(endpoint.text);
    }
}

rpc_hosts::~rpc_hosts() {
    const std::lock_guard<std::mutex> lock(in_use_mutex);
    links.clear(); // before the host may be checked again
    for (const std::string & endpoint : opened) {
        if (--in_use()[endpoint] == 0) {
            in_use().erase(endpoint);
        }
    }
}

std::vector<ggml_backend_dev_t> rpc_hosts::devices_of_model() const {
    std::vector<ggml_backend_dev_t> all = devices;
    for (const auto type : {GGML_BACKEND_DEVICE_TYPE_GPU, GGML_BACKEND_DEVICE_TYPE_IGPU}) {
        for (size_t i = 0; i < ggml_backend_dev_count() && (type == GGML_BACKEND_DEVICE_TYPE_GPU || all == devices); i++) {
            if (ggml_backend_dev_type(ggml_backend_dev_get(i)) == type) {
                all.push_back(ggml_backend_dev_get(i));
            }
        }
    }
    all.push_back(nullptr);
    return all;
}

double rpc_hosts::free_memory() const {
    double sum = 0;
    for (ggml_backend_dev_t device : devices) {
        size_t free = 0, total = 0;
        ggml_backend_dev_memory(device, &free, &total);
        sum += (double) free;
    }
    return sum;
}

} // namespace mp
