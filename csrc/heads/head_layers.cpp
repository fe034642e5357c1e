#include "heads/head_layers.h"

#include "kernels/gemm/kernel_choice.h"
#include "kernels/rows/row_kernels.h"

#include <algorithm>
#include <cmath>

namespace mp {

constexpr float EPSILON = 1e-5f; // of the norms

void head_block::run(const float * x, int64_t ldx, int32_t n, std::vector<float> & y, aligned_bytes & scratch) const {
    const row_kernels & rows = find_row_kernels(kernels_in_use());
    y.resize(n * width());
    weight.multiply(x, ldx, n, y.data(), width(), scratch);
    const auto n_out = (int64_t) bias.size();
    for (int32_t i = 0; i < n; i++) {
        float * row = &y[i * width()];
        rows.add(row, bias.data(), row, n_out);
        rows.silu(row, nullptr, row, n_out);
        rows.layer_norm(row, row, n_out, EPSILON);
        rows.multiply(row, scale.data(), row, n_out);
        rows.add(row, shift.data(), row, n_out);
    }
}

short_list::short_list(std::vector<int32_t> tokens_, packed_matrix unembedding, float temperature)
    : tokens(std::move(tokens_)), unembedding(std::move(unembedding)), temperature(temperature),
      of_best((int32_t) tokens.size()) {}

distribution short_list::best(const float * row_of_logits) {
    const auto n_short = (int32_t) tokens.size();
    distribution found;
    const int32_t n = std::min(N_LIKELY, n_short);
    float log_sum = 0;
    if (top_k(row_of_logits, n_short, n, of_best, found.tokens, found.probabilities, &log_sum)) {
        found.n = n;
        for (int32_t i = 0; i < n; i++) {
            found.tokens[i] = tokens[found.tokens[i]];
            found.probabilities[i] = std::exp(found.probabilities[i]);
        }
    }
    return found;
}

void short_list::guess(const float * latents, int64_t n_embd, int32_t n, distribution * likely, aligned_bytes & scratch) {
    scaled.resize(n * n_embd);
    std::transform(latents, latents + n * n_embd, scaled.begin(), [&](float value) { return value / temperature; });
    const int64_t width = unembedding.width();
    logits.resize(n * width);
    unembedding.multiply(scaled.data(), n_embd, n, logits.data(), width, scratch);
    for (int32_t i = 0; i < n; i++) {
        likely[i] = best(&logits[i * width]);
    }
}

} // namespace mp
