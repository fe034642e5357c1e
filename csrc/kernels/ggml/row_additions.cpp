#include "kernels/ggml/row_additions.h"

#include <algorithm>
#include <string_view>

namespace mp {

// The rows that have these matrices, and their inputs one after another.
void row_additions::gather(const ggml_tensor * x, const added_rows & added, const low_rank_of_weights * matrices) {
    rows.clear();
    inputs.clear();
    for (const added_rows::range & range : added.ranges) {
        for (int32_t i = 0; range.matrices == matrices && i < range.n; i++) {
            rows.push_back(range.first + i);
            const auto * row = (const float *) ((const char *) x->data + (size_t) rows.back() * x->nb[1]);
            inputs.insert(inputs.end(), row, row + x->ne[0]);
        }
    }
}

// A matrix of n rows in memory, as ggml sees it.
static ggml_tensor matrix(std::vector<float> & values, int64_t width, int64_t n) {
    values.resize(width * n);
    ggml_tensor tensor = {};
    tensor.type = GGML_TYPE_F32;
    tensor.data = values.data();
    tensor.ne[0] = width;
    tensor.ne[1] = n;
    tensor.ne[2] = tensor.ne[3] = 1;
    tensor.nb[0] = sizeof(float);
    tensor.nb[1] = tensor.nb[2] = tensor.nb[3] = width * sizeof(float);
    return tensor;
}

void row_additions::add_to(const ggml_tensor * op, const added_rows & added) {
    const ggml_tensor * x = op->src[1];
    if (x->ne[1] != added.n_rows || x->ne[2] != 1 || x->ne[3] != 1) {
        return; // its rows are not those of the batch
    }
    for (size_t i = 0; i < added.ranges.size(); i++) {
        const low_rank_of_weights * matrices = added.ranges[i].matrices;
        const bool is_done = std::any_of(added.ranges.begin(), added.ranges.begin() + i,
                                         [&](const auto & range) { return range.matrices == matrices; });
        const auto found = is_done ? matrices->end() : matrices->find(std::string_view(op->src[0]->name));
        if (found == matrices->end()) {
            continue;
        }
        const low_rank & pair = found->second;
        gather(x, added, matrices);
        const auto n = (int64_t) rows.size();
        ggml_tensor from = matrix(inputs, x->ne[0], n);
        ggml_tensor down = matrix(inner, pair.a->ne[1], n), up = matrix(outer, pair.b->ne[1], n);
        down.src[0] = (ggml_tensor *) pair.a;
        down.src[1] = &from;
        up.src[0] = (ggml_tensor *) pair.b;
        up.src[1] = &down;
        products.begin(); // these tensors are new, though they may lie where the last ones lay
        products.run(&down);
        products.begin();
        products.run(&up);
        for (size_t row = 0; row < rows.size(); row++) {
            auto * y = (float *) ((char *) op->data + (size_t) rows[row] * op->nb[1]);
            const float * from_row = outer.data() + row * up.ne[0];
            for (int64_t j = 0; j < up.ne[0]; j++) {
                y[j] += from_row[j];
            }
        }
    }
}

} // namespace mp
