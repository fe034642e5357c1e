#include "hosts/rpc_backend.h"

#include "platform/runtime.h"
#include "status.h"

#include <unistd.h>

#include <cstdlib>
#include <mutex>
#include <string>

namespace mp {

static constexpr char NAME[] = "RPC";

// ggml looks for modules only as long as it has no backend at all: so here where its own variable says, and beside it.
static ggml_backend_reg_t find_backend() {
    static std::mutex mutex; // ggml's registry has none
    const std::lock_guard<std::mutex> lock(mutex);
    ggml_backend_reg_t found = ggml_backend_reg_by_name(NAME);
    const char * const named = getenv("GGML_BACKEND_PATH");
    for (const std::string & file : {std::string(named ? named : ""), ggml_folder() + "/libggml-rpc.so"}) {
        if (!found && access(file.c_str(), R_OK) == 0) {
            ggml_backend_load(file.c_str());
            found = ggml_backend_reg_by_name(NAME);
        }
    }
    return found;
}

void * find_rpc_function(const char * name) {
    runtime_init();
    clear_log_error();
    ggml_backend_reg_t backend = find_backend();
    if (!backend && !last_log_error().empty()) {
        fail(MP_ERR_UNSUPPORTED, "ggml's RPC backend cannot be loaded: %s", last_log_error().c_str());
    }
    if (!backend) {
        fail(MP_ERR_UNSUPPORTED,
             "%s was built without ggml's RPC backend: install it again with CMAKE_ARGS=\"-DGGML_RPC=on\", or name a module "
             "of it in GGML_BACKEND_PATH (docs/hosts.md)",
             MP_LLAMA_NAME);
    }
    void * const found = ggml_backend_reg_get_proc_address(backend, name);
    if (!found) {
        fail(MP_ERR_UNSUPPORTED, "the RPC backend of this ggml has no %s: it is of another version", name);
    }
    return found;
}

} // namespace mp
