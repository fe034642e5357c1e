#include "accel_backend.h"

#include "../runtime.h"
#include "../worker_pool.h"
#include "attention.h"
#include "ggml_abi.h"

#include "ggml-cpu.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

namespace mp {

static constexpr const char * NAME = "MaskProbe";
static constexpr size_t ALIGNMENT = 64;
static constexpr int64_t N_ATTENTION_ROWS = 64; // more rows are ggml's: its tiles are made for them

static std::atomic<int> n_loading{0};

static instruction_set kernels_in_use() {
    static const instruction_set set = best_instruction_set();
    return set;
}

// --- which tensors and operations ------------------------------------------------------------------------------------

static const gemm_kernel * kernel_of(const ggml_tensor * weights) {
    const gemm_kernel * kernel = find_gemm_kernel(weights->type, kernels_in_use());
    const bool fits = kernel && weights->ne[2] == 1 && weights->ne[3] == 1 && weights->ne[1] % kernel->group == 0 &&
                      weights->ne[0] % kernel->block == 0;
    return fits ? kernel : nullptr;
}

static bool is_in_host_memory(const ggml_tensor * tensor) {
    return !tensor->buffer || ggml_backend_buffer_is_host(tensor->buffer);
}

static bool is_our_buffer(const ggml_tensor * tensor);

static bool can_multiply(const ggml_tensor * op) {
    const ggml_tensor * weights = op->src[0];
    const ggml_tensor * x = op->src[1];
    if (!is_our_buffer(weights) || !kernel_of(weights)) {
        return false;
    }
    // A buffer of no size is the model loader's question where to put a tensor.
    if (weights->buffer->size == 0 && n_loading.load() == 0) {
        return false;
    }
    return x->type == GGML_TYPE_F32 && x->nb[0] == sizeof(float) && x->ne[2] == 1 && x->ne[3] == 1 && is_in_host_memory(x) &&
           op->type == GGML_TYPE_F32;
}

static attention_job job_of(const ggml_tensor * op) {
    const ggml_tensor * q = op->src[0];
    const ggml_tensor * k = op->src[1];
    const ggml_tensor * v = op->src[2];
    const ggml_tensor * mask = op->src[3];
    const float * params = (const float *) op->op_params; // scale, max_bias, logit_softcap
    attention_job job = {};
    job.n = (int32_t) q->ne[1];
    job.n_head = (int32_t) q->ne[2];
    job.n_head_kv = (int32_t) k->ne[2];
    job.head_size = (int32_t) q->ne[0];
    job.n_kv = k->ne[1];
    job.scale = params[0];
    job.soft_cap = params[2];
    job.q = (const float *) q->data;
    job.q_row = q->nb[1];
    job.q_head = q->nb[2];
    job.k = k->data;
    job.k_cell = k->nb[1];
    job.k_head = k->nb[2];
    job.k_type = k->type;
    job.v = v->data;
    job.v_cell = v->nb[1];
    job.v_head = v->nb[2];
    job.v_type = v->type;
    job.mask = mask ? mask->data : nullptr;
    job.mask_row = mask ? mask->nb[1] : 0;
    job.out = (float *) op->data;
    return job;
}

static bool can_attend(const ggml_tensor * op) {
    const ggml_tensor * q = op->src[0];
    const ggml_tensor * k = op->src[1];
    const ggml_tensor * v = op->src[2];
    const ggml_tensor * mask = op->src[3];
    const float max_bias = ((const float *) op->op_params)[1];
    const bool plain = max_bias == 0 && !op->src[4] && q->ne[3] == 1 && k->ne[3] == 1 && v->ne[0] == q->ne[0] &&
                       q->type == GGML_TYPE_F32 && q->nb[0] == sizeof(float) &&
                       (!mask || (mask->type == GGML_TYPE_F16 && mask->ne[2] == 1 && mask->ne[3] == 1));
    return plain && q->ne[1] <= N_ATTENTION_ROWS && is_in_host_memory(k) && is_in_host_memory(v) &&
           attention_supports(job_of(op), kernels_in_use());
}

// --- the buffer: packed weights --------------------------------------------------------------------------------------

static worker_pool & packing_threads() {
    static worker_pool pool(default_thread_count());
    return pool;
}

static const char * buffer_type_name(ggml_backend_buffer_type_t) {
    return NAME;
}

static size_t buffer_type_alignment(ggml_backend_buffer_type_t) {
    return ALIGNMENT;
}

static size_t buffer_type_alloc_size(ggml_backend_buffer_type_t, const ggml_tensor * tensor) {
    const gemm_kernel * kernel = kernel_of(tensor);
    return kernel ? kernel->packed_size(tensor->ne[1], tensor->ne[0]) : ggml_nbytes(tensor);
}

static bool buffer_type_is_host(ggml_backend_buffer_type_t) {
    return false; // the layout is ours: nobody else may read it
}

static void buffer_free(ggml_backend_buffer_t buffer) {
    std::free(buffer->context);
}

static void * buffer_base(ggml_backend_buffer_t buffer) {
    return buffer->context;
}

static void buffer_memset(ggml_backend_buffer_t, ggml_tensor * tensor, uint8_t value, size_t offset, size_t size) {
    memset((char *) tensor->data + offset, value, size);
}

struct packing {
    const gemm_kernel * kernel;
    const void * weights;
    void * packed;
    int64_t k;
    int64_t n_groups;
    int32_t n_parts;
};

static void buffer_set_tensor(ggml_backend_buffer_t, ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    const gemm_kernel * kernel = kernel_of(tensor);
    GGML_ASSERT(kernel && offset == 0 && size == ggml_nbytes(tensor) && "weights are packed whole");
    packing job = {kernel, data, tensor->data, tensor->ne[0], tensor->ne[1] / kernel->group, 64};
    packing_threads().run(
        job.n_parts,
        [](void * context, int32_t part) {
            const packing & p = *(const packing *) context;
            p.kernel->pack(p.weights, p.packed, p.k, p.n_groups * part / p.n_parts, p.n_groups * (part + 1) / p.n_parts);
        },
        &job);
}

static void buffer_clear(ggml_backend_buffer_t buffer, uint8_t value) {
    memset(buffer->context, value, buffer->size);
}

static ggml_backend_buffer_t buffer_type_alloc(ggml_backend_buffer_type_t type, size_t size) {
    const size_t padded = (size + ALIGNMENT) / ALIGNMENT * ALIGNMENT;
    void * memory = std::aligned_alloc(ALIGNMENT, padded);
    if (!memory) {
        return nullptr;
    }
    ggml_backend_buffer_i iface = {};
    iface.free_buffer = buffer_free;
    iface.get_base = buffer_base;
    iface.memset_tensor = buffer_memset;
    iface.set_tensor = buffer_set_tensor;
    iface.clear = buffer_clear;
    return ggml_backend_buffer_init(type, iface, memory, size);
}

// --- the backend: one per llama.cpp context --------------------------------------------------------------------------

struct compute_context {
    std::unique_ptr<worker_pool> workers = std::make_unique<worker_pool>(1);
    int32_t n_threads = 1;
    std::vector<char> memory; // quantised activations, or the threads' scratch for attention

    void * reserve(size_t size) {
        if (memory.size() < size + ALIGNMENT) {
            memory.resize(size + ALIGNMENT);
        }
        const uintptr_t address = (uintptr_t) memory.data();
        return (void *) ((address + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    }
};

struct product {
    const gemm_kernel * kernel;
    const ggml_tensor * op;
    void * activations;
    int64_t n, k, n_groups;
    int32_t n_parts;
};

static product product_of(const ggml_tensor * op) {
    product job = {};
    job.op = op;
    job.kernel = kernel_of(op->src[0]);
    job.k = op->src[0]->ne[0];
    job.n = op->src[1]->ne[1];
    job.n_groups = op->src[0]->ne[1] / job.kernel->group;
    return job;
}

static void quantise_part(void * context, int32_t part) {
    const product & p = *(const product *) context;
    const ggml_tensor * x = p.op->src[1];
    p.kernel->quantise((const float *) x->data, x->nb[1], p.activations, p.n, p.k, part, p.n_parts);
}

static void multiply_part(void * context, int32_t part) {
    const product & p = *(const product *) context;
    const int64_t begin = p.n_groups * part / p.n_parts;
    const int64_t end = p.n_groups * (part + 1) / p.n_parts;
    p.kernel->multiply(p.op->src[0]->data, p.activations, (float *) p.op->data, p.op->nb[1] / sizeof(float), p.n, p.k, begin,
                       end);
}

// Products that follow each other with the same input (q, k, v; gate, up) quantise it once.
static void multiply(compute_context & ctx, const ggml_tensor * op, const ggml_tensor * previous) {
    product job = product_of(op);
    job.activations = ctx.reserve(job.kernel->activations_size(job.n, job.k));
    const bool same_input =
        previous && previous->src[1] == op->src[1] && kernel_of(previous->src[0])->quantise == job.kernel->quantise;
    if (!same_input) {
        job.n_parts = job.n * job.k < 32768 ? 1 : ctx.n_threads;
        ctx.workers->run(job.n_parts, quantise_part, &job);
    }
    // More parts than threads: one that lost its core holds up no more than its own part.
    job.n_parts = ctx.n_threads == 1 ? 1 : (int32_t) std::min<int64_t>(job.n_groups, 8 * ctx.n_threads);
    ctx.workers->run(job.n_parts, multiply_part, &job);
}

struct attention {
    attention_job job;
    char * scratch;
    size_t scratch_size;
};

static void attend_part(void * context, int32_t head) {
    const attention & a = *(const attention *) context;
    attention_run(a.job, kernels_in_use(), head, head + 1, a.scratch + head * a.scratch_size);
}

static void attend(compute_context & ctx, const ggml_tensor * op) {
    attention a = {};
    a.job = job_of(op);
    a.scratch_size = (attention_scratch_size(a.job) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (ctx.n_threads == 1) { // one scratch buffer stays in the cache
        a.scratch = (char *) ctx.reserve(a.scratch_size);
        attention_run(a.job, kernels_in_use(), 0, a.job.n_head_kv, a.scratch);
        return;
    }
    a.scratch = (char *) ctx.reserve(a.scratch_size * a.job.n_head_kv);
    ctx.workers->run(a.job.n_head_kv, attend_part, &a);
}

static const char * backend_name(ggml_backend_t) {
    return NAME;
}

static void backend_free(ggml_backend_t backend) {
    delete (compute_context *) backend->context;
    delete backend;
}

static ggml_status backend_compute(ggml_backend_t backend, ggml_cgraph * graph) {
    compute_context & ctx = *(compute_context *) backend->context;
    const ggml_tensor * previous = nullptr; // the last product, while its quantised input is still there
    try {
        for (int i = 0; i < ggml_graph_n_nodes(graph); i++) {
            const ggml_tensor * op = ggml_graph_node(graph, i);
            if (op->op == GGML_OP_MUL_MAT) {
                multiply(ctx, op, previous);
                previous = op;
            } else if (op->op == GGML_OP_FLASH_ATTN_EXT) {
                attend(ctx, op);
                previous = nullptr;
            }
        }
    } catch (const std::bad_alloc &) {
        return GGML_STATUS_ALLOC_FAILED;
    }
    return GGML_STATUS_SUCCESS;
}

static void backend_set_n_threads(ggml_backend_t backend, int n_threads) {
    compute_context & ctx = *(compute_context *) backend->context;
    if (n_threads != ctx.n_threads) {
        ctx.workers = std::make_unique<worker_pool>(n_threads);
        ctx.n_threads = n_threads;
    }
}

// --- the device ------------------------------------------------------------------------------------------------------
// Two devices: the registered one owns the buffer type of the weights. Backends are made on the second, whose default
// buffers are the CPU's, so that no activation is ever copied between the two.

static const char * device_name(ggml_backend_dev_t) {
    return NAME;
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
    props->name = NAME;
    props->description = device_description(device);
    props->type = GGML_BACKEND_DEVICE_TYPE_ACCEL;
}

static bool device_supports_op(ggml_backend_dev_t, const ggml_tensor * op) {
    switch (op->op) {
    case GGML_OP_NONE:
    case GGML_OP_RESHAPE:
    case GGML_OP_VIEW:
    case GGML_OP_PERMUTE:
    case GGML_OP_TRANSPOSE:
        return true;
    case GGML_OP_MUL_MAT:
        return can_multiply(op);
    case GGML_OP_FLASH_ATTN_EXT:
        return can_attend(op);
    default:
        return false;
    }
}

static ggml_backend_buffer_type_t device_buffer_type(ggml_backend_dev_t);
static bool device_supports_buffer_type(ggml_backend_dev_t, ggml_backend_buffer_type_t type);
static ggml_backend_t device_init_backend(ggml_backend_dev_t, const char *);

static ggml_backend_buffer_type_t computing_buffer_type(ggml_backend_dev_t) {
    return ggml_backend_cpu_buffer_type();
}

static const char * registry_name(ggml_backend_reg_t) {
    return NAME;
}

static size_t registry_device_count(ggml_backend_reg_t) {
    return 1;
}

static ggml_backend_dev_t registry_device(ggml_backend_reg_t, size_t);

static void * registry_proc_address(ggml_backend_reg_t, const char * name) {
    return strcmp(name, "ggml_backend_set_n_threads") == 0 ? (void *) backend_set_n_threads : nullptr;
}

struct backend_tables {
    ggml_backend_reg registry = {GGML_BACKEND_ABI_VERSION, {}, nullptr};
    ggml_backend_device weights_device = {};
    ggml_backend_device computing_device = {};
    ggml_backend_buffer_type buffer_type = {};

    backend_tables() {
        registry.iface = {registry_name, registry_device_count, registry_device, registry_proc_address};
        ggml_backend_device_i & device = weights_device.iface;
        device.get_name = device_name;
        device.get_description = device_description;
        device.get_memory = device_memory;
        device.get_type = device_type;
        device.get_props = device_props;
        device.init_backend = device_init_backend;
        device.get_buffer_type = device_buffer_type;
        device.supports_op = device_supports_op;
        device.supports_buft = device_supports_buffer_type;
        weights_device.reg = &registry;
        computing_device = weights_device;
        computing_device.iface.get_buffer_type = computing_buffer_type;
        buffer_type.iface.get_name = buffer_type_name;
        buffer_type.iface.alloc_buffer = buffer_type_alloc;
        buffer_type.iface.get_alignment = buffer_type_alignment;
        buffer_type.iface.get_alloc_size = buffer_type_alloc_size;
        buffer_type.iface.is_host = buffer_type_is_host;
        buffer_type.device = &weights_device;
    }
};

static backend_tables & tables() {
    static backend_tables all;
    return all;
}

static bool is_our_buffer(const ggml_tensor * tensor) {
    return tensor->buffer && tensor->buffer->buft == &tables().buffer_type;
}

static ggml_backend_buffer_type_t device_buffer_type(ggml_backend_dev_t) {
    return &tables().buffer_type;
}

static bool device_supports_buffer_type(ggml_backend_dev_t, ggml_backend_buffer_type_t type) {
    return type == &tables().buffer_type || ggml_backend_buft_is_host(type);
}

static ggml_backend_dev_t registry_device(ggml_backend_reg_t, size_t) {
    return &tables().weights_device;
}

static ggml_backend_t device_init_backend(ggml_backend_dev_t, const char *) {
    static ggml_guid guid = {0x6d, 0x61, 0x73, 0x6b, 0x70, 0x72, 0x6f, 0x62, 0x65, 0x2d, 0x61, 0x63, 0x63, 0x65, 0x6c, 0x31};
    auto * backend = new ggml_backend{};
    backend->guid = &guid;
    backend->iface.get_name = backend_name;
    backend->iface.free = backend_free;
    backend->iface.graph_compute = backend_compute;
    backend->device = &tables().computing_device;
    backend->context = new compute_context;
    return backend;
}

bool accel_register() {
    static const bool done = [] {
        ggml_backend_register(&tables().registry);
        return ggml_backend_reg_by_name(NAME) != nullptr; // ggml refuses another interface version
    }();
    return done;
}

accel_loading::accel_loading(bool wanted) : wanted(wanted) {
    if (wanted) {
        n_loading++;
    }
}

accel_loading::~accel_loading() {
    if (wanted) {
        n_loading--;
    }
}

} // namespace mp
