// The worker pool and the backend under load, for a build with -fsanitize=thread: sessions with other thread counts at the
// same time, and jobs that follow each other at once. Exits with 1 and a line where a result is wrong.
#include "kernels/ggml/accel_backend.h"
#include "kernels/ggml/accel_buffer.h"
#include "platform/worker_pool.h"

#include "ggml-alloc.h"
#include "ggml-cpu.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

using namespace mp;

static constexpr int32_t N_THREADS = 4;

static void require(bool is_right, const char * what) {
    if (!is_right) {
        fprintf(stderr, "wrong: %s\n", what);
        exit(1);
    }
}

// Every item once, each job after the one before it: plain memory, so that a missing order is seen as a race.
static void use_the_pool() {
    worker_pool workers(N_THREADS);
    std::vector<int32_t> numbers(64, 0);
    for (int32_t job = 0; job < 2000; job++) {
        workers.limit(1 + job % (N_THREADS + 2));
        const int32_t n = job % 65;
        workers.run(n, [](void * data, int32_t i) { (*(std::vector<int32_t> *) data)[i]++; }, &numbers);
        if (job % 500 == 0) { // long enough for the threads to fall asleep
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
        }
    }
    for (int32_t i = 0; i < 64; i++) {
        int32_t expected = 0;
        for (int32_t job = 0; job < 2000; job++) {
            expected += i < job % 65;
        }
        require(numbers[i] == expected, "an item was left out or done twice");
    }
}

static void fill(std::vector<float> & values, float step) {
    for (size_t i = 0; i < values.size(); i++) {
        values[i] = (float) ((double) (i * 7919 % 1000) / 500 - 1) * step;
    }
}

// A product with packed Q8_0 weights, one with a mixture of four matrices of them, and an attention, as one graph on the
// backend. Returns all results.
static std::vector<float> compute(ggml_backend_dev_t device, int32_t n_threads, int32_t n_repeats) {
    constexpr int64_t K = 64, N_OUT = 128, N = 40, HEAD = 64, N_HEAD = 8, N_HEAD_KV = 4, N_CELLS = 192;
    constexpr int64_t N_EXPERTS = 4, N_USED = 3;
    ggml_context * weights_context = ggml_init({2 * ggml_tensor_overhead(), nullptr, true});
    ggml_tensor * weights = ggml_new_tensor_2d(weights_context, GGML_TYPE_Q8_0, K, N_OUT);
    ggml_tensor * experts = ggml_new_tensor_3d(weights_context, GGML_TYPE_Q8_0, K, N_OUT / N_EXPERTS, N_EXPERTS);
    ggml_backend_buffer_t packed = ggml_backend_alloc_ctx_tensors_from_buft(weights_context, packed_buffer_type());
    std::vector<float> values(K * N_OUT);
    fill(values, 0.5f);
    std::vector<char> quantised(ggml_nbytes(weights));
    ggml_quantize_chunk(GGML_TYPE_Q8_0, values.data(), quantised.data(), 0, N_OUT, K, nullptr);
    ggml_backend_tensor_set(weights, quantised.data(), 0, quantised.size());
    ggml_backend_tensor_set(experts, quantised.data(), 0, quantised.size());

    ggml_context * context = ggml_init({16 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true});
    ggml_tensor * x = ggml_new_tensor_2d(context, GGML_TYPE_F32, K, N);
    ggml_tensor * q = ggml_new_tensor_3d(context, GGML_TYPE_F32, HEAD, N, N_HEAD);
    ggml_tensor * k = ggml_new_tensor_3d(context, GGML_TYPE_F32, HEAD, N_CELLS, N_HEAD_KV);
    ggml_tensor * v = ggml_new_tensor_3d(context, GGML_TYPE_F32, HEAD, N_CELLS, N_HEAD_KV);
    ggml_tensor * choice = ggml_new_tensor_2d(context, GGML_TYPE_I32, N_USED, N);
    ggml_tensor * product = ggml_mul_mat(context, weights, x);
    ggml_tensor * mixture = ggml_mul_mat_id(context, experts, ggml_reshape_3d(context, x, K, 1, N), choice);
    ggml_tensor * attention = ggml_flash_attn_ext(context, q, k, v, nullptr, 0.125f, 0.0f, 0.0f);
    ggml_cgraph * graph = ggml_new_graph(context);
    ggml_build_forward_expand(graph, product);
    ggml_build_forward_expand(graph, mixture);
    ggml_build_forward_expand(graph, attention);
    ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors_from_buft(context, ggml_backend_cpu_buffer_type());
    for (ggml_tensor * input : {x, q, k, v}) {
        values.resize(ggml_nelements(input));
        fill(values, 1.0f);
        ggml_backend_tensor_set(input, values.data(), 0, ggml_nbytes(input));
    }

    std::vector<int32_t> chosen(N * N_USED);
    for (size_t i = 0; i < chosen.size(); i++) {
        chosen[i] = (int32_t) (i * i % N_EXPERTS);
    }
    ggml_backend_tensor_set(choice, chosen.data(), 0, ggml_nbytes(choice));

    worker_pool workers(n_threads);
    accel_link link{workers};
    ggml_backend_t backend;
    {
        const accel_opening opening(&link);
        backend = ggml_backend_dev_init(device, nullptr);
    }
    std::vector<float> results;
    for (ggml_tensor * op : {product, mixture, attention}) {
        require(ggml_backend_supports_op(backend, op), "supports_op");
        results.resize(results.size() + ggml_nelements(op));
    }
    for (int32_t i = 0; i < n_repeats; i++) {
        require(ggml_backend_graph_compute(backend, graph) == GGML_STATUS_SUCCESS, "graph_compute");
    }
    float * at = results.data();
    for (ggml_tensor * op : {product, mixture, attention}) {
        ggml_backend_tensor_get(op, at, 0, ggml_nbytes(op));
        at += ggml_nelements(op);
    }
    require(link.costs.products[GGML_TYPE_Q8_0].n_ops == 2 * n_repeats && link.costs.attention.n_ops == n_repeats, "costs");

    ggml_backend_free(backend);
    ggml_backend_buffer_free(buffer);
    ggml_backend_buffer_free(packed);
    ggml_free(context);
    ggml_free(weights_context);
    return results;
}

int main() {
    use_the_pool();
    require(accel_register(), "the backend does not register");
    ggml_backend_dev_t device = ggml_backend_dev_by_name(ACCEL_NAME);
    const std::vector<float> expected = compute(device, 1, 1);
    std::vector<std::thread> sessions;
    for (int32_t n_threads = 1; n_threads <= 3; n_threads++) {
        sessions.emplace_back([&, n_threads] {
            const std::vector<float> results = compute(device, n_threads, 20);
            require(memcmp(results.data(), expected.data(), expected.size() * sizeof(float)) == 0,
                    "threads change the result");
        });
    }
    for (std::thread & session : sessions) {
        session.join();
    }
    return 0;
}
