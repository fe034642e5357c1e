// Attention kernels against double precision, against ggml's own operation, and against themselves: a row's result must
// be bit for bit the same in every company. Prints the largest errors; exit status 1 when one is too large.
//
// With MP_GGML_STAND_IN it is linked with tests/ggml_stand_in.cpp and not with ggml, nothing is compared with that, and
// there are fewer problems: then it runs in an emulator.

#include "attention_problem.h"

#if !defined(MP_GGML_STAND_IN)
#    include "ggml-backend.h"
#endif

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
    test_lists();
    for (const instruction_set set : available_sets()) {
        test_reference(set);
#if !defined(MP_GGML_STAND_IN)
        test_against_ggml(set);
#endif
        test_rows(set);
    }
    printf("%d failures\n", failures);
    return failures != 0;
}
