#include "session/row_batch.h"

#include <algorithm>

namespace mp {

row_batch::row_batch(const mp_model & model, int32_t n_rows_max, int32_t n_sequences_max) : model(model) {
    tokens.resize(n_rows_max);
    if (model.info.can_probe) {
        embd.resize((size_t) n_rows_max * model.info.n_embd);
    }
    pos.resize((size_t) n_rows_max * model.n_pos_per_embd);
    n_seq.resize(n_rows_max);
    seq.resize(n_rows_max);
    output.resize(n_rows_max, 1);
    ids.resize(n_sequences_max);
}

void row_batch::begin(int32_t n_rows, bool with_embeddings) {
    rows.n_tokens = n_rows;
    rows.token = with_embeddings ? nullptr : tokens.data();
    rows.embd = with_embeddings ? embd.data() : nullptr;
    rows.pos = pos.data();
    rows.n_seq_id = n_seq.data();
    rows.seq_id = seq.data();
    rows.logits = output.data();
    n_added = n_ids = 0;
}

void row_batch::add(const mp_tree & tree, const tree_pass & pass, const llama_seq_id * session_ids) {
    llama_seq_id * own = ids.data() + n_ids;
    std::copy(session_ids, session_ids + pass.n_sequences(), own);
    n_ids += pass.n_sequences();
    add_inputs(tree);
    for (int32_t row = 0; row < pass.n_rows(); row++, n_added++) {
        pos[n_added] = pass.position(row);
        n_seq[n_added] = pass.n_sequences_of(row);
        seq[n_added] = own + pass.first_sequence(row);
    }
}

void row_batch::add_inputs(const mp_tree & tree) {
    if (rows.token) {
        std::copy(tree.tokens, tree.tokens + tree.n_nodes, tokens.data() + n_added);
        return;
    }
    const size_t n_embd = model.info.n_embd;
    float * out = embd.data() + n_added * n_embd;
    const auto put = [&](const float * vector) {
        for (size_t j = 0; j < n_embd; j++) {
            *out++ = vector[j] * model.info.embd_scale;
        }
    };
    const float * next_embd = tree.embd;
    for (int32_t i = 0; i < tree.n_nodes; i++) {
        if (tree.tokens[i] >= 0) {
            model.input_row(tree.tokens[i], out);
            out += n_embd;
        } else {
            put(next_embd);
            next_embd += n_embd;
        }
    }
    for (int32_t j = 0; j < tree.n_masks; j++) {
        put(tree.masks + j * n_embd);
    }
}

const llama_batch & row_batch::finish() {
    // M-RoPE: three equal sections for text and an empty fourth, each n_rows long.
    for (int32_t section = 1; section < model.n_pos_per_embd; section++) {
        for (int32_t i = 0; i < n_added; i++) {
            pos[(size_t) section * n_added + i] = section < 3 ? pos[i] : 0;
        }
    }
    return rows;
}

} // namespace mp
