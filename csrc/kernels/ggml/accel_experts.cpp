#include "kernels/ggml/accel_experts.h"

#include "kernels/gemm/kernel_choice.h"

#include "ggml-backend.h"

#include <algorithm>
#include <cstring>

namespace mp {

static constexpr size_t ALIGNMENT = 64;
static constexpr int64_t STRIP = 32; // outputs that are computed before they are moved to their lines, at least
static constexpr int32_t PARTS_PER_THREAD = 16;
static constexpr int64_t WORTH_THREADS = 32768; // activations

static uintptr_t aligned(uintptr_t address) {
    return (address + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

bool is_stacked(const ggml_tensor * op) {
    return op->op == GGML_OP_MUL_MAT_ID || (op->op == GGML_OP_MUL_MAT && op->src[0]->ne[2] > 1);
}

bool can_multiply_stack(const ggml_tensor * op) {
    for (const ggml_tensor * input : {op->src[1], op->src[2]}) {
        if (input && input->buffer && !ggml_backend_buffer_is_host(input->buffer)) {
            return false;
        }
    }
    const ggml_tensor * x = op->src[1];
    return kernel_of(op->src[0]) && x->type == GGML_TYPE_F32 && x->nb[0] == sizeof(float) && op->type == GGML_TYPE_F32;
}

// --- lines -----------------------------------------------------------------------------------------------------------

namespace {

struct located_line {
    int64_t matrix;
    size_t x, y; // bytes from the beginning of the input and of the output
};

} // namespace

static int64_t n_lines(const ggml_tensor * op) {
    return op->ne[1] * op->ne[2] * op->ne[3];
}

// Line i of the output, which is (n_out, slot, row) of a mixture and (n_out, row, head, ...) of heads.
static located_line locate(const ggml_tensor * op, int64_t i) {
    const ggml_tensor * weights = op->src[0];
    const ggml_tensor * x = op->src[1];
    const ggml_tensor * choice = op->src[2]; // (slot, row)
    const int64_t i1 = i % op->ne[1], i2 = i / op->ne[1] % op->ne[2], i3 = i / op->ne[1] / op->ne[2];
    const size_t y = i1 * op->nb[1] + i2 * op->nb[2] + i3 * op->nb[3];
    if (op->op == GGML_OP_MUL_MAT) {
        const int64_t heads_per_matrix = x->ne[2] / weights->ne[2];
        return {i2 / heads_per_matrix, i1 * x->nb[1] + i2 * x->nb[2] + i3 * x->nb[3], y};
    }
    int32_t expert;
    memcpy(&expert, (const char *) choice->data + i1 * choice->nb[0] + i2 * choice->nb[1], sizeof(expert));
    GGML_ASSERT(expert >= 0 && expert < weights->ne[2]);
    return {expert, i1 % x->ne[1] * x->nb[1] + i2 * x->nb[2], y}; // slots may share an input
}

void stacked_products::group_lines(const ggml_tensor * op, const gemm_kernel & kernel) {
    const ggml_tensor * weights = op->src[0];
    const int64_t n = n_lines(op);
    places.assign(weights->ne[2], 0);
    for (int64_t i = 0; i < n; i++) {
        places[locate(op, i).matrix]++;
    }
    matrices.clear();
    int64_t first = 0;
    size_t activations = 0;
    for (int64_t i = 0; i < weights->ne[2]; i++) {
        const int64_t n_of_matrix = places[i];
        places[i] = (int64_t) matrices.size();
        if (n_of_matrix > 0) {
            const char * packed = (const char *) weights->data + i * packed_matrix_size(kernel, weights);
            matrices.push_back({packed, first, 0, activations});
            first += n_of_matrix;
            activations += aligned(kernel.activations_size(n_of_matrix, weights->ne[0]));
        }
    }
    lines.resize(n);
    for (int64_t i = 0; i < n; i++) {
        const located_line l = locate(op, i);
        matrix & m = matrices[places[l.matrix]];
        lines[m.first + m.n++] = {(const float *) ((const char *) op->src[1]->data + l.x),
                                  (float *) ((char *) op->data + l.y), (int32_t) places[l.matrix]};
    }
    if (memory.size() < activations + ALIGNMENT) {
        memory.resize(activations + ALIGNMENT);
    }
}

// --- product ---------------------------------------------------------------------------------------------------------

struct stacked_products::product {
    const stacked_products * owner;
    const gemm_kernel * kernel;
    char * activations;
    float * results;      // of all parts
    int64_t results_size; // floats of one
    int64_t k, n_out;
    int64_t n_groups; // of a matrix
    int64_t strip;    // groups
    int32_t n_parts;

    void multiply(const matrix & m, int64_t begin, int64_t end, float * results) const;
};

// A part of n_parts = n is a row: so lines can lie anywhere.
void stacked_products::quantise_part(void * context, int32_t part) {
    const product & p = *(const product *) context;
    const std::vector<line> & lines = p.owner->lines;
    const auto n = (int64_t) lines.size();
    for (int64_t i = n * part / p.n_parts; i < n * (part + 1) / p.n_parts; i++) {
        const matrix & m = p.owner->matrices[lines[i].matrix];
        p.kernel->quantise(lines[i].x, 0, p.activations + m.activations, m.n, p.k, (int32_t) (i - m.first), (int32_t) m.n);
    }
}

// The groups [begin, end) of one matrix for all its lines.
void stacked_products::product::multiply(const matrix & m, int64_t begin, int64_t end, float * results) const {
    const line * to = owner->lines.data() + m.first;
    const int64_t group = kernel->group, n_whole = n_out / group;
    if (m.n == 1 && begin < n_whole) {
        kernel->multiply(m.weights, activations + m.activations, to->y, n_out, 1, k, begin, std::min(end, n_whole));
        begin = std::min(end, n_whole);
    }
    for (int64_t next; begin < end; begin = next) {
        next = std::min(end, begin + strip);
        const int64_t first = begin * group, width = (next - begin) * group;
        kernel->multiply(m.weights + kernel->packed_size(first, k), activations + m.activations, results, width, m.n, k, 0,
                         next - begin);
        const size_t size = std::min(width, n_out - first) * sizeof(float);
        for (int64_t i = 0; i < m.n; i++) {
            memcpy(to[i].y + first, results + i * width, size);
        }
    }
}

void stacked_products::multiply_part(void * context, int32_t part) {
    const product & p = *(const product *) context;
    const int64_t total = (int64_t) p.owner->matrices.size() * p.n_groups;
    const int64_t end = total * (part + 1) / p.n_parts;
    for (int64_t item = total * part / p.n_parts, n; item < end; item += n) {
        const int64_t group = item % p.n_groups;
        n = std::min(p.n_groups - group, end - item);
        p.multiply(p.owner->matrices[item / p.n_groups], group, group + n, p.results + part * p.results_size);
    }
}

stacked_products::work stacked_products::run(const ggml_tensor * op, worker_pool & workers) {
    const ggml_tensor * weights = op->src[0];
    const gemm_kernel & kernel = *kernel_of(weights);
    if (n_lines(op) == 0) {
        return {};
    }
    const bool same_input = quantised && quantised->src[1] == op->src[1] && quantised->src[2] == op->src[2] &&
                            kernel_of(quantised->src[0])->quantise == kernel.quantise;
    quantised = nullptr;
    group_lines(op, kernel);

    const int32_t n_wanted = workers.n_threads() == 1 ? 1 : PARTS_PER_THREAD * workers.n_threads();
    int64_t most_lines = 0;
    for (const matrix & m : matrices) {
        most_lines = std::max(most_lines, m.n);
    }
    product job = {};
    job.owner = this;
    job.kernel = &kernel;
    job.k = weights->ne[0];
    job.n_out = weights->ne[1];
    job.n_groups = packed_groups(kernel, weights);
    job.strip = (STRIP + kernel.group - 1) / kernel.group;
    job.results_size = most_lines * job.strip * kernel.group;
    job.activations = (char *) aligned((uintptr_t) memory.data());

    if (!same_input) {
        const auto n = (int64_t) lines.size();
        job.n_parts = n * job.k < WORTH_THREADS ? 1 : (int32_t) std::min<int64_t>(n, n_wanted);
        workers.run(job.n_parts, quantise_part, &job);
    }
    job.n_parts = (int32_t) std::min<int64_t>((int64_t) matrices.size() * job.n_groups, n_wanted);
    if ((int64_t) results.size() < job.n_parts * job.results_size) {
        results.resize(job.n_parts * job.results_size);
    }
    job.results = results.data();
    workers.run(job.n_parts, multiply_part, &job);
    quantised = op;
    return {(int64_t) (matrices.size() * packed_matrix_size(kernel, weights)), (int64_t) lines.size() * job.k * job.n_out};
}

} // namespace mp
