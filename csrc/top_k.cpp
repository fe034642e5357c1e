#include "top_k.h"

#include <algorithm>
#include <cmath>
#include <cstring>

// One binary serves every x86-64: the loader picks the widest version. (Not under sanitizers: their runtime is not up
// yet when the loader asks.)
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) &&                                \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#    define MP_VECTORISED __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#    define MP_VECTORISED
#endif

namespace mp {

static constexpr int32_t LANES = 16;  // independent accumulators, so that the compiler may use vectors
static constexpr int32_t BLOCK = 128; // tokens

top_k_scratch::top_k_scratch(int32_t n_vocab) {
    const size_t n_blocks = (n_vocab + BLOCK - 1) / BLOCK;
    block_max.resize(n_blocks);
    order.resize(n_blocks);
    found.reserve(n_vocab);
}

// NaN compares false and is passed over here; exp_sum sees it.
MP_VECTORISED static void block_maxima(const float * x, int32_t n, float * block_max) {
    for (int32_t start = 0, b = 0; start < n; start += BLOCK, b++) {
        const int32_t size = std::min(BLOCK, n - start);
        float lane[LANES];
        for (float & m : lane) {
            m = -INFINITY;
        }
        int32_t i = 0;
        for (; i + LANES <= size; i += LANES) {
            for (int32_t j = 0; j < LANES; j++) {
                const float v = x[start + i + j];
                lane[j] = v > lane[j] ? v : lane[j];
            }
        }
        for (; i < size; i++) {
            lane[0] = x[start + i] > lane[0] ? x[start + i] : lane[0];
        }
        block_max[b] = *std::max_element(lane, lane + LANES);
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

MP_VECTORISED static double exp_sum(const float * x, int32_t n, float largest) {
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

bool top_k(const float * logits, int32_t n_vocab, int32_t k, top_k_scratch & scratch, int32_t * tokens, float * logprobs,
           float * log_sum) {
    float * block_max = scratch.block_max.data();
    const int32_t n_blocks = (int32_t) scratch.block_max.size();
    block_maxima(logits, n_vocab, block_max);
    const float largest = *std::max_element(block_max, block_max + n_blocks);
    if (!std::isfinite(largest)) {
        return false;
    }
    const double sum = exp_sum(logits, n_vocab, largest);
    if (!std::isfinite(sum)) {
        return false;
    }
    *log_sum = largest + (float) std::log(sum);

    // At least k tokens reach the k-th largest block maximum, so nothing below it can be among the best k.
    float threshold = -INFINITY;
    if (k <= n_blocks) {
        float * order = scratch.order.data();
        std::copy(block_max, block_max + n_blocks, order);
        std::nth_element(order, order + k - 1, order + n_blocks, [](float a, float b) { return a > b; });
        threshold = order[k - 1];
    }
    std::vector<int32_t> & found = scratch.found;
    found.clear();
    for (int32_t b = 0; b < n_blocks; b++) {
        if (block_max[b] < threshold) {
            continue;
        }
        const int32_t end = std::min(n_vocab, (b + 1) * BLOCK);
        for (int32_t i = b * BLOCK; i < end; i++) {
            if (logits[i] >= threshold) {
                found.push_back(i);
            }
        }
    }
    std::partial_sort(found.begin(), found.begin() + k, found.end(),
                      [&](int32_t a, int32_t b) { return logits[a] > logits[b] || (logits[a] == logits[b] && a < b); });
    for (int32_t i = 0; i < k; i++) {
        tokens[i] = found[i];
        logprobs[i] = logits[found[i]] - *log_sum;
    }
    return true;
}

} // namespace mp
