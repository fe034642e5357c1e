// Times the attention of one layer for sessions whose cells lie mixed in one cache, token by token, for
// bench/attention_sessions.py. Arguments: query heads, KV heads, head size, sessions, rows of each, cells of each.
// Prints three medians of processor time in microseconds: a layer with the cells in the order of the cache, a layer with the
// cells listed by session, and the making of that list, which a pass does once for all its layers.

#include "attention_problem.h"

#include <ctime>

namespace {

constexpr int32_t N_LAYERS = 8; // each with its own keys and values: those of one would stay in the processor's cache

double now_us() {
    return (double) std::clock() * (1e6 / CLOCKS_PER_SEC);
}

double median(std::vector<double> & times) {
    std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
    return times[times.size() / 2];
}

// Every cell, in the order of the cache.
struct plain_list {
    std::vector<int32_t> cells;
    std::vector<uint64_t> visible; // (blocks, n)

    plain_list(const attention_job & job, const std::vector<ggml_fp16_t> & mask)
        : cells((job.n_kv + 63) / 64 * 64), visible(cells.size() / 64 * job.n) {
        for (int64_t cell = 0; cell < job.n_kv; cell++) {
            cells[cell] = (int32_t) cell;
            for (int32_t row = 0; row < job.n; row++) {
                const bool is_visible = mask[row * job.n_kv + cell] == 0;
                visible[cell / 64 * job.n + row] |= (uint64_t) is_visible << cell % 64;
            }
        }
    }

    void put_into(attention_job & job) const {
        job.cells = cells.data();
        job.visible = visible.data();
        job.visible_block = job.n;
        job.n_blocks = (int32_t) (cells.size() / 64);
        job.adds = false;
    }
};

} // namespace

int main(int n_arguments, char ** arguments) {
    if (n_arguments != 7) {
        return 1;
    }
    attention_job job = {};
    job.n_head = atoi(arguments[1]);
    job.n_head_kv = atoi(arguments[2]);
    job.head_size = atoi(arguments[3]);
    const int32_t n_sessions = atoi(arguments[4]), rows = atoi(arguments[5]), cells_each = atoi(arguments[6]);
    job.n = n_sessions * rows;
    job.n_kv = n_sessions * cells_each;
    job.scale = 0.125f;
    job.k_type = job.v_type = GGML_TYPE_F16;
    job.q_head = job.head_size * sizeof(float);
    job.q_row = job.n_head * job.q_head;
    job.k_head = job.v_head = job.head_size * sizeof(ggml_fp16_t);
    job.k_cell = job.v_cell = job.n_head_kv * job.k_head;
    std::vector<float> q((size_t) job.n * job.n_head * job.head_size, 0.5f), out(q.size());
    const ggml_fp16_t one = ggml_fp32_to_fp16(1.0f), hidden = ggml_fp32_to_fp16(-INFINITY);
    const size_t layer_size = (size_t) job.n_kv * job.n_head_kv * job.head_size;
    std::vector<ggml_fp16_t> k(layer_size * N_LAYERS, one), v = k;
    std::vector<ggml_fp16_t> mask((size_t) job.n * job.n_kv, hidden);
    for (int32_t row = 0; row < job.n; row++) {
        for (int64_t cell = row / rows; cell < job.n_kv; cell += n_sessions) {
            mask[row * job.n_kv + cell] = 0;
        }
    }
    job.q = q.data();
    job.mask = mask.data();
    job.mask_row = job.n_kv * sizeof(ggml_fp16_t);
    job.out = out.data();

    const instruction_set set = available_sets().back();
    void * scratch = aligned_alloc(64, (attention_scratch_size(job) + 63) / 64 * 64);
    const plain_list in_order(job, mask);
    attention_cells listed;
    std::vector<double> times[3];
    const auto run_layers = [&] {
        const double start = now_us();
        for (int32_t layer = 0; layer < N_LAYERS; layer++) {
            job.k = k.data() + layer * layer_size;
            job.v = v.data() + layer * layer_size;
            attention_run(job, set, 0, job.n_head_kv, scratch);
        }
        return (now_us() - start) / N_LAYERS;
    };
    const double end = now_us() + 2e6;
    while (now_us() < end || times[0].size() < 5) {
        in_order.put_into(job);
        times[0].push_back(run_layers());
        const double start = now_us();
        listed.find(job);
        times[2].push_back(now_us() - start);
        listed.put_into(job);
        times[1].push_back(run_layers());
    }
    printf("%.1f %.1f %.1f\n", median(times[0]), median(times[1]), median(times[2]));
    free(scratch);
    return 0;
}
