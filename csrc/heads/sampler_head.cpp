#include "heads/sampler_head.h"

#include <algorithm>

namespace mp {

static const head_file & checked(const head_file & file) {
    std::vector<std::string> names = {"short.tokens", "short.weight"};
    head_file::add_block_names(names, "head.0");
    head_file::add_block_names(names, "head.1");
    file.expect(names);
    return file;
}

sampler_head::sampler_head(const head_file & file, embedding_reader embedding)
    : n_embd(file.model().n_embd), embedding(std::move(embedding)),
      first(checked(file).block("head.0", file.n_inner("head.0"), 2 * n_embd)),
      second(file.block("head.1", n_embd, file.n_inner("head.0"))), listed(file.listed()) {}

void sampler_head::evaluate(int32_t n, const int32_t * tokens, const float * const * before, float * const * after,
                            distribution * likely) {
    const int64_t wide = 2 * n_embd;
    inputs.resize(n * wide);
    for (int32_t i = 0; i < n; i++) {
        float * row = &inputs[i * wide];
        embedding(tokens[i], row);
        std::copy_n(before[i], n_embd, row + n_embd);
    }
    first.run(inputs.data(), wide, n, hidden, scratch);
    second.run(hidden.data(), first.width(), n, update, scratch);
    latents.resize((size_t) n * n_embd);
    for (int32_t i = 0; i < n; i++) {
        const float * added = &update[i * second.width()];
        for (int32_t k = 0; k < n_embd; k++) {
            after[i][k] = latents[(size_t) i * n_embd + k] = before[i][k] + added[k];
        }
    }
    listed.guess(latents.data(), n_embd, n, likely, scratch);
}

} // namespace mp
