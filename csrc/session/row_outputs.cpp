#include "session/row_outputs.h"

namespace mp {

void row_outputs::resize(int32_t n_rows_, int32_t n_top_, bool with_hidden) {
    n_rows = n_rows_;
    n_top = n_top_;
    logits.resize(n_rows);
    hidden.resize(with_hidden ? n_rows : 0);
    best.resize(n_rows);
    tokens.resize((size_t) n_rows * n_top);
    logprobs.resize((size_t) n_rows * n_top);
    log_sum.resize(n_rows);
}

output_reader::output_reader(worker_pool & workers, int32_t n_vocab, int32_t n_threads)
    : workers(workers), n_vocab(n_vocab), scratch(n_threads, top_k_scratch(n_vocab)) {}

void output_reader::add(row_outputs & outputs, int32_t begin, int32_t end) {
    for (int32_t row = begin; row < end; row++) {
        items.push_back({&outputs, row});
    }
}

void output_reader::run() {
    next_item.store(0);
    workers.run((int32_t) scratch.size(), [](void * self, int32_t worker) { ((output_reader *) self)->read(worker); }, this);
    items.clear();
}

void output_reader::read(int32_t worker) {
    for (size_t i = next_item.fetch_add(1); i < items.size(); i = next_item.fetch_add(1)) {
        row_outputs & out = *items[i].outputs;
        const int32_t row = items[i].row;
        const size_t start = (size_t) row * out.n_top;
        const bool is_finite = top_k(out.logits[row], n_vocab, out.n_top, scratch[worker], &out.tokens[start],
                                     &out.logprobs[start], &out.log_sum[row]);
        out.best[row] = is_finite ? out.tokens[start] : -1;
    }
}

} // namespace mp
