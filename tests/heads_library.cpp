// Heads by themselves, for tests/test_heads.py and test_mtp_heads.py: a file is read and evaluated, without a model.
#include "heads/mtp_heads.h"
#include "heads/sampler_head.h"
#include "status.h"

#include <algorithm>

// ids, probabilities: (n, 12), -1 where there are none.
static void copy_out(const std::vector<mp::distribution> & found, int32_t * ids, float * probabilities) {
    for (size_t i = 0; i < found.size(); i++) {
        std::fill_n(ids + i * mp::N_LIKELY, mp::N_LIKELY, -1);
        std::copy_n(found[i].tokens, found[i].n, ids + i * mp::N_LIKELY);
        std::copy_n(found[i].probabilities, found[i].n, probabilities + i * mp::N_LIKELY);
    }
}

extern "C" {

// A head of the kind that the file has. table: (n_vocab, n_embd), the input embeddings. nullptr: last_line() says why.
void * heads_open(const char * path, int32_t n_embd, int32_t n_vocab, int32_t n_layer, const char * identity,
                  const float * table) {
    mp::head * made = nullptr;
    mp::guarded([&] {
        const mp::head_file file(path, {n_embd, n_vocab, n_layer, identity});
        if (file.kind() == mp::head_kind::mtp) {
            made = new mp::mtp_heads(file);
        } else {
            made = new mp::sampler_head(
                file, [=](int32_t token, float * out) { std::copy_n(table + token * n_embd, n_embd, out); });
        }
    });
    return made;
}

const char * last_line() {
    return mp::last_error();
}

void heads_free(void * head) {
    delete (mp::head *) head;
}

// Of a sampler head. before, after: (n, n_embd).
void heads_evaluate(void * head, int32_t n, const int32_t * tokens, const float * before, float * after, int32_t * ids,
                    float * probabilities) {
    auto * of = (mp::token_head *) (mp::head *) head;
    std::vector<const float *> rows_before;
    std::vector<float *> rows_after;
    std::vector<mp::distribution> found(n);
    for (int32_t i = 0; i < n; i++) {
        rows_before.push_back(before + (size_t) i * of->n_latent());
        rows_after.push_back(after + (size_t) i * of->n_latent());
    }
    of->evaluate(n, tokens, rows_before.data(), rows_after.data(), found.data());
    copy_out(found, ids, probabilities);
}

// Of MTP heads. states: (n_states, n_embd); how many distances there are.
int32_t heads_look_ahead(void * head, const float * states, int32_t * ids, float * probabilities) {
    auto * of = (mp::distance_head *) (mp::head *) head;
    std::vector<mp::distribution> found(of->n_distances());
    of->evaluate(states, found.data());
    copy_out(found, ids, probabilities);
    return of->n_distances();
}

} // extern "C"
