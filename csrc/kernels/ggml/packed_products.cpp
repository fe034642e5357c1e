#include "kernels/ggml/packed_products.h"

#include "kernels/gemm/kernel_choice.h"

#include <algorithm>
#include <cstring>

namespace mp {

static constexpr size_t ALIGNMENT = 64;

// More parts than threads: a slow core takes fewer of them, and one that lost its core holds up no more than its own.
static constexpr int32_t PARTS_PER_THREAD = 16;

static uintptr_t aligned(uintptr_t address) {
    return (address + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

namespace {

struct product {
    const gemm_kernel * kernel;
    const ggml_tensor * op;
    void * activations;
    float * rest; // (n, group): outputs of a last group that is not whole
    int64_t n, k, n_groups;
    int32_t n_parts;
};

} // namespace

static void quantise_part(void * context, int32_t part) {
    const product & p = *(const product *) context;
    const ggml_tensor * x = p.op->src[1];
    p.kernel->quantise((const float *) x->data, x->nb[1], p.activations, p.n, p.k, part, p.n_parts);
}

static void multiply_rest(const product & p) {
    const int64_t group = p.kernel->group, first = p.op->ne[0] / group * group;
    const char * packed = (const char *) p.op->src[0]->data + p.kernel->packed_size(first, p.k);
    p.kernel->multiply(packed, p.activations, p.rest, group, p.n, p.k, 0, 1);
    for (int64_t row = 0; row < p.n; row++) {
        float * y = (float *) ((char *) p.op->data + row * p.op->nb[1]);
        memcpy(y + first, p.rest + row * group, (p.op->ne[0] - first) * sizeof(float));
    }
}

static void multiply_part(void * context, int32_t part) {
    const product & p = *(const product *) context;
    const int64_t begin = p.n_groups * part / p.n_parts;
    const int64_t end = p.n_groups * (part + 1) / p.n_parts;
    const int64_t n_whole = p.op->ne[0] / p.kernel->group;
    p.kernel->multiply(p.op->src[0]->data, p.activations, (float *) p.op->data, p.op->nb[1] / sizeof(float), p.n, p.k, begin,
                       std::min(end, n_whole));
    if (end > n_whole) {
        multiply_rest(p);
    }
}

void packed_products::run(const ggml_tensor * op) {
    const ggml_tensor * weights = op->src[0];
    product job = {};
    job.op = op;
    job.kernel = kernel_of(weights);
    job.k = weights->ne[0];
    job.n = ggml_nrows(op->src[1]);
    job.n_groups = packed_groups(*job.kernel, weights);
    const size_t activations_size = aligned(job.kernel->activations_size(job.n, job.k));
    const size_t size = activations_size + job.n * job.kernel->group * sizeof(float) + ALIGNMENT;
    if (memory.size() < size) {
        memory.resize(size);
        quantised = nullptr;
    }
    job.activations = (void *) aligned((uintptr_t) memory.data());
    job.rest = (float *) ((char *) job.activations + activations_size);

    const bool same_input =
        quantised && quantised->src[1] == op->src[1] && kernel_of(quantised->src[0])->quantise == job.kernel->quantise;
    if (!same_input) {
        job.n_parts = job.n * job.k < 32768 ? 1 : PARTS_PER_THREAD * workers.n_threads();
        workers.run(job.n_parts, quantise_part, &job);
    }
    job.n_parts =
        workers.n_threads() == 1 ? 1 : (int32_t) std::min<int64_t>(job.n_groups, PARTS_PER_THREAD * workers.n_threads());
    workers.run(job.n_parts, multiply_part, &job);
    quantised = op;
}

} // namespace mp
