#include "accel_buffer.h"

#include "../thread_count.h"
#include "../worker_pool.h"
#include "accel_backend.h"
#include "ggml_abi.h"
#include "kernel_choice.h"

#include <cstdlib>
#include <cstring>
#include <vector>

#if defined(__linux__)
#    include <sys/mman.h>
#endif

namespace mp {

static constexpr size_t ALIGNMENT = 64;
static constexpr size_t HUGE_PAGE = 2 << 20;
static constexpr size_t WORTH_THREADS = 1 << 20; // bytes of weights

static const char * type_name(ggml_backend_buffer_type_t) {
    return ACCEL_NAME;
}

static size_t type_alignment(ggml_backend_buffer_type_t) {
    return ALIGNMENT;
}

static size_t type_alloc_size(ggml_backend_buffer_type_t, const ggml_tensor * tensor) {
    const gemm_kernel * kernel = kernel_of(tensor);
    return kernel ? packed_matrix_size(*kernel, tensor) * tensor->ne[2] : ggml_nbytes(tensor);
}

static bool type_is_host(ggml_backend_buffer_type_t) {
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
    int64_t n_groups; // whole ones
    int32_t n_parts;
};

// The rows after the last whole group, with rows of zeros after them.
static void pack_rest(const packing & p, size_t row_size, int64_t n_rows) {
    const int64_t first = p.n_groups * p.kernel->group;
    std::vector<char> group(p.kernel->group * row_size, 0);
    memcpy(group.data(), (const char *) p.weights + first * row_size, n_rows * row_size);
    p.kernel->pack(group.data(), (char *) p.packed + p.kernel->packed_size(first, p.k), p.k, 0, 1);
}

static void pack_matrix(packing & job, worker_pool & threads, size_t row_size, int64_t n_rest) {
    threads.run(
        job.n_parts,
        [](void * context, int32_t part) {
            const packing & p = *(const packing *) context;
            p.kernel->pack(p.weights, p.packed, p.k, p.n_groups * part / p.n_parts, p.n_groups * (part + 1) / p.n_parts);
        },
        &job);
    if (n_rest > 0) {
        pack_rest(job, row_size, n_rest);
    }
}

static void buffer_set_tensor(ggml_backend_buffer_t, ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    const gemm_kernel * kernel = kernel_of(tensor);
    if (!kernel) { // of no operation: llama.cpp puts it anywhere
        memcpy((char *) tensor->data + offset, data, size);
        return;
    }
    GGML_ASSERT(offset == 0 && size == ggml_nbytes(tensor) && "weights are packed whole");
    packing job = {kernel, data, tensor->data, tensor->ne[0], tensor->ne[1] / kernel->group, 64};
    // Made anew: threads that outlive a load would be missing, and waited for, where a forked child ends.
    static const int32_t n_cores = default_thread_count();
    worker_pool threads(size < WORTH_THREADS ? 1 : n_cores);
    for (int64_t i = 0; i < tensor->ne[2]; i++) { // one, or the experts of a mixture
        job.weights = (const char *) data + i * tensor->nb[2];
        job.packed = (char *) tensor->data + i * packed_matrix_size(*kernel, tensor);
        pack_matrix(job, threads, tensor->nb[1], tensor->ne[1] % kernel->group);
    }
}

static void buffer_clear(ggml_backend_buffer_t buffer, uint8_t value) {
    memset(buffer->context, value, buffer->size);
}

static ggml_backend_buffer_t type_alloc_buffer(ggml_backend_buffer_type_t type, size_t size) {
    const size_t alignment = size < HUGE_PAGE ? ALIGNMENT : HUGE_PAGE;
    const size_t padded = (size + alignment) / alignment * alignment;
    void * memory = std::aligned_alloc(alignment, padded);
    if (!memory) {
        return nullptr;
    }
#if defined(__linux__)
    if (alignment == HUGE_PAGE) { // a pass walks through all of it: fewer pages to look up
        madvise(memory, padded, MADV_HUGEPAGE);
    }
#endif
    accel_loading::count(size);
    ggml_backend_buffer_i iface = {};
    iface.free_buffer = buffer_free;
    iface.get_base = buffer_base;
    iface.memset_tensor = buffer_memset;
    iface.set_tensor = buffer_set_tensor;
    iface.clear = buffer_clear;
    return ggml_backend_buffer_init(type, iface, memory, size);
}

static ggml_backend_buffer_type & the_type() {
    static ggml_backend_buffer_type type = [] {
        ggml_backend_buffer_type t = {};
        t.iface.get_name = type_name;
        t.iface.alloc_buffer = type_alloc_buffer;
        t.iface.get_alignment = type_alignment;
        t.iface.get_alloc_size = type_alloc_size;
        t.iface.is_host = type_is_host;
        return t;
    }();
    return type;
}

ggml_backend_buffer_type_t packed_buffer_type() {
    return &the_type();
}

void set_up_packed_buffer_type(ggml_backend_dev_t device) {
    the_type().device = device;
}

bool is_packed(const ggml_tensor * weights) {
    return weights->buffer && weights->buffer->buft == &the_type();
}

} // namespace mp
