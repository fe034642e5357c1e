#include "hosts/rpc_worker.h"

#include "hosts/rpc_backend.h"
#include "hosts/rpc_endpoint.h"
#include "platform/fork_check.h"
#include "platform/thread_count.h"
#include "status.h"

#include "ggml-rpc.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

namespace mp {

// ggml says no more than that it could not.
static void check_can_listen(const rpc_endpoint & at) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t) at.port);
    if (inet_pton(AF_INET, at.host.c_str(), &address.sin_addr) != 1) {
        fail(MP_ERR_ARGUMENT, "a worker listens at an IPv4 address, as 127.0.0.1, or 0.0.0.0 for all, not at '%s'",
             at.host.c_str());
    }
    const int fd = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    const int error = fd < 0 || bind(fd, (const sockaddr *) &address, sizeof(address)) < 0 ? errno : 0;
    if (fd >= 0) {
        close(fd);
    }
    if (error != 0) {
        fail(MP_ERR_FILE, "a worker cannot listen at %s: %s", at.text.c_str(), strerror(error));
    }
}

static std::vector<ggml_backend_dev_t> devices_to_serve() {
    std::vector<ggml_backend_dev_t> found;
    for (const auto type : {GGML_BACKEND_DEVICE_TYPE_GPU, GGML_BACKEND_DEVICE_TYPE_IGPU, GGML_BACKEND_DEVICE_TYPE_CPU}) {
        for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
            if (ggml_backend_dev_type(ggml_backend_dev_get(i)) == type) {
                found.push_back(ggml_backend_dev_get(i));
            }
        }
        if (!found.empty()) {
            break;
        }
    }
    return found;
}

void rpc_serve(const char * endpoint, int32_t n_threads, const char * cache) {
    const auto serve = rpc_function<decltype(&ggml_backend_rpc_start_server)>("ggml_backend_rpc_start_server");
    const rpc_endpoint at(endpoint);
    check_can_listen(at);
    refuse_children();
    std::vector<ggml_backend_dev_t> devices = devices_to_serve();
    serve(endpoint, cache, n_threads > 0 ? n_threads : default_thread_count(), devices.size(), devices.data());
    fail(MP_ERR_FILE, "the worker at %s takes no more connections", endpoint);
}

} // namespace mp
