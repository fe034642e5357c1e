#include "session/tree_pass.h"

#include "status.h"

#include <algorithm>
#include <cmath>

namespace mp {

tree_pass::tree_pass(const mp_model & model, int32_t n_rows_max) : model(model), n_rows_max(n_rows_max) {
    for (auto * list : {&positions, &row_seq, &parents, &node_tokens, &n_masks_of, &n_children, &n_seq, &seq_next,
                        &masks_placed, &last_position}) {
        list->resize(n_rows_max);
    }
}

static void check_finite(const float * rows, int32_t n_rows, int32_t n_embd, const char * what) {
    for (int32_t i = 0; i < n_rows; i++) {
        float sum = 0; // finite only if every addend is
        for (int32_t j = 0; j < n_embd; j++) {
            sum += std::fabs(rows[(size_t) i * n_embd + j]);
        }
        if (!std::isfinite(sum)) {
            fail(MP_ERR_ARGUMENT, "%s %d has NaN or infinite values", what, i);
        }
    }
}

void tree_pass::check(const mp_tree & tree, int32_t n_past, int32_t n_ctx) const {
    const mp_model_info & info = model.info;
    if (tree.n_nodes < 1 || tree.n_masks < 0 || !tree.tokens || !tree.parents) {
        fail(MP_ERR_ARGUMENT, "a tree needs at least its root: n_nodes = %d, n_masks = %d", tree.n_nodes, tree.n_masks);
    }
    const int64_t n_rows = (int64_t) tree.n_nodes + tree.n_masks;
    if (n_rows > n_rows_max) {
        fail(MP_ERR_ARGUMENT, "the tree has %d nodes and %d masks = %lld rows, the context takes n_rows_max = %d",
             tree.n_nodes, tree.n_masks, (long long) n_rows, n_rows_max);
    }
    if (n_rows > n_ctx - n_past) {
        fail(MP_ERR_CONTEXT_FULL, "the tree needs %lld places, %d of the session's %d are left", (long long) n_rows,
             n_ctx - n_past, n_ctx);
    }
    int32_t n_embd_rows = 0;
    for (int32_t i = 0; i < tree.n_nodes; i++) {
        if (tree.tokens[i] < -1 || tree.tokens[i] >= info.n_vocab) {
            fail(MP_ERR_ARGUMENT, "token %d of node %d is out of range, the vocabulary has %d", tree.tokens[i], i,
                 info.n_vocab);
        }
        if (i == 0 ? tree.parents[0] != -1 : tree.parents[i] < 0 || tree.parents[i] >= i) {
            fail(MP_ERR_ARGUMENT, "parent %d of node %d must be %s", tree.parents[i], i,
                 i == 0 ? "-1: node 0 is the root" : "an earlier node");
        }
        n_embd_rows += tree.tokens[i] == -1;
    }
    for (int32_t j = 0; j < tree.n_masks; j++) {
        if (!tree.mask_owners || tree.mask_owners[j] < 0 || tree.mask_owners[j] >= tree.n_nodes) {
            fail(MP_ERR_ARGUMENT, "the owner %d of mask %d must be one of the %d nodes",
                 tree.mask_owners ? tree.mask_owners[j] : -1, j, tree.n_nodes);
        }
    }
    if (tree.trained && masks_retain(tree.trained)->model.get() != &model) {
        fail(MP_ERR_ARGUMENT, "the tree's masks were opened for another model");
    }
    if (n_embd_rows + tree.n_masks > 0) {
        if (!info.can_probe) {
            fail(MP_ERR_UNSUPPORTED, "embedding rows on a %s model: %s", info.arch,
                 info.note[0] ? info.note : "it was opened without the self-check");
        }
        if ((n_embd_rows > 0 && !tree.embd) || (tree.n_masks > 0 && !tree.masks)) {
            fail(MP_ERR_ARGUMENT, "%d embedding rows and %d masks need their vectors", n_embd_rows, tree.n_masks);
        }
        check_finite(tree.embd, n_embd_rows, info.n_embd, "embedding row");
        check_finite(tree.masks, tree.n_masks, info.n_embd, "mask");
    }
}

void tree_pass::check_chain(const mp_tree & tree, int32_t max_chain) const {
    const mp_model_info & info = model.info;
    const int32_t n_rows = tree.n_nodes + tree.n_masks;
    if (n_rows > 1 && max_chain == 0) {
        fail(MP_ERR_UNSUPPORTED, "a tree of %d rows on a %s model: %s", n_rows, info.arch,
             info.max_chain == 0 ? info.note : "memory does not hold the states of a chain");
    }
    if (n_rows > 1 + max_chain) {
        fail(MP_ERR_UNSUPPORTED, "a chain of %d rows on a %s model: %d can be taken back, so %d rows at most", n_rows,
             info.arch, max_chain, 1 + max_chain);
    }
    for (int32_t i = 1; i < tree.n_nodes; i++) {
        if (tree.parents[i] != i - 1) {
            fail(MP_ERR_UNSUPPORTED, "node %d has parent %d: a %s model has one recurrent state, which follows chains only",
                 i, tree.parents[i], info.arch);
        }
    }
}

void tree_pass::assign_sequences(const mp_tree & tree) {
    for (int32_t i = 0; i < tree.n_nodes; i++) {
        parents[i] = tree.parents[i];
        node_tokens[i] = tree.tokens[i];
        n_children[i] = n_masks_of[i] = masks_placed[i] = 0;
        if (i > 0) {
            n_children[tree.parents[i]]++;
        }
    }
    for (int32_t j = 0; j < tree.n_masks; j++) {
        n_masks_of[tree.mask_owners[j]]++;
    }
    // Bottom up: how many; top down: which. A node's own sequence, if it has one, is the last of its range.
    for (int32_t i = 0; i < tree.n_nodes; i++) {
        n_seq[i] = n_children[i] == 0 || n_masks_of[i] > 0;
    }
    for (int32_t i = tree.n_nodes - 1; i > 0; i--) {
        n_seq[tree.parents[i]] += n_seq[i];
    }
    row_seq[0] = seq_next[0] = 0;
    for (int32_t i = 1; i < tree.n_nodes; i++) {
        row_seq[i] = seq_next[i] = seq_next[tree.parents[i]];
        seq_next[tree.parents[i]] += n_seq[i];
    }
}

void tree_pass::place_rows(const mp_tree & tree, int32_t n_past) {
    std::fill(last_position.begin(), last_position.begin() + n_seq[0], n_past);
    positions[0] = n_past;
    for (int32_t i = 1; i < tree.n_nodes; i++) {
        positions[i] = positions[tree.parents[i]] + 1;
        for (int32_t s = row_seq[i]; s < row_seq[i] + n_seq[i]; s++) {
            last_position[s] = std::max(last_position[s], positions[i]);
        }
    }
    for (int32_t j = 0; j < tree.n_masks; j++) {
        const int32_t owner = tree.mask_owners[j];
        const int32_t row = tree.n_nodes + j;
        masks_placed[owner]++;
        positions[row] = positions[owner] + masks_placed[owner];
        row_seq[row] = row_seq[owner] + n_seq[owner] - 1;
        last_position[row_seq[row]] = positions[row];
    }
}

void tree_pass::clear() {
    of_masks = nullptr;
    nodes = rows = 0;
    n_seq[0] = 1;
}

int32_t tree_pass::n_rows_of(int32_t sequence) const {
    return sequence < n_needed ? last_position[sequence] - positions[0] + 1 : 1;
}

int32_t tree_pass::n_on_path(int32_t sequence, const int32_t * path, int32_t n) const {
    int32_t count = 0;
    while (count < n && row_seq[path[count]] <= sequence && sequence < row_seq[path[count]] + n_seq[path[count]]) {
        count++;
    }
    return count;
}

void tree_pass::lay_out(const mp_tree & tree, int32_t n_past, int32_t n_ctx, int32_t max_chain) {
    check(tree, n_past, n_ctx);
    if (!model.info.can_tree) {
        check_chain(tree, max_chain);
    }
    of_masks = tree.trained ? masks_retain(tree.trained) : nullptr;
    nodes = tree.n_nodes;
    rows = tree.n_nodes + tree.n_masks;
    embeddings = tree.n_masks > 0 || std::find(tree.tokens, tree.tokens + tree.n_nodes, -1) != tree.tokens + tree.n_nodes;
    assign_sequences(tree);
    n_needed = n_seq[0];
    place_rows(tree, n_past);
}

} // namespace mp
