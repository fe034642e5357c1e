// Products with stacks of matrices by the module of the kernels: experts of mixtures, and heads. Every line of a result
// must have the bits of a plain product of its matrix with its input alone, whatever else is in the pass and however many
// threads there are. Prints the instruction set and the largest error against double precision; exits with 1 where
// something is wrong.
//
// Usage: kernels_experts MODULE

#include "ggml-alloc.h"
#include "ggml-backend.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

static ggml_backend_dev_t device;

static std::mt19937 engine(31);
static int failures = 0;
static double worst_error = 0;

static void check(bool ok, const std::string & what) {
    if (!ok && failures++ < 20) {
        printf("FAILED: %s\n", what.c_str());
    }
}

static int64_t random_int(int64_t low, int64_t high) { // both included
    return std::uniform_int_distribution<int64_t>(low, high)(engine);
}

static std::vector<float> random_values(int64_t n) {
    std::vector<float> values(n);
    std::generate(values.begin(), values.end(), [] { return std::normal_distribution<float>()(engine); });
    return values;
}

// --- graphs ----------------------------------------------------------------------------------------------------------

struct graph {
    ggml_context * context;
    ggml_cgraph * nodes;
    ggml_backend_buffer_t memory = nullptr;

    explicit graph(int64_t n_nodes)
        : context(ggml_init(
              {(3 * n_nodes + 8) * ggml_tensor_overhead() + ggml_graph_overhead_custom(n_nodes + 8, false), nullptr, true})),
          nodes(ggml_new_graph_custom(context, n_nodes + 8, false)) {}
    ~graph() {
        ggml_backend_buffer_free(memory);
        ggml_free(context);
    }
    graph(const graph &) = delete;

    void allocate() { memory = ggml_backend_alloc_ctx_tensors_from_buft(context, ggml_backend_cpu_buffer_type()); }

    void compute(int n_threads) {
        ggml_backend_t backend = ggml_backend_dev_init(device, nullptr);
        const auto set_n_threads = (ggml_backend_set_n_threads_t) ggml_backend_reg_get_proc_address(
            ggml_backend_dev_backend_reg(device), "ggml_backend_set_n_threads");
        set_n_threads(backend, n_threads);
        for (int i = 0; i < ggml_graph_n_nodes(nodes); i++) {
            check(ggml_backend_supports_op(backend, ggml_graph_node(nodes, i)), "supports_op");
        }
        check(ggml_backend_graph_compute(backend, nodes) == GGML_STATUS_SUCCESS, "graph_compute");
        ggml_backend_free(backend);
    }
};

// --- weights and the reference ---------------------------------------------------------------------------------------

// A stack of matrices, as a whole and one by one, in the module's buffers; and in ggml's layout.
struct stack {
    int64_t k, n_out, n_matrices;
    ggml_context * context;
    ggml_tensor * whole;
    std::vector<ggml_tensor *> matrices;
    std::vector<char> data;
    ggml_backend_buffer_t packed;

    stack(ggml_type type, int64_t k, int64_t n_out, int64_t n_matrices)
        : k(k), n_out(n_out), n_matrices(n_matrices),
          context(ggml_init({(n_matrices + 1) * ggml_tensor_overhead(), nullptr, true})),
          whole(ggml_new_tensor_3d(context, type, k, n_out, n_matrices)) {
        for (int64_t i = 0; i < n_matrices; i++) {
            matrices.push_back(ggml_new_tensor_2d(context, type, k, n_out));
        }
        packed = ggml_backend_alloc_ctx_tensors_from_buft(context, ggml_backend_dev_buffer_type(device));
        data.resize(ggml_nbytes(whole));
        const std::vector<float> values = random_values(k * n_out * n_matrices);
        ggml_quantize_chunk(type, values.data(), data.data(), 0, n_out * n_matrices, k, nullptr);
        ggml_backend_tensor_set(whole, data.data(), 0, data.size());
        for (int64_t i = 0; i < n_matrices; i++) {
            ggml_backend_tensor_set(matrices[i], data.data() + i * whole->nb[2], 0, whole->nb[2]);
        }
    }
    ~stack() {
        ggml_backend_buffer_free(packed);
        ggml_free(context);
    }
    stack(const stack &) = delete;

    // Of an output, relative to what the sum of independent terms would be.
    double error_of(const float * y, int64_t i, const float * x) const {
        std::vector<float> row(k);
        double largest = 0;
        for (int64_t out = 0; out < n_out; out++) {
            const char * from = data.data() + i * whole->nb[2] + out * whole->nb[1];
            if (whole->type == GGML_TYPE_F32) {
                memcpy(row.data(), from, k * sizeof(float));
            } else {
                ggml_get_type_traits(whole->type)->to_float(from, row.data(), k);
            }
            double sum = 0, squares = 0;
            for (int64_t j = 0; j < k; j++) {
                sum += (double) row[j] * x[j];
                squares += (double) row[j] * row[j] * x[j] * x[j];
            }
            const double error = std::fabs(sum - y[out]) / std::sqrt(squares);
            largest = error <= largest ? largest : error; // a NaN stays
        }
        return largest;
    }
};

struct line {
    const float * y; // of a stack
    int64_t matrix;
    const float * x;
};

static void check_lines(const stack & weights, const std::vector<line> & lines, const std::string & what) {
    graph alone((int64_t) lines.size());
    std::vector<ggml_tensor *> inputs, outputs;
    for (const line & l : lines) {
        inputs.push_back(ggml_new_tensor_1d(alone.context, GGML_TYPE_F32, weights.k));
        outputs.push_back(ggml_mul_mat(alone.context, weights.matrices[l.matrix], inputs.back()));
        ggml_build_forward_expand(alone.nodes, outputs.back());
    }
    alone.allocate();
    for (size_t i = 0; i < lines.size(); i++) {
        ggml_backend_tensor_set(inputs[i], lines[i].x, 0, weights.k * sizeof(float));
    }
    alone.compute(1);
    for (size_t i = 0; i < lines.size(); i++) {
        const line & l = lines[i];
        if (std::any_of(l.x, l.x + weights.k, [](float value) { return !std::isfinite(value); })) {
            const bool all = std::all_of(l.y, l.y + weights.n_out, [](float value) { return std::isnan(value); });
            check(all, what + ": a NaN is lost");
            continue;
        }
        check(memcmp(l.y, outputs[i]->data, weights.n_out * sizeof(float)) == 0, what + ": not what a line alone gives");
        const double error = weights.error_of(l.y, l.matrix, l.x);
        check(error < 0.1, what + ": error " + std::to_string(error));
        worst_error = std::max(worst_error, error);
    }
}

enum choice_kind { ONE_EXPERT, EACH_ANOTHER, REPEATED, DISTINCT, N_CHOICES };

// (row, slot)
static std::vector<int32_t> choose(choice_kind kind, int64_t n, int64_t n_used, int64_t n_experts) {
    std::vector<int32_t> choice(n * n_used), order(n_experts);
    for (int32_t i = 0; i < n_experts; i++) {
        order[i] = i;
    }
    for (int64_t i = 0; i < n * n_used; i++) {
        if (i % n_used == 0) {
            std::shuffle(order.begin(), order.end(), engine);
        }
        const int64_t repeated = random_int(0, std::min<int64_t>(1, n_experts - 1));
        choice[i] = (int32_t) (kind == ONE_EXPERT     ? n_experts / 2
                               : kind == EACH_ANOTHER ? i % n_experts
                               : kind == REPEATED     ? repeated
                                                      : order[i % n_used]);
    }
    return choice;
}

// gate and up of one input, down of one for each slot; the choice lies in a wider table, as a view of a sort does.
static void test_mixture(const stack & gate, const stack & up, const stack & down, int64_t n, int64_t n_used,
                         choice_kind kind, int32_t n_threads) {
    graph g(6);
    ggml_tensor * x = ggml_new_tensor_3d(g.context, GGML_TYPE_F32, gate.k, 1, n);
    ggml_tensor * hidden = ggml_new_tensor_3d(g.context, GGML_TYPE_F32, down.k, n_used, n);
    ggml_tensor * sorted = ggml_new_tensor_2d(g.context, GGML_TYPE_I32, gate.n_matrices, n);
    ggml_tensor * choice = ggml_view_2d(g.context, sorted, n_used, n, sorted->nb[1], 0);
    struct {
        const stack & weights;
        ggml_tensor *input, *output;
    } products[] = {{gate, x, nullptr}, {up, x, nullptr}, {down, hidden, nullptr}};
    for (auto & product : products) {
        product.output = ggml_mul_mat_id(g.context, product.weights.whole, product.input, choice);
        ggml_build_forward_expand(g.nodes, product.output);
    }
    g.allocate();
    const std::vector<int32_t> chosen = choose(kind, n, n_used, gate.n_matrices);
    for (int64_t row = 0; row < n; row++) {
        ggml_backend_tensor_set(sorted, &chosen[row * n_used], row * sorted->nb[1], n_used * sizeof(int32_t));
    }
    for (ggml_tensor * input : {x, hidden}) {
        std::vector<float> values = random_values(ggml_nelements(input));
        if (n > 2) {
            values[random_int(0, (int64_t) values.size() - 1)] = std::numeric_limits<float>::infinity();
        }
        ggml_backend_tensor_set(input, values.data(), 0, ggml_nbytes(input));
    }
    g.compute(n_threads);

    const std::string what = std::string(ggml_type_name(gate.whole->type)) + ", " + std::to_string(n) + " rows, " +
                             std::to_string(n_used) + " experts, choice " + std::to_string(kind) + ", " +
                             std::to_string(n_threads) + " threads";
    for (const auto & product : products) {
        std::vector<line> lines;
        for (int64_t i = 0; i < n * n_used; i++) {
            const int64_t row = i / n_used, slot = i % n_used;
            const auto * from = (const char *) product.input->data + row * product.input->nb[2] +
                                slot % product.input->ne[1] * product.input->nb[1];
            const auto * y =
                (const char *) product.output->data + row * product.output->nb[2] + slot * product.output->nb[1];
            lines.push_back({(const float *) y, chosen[i], (const float *) from});
        }
        check_lines(product.weights, lines, what);
    }
}

// Heads of the input beside each other in a row, and `n_shared` heads with one matrix.
static void test_heads(const stack & heads, int64_t n, int64_t n_shared, int64_t n_streams, int32_t n_threads) {
    graph g(3);
    const int64_t n_heads = heads.n_matrices * n_shared;
    ggml_tensor * rows = ggml_new_tensor_4d(g.context, GGML_TYPE_F32, heads.k, n_heads, n, n_streams);
    ggml_tensor * x = ggml_permute(g.context, rows, 0, 2, 1, 3);
    ggml_tensor * y = ggml_mul_mat(g.context, heads.whole, x);
    ggml_build_forward_expand(g.nodes, y);
    g.allocate();
    const std::vector<float> values = random_values(ggml_nelements(rows));
    ggml_backend_tensor_set(rows, values.data(), 0, ggml_nbytes(rows));
    g.compute(n_threads);
    const float * to = (const float *) y->data;
    std::vector<line> lines;
    for (int64_t stream = 0; stream < n_streams; stream++) {
        for (int64_t head = 0; head < n_heads; head++) {
            for (int64_t row = 0; row < n; row++, to += heads.n_out) {
                const float * from = values.data() + ((stream * n + row) * n_heads + head) * heads.k;
                lines.push_back({to, head / n_shared, from});
            }
        }
    }
    check_lines(heads, lines, std::string("heads of ") + ggml_type_name(heads.whole->type));
}

// Whether the module has a kernel for a type.
static bool has_kernel(ggml_type type) {
    if (ggml_blck_size(type) == 0 || 256 % ggml_blck_size(type) != 0) {
        return false; // a type that ggml no longer has
    }
    graph g(1);
    ggml_context * context = ggml_init({ggml_tensor_overhead(), nullptr, true});
    ggml_tensor * weights = ggml_new_tensor_2d(context, type, 256, 16);
    ggml_backend_buffer_t packed = ggml_backend_alloc_ctx_tensors_from_buft(context, ggml_backend_dev_buffer_type(device));
    ggml_tensor * x = ggml_new_tensor_1d(g.context, GGML_TYPE_F32, 256);
    const bool has = ggml_backend_dev_supports_op(device, ggml_mul_mat(g.context, weights, x));
    ggml_backend_buffer_free(packed);
    ggml_free(context);
    return has;
}

static void test_type(ggml_type type) {
    const int64_t k = 256, n_out = 75; // no multiple of a group
    const stack gate(type, k, n_out, 5), up(type, k, n_out, 5), down(type, k, 64, 5), alone(type, k, n_out, 1);
    for (int kind = 0; kind < N_CHOICES; kind++) {
        for (const int64_t n : {1, 2, 3, 8, 17, 33}) {
            test_mixture(gate, up, down, n, random_int(1, 4), (choice_kind) kind, 1 + (int32_t) (n % 3));
        }
    }
    test_mixture(alone, alone, alone, 5, 1, ONE_EXPERT, 2);
    test_heads(gate, 4, 1, 1, 1);
    test_heads(gate, 9, 2, 2, 3);
}

int main(int argc, char ** argv) {
    ggml_backend_reg_t module = argc == 2 ? ggml_backend_load(argv[1]) : nullptr;
    if (!module) {
        printf("the module was refused\n");
        return 1;
    }
    device = ggml_backend_reg_dev_get(module, 0);
    int n_types = 0;
    for (int i = 0; i < GGML_TYPE_COUNT; i++) {
        if (has_kernel((ggml_type) i)) {
            test_type((ggml_type) i);
            n_types++;
        }
    }
    check(n_types >= 16, "types are missing");
    const stack f32(GGML_TYPE_F32, 256, 40, 7), f16(GGML_TYPE_F16, 256, 33, 7), odd(GGML_TYPE_BF16, 30, 33, 7);
    test_mixture(f32, f16, f16, 6, 3, DISTINCT, 2); // types that share no input
    test_mixture(odd, odd, odd, 6, 3, DISTINCT, 2);
    printf("%s: %d types, error %.1e, %d failures\n", ggml_backend_dev_description(device), n_types, worst_error, failures);
    return failures != 0;
}
