#include "session/top_k.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#define MP_INLINE static inline __attribute__((always_inline))

namespace mp {

static constexpr int32_t LANES = 16; // independent accumulators, so that the compiler may use vectors
// Tokens of a block: enough blocks to tell a few likely tokens from the rest of a small vocabulary, not too many to look at
// for a large one.
static constexpr int32_t SMALLEST_BLOCK = 8, LARGEST_BLOCK = 128, MANY_BLOCKS = 256;

top_k_scratch::top_k_scratch(int32_t n_vocab) : block(std::clamp(n_vocab / MANY_BLOCKS, SMALLEST_BLOCK, LARGEST_BLOCK)) {
    const int32_t chunk = LANES * block;
    const size_t n_blocks = (size_t) ((n_vocab + chunk - 1) / chunk) * LANES;
    block_max.resize(n_blocks);
    largest.resize(n_blocks);
    found.reserve(n_vocab);
}

// Every LANES-th token of a chunk is of one block: lanes need not be brought together.
// NaN compares false and is passed over here; exp_sum sees it. (Of a loop over an array of lanes GCC makes scalars.)
MP_INLINE void find_block_maxima(const float * x, int32_t n, int32_t block, float * block_max) {
    using floats = float __attribute__((vector_size(4 * LANES)));
    for (int32_t start = 0; start < n; start += LANES * block, block_max += LANES) {
        const int32_t end = std::min(n, start + LANES * block);
        floats largest = floats{} - INFINITY;
        int32_t i = start;
        for (; i + LANES <= end; i += LANES) {
            floats v;
            memcpy(&v, x + i, sizeof(v));
            largest = v > largest ? v : largest;
        }
        memcpy(block_max, &largest, sizeof(largest));
        for (int32_t j = 0; i + j < end; j++) {
            block_max[j] = x[i + j] > block_max[j] ? x[i + j] : block_max[j];
        }
    }
}

// e^x for x <= 0, relative error below 3e-7; 0 far down, NaN for NaN.
// 2^n * 2^f with n = round(x / ln 2), f in [-1/2, 1/2], 2^f by its Taylor polynomial.
static inline float exp_negative(float x) {
    const float low = -87.0f;
    const float y = (x < low ? low : x) * 1.44269504f;
    const float shifted = y + 12582912.0f; // 1.5 * 2^23: rounds y into the low bits
    const float f = y - (shifted - 12582912.0f);
    int32_t bits;
    memcpy(&bits, &shifted, sizeof(bits));
    float p = 1.54035304e-4f;
    p = p * f + 1.33335581e-3f;
    p = p * f + 9.61812911e-3f;
    p = p * f + 5.55041087e-2f;
    p = p * f + 2.40226507e-1f;
    p = p * f + 6.93147181e-1f;
    p = p * f + 1.0f;
    const int32_t scale_bits = (bits - 0x4B400000 + 127) * (1 << 23);
    float scale;
    memcpy(&scale, &scale_bits, sizeof(scale));
    return p * scale * (x < low ? 0.0f : 1.0f);
}

MP_INLINE double add_exponentials(const float * x, int32_t n, float largest) {
    float lane[LANES] = {};
    double sum = 0;
    int32_t i = 0;
    while (i + LANES <= n) {
        // Short runs in float, their totals in double: the rounding stays that of a few hundred additions.
        const int32_t end = std::min(n - LANES, i + 64 * LANES);
        for (; i <= end; i += LANES) {
            for (int32_t j = 0; j < LANES; j++) {
                lane[j] += exp_negative(x[i + j] - largest);
            }
        }
        for (float & l : lane) {
            sum += l;
            l = 0;
        }
    }
    for (; i < n; i++) {
        sum += exp_negative(x[i] - largest);
    }
    return sum;
}

// --- the same for wider vectors, chosen when the program runs: one binary serves every x86-64 -------------------------

namespace {

struct passes {
    void (*block_maxima)(const float * x, int32_t n, int32_t block, float * block_max);
    double (*exp_sum)(const float * x, int32_t n, float largest);
};

} // namespace

#define MP_PASSES(name, ...)                                                                                                \
    __VA_ARGS__ static void block_maxima_##name(const float * x, int32_t n, int32_t block, float * block_max) {             \
        find_block_maxima(x, n, block, block_max);                                                                          \
    }                                                                                                                       \
    __VA_ARGS__ static double exp_sum_##name(const float * x, int32_t n, float largest) {                                   \
        return add_exponentials(x, n, largest);                                                                             \
    }

MP_PASSES(any)
#if defined(__x86_64__)
MP_PASSES(avx2, __attribute__((target("avx2,fma"))))
MP_PASSES(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))))
#endif

static passes best_passes() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        return {block_maxima_avx512, exp_sum_avx512};
    }
    if (has_avx2) {
        return {block_maxima_avx2, exp_sum_avx2};
    }
#endif
    return {block_maxima_any, exp_sum_any};
}

static const passes & vectors() {
    static const passes best = best_passes();
    return best;
}

// At least k tokens reach the k-th largest maximum of disjoint sets, so nothing below it can be among the best k. Blocks are
// joined to 2 k sets or little more: sorting is slow where the processor cannot guess. What is found comes block by block.
static void find_likely(const float * logits, int32_t n_vocab, int32_t k, top_k_scratch & scratch) {
    const std::vector<float> & block_max = scratch.block_max;
    float threshold = -INFINITY;
    size_t n_sets = block_max.size();
    if ((size_t) k <= n_sets) {
        std::vector<float> & largest = scratch.largest;
        std::copy(block_max.begin(), block_max.end(), largest.begin());
        for (size_t half = (n_sets + 1) / 2; half >= (size_t) 2 * k && half < n_sets; half = (n_sets + 1) / 2) {
            for (size_t i = 0; i < n_sets / 2; i++) {
                largest[i] = std::max(largest[i], largest[i + half]);
            }
            n_sets = half;
        }
        std::nth_element(largest.begin(), largest.begin() + (k - 1), largest.begin() + n_sets, std::greater<float>());
        threshold = largest[k - 1];
    }
    std::vector<int32_t> & found = scratch.found;
    found.clear();
    const int32_t chunk = LANES * scratch.block;
    for (size_t b = 0; b < block_max.size(); b++) {
        if (block_max[b] < threshold) {
            continue;
        }
        const int32_t start = (int32_t) (b / LANES) * chunk;
        const int32_t end = std::min(n_vocab, start + chunk);
        for (int32_t i = start + (int32_t) (b % LANES); i < end; i += LANES) {
            if (logits[i] >= threshold) {
                found.push_back(i);
            }
        }
    }
}

bool top_k(const float * logits, int32_t n_vocab, int32_t k, top_k_scratch & scratch, int32_t * tokens, float * logprobs,
           float * log_sum) {
    vectors().block_maxima(logits, n_vocab, scratch.block, scratch.block_max.data());
    const float largest = *std::max_element(scratch.block_max.begin(), scratch.block_max.end());
    if (!std::isfinite(largest)) {
        return false;
    }
    const double sum = vectors().exp_sum(logits, n_vocab, largest);
    if (!std::isfinite(sum)) {
        return false;
    }
    *log_sum = largest + (float) std::log(sum);
    find_likely(logits, n_vocab, k, scratch);
    std::vector<int32_t> & found = scratch.found;
    std::partial_sort(found.begin(), found.begin() + k, found.end(),
                      [&](int32_t a, int32_t b) { return logits[a] > logits[b] || (logits[a] == logits[b] && a < b); });
    for (int32_t i = 0; i < k; i++) {
        tokens[i] = found[i];
        logprobs[i] = logits[found[i]] - *log_sum;
    }
    return true;
}

const std::vector<int32_t> & shortlist(const float * logits, int32_t n_vocab, int32_t k, top_k_scratch & scratch) {
    vectors().block_maxima(logits, n_vocab, scratch.block, scratch.block_max.data());
    find_likely(logits, n_vocab, k, scratch);
    std::sort(scratch.found.begin(), scratch.found.end());
    return scratch.found;
}

} // namespace mp
