// Problems for the attention kernels, and the memory they lie in.
#pragma once

#include "kernels/attention/attention.h"
#include "kernels/attention/attention_cells.h"

#include "ggml.h"

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

inline std::mt19937 engine(20240607);
inline int failures = 0;

// How many problems of `usual`.
inline int32_t n_problems(int32_t usual) {
#if defined(MP_GGML_STAND_IN)
    return usual / 5;
#else
    return usual;
#endif
}

inline void check(bool ok, const std::string & what) {
    if (!ok) {
        failures++;
        if (failures <= 20) {
            printf("FAILED: %s\n", what.c_str());
        }
    }
}

inline int32_t random_int(int32_t low, int32_t high) {
    return std::uniform_int_distribution<int32_t>(low, high)(engine);
}
inline float random_normal() {
    return std::normal_distribution<float>()(engine);
}
template <class T> T pick(std::initializer_list<T> from) {
    return from.begin()[random_int(0, (int32_t) from.size() - 1)];
}

inline std::vector<instruction_set> available_sets() {
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

inline const char * name_of(instruction_set set) {
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

constexpr float HIDDEN = -INFINITY;

enum mask_kind { NO_MASK, CAUSAL, TREE, RANDOM, SPARSE, ALL_HIDDEN, ADDITIVE, N_MASK_KINDS, OPEN };

// One problem, with the memory it lies in. All cells start as garbage (bytes of 0xFF: NaN in every type).
struct problem {
    mask_kind kind;
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
            mask_kind kind, bool soft_cap)
        : kind(kind) {
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
inline std::vector<float> run(attention_job job, instruction_set set, bool in_pieces = false) {
    std::vector<float> out((size_t) job.n * job.n_head * job.head_size, NAN);
    attention_cells cells;
    cells.find(job);
    cells.put_into(job);
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

inline problem random_problem(int32_t max_n, int32_t max_cells, bool masked = false) {
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

// Of kernels_attention_rows.cpp.
void test_rows(instruction_set set);
void test_lists();
