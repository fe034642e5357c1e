#include "kernels/ggml/row_ops.h"

#include "kernels/gemm/kernel_choice.h"
#include "kernels/rows/row_kernels.h"

#include "ggml-backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

namespace mp {

static constexpr int64_t WORTH_THREADS = 1 << 14; // numbers
static constexpr int32_t PARTS_PER_THREAD = 4;
static constexpr size_t N_ROTATIONS = 4; // models with a sliding window have two

// --- which ones ------------------------------------------------------------------------------------------------------

static bool is_in_host_memory(const ggml_tensor * tensor) {
    const ggml_tensor * owner = tensor->view_src ? tensor->view_src : tensor;
    return !owner->buffer || ggml_backend_buffer_is_host(owner->buffer);
}

static bool is_float_rows(const ggml_tensor * tensor) {
    return tensor->type == GGML_TYPE_F32 && tensor->nb[0] == sizeof(float) && is_in_host_memory(tensor);
}

static bool is_index(const ggml_tensor * tensor) {
    return (tensor->type == GGML_TYPE_I32 || tensor->type == GGML_TYPE_I64) && is_in_host_memory(tensor);
}

// Rows of b are used again and again for those of a; b may have one number for each row.
static bool can_combine(const ggml_tensor * op) {
    const ggml_tensor * a = op->src[0];
    const ggml_tensor * b = op->src[1];
    return is_float_rows(a) && is_float_rows(b) && (b->ne[0] == a->ne[0] || b->ne[0] == 1);
}

static bool can_gate(const ggml_tensor * op) {
    const ggml_glu_op kind = ggml_get_glu_op(op);
    return (kind == GGML_GLU_OP_SWIGLU || kind == GGML_GLU_OP_GEGLU || kind == GGML_GLU_OP_SWIGLU_OAI) &&
           is_float_rows(op->src[0]) && (!op->src[1] || is_float_rows(op->src[1]));
}

static bool can_rotate(const ggml_tensor * op) {
    const int32_t mode = op->op_params[2];
    return (mode == GGML_ROPE_TYPE_NORMAL || mode == GGML_ROPE_TYPE_NEOX) && is_float_rows(op->src[0]) &&
           is_in_host_memory(op->src[1]) && (!op->src[2] || is_in_host_memory(op->src[2])) && op->ne[3] == 1;
}

static bool can_be_stored(ggml_type type) {
    return type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16 || type == GGML_TYPE_Q8_0;
}

bool can_run_rows(const ggml_tensor * op) {
    const ggml_tensor * x = op->src[0];
    if (op->op == GGML_OP_SET_ROWS) {
        return is_float_rows(x) && is_index(op->src[1]) && can_be_stored(op->type) && is_in_host_memory(op);
    }
    if (op->op == GGML_OP_ARGSORT) {
        return is_float_rows(x) && is_in_host_memory(op);
    }
    if (!is_float_rows(op)) {
        return false;
    }
    switch (op->op) {
    case GGML_OP_RMS_NORM:
    case GGML_OP_NORM:
    case GGML_OP_SCALE:
    case GGML_OP_CLAMP:
    case GGML_OP_SUM_ROWS:
        return is_float_rows(x);
    case GGML_OP_CONT: // not where it puts rows together
        return is_float_rows(x) && ggml_are_same_shape(op, x);
    case GGML_OP_SOFT_MAX:
        return is_float_rows(x) && !op->src[1] && !op->src[2]; // no mask, no sinks
    case GGML_OP_ADD:
    case GGML_OP_MUL:
    case GGML_OP_DIV:
        return can_combine(op);
    case GGML_OP_ADD_ID:
        return is_float_rows(x) && is_float_rows(op->src[1]) && is_index(op->src[2]);
    case GGML_OP_GLU:
        return can_gate(op);
    case GGML_OP_UNARY:
        return is_float_rows(x) &&
               (ggml_get_unary_op(op) == GGML_UNARY_OP_SILU || ggml_get_unary_op(op) == GGML_UNARY_OP_GELU);
    case GGML_OP_ROPE:
        return can_rotate(op);
    case GGML_OP_GET_ROWS:
        return is_float_rows(x) && is_index(op->src[1]);
    default:
        return false;
    }
}

// --- rotary embeddings -----------------------------------------------------------------------------------------------

namespace {

struct rope_params {
    int32_t n_dims, n_ctx_orig, first;
    float freq_base, freq_scale, ext_factor, attn_factor, beta_fast, beta_slow;

    explicit rope_params(const int32_t * params) : n_dims(params[1]), n_ctx_orig(params[4]), first(params[15]) {
        float values[6];
        memcpy(values, params + 5, sizeof(values));
        freq_base = values[0];
        freq_scale = values[1];
        ext_factor = values[2];
        attn_factor = values[3];
        beta_fast = values[4];
        beta_slow = values[5];
    }
};

} // namespace

// Angles and magnitude as ggml has them, YaRN (arXiv 2309.00071) included. cos and sin are (n_dims / 2). What libraries and
// processors do not agree on is computed in double precision and rounded: but for one number in 10^8 they agree on that.
static void fill_rotation(const rope_params & p, const float * factors, int32_t position, float * cos, float * sin) {
    float bounds[2];
    ggml_rope_yarn_corr_dims(p.n_dims, p.n_ctx_orig, p.freq_base, p.beta_fast, p.beta_slow, bounds);
    const auto step = (float) std::pow((double) p.freq_base, (double) (-2.0f / p.n_dims));
    const auto stretch = (float) std::log((double) (1.0f / p.freq_scale));
    const float magnitude = p.ext_factor != 0 ? p.attn_factor * (1.0f + 0.1f * stretch) : p.attn_factor;
    float angle = (float) position;
    for (int32_t i = 0; i < p.n_dims / 2; i++, angle *= step) {
        const float extrapolated = factors ? angle / factors[i] : angle;
        float theta = p.freq_scale * extrapolated;
        if (p.ext_factor != 0) {
            const float along = (i - bounds[0]) / std::max(0.001f, bounds[1] - bounds[0]);
            const float share = (1 - std::min(1.0f, std::max(0.0f, along))) * p.ext_factor;
            theta = theta * (1 - share) + extrapolated * share;
        }
        cos[i] = (float) std::cos((double) theta) * magnitude;
        sin[i] = (float) std::sin((double) theta) * magnitude;
    }
}

const rotation & row_ops::rotation_of(const ggml_tensor * op) {
    const auto * positions = (const int32_t *) op->src[1]->data;
    const size_t n = op->ne[2];
    int32_t params[16];
    memcpy(params, op->op_params, sizeof(params));
    params[0] = params[2] = params[3] = 0; // these change nothing in the angles
    for (const rotation & known : rotations) {
        if (memcmp(known.params, params, sizeof(params)) == 0 && known.factors == op->src[2] &&
            known.positions.size() == n && memcmp(known.positions.data(), positions, n * sizeof(int32_t)) == 0) {
            return known;
        }
    }
    if (rotations.size() < N_ROTATIONS) {
        rotations.emplace_back();
    }
    rotation & made = rotations[next_rotation];
    made.positions.clear(); // not to be found if the memory for it runs out
    const rope_params p(params);
    const size_t n_pairs = p.n_dims / 2;
    made.cos.resize(n * n_pairs);
    made.sin.resize(n * n_pairs);
    for (size_t i = 0; i < n; i++) {
        const float * factors = op->src[2] ? (const float *) op->src[2]->data : nullptr;
        fill_rotation(p, factors, positions[i], &made.cos[i * n_pairs], &made.sin[i * n_pairs]);
    }
    made.positions.assign(positions, positions + n);
    memcpy(made.params, params, sizeof(params));
    made.factors = op->src[2];
    next_rotation = (next_rotation + 1) % N_ROTATIONS;
    return made;
}

// --- rows ------------------------------------------------------------------------------------------------------------

namespace {

struct row_job {
    const ggml_tensor * op;
    const ggml_tensor * rows; // whose rows are gone through: the result's, or what is stored
    const rotation * turns;   // of a rotary embedding
    int32_t n_parts;
};

struct row_index {
    int64_t i1, i2, i3;
};

} // namespace

// Row `at` of a tensor; a tensor with fewer rows than the result begins again.
static char * row_of(const ggml_tensor * t, row_index at) {
    return (char *) t->data + at.i1 % t->ne[1] * t->nb[1] + at.i2 % t->ne[2] * t->nb[2] + at.i3 % t->ne[3] * t->nb[3];
}

static int64_t index_at(const ggml_tensor * t, row_index at) {
    const char * place =
        (const char *) t->data + at.i1 * t->nb[0] + at.i2 % t->ne[1] * t->nb[1] + at.i3 % t->ne[2] * t->nb[2];
    return t->type == GGML_TYPE_I64 ? *(const int64_t *) place : *(const int32_t *) place;
}

static void combine(const row_kernels & kernels, const ggml_tensor * op, row_index at, float * y) {
    const auto * a = (const float *) row_of(op->src[0], at);
    const auto * b = (const float *) row_of(op->src[1], at);
    const bool is_sum = op->op == GGML_OP_ADD, is_quotient = op->op == GGML_OP_DIV;
    if (op->src[1]->ne[0] == op->ne[0]) {
        (is_sum ? kernels.add : is_quotient ? kernels.divide : kernels.multiply)(a, b, y, op->ne[0]);
    } else {
        kernels.scale_and_shift(a, is_sum ? 1.0f : is_quotient ? 1.0f / *b : *b, is_sum ? *b : 0.0f, y, op->ne[0]);
    }
}

// The bias of the expert that a slot of a row has chosen.
static void add_chosen(const row_kernels & kernels, const ggml_tensor * op, row_index at, float * y) {
    const ggml_tensor * biases = op->src[1];
    const int64_t expert = index_at(op->src[2], at);
    GGML_ASSERT(expert >= 0 && expert < biases->ne[1]);
    const char * bias = (const char *) biases->data + expert * biases->nb[1];
    kernels.add((const float *) row_of(op->src[0], at), (const float *) bias, y, op->ne[0]);
}

static void softmax(const float * x, float scale, float * y, int64_t n) {
    const float largest = *std::max_element(x, x + n);
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        y[i] = (float) std::exp((double) ((x[i] - largest) * scale)); // as the angles above
        sum += y[i];
    }
    const auto factor = (float) (1 / sum);
    for (int64_t i = 0; i < n; i++) {
        y[i] *= factor;
    }
}

// The places of the numbers in their order; equal ones in that of their places, and what is not a number as the least.
static void sort_places(const float * x, bool descending, int32_t * y, int64_t n) {
    const auto key = [&](int32_t i) { return std::isnan(x[i]) ? -INFINITY : x[i]; };
    std::iota(y, y + n, 0);
    std::sort(y, y + n, [&](int32_t i, int32_t j) {
        const float a = key(i), b = key(j);
        return a == b ? i < j : descending ? a > b : a < b;
    });
}

static void clamp(const float * x, float low, float high, float * y, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        y[i] = x[i] < low ? low : x[i] > high ? high : x[i]; // what is not a number stays
    }
}

static void gate(const row_kernels & kernels, const ggml_tensor * op, row_index at, float * y) {
    const int64_t n = op->ne[0];
    const bool swapped = !op->src[1] && op->op_params[1] != 0; // the gate is the first half
    const auto * first = (const float *) row_of(op->src[0], at);
    const auto * second = op->src[1] ? (const float *) row_of(op->src[1], at) : first + n;
    const float *x = swapped ? second : first, *gate = swapped ? first : second;
    if (ggml_get_glu_op(op) == GGML_GLU_OP_SWIGLU_OAI) {
        float params[2]; // alpha, limit
        memcpy(params, op->op_params + 2, sizeof(params));
        return kernels.clamped_swiglu(x, gate, params[0], params[1], y, n);
    }
    (ggml_get_glu_op(op) == GGML_GLU_OP_SWIGLU ? kernels.silu : kernels.gelu)(x, gate, y, n);
}

static void rotate(const row_kernels & kernels, const row_job & job, row_index at, float * y) {
    const rope_params p(job.op->op_params);
    const auto * x = (const float *) row_of(job.op->src[0], at);
    const int64_t n_pairs = p.n_dims / 2, n = job.op->ne[0], end = p.first + p.n_dims;
    const float * cos = &job.turns->cos[at.i2 * n_pairs];
    const float * sin = &job.turns->sin[at.i2 * n_pairs];
    const bool halves = job.op->op_params[2] == GGML_ROPE_TYPE_NEOX;
    (halves ? kernels.rotate_halves : kernels.rotate_neighbours)(x + p.first, cos, sin, y + p.first, n_pairs);
    if (x != y) {
        memcpy(y, x, p.first * sizeof(float));
        memcpy(y + end, x + end, (n - end) * sizeof(float));
    }
}

static void put_row(const row_kernels & kernels, const ggml_tensor * op, row_index at) {
    const auto * x = (const float *) row_of(op->src[0], at);
    const int64_t n = op->ne[0];
    void * y = (char *) op->data + index_at(op->src[1], at) * op->nb[1] + at.i2 * op->nb[2] + at.i3 * op->nb[3];
    if (op->type == GGML_TYPE_F16) {
        kernels.to_halves(x, y, n);
    } else if (op->type == GGML_TYPE_F32) {
        memcpy(y, x, n * sizeof(float));
    } else {
        ggml_get_type_traits(op->type)->from_float_ref(x, y, n);
    }
}

static const float * taken_row(const ggml_tensor * op, row_index at) {
    const ggml_tensor * x = op->src[0];
    return (const float *) ((const char *) x->data + index_at(op->src[1], at) * x->nb[1] + at.i2 * x->nb[2] +
                            at.i3 * x->nb[3]);
}

static void run_row(const row_kernels & kernels, const row_job & job, row_index at) {
    const ggml_tensor * op = job.op;
    if (op->op == GGML_OP_SET_ROWS) {
        return put_row(kernels, op, at);
    }
    float params[2];
    memcpy(params, op->op_params, sizeof(params));
    auto * y = (float *) row_of(op, at);
    const int64_t n = op->ne[0];
    switch (op->op) {
    case GGML_OP_SOFT_MAX:
        return softmax((const float *) row_of(op->src[0], at), params[0], y, n);
    case GGML_OP_ARGSORT:
        return sort_places((const float *) row_of(op->src[0], at), op->op_params[0] == GGML_SORT_ORDER_DESC, (int32_t *) y,
                           n);
    case GGML_OP_CLAMP:
        return clamp((const float *) row_of(op->src[0], at), params[0], params[1], y, n);
    case GGML_OP_SUM_ROWS: {
        const auto * x = (const float *) row_of(op->src[0], at);
        *y = (float) std::accumulate(x, x + op->src[0]->ne[0], 0.0);
        return;
    }
    case GGML_OP_ADD_ID:
        return add_chosen(kernels, op, at, y);
    case GGML_OP_RMS_NORM:
        return kernels.rms_norm((const float *) row_of(op->src[0], at), y, n, params[0]);
    case GGML_OP_NORM:
        return kernels.layer_norm((const float *) row_of(op->src[0], at), y, n, params[0]);
    case GGML_OP_SCALE:
        return kernels.scale_and_shift((const float *) row_of(op->src[0], at), params[0], params[1], y, n);
    case GGML_OP_ADD:
    case GGML_OP_MUL:
    case GGML_OP_DIV:
        return combine(kernels, op, at, y);
    case GGML_OP_GLU:
        return gate(kernels, op, at, y);
    case GGML_OP_UNARY:
        return (ggml_get_unary_op(op) == GGML_UNARY_OP_SILU ? kernels.silu : kernels.gelu)(
            (const float *) row_of(op->src[0], at), nullptr, y, n);
    case GGML_OP_ROPE:
        return rotate(kernels, job, at, y);
    case GGML_OP_GET_ROWS:
        memcpy(y, taken_row(op, at), n * sizeof(float));
        return;
    default:
        memcpy(y, row_of(op->src[0], at), n * sizeof(float)); // CONT
    }
}

static void run_part(void * context, int32_t part) {
    const row_job & job = *(const row_job *) context;
    const row_kernels & kernels = find_row_kernels(kernels_in_use());
    const int64_t n = ggml_nrows(job.rows), n1 = job.rows->ne[1], n2 = job.rows->ne[2];
    for (int64_t row = n * part / job.n_parts; row < n * (part + 1) / job.n_parts; row++) {
        run_row(kernels, job, {row % n1, row / n1 % n2, row / n1 / n2});
    }
}

void row_ops::run(const ggml_tensor * op) {
    row_job job = {};
    job.op = op;
    job.rows = op->op == GGML_OP_SET_ROWS ? op->src[0] : op;
    job.turns = op->op == GGML_OP_ROPE ? &rotation_of(op) : nullptr;
    const bool is_small = workers.n_threads() == 1 || ggml_nelements(job.rows) < WORTH_THREADS;
    job.n_parts = is_small ? 1 : (int32_t) std::min<int64_t>(ggml_nrows(job.rows), PARTS_PER_THREAD * workers.n_threads());
    if (job.n_parts <= 1) {
        job.n_parts = 1;
        return run_part(&job, 0);
    }
    workers.run(job.n_parts, run_part, &job);
}

} // namespace mp
