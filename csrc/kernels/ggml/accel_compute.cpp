#include "kernels/ggml/accel_compute.h"

#include "kernels/attention/attention_sets.h"
#include "kernels/gemm/kernel_choice.h"

#include "ggml-backend.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

namespace mp {

static constexpr size_t ALIGNMENT = 64;

// More parts than threads: a slow core takes fewer of them, and one that lost its core holds up no more than its own.
static constexpr int32_t ATTENTION_PARTS_PER_THREAD = 4;

static uintptr_t aligned(uintptr_t address) {
    return (address + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static bool is_in_host_memory(const ggml_tensor * tensor) {
    return !tensor->buffer || ggml_backend_buffer_is_host(tensor->buffer);
}

namespace {

// Adds the time of its life to a part.
class stopwatch {
public:
    explicit stopwatch(part_cost & part) : part(part) {}
    ~stopwatch() {
        part.n_ops++;
        part.ns += std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count();
    }

private:
    part_cost & part;
    const std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
};

} // namespace

void * accel_compute::reserve(size_t size) {
    if (memory.size() < size + ALIGNMENT) {
        memory.resize(size + ALIGNMENT);
    }
    return (void *) aligned((uintptr_t) memory.data());
}

bool is_view(const ggml_tensor * op) {
    switch (op->op) {
    case GGML_OP_NONE:
    case GGML_OP_RESHAPE:
    case GGML_OP_VIEW:
    case GGML_OP_PERMUTE:
    case GGML_OP_TRANSPOSE:
        return true;
    default:
        return false;
    }
}

void accel_compute::run(const ggml_tensor * op) {
    switch (op->op) {
    case GGML_OP_MUL_MAT:
    case GGML_OP_MUL_MAT_ID:
        return is_stacked(op) ? multiply_stack(op) : multiply(op);
    case GGML_OP_FLASH_ATTN_EXT:
        return attend(op);
    default:
        if (!is_view(op)) {
            rows.run(op);
        }
    }
}

// --- products --------------------------------------------------------------------------------------------------------

bool can_multiply(const ggml_tensor * op) {
    if (is_stacked(op)) {
        return can_multiply_stack(op);
    }
    const ggml_tensor * x = op->src[1];
    const bool rows_in_order = (x->ne[2] == 1 && x->ne[3] == 1) || ggml_is_contiguous(x);
    return kernel_of(op->src[0]) && x->type == GGML_TYPE_F32 && x->nb[0] == sizeof(float) && rows_in_order &&
           is_in_host_memory(x) && op->type == GGML_TYPE_F32;
}

static bool is_head(const ggml_tensor * weights) {
    return strcmp(weights->name, "output.weight") == 0 || strcmp(weights->name, "token_embd.weight") == 0;
}

void accel_compute::multiply(const ggml_tensor * op) {
    const ggml_tensor * weights = op->src[0];
    part_cost & cost = is_head(weights) ? costs.head : costs.products[weights->type];
    cost.bytes += (int64_t) packed_matrix_size(*kernel_of(weights), weights);
    cost.macs += ggml_nrows(op->src[1]) * weights->ne[0] * weights->ne[1];
    const stopwatch watch(cost);
    products.run(op);
    if (!added.empty()) {
        additions.add_to(op, added);
    }
}

void accel_compute::multiply_stack(const ggml_tensor * op) {
    part_cost & cost = costs.products[op->src[0]->type];
    const stopwatch watch(cost);
    const stacked_products::work work = stacks.run(op, workers);
    cost.bytes += work.bytes;
    cost.macs += work.macs;
}

// --- attention -------------------------------------------------------------------------------------------------------

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
    job.sinks = op->src[4] ? (const float *) op->src[4]->data : nullptr;
    job.out = (float *) op->data;
    return job;
}

bool can_attend(const ggml_tensor * op) {
    const ggml_tensor * q = op->src[0];
    const ggml_tensor * k = op->src[1];
    const ggml_tensor * v = op->src[2];
    const ggml_tensor * mask = op->src[3];
    const float max_bias = ((const float *) op->op_params)[1];
    const ggml_tensor * sinks = op->src[4];
    if (sinks && (sinks->type != GGML_TYPE_F32 || !ggml_is_contiguous(sinks) || !is_in_host_memory(sinks))) {
        return false;
    }
    const bool plain = max_bias == 0 && q->ne[3] == 1 && k->ne[3] == 1 && v->ne[0] == q->ne[0] && q->type == GGML_TYPE_F32 &&
                       q->nb[0] == sizeof(float) &&
                       (!mask || (mask->type == GGML_TYPE_F16 && mask->ne[2] == 1 && mask->ne[3] == 1));
    return plain && is_in_host_memory(k) && is_in_host_memory(v) && attention_supports(job_of(op), kernels_in_use());
}

// Some rows of an attention.
static attention_job rows_of(attention_job job, int32_t begin, int32_t end) {
    job.n = end - begin;
    job.q = (const float *) ((const char *) job.q + begin * job.q_row);
    job.mask = job.mask ? (const char *) job.mask + begin * job.mask_row : nullptr;
    job.visible += begin;
    job.out += (size_t) begin * job.n_head * job.head_size;
    return job;
}

namespace {

// Rows are divided first: every division of the heads makes its threads look for scattered pieces of the cache.
struct attention {
    attention_job job;
    int32_t n_row_parts, n_head_parts;
    char * scratch;
    size_t scratch_size; // of a thread
    std::atomic<int32_t> next{0};

    void take_parts(int32_t thread) {
        const int32_t n = n_row_parts * n_head_parts;
        for (int32_t i = next.fetch_add(1); i < n; i = next.fetch_add(1)) {
            // Later rows see more of the cache: they come first, so that the last part is a short one.
            const int32_t rows = n_row_parts - 1 - i / n_head_parts, heads = i % n_head_parts;
            const attention_job some = rows_of(job, (int32_t) ((int64_t) job.n * rows / n_row_parts),
                                               (int32_t) ((int64_t) job.n * (rows + 1) / n_row_parts));
            attention_run(some, kernels_in_use(), job.n_head_kv * heads / n_head_parts,
                          job.n_head_kv * (heads + 1) / n_head_parts, scratch + thread * scratch_size);
        }
    }
};

} // namespace

// All layers of a pass have the same masks: their cells are looked for once.
const attention_cells & accel_compute::cells_of(const ggml_tensor * op, const attention_job & job) {
    for (int32_t i = 0; i < std::min(n_masks, N_MASKS); i++) {
        if (masks[i].mask == op->src[3] && masks[i].n == job.n && masks[i].n_kv == job.n_kv) {
            return masks[i].cells;
        }
    }
    known_mask & found = masks[n_masks % N_MASKS];
    found.n = -1; // not to be found if the memory for it runs out
    found.cells.find(job);
    found.mask = op->src[3];
    found.n = job.n;
    found.n_kv = job.n_kv;
    n_masks++;
    return found.cells;
}

void accel_compute::attend(const ggml_tensor * op) {
    const int32_t n_threads = workers.n_threads();
    const int32_t n_wanted = n_threads == 1 ? 1 : ATTENTION_PARTS_PER_THREAD * n_threads;
    attention a = {};
    a.job = job_of(op);
    const stopwatch watch(costs.attention);
    const attention_cells & cells = cells_of(op, a.job);
    cells.put_into(a.job);
    a.n_row_parts = (a.job.n + attention_chunk_rows(a.job) - 1) / attention_chunk_rows(a.job);
    a.n_head_parts = std::clamp((n_wanted + a.n_row_parts - 1) / a.n_row_parts, 1, a.job.n_head_kv);
    a.scratch_size = (attention_scratch_size(a.job) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    a.scratch = (char *) reserve(a.scratch_size * n_threads);

    const int64_t cell_bytes = ggml_row_size(a.job.k_type, a.job.head_size) + ggml_row_size(a.job.v_type, a.job.head_size);
    costs.attention.bytes += cells.n_cells() * a.job.n_head_kv * cell_bytes;
    costs.attention.macs += 2 * cells.n_seen() * a.job.n_head * a.job.head_size;
    workers.run(n_threads, [](void * data, int32_t thread) { ((attention *) data)->take_parts(thread); }, &a);
}

} // namespace mp
