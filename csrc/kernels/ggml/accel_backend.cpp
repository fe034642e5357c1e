#include "kernels/ggml/accel_backend.h"

#include "kernels/gemm/kernel_choice.h"
#include "kernels/ggml/ggml_abi.h"

#include <atomic>
#include <cstring>
#include <memory>
#include <new>

namespace mp {

static thread_local accel_loading * loading = nullptr;
static thread_local accel_link * opening = nullptr;
static std::atomic<bool> serves_all{false};

// --- the backend: one per llama.cpp context --------------------------------------------------------------------------

namespace {

// Threads and counters of a context that is not a session's.
struct own_link {
    worker_pool workers;
    accel_link link{workers};

    explicit own_link(int32_t n_threads) : workers(n_threads) {}
};

struct backend_state {
    ggml_backend_device device; // its own: what it supports depends on the context
    accel_link * link;          // nullptr: this context does not use the backend
    std::unique_ptr<own_link> own;
    std::unique_ptr<accel_compute> compute;

    void use(accel_link * new_link) {
        link = new_link;
        compute = std::make_unique<accel_compute>(link->workers, link->costs, link->added);
    }
};

} // namespace

static const char * backend_name(ggml_backend_t) {
    return ACCEL_NAME;
}

static void backend_free(ggml_backend_t backend) {
    delete (backend_state *) backend->context;
    delete backend;
}

static ggml_status backend_compute(ggml_backend_t backend, ggml_cgraph * graph) {
    accel_compute & compute = *((backend_state *) backend->context)->compute;
    try {
        compute.begin();
        for (int i = 0; i < ggml_graph_n_nodes(graph); i++) {
            const ggml_tensor * op = ggml_graph_node(graph, i);
            if (op->flags & GGML_TENSOR_FLAG_COMPUTE) { // else of a branch that was not chosen, its inputs were not set
                compute.run(op);
            }
        }
    } catch (const std::bad_alloc &) {
        return GGML_STATUS_ALLOC_FAILED;
    }
    return GGML_STATUS_SUCCESS;
}

// llama.cpp's thread count before every graph. A session's is its own: ggml's may be another, see session.cpp.
static void backend_set_n_threads(ggml_backend_t backend, int n_threads) {
    backend_state & state = *(backend_state *) backend->context;
    if (!state.own) {
        return;
    }
    state.own->workers.limit(n_threads);
    if (state.own->workers.n_threads() < n_threads) {
        state.compute.reset();
        state.own = std::make_unique<own_link>(n_threads);
        state.use(&state.own->link);
    }
}

// --- the device ------------------------------------------------------------------------------------------------------
// Two kinds: the registered one owns the buffer type of the weights. Each backend has one of the second kind, whose
// default buffers are the CPU's, so that no activation is ever copied between the two.

static const char * device_name(ggml_backend_dev_t) {
    return ACCEL_NAME;
}

static const char * device_description(ggml_backend_dev_t) {
    return instruction_set_name(kernels_in_use());
}

static void device_memory(ggml_backend_dev_t, size_t * free, size_t * total) {
    *free = *total = 0; // it is the CPU's
}

static enum ggml_backend_dev_type device_type(ggml_backend_dev_t) {
    return GGML_BACKEND_DEVICE_TYPE_ACCEL;
}

static void device_props(ggml_backend_dev_t device, ggml_backend_dev_props * props) {
    *props = {};
    props->name = ACCEL_NAME;
    props->description = device_description(device);
    props->type = GGML_BACKEND_DEVICE_TYPE_ACCEL;
}

// The model loader's question where to put a tensor.
static bool takes_weights(ggml_backend_dev_t, const ggml_tensor * op) {
    const bool is_product = op->op == GGML_OP_MUL_MAT || op->op == GGML_OP_MUL_MAT_ID;
    return (loading || serves_all) && is_product && is_packed(op->src[0]) && can_multiply(op);
}

static bool computes(ggml_backend_dev_t device, const ggml_tensor * op) {
    accel_link * link = ((backend_state *) device->context)->link;
    if (!link) {
        return false;
    }
    bool mine;
    switch (op->op) {
    case GGML_OP_MUL_MAT:
    case GGML_OP_MUL_MAT_ID:
        mine = is_packed(op->src[0]) && can_multiply(op);
        break;
    case GGML_OP_FLASH_ATTN_EXT:
        mine = can_attend(op);
        break;
    case GGML_OP_SSM_SCAN:
    case GGML_OP_GATED_DELTA_NET:
    case GGML_OP_RWKV_WKV6:
    case GGML_OP_RWKV_WKV7:
        mine = false;
        break;
    default:
        return is_view(op) || can_run_rows(op); // cheap: where it stays with ggml, one thread does it
    }
    link->leaves_work = link->leaves_work || !mine;
    return mine;
}

static ggml_backend_buffer_type_t weights_buffer_type(ggml_backend_dev_t) {
    return packed_buffer_type();
}

static ggml_backend_buffer_type_t computing_buffer_type(ggml_backend_dev_t) {
    return ggml_backend_cpu_buffer_type();
}

static bool device_supports_buffer_type(ggml_backend_dev_t, ggml_backend_buffer_type_t type) {
    return type == packed_buffer_type() || ggml_backend_buft_is_host(type);
}

static ggml_backend_t device_init_backend(ggml_backend_dev_t registered, const char *) {
    static ggml_guid guid = {0x6d, 0x61, 0x73, 0x6b, 0x70, 0x72, 0x6f, 0x62, 0x65, 0x2d, 0x61, 0x63, 0x63, 0x65, 0x6c, 0x31};
    auto state = std::make_unique<backend_state>();
    state->device = *registered;
    state->device.iface.get_buffer_type = computing_buffer_type;
    state->device.iface.supports_op = computes;
    state->device.context = state.get();
    if (opening) {
        state->use(opening);
    } else if (serves_all) {
        state->own = std::make_unique<own_link>(1);
        state->use(&state->own->link);
    }
    auto * backend = new ggml_backend{};
    backend->guid = &guid;
    backend->iface.get_name = backend_name;
    backend->iface.free = backend_free;
    backend->iface.graph_compute = backend_compute;
    backend->device = &state->device;
    backend->context = state.release();
    return backend;
}

// --- the registry ----------------------------------------------------------------------------------------------------

static const char * registry_name(ggml_backend_reg_t) {
    return ACCEL_NAME;
}

static size_t registry_device_count(ggml_backend_reg_t) {
    return 1;
}

static ggml_backend_dev_t registry_device(ggml_backend_reg_t registry, size_t) {
    return (ggml_backend_dev_t) registry->context;
}

static void * registry_proc_address(ggml_backend_reg_t, const char * name) {
    return strcmp(name, "ggml_backend_set_n_threads") == 0 ? (void *) backend_set_n_threads : nullptr;
}

namespace {

struct backend_tables {
    ggml_backend_reg registry = {};
    ggml_backend_device device = {};

    backend_tables() {
        registry.api_version = GGML_BACKEND_ABI_VERSION;
        registry.iface = {registry_name, registry_device_count, registry_device, registry_proc_address};
        registry.context = &device;
        device.iface.get_name = device_name;
        device.iface.get_description = device_description;
        device.iface.get_memory = device_memory;
        device.iface.get_type = device_type;
        device.iface.get_props = device_props;
        device.iface.init_backend = device_init_backend;
        device.iface.get_buffer_type = weights_buffer_type;
        device.iface.supports_op = takes_weights;
        device.iface.supports_buft = device_supports_buffer_type;
        device.reg = &registry;
        set_up_packed_buffer_type(&device);
    }
};

} // namespace

static backend_tables & tables() {
    static backend_tables all;
    return all;
}

bool accel_register() {
    static const bool done = [] {
        ggml_backend_register(&tables().registry);
        return ggml_backend_reg_by_name(ACCEL_NAME) != nullptr; // ggml refuses another interface version
    }();
    return done;
}

ggml_backend_reg_t accel_registry_for_all() {
    serves_all = true;
    return &tables().registry;
}

accel_loading::accel_loading(bool wanted) : outer(loading) {
    loading = wanted ? this : nullptr;
}

accel_loading::~accel_loading() {
    loading = outer;
}

accel_loading * accel_loading::current() {
    return loading;
}

packing_means & accel_loading::means() {
    if (!means_) {
        means_ = std::make_unique<packing_means>();
    }
    return *means_;
}

accel_opening::accel_opening(accel_link * link) {
    opening = link;
}

accel_opening::~accel_opening() {
    opening = nullptr;
}

} // namespace mp
