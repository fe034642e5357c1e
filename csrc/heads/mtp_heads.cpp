#include "heads/mtp_heads.h"

#include "kernels/gemm/kernel_choice.h"
#include "kernels/rows/row_kernels.h"

#include <algorithm>

namespace mp {

constexpr uint32_t MOST_DISTANCES = 8;
constexpr float EPSILON = 1e-5f; // of the states' norm

std::vector<int32_t> mtp_heads::layers_in(const head_file & file) {
    const int32_t last_norm = file.model().n_layer;
    std::vector<int32_t> layers = file.numbers("mix.layers", last_norm + 1);
    if (layers.back() != last_norm) {
        file.gguf.refuse("'mix.layers' ends with layer %d, it must end with %d, the last norm", layers.back(), last_norm);
    }
    layers.pop_back();
    return layers;
}

mtp_heads::mtp_heads(const head_file & file)
    : n_embd(file.model().n_embd), between(layers_in(file)), n_states((int32_t) between.size() + 1), listed(file.listed()) {
    std::vector<std::string> names = {"short.tokens", "short.weight", "mix.layers"};
    const uint32_t n = file.number("maskprobe.heads.distances", 1, MOST_DISTANCES);
    for (uint32_t i = 0; i < n; i++) {
        const std::string name = "ahead." + std::to_string(i + 2); // places: the next token is the model's own
        names.push_back(name + ".mix");
        head_file::add_block_names(names, name + ".0");
        head_file::add_block_names(names, name + ".1");
    }
    file.expect(names);
    for (uint32_t i = 0; i < n; i++) {
        const std::string name = "ahead." + std::to_string(i + 2);
        const int64_t n_hidden = file.n_inner(name + ".0");
        distances.push_back({file.vector(name + ".mix", n_states), file.block(name + ".0", n_hidden, n_embd),
                             file.block(name + ".1", n_embd, n_hidden)});
    }
    normed.resize((size_t) n_states * n_embd);
    mixed.resize(n_embd);
    latents.resize((size_t) n * n_embd);
}

void mtp_heads::evaluate(const float * latent, distribution * likely) {
    const row_kernels & rows = find_row_kernels(kernels_in_use());
    for (int32_t l = 0; l < n_states; l++) {
        rows.rms_norm(latent + (size_t) l * n_embd, &normed[(size_t) l * n_embd], n_embd, EPSILON);
    }
    const float * last = latent + (size_t) (n_states - 1) * n_embd;
    for (size_t i = 0; i < distances.size(); i++) {
        const distance & of = distances[i];
        std::fill(mixed.begin(), mixed.end(), 0.0f);
        for (int32_t l = 0; l < n_states; l++) {
            for (int32_t k = 0; k < n_embd; k++) {
                mixed[k] += of.mix[l] * normed[(size_t) l * n_embd + k];
            }
        }
        of.first.run(mixed.data(), n_embd, 1, hidden, scratch);
        of.second.run(hidden.data(), of.first.width(), 1, update, scratch);
        for (int32_t k = 0; k < n_embd; k++) {
            latents[i * n_embd + k] = last[k] + update[k];
        }
    }
    listed.guess(latents.data(), n_embd, n_distances(), likely, scratch);
}

} // namespace mp
