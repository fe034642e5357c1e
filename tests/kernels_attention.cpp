// Attention kernels against double precision, against ggml's own operation, and against themselves: a row's result must
// be bit for bit the same in every company. Prints the largest errors; exit status 1 when one is too large.
//
// With MP_GGML_STAND_IN it is linked with tests/ggml_stand_in.cpp and not with ggml, nothing is compared with that, and
// there are fewer problems: then it runs in an emulator.

#include "kernels/attention/attention.h"

#include "ggml.h"
#if !defined(MP_GGML_STAND_IN)
#    include "ggml-backend.h"
#endif

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

using namespace mp;

static std::mt19937 engine(20240607);
static int failures = 0;

// How many problems of `usual`.
static int32_t n_problems(int32_t usual) {
#if defined(MP_GGML_STAND_IN)
    return usual / 5;
#else
    return usual;
#endif
}

static void check(bool ok, const std::string & what) {
    if (!ok) {
        failures++;
        if (failures <= 20) {
            printf("FAILED: %s\n", what.c_str());
        }
    }
}

static int32_t random_int(int32_t low, int32_t high) {
    return std::uniform_int_distribution<int32_t>(low, high)(engine);
}
static float random_normal() {
    return std::normal_distribution<float>()(engine);
}
template <class T> static T pick(std::initializer_list<T> from) {
    return from.begin()[random_int(0, (int32_t) from.size() - 1)];
}

static std::vector<instruction_set> available_sets() {
    std::vector<instruction_set> sets = {instruction_set::portable};
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        sets.push_back(instruction_set::avx2);
    }
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
        sets.push_back(instruction_set::avx512_vnni);
    }
#elif defined(__aarch64__)
    sets.push_back(instruction_set::neon_dotprod);
#endif
    return sets;
}

static const char * name_of(instruction_set set) {
    switch (set) {
    case instruction_set::portable:
        return "portable";
    case instruction_set::avx2:
        return "avx2";
    case instruction_set::neon_dotprod:
        return "neon";
    default:
        return "avx512";
    }
}

static const float HIDDEN = -INFINITY;

enum mask_kind { NO_MASK, CAUSAL, TREE, RANDOM, SPARSE, ALL_HIDDEN, ADDITIVE, N_MASK_KINDS };

// One problem, with the memory it lies in. All cells start as garbage (bytes of 0xFF: NaN in every type).
struct problem {
    attention_job job = {};
    std::vector<float> q;
    std::vector<uint8_t> k, v;
    std::vector<float> k_float, v_float; // (cell, head, i), as the kernels must see them
    std::vector<ggml_fp16_t> mask;
    std::vector<float> mask_float; // (n, n_kv)
    std::vector<float> sinks;      // (n_head), or none

    size_t float_at(int64_t cell, int32_t head) const { return (cell * job.n_head_kv + head) * job.head_size; }

    bool sees(int32_t row, int64_t cell) const { return !job.mask || mask_float[row * job.n_kv + cell] != HIDDEN; }

    void set_mask(int32_t row, int64_t cell, float value) {
        mask[row * (job.mask_row / 2) + cell] = ggml_fp32_to_fp16(value);
        mask_float[row * job.n_kv + cell] = ggml_fp16_to_fp32(ggml_fp32_to_fp16(value));
    }

    void write_cell(std::vector<uint8_t> & cache, std::vector<float> & floats, ggml_type type, size_t at, int64_t cell,
                    int32_t head, const float * values) {
        ggml_quantize_chunk(type, values, cache.data() + at, 0, 1, job.head_size, nullptr);
        float * to = floats.data() + float_at(cell, head);
        if (type == GGML_TYPE_F32) {
            std::copy(values, values + job.head_size, to);
        } else {
            ggml_get_type_traits(type)->to_float(cache.data() + at, to, job.head_size);
        }
    }
    void write_k(int64_t cell, int32_t head, const float * values) {
        write_cell(k, k_float, job.k_type, cell * job.k_cell + head * job.k_head, cell, head, values);
    }
    void write_v(int64_t cell, int32_t head, const float * values) {
        write_cell(v, v_float, job.v_type, cell * job.v_cell + head * job.v_head, cell, head, values);
    }

    problem(int32_t n, int32_t n_head_kv, int32_t group, int32_t head_size, int64_t n_kv, ggml_type k_type, ggml_type v_type,
            mask_kind kind, bool soft_cap) {
        job.n = n;
        job.n_head = n_head_kv * group;
        job.n_head_kv = n_head_kv;
        job.head_size = head_size;
        job.n_kv = n_kv;
        job.scale = 1.0f / std::sqrt((float) head_size);
        job.soft_cap = soft_cap ? pick({1.0f, 5.0f, 50.0f}) : 0.0f;

        if (random_int(0, 2) == 0) {
            for (int32_t head = 0; head < job.n_head; head++) {
                sinks.push_back(pick({random_normal(), 3 * random_normal(), -200.0f, 30.0f, HIDDEN}));
            }
            job.sinks = sinks.data();
        }

        // Rows, heads and cells lie apart by more than their size, in either order.
        const size_t gap = random_int(0, 3) * 4;
        if (random_int(0, 1)) {
            job.q_head = head_size * 4 + gap;
            job.q_row = job.n_head * job.q_head + gap;
        } else {
            job.q_row = head_size * 4 + gap;
            job.q_head = n * job.q_row + gap;
        }
        q.resize((n * job.q_row + job.n_head * job.q_head) / 4 + 1);
        std::generate(q.begin(), q.end(), random_normal);
        job.q = q.data();

        job.k_type = k_type;
        job.v_type = v_type;
        job.k_head = ggml_row_size(k_type, head_size) + gap;
        job.k_cell = n_head_kv * job.k_head + gap;
        job.v_cell = ggml_row_size(v_type, head_size) + gap;
        job.v_head = n_kv * job.v_cell + gap;
        k.assign(n_kv * job.k_cell, 0xFF);
        v.assign(n_head_kv * job.v_head, 0xFF);
        k_float.assign(n_kv * n_head_kv * head_size, NAN);
        v_float = k_float;
        job.k = k.data();
        job.v = v.data();

        mask_float.assign(n * n_kv, 0.0f);
        job.mask_row = (n_kv + random_int(0, 9)) * 2;
        mask.assign(n * job.mask_row / 2, 0);
        job.mask = kind == NO_MASK ? nullptr : mask.data();
        fill_mask(kind);

        std::vector<float> values(head_size);
        for (int64_t cell = 0; cell < n_kv; cell++) {
            bool seen = false;
            for (int32_t row = 0; row < n; row++) {
                seen |= sees(row, cell);
            }
            for (int32_t head = 0; seen && head < n_head_kv; head++) {
                std::generate(values.begin(), values.end(), random_normal);
                write_k(cell, head, values.data());
                std::generate(values.begin(), values.end(), random_normal);
                write_v(cell, head, values.data());
            }
        }
    }

    void fill_mask(mask_kind kind) {
        const int64_t n = job.n, n_kv = job.n_kv;
        std::vector<int32_t> parent(n); // of the tree's rows, which stand in the last cells
        for (int32_t row = 0; row < n; row++) {
            parent[row] = row == 0 ? -1 : random_int(0, row - 1);
        }
        const int64_t prefix = std::max<int64_t>(0, n_kv - n);
        for (int32_t row = 0; row < n; row++) {
            for (int64_t cell = 0; cell < n_kv; cell++) {
                bool hidden = false;
                float value = 0;
                switch (kind) {
                case CAUSAL:
                    hidden = cell > prefix + row;
                    break;
                case TREE:
                    hidden = cell >= prefix;
                    for (int32_t i = row; i >= 0; i = parent[i]) {
                        hidden &= cell != prefix + i;
                    }
                    break;
                case RANDOM:
                    hidden = random_int(0, 1);
                    break;
                case SPARSE:
                    hidden = random_int(0, 99) != 0 || row % 3 == 1;
                    break;
                case ALL_HIDDEN:
                    hidden = true;
                    break;
                case ADDITIVE:
                    hidden = random_int(0, 3) == 0;
                    value = 3 * random_normal() - (random_int(0, 9) == 0 ? 1000 : 0);
                    break;
                default:
                    break;
                }
                set_mask(row, cell, hidden ? HIDDEN : value);
            }
        }
    }

    size_t out_row() const { return (size_t) job.n_head * job.head_size; }

    std::string describe() const {
        char text[200];
        snprintf(text, sizeof(text), "n %d, heads %d/%d, size %d, cells %d, K %s, V %s, soft cap %g%s", job.n, job.n_head,
                 job.n_head_kv, job.head_size, (int) job.n_kv, ggml_type_name(job.k_type), ggml_type_name(job.v_type),
                 job.soft_cap, job.sinks ? ", sinks" : "");
        return text;
    }
};

// Runs a job with scratch memory and output full of NaN, the KV heads in pieces.
static std::vector<float> run(attention_job job, instruction_set set, bool in_pieces = false) {
    std::vector<float> out((size_t) job.n * job.n_head * job.head_size, NAN);
    const size_t size = attention_scratch_size(job);
    uint8_t * scratch = (uint8_t *) aligned_alloc(64, size);
    memset(scratch, 0xFF, size);
    job.out = out.data();
    const int32_t step = in_pieces ? 1 : job.n_head_kv;
    for (int32_t head = 0; head < job.n_head_kv; head += step) {
        attention_run(job, set, head, head + step, scratch);
    }
    free(scratch);
    return out;
}

static std::vector<double> reference(const problem & p) {
    const attention_job & job = p.job;
    const int32_t group = job.n_head / job.n_head_kv;
    std::vector<double> out(job.n * p.out_row(), 0.0);
    std::vector<double> score(job.n_kv);
    for (int32_t row = 0; row < job.n; row++) {
        for (int32_t head = 0; head < job.n_head; head++) {
            const float * q = (const float *) ((const char *) job.q + row * job.q_row + head * job.q_head);
            const double sink = job.sinks ? job.sinks[head] : -INFINITY;
            double largest = sink;
            for (int64_t cell = 0; cell < job.n_kv; cell++) {
                score[cell] = -INFINITY;
                if (!p.sees(row, cell)) {
                    continue;
                }
                const float * k = p.k_float.data() + p.float_at(cell, head / group);
                double s = 0;
                for (int32_t i = 0; i < job.head_size; i++) {
                    s += (double) q[i] * k[i];
                }
                s *= job.scale;
                if (job.soft_cap != 0) {
                    s = job.soft_cap * std::tanh(s / job.soft_cap);
                }
                score[cell] = s + p.mask_float[row * job.n_kv + cell];
                largest = std::max(largest, score[cell]);
            }
            double total = sink == -INFINITY ? 0 : std::exp(sink - largest);
            double * to = out.data() + row * p.out_row() + head * job.head_size;
            for (int64_t cell = 0; cell < job.n_kv; cell++) {
                if (score[cell] == -INFINITY) {
                    continue;
                }
                const double weight = std::exp(score[cell] - largest);
                total += weight;
                const float * v = p.v_float.data() + p.float_at(cell, head / group);
                for (int32_t i = 0; i < job.head_size; i++) {
                    to[i] += weight * v[i];
                }
            }
            for (int32_t i = 0; total > 0 && i < job.head_size; i++) {
                to[i] /= total;
            }
        }
    }
    return out;
}

// The largest error of a head of a row, relative to that head's norm (or to norm_at_least, where it is larger).
// Where the reference is zero, so must be the result.
template <class T> static double error_of(const std::vector<float> & out, const std::vector<T> & expected, int32_t head_size,
                                          double norm_at_least = 0) {
    double worst = 0;
    for (size_t start = 0; start < out.size(); start += head_size) {
        double difference = 0, norm = 0;
        for (int32_t i = 0; i < head_size; i++) {
            const double d = (double) out[start + i] - expected[start + i];
            difference += d * d;
            norm += (double) expected[start + i] * expected[start + i];
        }
        const double error = difference == 0 ? 0 : std::sqrt(difference) / std::max(std::sqrt(norm), norm_at_least);
        worst = error <= worst ? worst : error; // a NaN stays
    }
    return worst;
}

static problem random_problem(int32_t max_n, int32_t max_cells, bool masked = false) {
    const int32_t head_size = pick({4, 8, 20, 48, 64, 80, 96, 128, 256});
    ggml_type types[2];
    for (ggml_type & type : types) {
        do {
            type = pick({GGML_TYPE_F16, GGML_TYPE_F32, GGML_TYPE_BF16, GGML_TYPE_Q8_0});
        } while (type == GGML_TYPE_Q8_0 && head_size % 32 != 0);
    }
    const mask_kind kind = (mask_kind) random_int(masked ? 1 : 0, N_MASK_KINDS - 1);
    return problem(random_int(1, max_n), random_int(1, 3), pick({1, 1, 2, 3, 4, 8}), head_size, random_int(1, max_cells),
                   types[0], types[1], kind, random_int(0, 3) == 0);
}

static void test_reference(instruction_set set) {
    double worst = 0;
    for (int32_t i = 0; i < n_problems(250); i++) {
        const problem p = random_problem(i % 50 == 0 ? 300 : 20, i % 50 == 0 ? 80 : 400);
        check(attention_supports(p.job, set), "supported: " + p.describe());
        const std::vector<float> out = run(p.job, set);
        const double error = error_of(out, reference(p), p.job.head_size);
        check(error < 1e-5, "error " + std::to_string(error) + ": " + p.describe());
        worst = error <= worst ? worst : error;
        check(run(p.job, set, true) == out, "KV heads one at a time: " + p.describe());
    }
    printf("%-8s against double precision:   %.1e\n", name_of(set), worst);
}

#if !defined(MP_GGML_STAND_IN)

static ggml_backend_t open_backend() {
    ggml_backend_load_all();
    ggml_backend_t backend = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr);
    if (!backend) {
        printf("ggml has no CPU backend\n");
        exit(1);
    }
    ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(ggml_backend_get_device(backend));
    const auto set_n_threads =
        (ggml_backend_set_n_threads_t) ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads");
    set_n_threads(backend, 1);
    return backend;
}

static void test_against_ggml(instruction_set set) {
    static ggml_backend_t backend = open_backend();
    double worst = 0, worst_half = 0, worst_bf16 = 0, worst_q8 = 0;
    for (int32_t i = 0; i < 100; i++) {
        const problem p = random_problem(20, 300);
        const attention_job & job = p.job;
        if (std::count(p.sinks.begin(), p.sinks.end(), HIDDEN) > 0) {
            continue; // where a row sees no cell, ggml's is NaN
        }
        ggml_context * ctx = ggml_init({1 << 22, nullptr, true});
        ggml_tensor * q = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, job.head_size, job.n, job.n_head);
        ggml_tensor * k = ggml_new_tensor_3d(ctx, job.k_type, job.head_size, job.n_kv, job.n_head_kv);
        ggml_tensor * v = ggml_new_tensor_3d(ctx, job.v_type, job.head_size, job.n_kv, job.n_head_kv);
        ggml_tensor * mask = job.mask ? ggml_new_tensor_2d(ctx, GGML_TYPE_F16, job.n_kv, job.n) : nullptr;
        ggml_tensor * out = ggml_flash_attn_ext(ctx, q, k, v, mask, job.scale, 0.0f, job.soft_cap);
        ggml_tensor * sinks = job.sinks ? ggml_new_tensor_1d(ctx, GGML_TYPE_F32, job.n_head) : nullptr;
        if (sinks) {
            sinks->data = (void *) job.sinks;
            ggml_flash_attn_ext_add_sinks(out, sinks);
        }
        q->data = (void *) job.q;
        q->nb[1] = job.q_row, q->nb[2] = job.q_head, q->nb[3] = job.n * job.n_head * q->nb[0];
        k->data = (void *) job.k;
        k->nb[1] = job.k_cell, k->nb[2] = job.k_head;
        v->data = (void *) job.v;
        v->nb[1] = job.v_cell, v->nb[2] = job.v_head;
        std::vector<ggml_fp16_t> packed;
        if (mask) {
            for (int32_t row = 0; row < job.n; row++) {
                const ggml_fp16_t * from = p.mask.data() + row * (job.mask_row / 2);
                packed.insert(packed.end(), from, from + job.n_kv);
            }
            mask->data = packed.data();
        }
        std::vector<float> expected(job.n * p.out_row());
        out->data = expected.data();
        ggml_cgraph * graph = ggml_new_graph(ctx);
        ggml_build_forward_expand(graph, out);
        check(ggml_backend_graph_compute(backend, graph) == GGML_STATUS_SUCCESS, "ggml: " + p.describe());
        ggml_free(ctx);

        // ggml rounds Q to the type of K and sums V in half precision if it is: errors relative to the norm of the values.
        const bool q8 = job.k_type == GGML_TYPE_Q8_0, bf16 = job.k_type == GGML_TYPE_BF16;
        const bool half = job.k_type == GGML_TYPE_F16 || job.v_type == GGML_TYPE_F16;
        const double allowed = q8 ? 2e-2 : bf16 ? 5e-3 : half ? 4e-3 : 1e-5;
        const double error = error_of(run(job, set), expected, job.head_size, std::sqrt((double) job.head_size));
        check(error < allowed, "ggml differs by " + std::to_string(error) + ": " + p.describe());
        double & w = q8 ? worst_q8 : bf16 ? worst_bf16 : half ? worst_half : worst;
        w = error <= w ? w : error;
    }
    printf("%-8s against ggml:               %.1e; K or V in F16 %.1e; K in BF16 %.1e, in Q8_0 %.1e\n", name_of(set), worst,
           worst_half, worst_bf16, worst_q8);
}

#endif

// The rows of p in the order given, some of them perhaps missing.
static std::vector<float> run_rows(const problem & p, const std::vector<int32_t> & rows, instruction_set set) {
    attention_job job = p.job;
    std::vector<float> q;
    std::vector<ggml_fp16_t> mask;
    for (const int32_t row : rows) {
        for (int32_t head = 0; head < job.n_head; head++) {
            const float * from = (const float *) ((const char *) job.q + row * job.q_row + head * job.q_head);
            q.insert(q.end(), from, from + job.head_size);
        }
        const ggml_fp16_t * from = p.mask.data() + row * (job.mask_row / 2);
        mask.insert(mask.end(), from, from + job.n_kv);
    }
    job.n = (int32_t) rows.size();
    job.q = q.data();
    job.q_head = job.head_size * sizeof(float);
    job.q_row = job.n_head * job.q_head;
    job.mask = job.mask ? mask.data() : nullptr;
    job.mask_row = job.n_kv * sizeof(ggml_fp16_t);
    return run(job, set);
}

static void check_rows(const problem & p, const std::vector<float> & out, const std::vector<int32_t> & rows,
                       instruction_set set, const std::string & what) {
    const std::vector<float> again = run_rows(p, rows, set);
    const size_t size = p.out_row() * sizeof(float);
    for (size_t i = 0; i < rows.size(); i++) {
        check(memcmp(again.data() + i * p.out_row(), out.data() + rows[i] * p.out_row(), size) == 0,
              what + ": " + p.describe());
    }
}

static void test_batch_invariance(instruction_set set) {
    for (int32_t i = 0; i < n_problems(60); i++) {
        const problem p = random_problem(i % 20 == 0 ? 100 : 33, 300);
        const std::vector<float> out = run(p.job, set);
        std::vector<int32_t> rows(p.job.n);
        for (int32_t row = 0; row < p.job.n; row++) {
            rows[row] = row;
            check_rows(p, out, {row}, set, "alone");
        }
        for (int32_t j = 0; j < 4; j++) {
            std::shuffle(rows.begin(), rows.end(), engine);
            check_rows(p, out, rows, set, "in another place");
            const std::vector<int32_t> some(rows.begin(), rows.begin() + random_int(1, p.job.n));
            check_rows(p, out, some, set, "among fewer");
        }
    }
}

// A NaN or an infinity in a cell harms exactly the rows that see it.
static void test_bad_numbers(instruction_set set) {
    for (int32_t i = 0; i < n_problems(120); i++) {
        problem p = random_problem(20, 200, true);
        const attention_job & job = p.job;
        const int64_t cell = random_int(0, (int32_t) job.n_kv - 1);
        std::vector<float> values(job.head_size, 0.5f);
        for (int32_t head = 0; head < job.n_head_kv; head++) { // a cell that nobody saw is garbage
            p.write_k(cell, head, values.data());
            p.write_v(cell, head, values.data());
        }
        for (int32_t row = 0; row < job.n; row++) {
            p.set_mask(row, cell, row % 2 ? 0.0f : HIDDEN);
        }
        const std::vector<float> clean = run(job, set);

        // F16 and F32 only know these: Q8_0 has them in its scale.
        const bool in_k = random_int(0, 1);
        const float bad = in_k ? NAN : pick({(float) NAN, INFINITY, -INFINITY});
        const int32_t head_kv = random_int(0, job.n_head_kv - 1);
        std::vector<uint8_t> & cache = in_k ? p.k : p.v;
        uint8_t * at =
            cache.data() + (in_k ? cell * job.k_cell + head_kv * job.k_head : cell * job.v_cell + head_kv * job.v_head);
        const ggml_type type = in_k ? job.k_type : job.v_type;
        if (type == GGML_TYPE_F32) {
            memcpy(at, &bad, 4);
        } else if (type == GGML_TYPE_BF16) {
            const ggml_bf16_t x = ggml_fp32_to_bf16(bad);
            memcpy(at, &x, 2);
        } else {
            const ggml_fp16_t x = ggml_fp32_to_fp16(bad);
            memcpy(at, &x, 2);
        }
        const std::vector<float> out = run(job, set);
        for (int32_t row = 0; row < job.n; row++) {
            for (int32_t head = 0; head < job.n_head; head++) {
                const size_t start = row * p.out_row() + head * job.head_size;
                const bool harmed = row % 2 && head / (job.n_head / job.n_head_kv) == head_kv;
                if (harmed) {
                    check(!std::isfinite(out[start]), "a bad number that a row sees: " + p.describe());
                    check(in_k || type == GGML_TYPE_Q8_0 || std::isfinite(out[start + 1]),
                          "one bad column: " + p.describe());
                } else {
                    check(memcmp(&out[start], &clean[start], job.head_size * sizeof(float)) == 0,
                          "a bad number that a row does not see: " + p.describe());
                }
            }
        }

        p = random_problem(20, 200);
        const std::vector<float> before = run(p.job, set);
        const int32_t bad_row = random_int(0, p.job.n - 1);
        p.q[bad_row * p.job.q_row / 4] = NAN; // of head 0
        const std::vector<float> after = run(p.job, set);
        for (size_t j = 0; j < after.size(); j++) {
            const bool of_row = j / p.out_row() == (size_t) bad_row && j % p.out_row() < (size_t) p.job.head_size;
            bool blind = true;
            for (int64_t c = 0; c < p.job.n_kv; c++) {
                blind &= !p.sees(bad_row, c);
            }
            if (of_row && !blind) {
                check(std::isnan(after[j]), "NaN in Q: " + p.describe());
            } else {
                check(memcmp(&after[j], &before[j], sizeof(float)) == 0, "NaN in Q of another row: " + p.describe());
            }
        }
    }
}

static void test_blind_rows(instruction_set set) {
    problem p(5, 2, 2, 64, 130, GGML_TYPE_F16, GGML_TYPE_Q8_0, RANDOM, false);
    for (int64_t cell = 0; cell < p.job.n_kv; cell++) {
        p.set_mask(3, cell, HIDDEN);
    }
    const std::vector<float> out = run(p.job, set);
    for (size_t i = 0; i < p.out_row(); i++) {
        check(out[3 * p.out_row() + i] == 0 && !std::signbit(out[3 * p.out_row() + i]), "a row that sees nothing");
    }
}

// The same cells in another order: where the prefix lies does not matter, but for a last bit very rarely.
static void test_cell_order(instruction_set set) {
    int64_t n_numbers = 0, n_different = 0;
    for (int32_t i = 0; i < n_problems(30); i++) {
        const int32_t n_kv = random_int(500, 4000);
        problem p(2, 1, 4, pick({64, 128, 256}), n_kv, GGML_TYPE_F32, GGML_TYPE_F32, NO_MASK, false);
        std::vector<int32_t> order(n_kv);
        for (int32_t cell = 0; cell < n_kv; cell++) {
            order[cell] = cell;
        }
        std::shuffle(order.begin(), order.end(), engine);
        problem moved = p;
        moved.job.q = moved.q.data();
        moved.job.k = moved.k.data();
        moved.job.v = moved.v.data();
        for (int32_t cell = 0; cell < n_kv; cell++) {
            moved.write_k(order[cell], 0, p.k_float.data() + p.float_at(cell, 0));
            moved.write_v(order[cell], 0, p.v_float.data() + p.float_at(cell, 0));
        }
        const std::vector<float> a = run(moved.job, set), b = run(p.job, set);
        for (size_t j = 0; j < b.size(); j++) {
            n_different += a[j] != b[j];
            check(std::fabs(a[j] - b[j]) <= 1e-6f * std::fabs(b[j]) + 1e-12f, "a cell's place changes a result");
        }
        n_numbers += b.size();
    }
    check(n_different <= 1, "results that depend on the order of the cells: " + std::to_string(n_different));
    printf("%-8s cells in another order:     %lld of %lld numbers differ\n", name_of(set), (long long) n_different,
           (long long) n_numbers);
}

static void test_unsupported() {
    problem p(1, 2, 2, 80, 8, GGML_TYPE_F16, GGML_TYPE_F16, NO_MASK, false);
    attention_job job = p.job;
    check(attention_supports(job, instruction_set::portable), "size 80");
    job.v_type = GGML_TYPE_Q8_0;
    check(!attention_supports(job, instruction_set::portable), "80 is not a multiple of a block");
    job = p.job;
    job.head_size = 70;
    check(!attention_supports(job, instruction_set::portable), "size 70");
    job.head_size = 516;
    check(!attention_supports(job, instruction_set::portable), "size 516");
    job = p.job;
    job.k_type = GGML_TYPE_Q4_0;
    check(!attention_supports(job, instruction_set::portable), "K in Q4_0");
    job = p.job;
    job.n_head = 3;
    check(!attention_supports(job, instruction_set::portable), "3 heads on 2");
}

int main() {
    test_unsupported();
    for (const instruction_set set : available_sets()) {
        test_reference(set);
#if !defined(MP_GGML_STAND_IN)
        test_against_ggml(set);
#endif
        test_batch_invariance(set);
        test_bad_numbers(set);
        test_blind_rows(set);
        test_cell_order(set);
    }
    printf("%d failures\n", failures);
    return failures != 0;
}
