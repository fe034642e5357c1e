#include "kernels/ggml/accel_buffer.h"

#include "kernels/gemm/kernel_choice.h"
#include "kernels/ggml/accel_backend.h"
#include "kernels/ggml/ggml_abi.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#if defined(__linux__)
#    include <sys/mman.h>
#endif

namespace mp {

static constexpr size_t ALIGNMENT = 64;
static constexpr size_t HUGE_PAGE = 2 << 20;

// Bytes of weights that a thread packs at a time, and gives back of the file: small, since both copies are in memory until
// then; large enough to be worth a call of the system.
static constexpr size_t PART_SIZE = 512 << 10;

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

// A matrix, or a stack of them: the experts of a mixture.
struct packing {
    const gemm_kernel * kernel;
    const char * weights;
    char * packed;
    size_t row_size, matrix_size, packed_size; // bytes of weights, and of a packed matrix
    int64_t k;
    int64_t n_groups; // whole ones of a matrix
    int64_t n_matrices;
    int32_t n_parts;
    bool is_mapped; // what has been packed can be released

    // Groups are counted through all matrices.
    const char * weights_of(int64_t group) const {
        return weights + group / n_groups * matrix_size + group % n_groups * kernel->group * row_size;
    }
};

static void pack_part(void * context, int32_t part) {
    const packing & p = *(const packing *) context;
    const int64_t total = p.n_matrices * p.n_groups;
    const int64_t begin = total * part / p.n_parts, end = total * (part + 1) / p.n_parts;
    for (int64_t group = begin, n; group < end; group += n) {
        const int64_t matrix = group / p.n_groups, first = group % p.n_groups;
        n = std::min(p.n_groups - first, end - group);
        p.kernel->pack(p.weights + matrix * p.matrix_size, p.packed + matrix * p.packed_size, p.k, first, first + n);
    }
    if (p.is_mapped) {
        mapped_source::release(p.weights_of(begin), p.weights_of(end));
    }
}

// The rows of a matrix after its last whole group, with rows of zeros after them.
static void pack_rest(const packing & p, int64_t matrix, int64_t n_rows) {
    const int64_t first = p.n_groups * p.kernel->group;
    std::vector<char> group(p.kernel->group * p.row_size, 0);
    memcpy(group.data(), p.weights + matrix * p.matrix_size + first * p.row_size, n_rows * p.row_size);
    char * packed = p.packed + matrix * p.packed_size + p.kernel->packed_size(first, p.k);
    p.kernel->pack(group.data(), packed, p.k, 0, 1);
}

static void buffer_set_tensor(ggml_backend_buffer_t, ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    const gemm_kernel * kernel = kernel_of(tensor);
    if (!kernel) { // of no operation: llama.cpp puts it anywhere
        memcpy((char *) tensor->data + offset, data, size);
        return;
    }
    GGML_ASSERT(offset == 0 && size == ggml_nbytes(tensor) && "weights are packed whole");
    accel_loading * load = accel_loading::current();
    const std::unique_ptr<packing_means> own(load ? nullptr : new packing_means);
    packing_means & means = load ? load->means() : *own;
    packing job = {};
    job.kernel = kernel;
    job.weights = (const char *) data;
    job.packed = (char *) tensor->data;
    job.row_size = tensor->nb[1];
    job.matrix_size = tensor->nb[2];
    job.packed_size = packed_matrix_size(*kernel, tensor);
    job.k = tensor->ne[0];
    job.n_groups = tensor->ne[1] / kernel->group;
    job.n_matrices = tensor->ne[2];
    job.n_parts = (int32_t) std::max<size_t>(size / PART_SIZE, 1);
    job.is_mapped = means.source.holds(data, size);
    if (job.n_groups > 0) {
        means.threads.run(job.n_parts, pack_part, &job);
    }
    const int64_t n_rest = tensor->ne[1] % kernel->group;
    for (int64_t matrix = 0; n_rest > 0 && matrix < job.n_matrices; matrix++) {
        pack_rest(job, matrix, n_rest);
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
    if (accel_loading * load = accel_loading::current()) {
        load->count(size);
    }
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
