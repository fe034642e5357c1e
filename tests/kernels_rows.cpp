// The operations that go row by row, against ggml's own on the CPU: every kind, odd lengths, strides, and the same bits
// for a row whatever the number of rows and threads. MASKPROBE_ISA chooses the instruction set.
#include "kernels/gemm/kernel_choice.h"
#include "kernels/ggml/row_ops.h"

#include "ggml-cpu.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

using namespace mp;

static int n_failures = 0;

static void check(bool ok, const std::string & what) {
    if (!ok) {
        fprintf(stderr, "failed: %s\n", what.c_str());
        n_failures++;
    }
}

static float random_number() {
    static uint32_t state = 12345;
    state = state * 1664525 + 1013904223;
    return (float) (state >> 8) / (1 << 23) - 1.0f;
}

// The same numbers for a row of the same index, however many rows there are.
static void fill(ggml_tensor * t, float spread) {
    static std::vector<float> numbers = [] {
        std::vector<float> made(1 << 16);
        for (float & x : made) {
            x = random_number();
        }
        return made;
    }();
    for (int64_t row = 0; row < ggml_nrows(t); row++) {
        for (int64_t i = 0; i < t->ne[0]; i++) {
            ((float *) t->data)[row * t->ne[0] + i] = spread * numbers[(row * 1021 + i) % numbers.size()];
        }
    }
}

namespace {

struct graph {
    ggml_context * ctx = ggml_init({32 << 20, nullptr, false});

    ~graph() { ggml_free(ctx); }

    ggml_tensor * rows(int64_t n0, int64_t n1, int64_t n2 = 1, float spread = 4.0f) {
        ggml_tensor * t = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, n0, n1, n2);
        fill(t, spread);
        return t;
    }

    template <class T> ggml_tensor * indices(ggml_type type, int64_t n, const std::function<T(int64_t)> & value) {
        ggml_tensor * t = ggml_new_tensor_1d(ctx, type, n);
        for (int64_t i = 0; i < n; i++) {
            ((T *) t->data)[i] = value(i);
        }
        return t;
    }

    ggml_tensor * positions(int64_t n) {
        return indices<int32_t>(GGML_TYPE_I32, n, [](int64_t i) { return (int32_t) (3 + 5 * i); });
    }

    void compute(ggml_tensor * op) {
        ggml_cgraph * g = ggml_new_graph(ctx);
        ggml_build_forward_expand(g, op);
        check(ggml_graph_compute_with_ctx(ctx, g, 1) == GGML_STATUS_SUCCESS, "ggml computes");
    }
};

struct operation {
    const char * name;
    std::function<ggml_tensor *(graph &, int64_t n)> make; // for n rows of a pass
};

} // namespace

static ggml_tensor * rope(graph & g, int64_t n, int mode, int n_dims, float ext_factor, bool factors, int64_t n_head) {
    ggml_tensor * divisors = nullptr;
    if (factors) {
        divisors = g.rows(n_dims / 2, 1);
        for (int i = 0; i < n_dims / 2; i++) {
            ((float *) divisors->data)[i] = 1.0f + 0.25f * i;
        }
    }
    return ggml_rope_ext(g.ctx, g.rows(64, n_head, n), g.positions(n), divisors, n_dims, mode, 4096, 10000.0f,
                         ext_factor != 0 ? 0.25f : 1.0f, ext_factor, 1.1f, 32.0f, 1.0f);
}

static ggml_tensor * stored(graph & g, int64_t n, ggml_type type) {
    ggml_tensor * cache = ggml_new_tensor_2d(g.ctx, type, 192, 64);
    memset(cache->data, 0, ggml_nbytes(cache));
    ggml_tensor * places = g.indices<int64_t>(GGML_TYPE_I64, n, [](int64_t i) { return (7 * i + 2) % 64; });
    return ggml_set_rows(g.ctx, cache, g.rows(192, n), places);
}

static const std::vector<operation> & operations() {
    static const std::vector<operation> all = {
        {"rms_norm", [](graph & g, int64_t n) { return ggml_rms_norm(g.ctx, g.rows(577, n), 1e-5f); }},
        {"rms_norm of heads", [](graph & g, int64_t n) { return ggml_rms_norm(g.ctx, g.rows(64, 3, n), 1e-6f); }},
        {"norm", [](graph & g, int64_t n) { return ggml_norm(g.ctx, g.rows(100, n), 1e-5f); }},
        {"add", [](graph & g, int64_t n) { return ggml_add(g.ctx, g.rows(91, n), g.rows(91, n, 1, 1.0f)); }},
        {"add a bias", [](graph & g, int64_t n) { return ggml_add(g.ctx, g.rows(128, n), g.rows(128, 1)); }},
        {"multiply", [](graph & g, int64_t n) { return ggml_mul(g.ctx, g.rows(64, 5, n), g.rows(64, 1)); }},
        {"multiply by one number a row", [](graph & g, int64_t n) { return ggml_mul(g.ctx, g.rows(70, n), g.rows(1, n)); }},
        {"scale", [](graph & g, int64_t n) { return ggml_scale_bias(g.ctx, g.rows(33, n), 0.3f, 0.5f); }},
        {"swiglu", [](graph & g, int64_t n) { return ggml_swiglu_split(g.ctx, g.rows(1537, n), g.rows(1537, n, 1, 2.0f)); }},
        {"swiglu of halves", [](graph & g, int64_t n) { return ggml_swiglu(g.ctx, g.rows(128, n, 1, 30.0f)); }},
        {"clamped swiglu",
         [](graph & g, int64_t n) {
             return ggml_swiglu_oai(g.ctx, g.rows(75, 3, n, 20.0f), g.rows(75, 3, n, 20.0f), 1.702f, 7.0f);
         }},
        {"divide", [](graph & g, int64_t n) { return ggml_div(g.ctx, g.rows(21, n), g.rows(21, n, 1, 1.0f)); }},
        {"divide by one number a row", [](graph & g, int64_t n) { return ggml_div(g.ctx, g.rows(8, n), g.rows(1, n)); }},
        {"softmax", [](graph & g, int64_t n) { return ggml_soft_max(g.ctx, g.rows(131, n)); }},
        {"places in order", [](graph & g, int64_t n) { return ggml_argsort(g.ctx, g.rows(61, n), GGML_SORT_ORDER_DESC); }},
        {"places in rising order",
         [](graph & g, int64_t n) { return ggml_argsort(g.ctx, g.rows(61, n), GGML_SORT_ORDER_ASC); }},
        {"sum", [](graph & g, int64_t n) { return ggml_sum_rows(g.ctx, g.rows(37, n)); }},
        {"clamp", [](graph & g, int64_t n) { return ggml_clamp(g.ctx, g.rows(37, n), -1.0f, 2.0f); }},
        {"biases of experts",
         [](graph & g, int64_t n) {
             ggml_tensor * chosen =
                 g.indices<int32_t>(GGML_TYPE_I32, 3 * n, [](int64_t i) { return (int32_t) (i * i % 5); });
             return ggml_add_id(g.ctx, g.rows(45, 3, n), g.rows(45, 5), ggml_reshape_2d(g.ctx, chosen, 3, n));
         }},
        {"geglu", [](graph & g, int64_t n) { return ggml_geglu_split(g.ctx, g.rows(70, n), g.rows(70, n)); }},
        {"silu", [](graph & g, int64_t n) { return ggml_silu(g.ctx, g.rows(70, n, 1, 100.0f)); }},
        {"gelu", [](graph & g, int64_t n) { return ggml_gelu(g.ctx, g.rows(70, n)); }},
        {"rope", [](graph & g, int64_t n) { return rope(g, n, GGML_ROPE_TYPE_NORMAL, 64, 0, false, 3); }},
        {"rope of halves", [](graph & g, int64_t n) { return rope(g, n, GGML_ROPE_TYPE_NEOX, 64, 0, false, 9); }},
        {"rope of a part", [](graph & g, int64_t n) { return rope(g, n, GGML_ROPE_TYPE_NEOX, 32, 0, false, 2); }},
        {"rope with factors", [](graph & g, int64_t n) { return rope(g, n, GGML_ROPE_TYPE_NORMAL, 64, 0, true, 2); }},
        {"rope by YaRN", [](graph & g, int64_t n) { return rope(g, n, GGML_ROPE_TYPE_NEOX, 64, 1, false, 2); }},
        {"store as F16", [](graph & g, int64_t n) { return stored(g, n, GGML_TYPE_F16); }},
        {"store as F32", [](graph & g, int64_t n) { return stored(g, n, GGML_TYPE_F32); }},
        {"store as BF16", [](graph & g, int64_t n) { return stored(g, n, GGML_TYPE_BF16); }},
        {"store as Q8_0", [](graph & g, int64_t n) { return stored(g, n, GGML_TYPE_Q8_0); }},
        {"take rows",
         [](graph & g, int64_t n) {
             return ggml_get_rows(g.ctx, g.rows(50, 40),
                                  g.indices<int32_t>(GGML_TYPE_I32, n, [](int64_t i) { return (int32_t) (11 * i % 40); }));
         }},
        {"copy",
         [](graph & g, int64_t n) {
             ggml_tensor * wide = g.rows(90, n);
             return ggml_cont(g.ctx, ggml_view_2d(g.ctx, wide, 60, n, wide->nb[1], 16 * sizeof(float)));
         }},
    };
    return all;
}

static std::vector<char> bytes_of(const ggml_tensor * t) {
    return {(const char *) t->data, (const char *) t->data + ggml_nbytes(t)};
}

static std::vector<float> floats_of(const ggml_tensor * t, const std::vector<char> & bytes) {
    std::vector<float> values(ggml_nelements(t));
    if (t->type == GGML_TYPE_F32) {
        memcpy(values.data(), bytes.data(), bytes.size());
    } else if (t->type == GGML_TYPE_I32) {
        const auto * numbers = (const int32_t *) bytes.data();
        std::copy(numbers, numbers + values.size(), values.begin());
    } else {
        ggml_get_type_traits(t->type)->to_float(bytes.data(), values.data(), values.size());
    }
    return values;
}

static std::vector<char> run(const operation & o, int64_t n, worker_pool & workers, bool by_ggml) {
    graph g;
    ggml_tensor * op = o.make(g, n);
    if (by_ggml) {
        g.compute(op);
        return bytes_of(op);
    }
    check(can_run_rows(op), std::string(o.name) + " is taken over");
    row_ops ops(workers);
    ops.run(op);
    return bytes_of(op);
}

static void compare(const operation & o, int64_t n, worker_pool & workers) {
    const std::string name = std::string(o.name) + ", " + std::to_string(n) + " rows";
    graph shape;
    const ggml_tensor * like = o.make(shape, n);
    const std::vector<char> ours = run(o, n, workers, false);
    const std::vector<float> a = floats_of(like, ours), b = floats_of(like, run(o, n, workers, true));
    double worst = 0, largest = 1e-3;
    for (size_t i = 0; i < a.size(); i++) {
        worst = std::max(worst, (double) std::fabs(a[i] - b[i]));
        largest = std::max(largest, (double) std::fabs(b[i]));
    }
    // ggml looks GELU up in a table of halves; a quant on the border of two may fall to either side.
    const bool coarse = strstr(o.name, "gelu") || strstr(o.name, "geglu") || strstr(o.name, "Q8_0");
    check(worst <= largest * (coarse ? 1e-2 : 2e-6), name + ": differs from ggml by " + std::to_string(worst));

    // Stored rows lie elsewhere for another number of rows: these are compared with ggml's only.
    if (n > 1 && !strstr(o.name, "store")) {
        const std::vector<char> first = run(o, 1, workers, false);
        check(memcmp(ours.data(), first.data(), first.size()) == 0, name + ": the first row is that of a pass of one");
    }
}

int main() {
    if (!kernel_choice_error().empty()) {
        fprintf(stderr, "%s\n", kernel_choice_error().c_str());
        return 77;
    }
    worker_pool one(1), three(3);
    for (const operation & o : operations()) {
        for (int64_t n : {1, 2, 3, 7, 40}) {
            compare(o, n, one);
            check(run(o, n, one, false) == run(o, n, three, false), std::string(o.name) + " with three threads");
        }
    }
    { // among equal experts the first ones are chosen, and what is not a number comes last
        graph g;
        ggml_tensor * x = g.rows(6, 1);
        const float scores[] = {1, 3, NAN, 3, NAN, 7};
        memcpy(x->data, scores, sizeof(scores));
        ggml_tensor * op = ggml_argsort(g.ctx, x, GGML_SORT_ORDER_DESC);
        row_ops(one).run(op);
        const int32_t expected[] = {5, 1, 3, 0, 2, 4};
        check(memcmp(op->data, expected, sizeof(expected)) == 0, "places of equal numbers");
    }
    { // positions change from pass to pass, and so must the angles
        graph g;
        ggml_tensor * op = rope(g, 2, GGML_ROPE_TYPE_NORMAL, 64, 0, false, 1);
        row_ops ops(one);
        ops.run(op);
        const std::vector<char> before = bytes_of(op);
        for (int32_t round = 0; round < 10; round++) {
            ((int32_t *) op->src[1]->data)[1] += 1;
            ops.run(op);
            check(bytes_of(op) != before, "rope turns further");
        }
        ((int32_t *) op->src[1]->data)[1] -= 10;
        ops.run(op);
        check(bytes_of(op) == before, "rope at the old positions");
    }
    { // what is not F32, or not on the CPU in rows, stays with ggml
        graph g;
        ggml_tensor * halves = ggml_new_tensor_2d(g.ctx, GGML_TYPE_F16, 64, 4);
        check(!can_run_rows(ggml_rms_norm(g.ctx, ggml_cast(g.ctx, halves, GGML_TYPE_F16), 1e-5f)), "F16 rows are left");
        check(!can_run_rows(ggml_mul(g.ctx, g.rows(8, 4), g.rows(4, 1))), "repeated columns are left");
        check(!can_run_rows(ggml_soft_max_ext(g.ctx, g.rows(8, 4), g.rows(8, 4), 1.0f, 0.0f)), "a mask is left");
        check(!can_run_rows(ggml_sqr(g.ctx, g.rows(8, 4))), "other operations are left");
    }
    printf("%s: %d failures\n", instruction_set_name(kernels_in_use()), n_failures);
    return n_failures == 0 ? 0 : 1;
}
