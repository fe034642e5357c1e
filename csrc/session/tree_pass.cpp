#include "session/tree_pass.h"

#include "status.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace mp {

tree_pass::tree_pass(const mp_model & model, int32_t n_rows_max) : model(model), n_rows_max(n_rows_max) {
    row_tokens.resize(n_rows_max);
    if (model.info.can_probe) {
        row_embd.resize((size_t) n_rows_max * model.info.n_embd);
    }
    row_pos.resize((size_t) n_rows_max * model.n_pos_per_embd);
    row_n_seq.resize(n_rows_max);
    row_seq.resize(n_rows_max);
    row_output.resize(n_rows_max);
    for (int32_t s = 0; s < n_rows_max; s++) {
        all_sequences.push_back(s);
    }
    for (auto * per_node :
         {&parents, &node_tokens, &depth, &n_masks_of, &n_children, &seq_start, &n_seq, &seq_next, &masks_placed}) {
        per_node->resize(n_rows_max);
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
        fail(MP_ERR_ARGUMENT, "the tree has %d nodes and %d masks = %lld rows, the session takes n_rows_max = %d",
             tree.n_nodes, tree.n_masks, (long long) n_rows, n_rows_max);
    }
    if (n_rows > n_ctx - n_past) {
        fail(MP_ERR_CONTEXT_FULL, "the pass needs %lld places, %d of the context's %d are left", (long long) n_rows,
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
        n_children[i] = n_masks_of[i] = masks_placed[i] = 0;
        depth[i] = i == 0 ? 0 : depth[tree.parents[i]] + 1;
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
    // As many as rows, whatever the shape: llama.cpp uses a graph again only for the same number of sequences. A recurrent
    // state has one.
    n_seq[0] = model.info.can_tree ? std::max(n_seq[0], tree.n_nodes + tree.n_masks) : 1;
    seq_start[0] = seq_next[0] = 0;
    for (int32_t i = 1; i < tree.n_nodes; i++) {
        seq_start[i] = seq_next[i] = seq_next[tree.parents[i]];
        seq_next[tree.parents[i]] += n_seq[i];
    }
}

void tree_pass::fill_rows(const mp_tree & tree, int32_t n_past) {
    const int32_t n_rows = tree.n_nodes + tree.n_masks;
    for (int32_t i = 0; i < tree.n_nodes; i++) {
        parents[i] = tree.parents[i];
        node_tokens[i] = tree.tokens[i];
        row_pos[i] = n_past + depth[i];
        row_n_seq[i] = n_seq[i];
        row_seq[i] = &all_sequences[seq_start[i]];
        row_output[i] = !tree.node_outputs || tree.node_outputs[i] != 0;
    }
    for (int32_t j = 0; j < tree.n_masks; j++) {
        const int32_t owner = tree.mask_owners[j];
        const int32_t row = tree.n_nodes + j;
        masks_placed[owner]++;
        row_pos[row] = n_past + depth[owner] + masks_placed[owner];
        row_n_seq[row] = 1;
        row_seq[row] = &all_sequences[seq_start[owner] + n_seq[owner] - 1];
        row_output[row] = !tree.mask_outputs || tree.mask_outputs[j] != 0;
    }
    // M-RoPE: three equal sections for text and an empty fourth, each n_rows long.
    for (int32_t section = 1; section < model.n_pos_per_embd; section++) {
        for (int32_t i = 0; i < n_rows; i++) {
            row_pos[(size_t) section * n_rows + i] = section < 3 ? row_pos[i] : 0;
        }
    }
}

void tree_pass::fill_inputs(const mp_tree & tree) {
    const size_t n_embd = model.info.n_embd;
    const float * next_embd = tree.embd;
    bool all_tokens = tree.n_masks == 0;
    for (int32_t i = 0; i < tree.n_nodes; i++) {
        all_tokens = all_tokens && tree.tokens[i] >= 0;
    }
    rows.token = all_tokens ? row_tokens.data() : nullptr;
    rows.embd = all_tokens ? nullptr : row_embd.data();
    if (all_tokens) {
        memcpy(row_tokens.data(), tree.tokens, tree.n_nodes * sizeof(int32_t));
        return;
    }
    const auto put = [&](int32_t row, const float * src) {
        for (size_t j = 0; j < n_embd; j++) {
            row_embd[row * n_embd + j] = src[j] * model.info.embd_scale;
        }
    };
    // llama.cpp takes tokens or embedding rows, not both: tokens are looked up here.
    for (int32_t i = 0; i < tree.n_nodes; i++) {
        if (tree.tokens[i] >= 0) {
            model.input_row(tree.tokens[i], &row_embd[i * n_embd]);
        } else {
            put(i, next_embd);
            next_embd += n_embd;
        }
    }
    for (int32_t j = 0; j < tree.n_masks; j++) {
        put(tree.n_nodes + j, tree.masks + j * n_embd);
    }
}

void tree_pass::lay_out(const mp_tree & tree, int32_t n_past, int32_t n_ctx, int32_t max_chain) {
    check(tree, n_past, n_ctx);
    if (!model.info.can_tree) {
        check_chain(tree, max_chain);
    }
    nodes = tree.n_nodes;
    assign_sequences(tree);
    fill_rows(tree, n_past);
    fill_inputs(tree);
    rows.n_tokens = tree.n_nodes + tree.n_masks;
    rows.pos = row_pos.data();
    rows.n_seq_id = row_n_seq.data();
    rows.seq_id = row_seq.data();
    rows.logits = row_output.data();
}

} // namespace mp
