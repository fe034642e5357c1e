#include "heads/sampler_head.h"

#include "kernels/gemm/kernel_choice.h"

#include <algorithm>
#include <cmath>

namespace mp {

constexpr float EPSILON = 1e-5f; // of the norms

sampler_head::sampler_head(const std::string & path, const head_model & model, embedding_reader embedding)
    : n_embd(model.n_embd), embedding(std::move(embedding)), weights(read_heads(path, model)),
      rows(find_row_kernels(kernels_in_use())), of_best((int32_t) weights.tokens.size()) {}

void sampler_head::run(const head_block & block, const std::vector<float> & in, int64_t ldx, int32_t n,
                       std::vector<float> & out) {
    const int64_t width = block.weight.width();
    out.resize(n * width);
    block.weight.multiply(in.data(), ldx, n, out.data(), width, scratch);
    const auto n_out = (int64_t) block.bias.size();
    for (int32_t i = 0; i < n; i++) {
        float * row = &out[i * width];
        rows.add(row, block.bias.data(), row, n_out);
        rows.silu(row, nullptr, row, n_out);
        rows.layer_norm(row, row, n_out, EPSILON);
        rows.multiply(row, block.scale.data(), row, n_out);
        rows.add(row, block.shift.data(), row, n_out);
    }
}

distribution sampler_head::best(const float * row_of_logits) {
    const auto n_short = (int32_t) weights.tokens.size();
    distribution found;
    const int32_t n = std::min(N_LIKELY, n_short);
    float log_sum = 0;
    if (top_k(row_of_logits, n_short, n, of_best, found.tokens, found.probabilities, &log_sum)) {
        found.n = n;
        for (int32_t i = 0; i < n; i++) {
            found.tokens[i] = weights.tokens[found.tokens[i]];
            found.probabilities[i] = std::exp(found.probabilities[i]);
        }
    }
    return found;
}

void sampler_head::evaluate(int32_t n, const int32_t * tokens, const float * const * before, float * const * after,
                            distribution * likely) {
    const int64_t wide = 2 * n_embd;
    inputs.resize(n * wide);
    for (int32_t i = 0; i < n; i++) {
        float * row = &inputs[i * wide];
        embedding(tokens[i], row);
        std::copy_n(before[i], n_embd, row + n_embd);
    }
    run(weights.first, inputs, wide, n, hidden);
    run(weights.second, hidden, weights.first.weight.width(), n, update);
    latents.resize((size_t) n * n_embd);
    for (int32_t i = 0; i < n; i++) {
        const float * added = &update[i * weights.second.weight.width()];
        for (int32_t k = 0; k < n_embd; k++) {
            after[i][k] = before[i][k] + added[k];
            latents[(size_t) i * n_embd + k] = after[i][k] / weights.temperature;
        }
    }
    const int64_t width = weights.unembedding.width();
    logits.resize(n * width);
    weights.unembedding.multiply(latents.data(), n_embd, n, logits.data(), width, scratch);
    for (int32_t i = 0; i < n; i++) {
        likely[i] = best(&logits[i * width]);
    }
}

} // namespace mp
