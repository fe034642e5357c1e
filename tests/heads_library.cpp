// Heads by themselves, for tests/test_heads.py: a file is read and evaluated, without a model.
#include "heads/sampler_head.h"
#include "status.h"

#include <algorithm>

extern "C" {

// table: (n_vocab, n_embd), the input embeddings. nullptr: last_line() says why.
void * heads_open(const char * path, int32_t n_embd, int32_t n_vocab, const char * identity, const float * table) {
    void * made = nullptr;
    mp::guarded([&] {
        made = new mp::sampler_head(path, {n_embd, n_vocab, identity},
                                    [=](int32_t token, float * out) { std::copy_n(table + token * n_embd, n_embd, out); });
    });
    return made;
}

const char * last_line() {
    return mp::last_error();
}

void heads_free(void * head) {
    delete (mp::sampler_head *) head;
}

// before, after: (n, n_embd); likely, probabilities: (n, 12), -1 where there are none.
void heads_evaluate(void * head, int32_t n, const int32_t * tokens, const float * before, float * after, int32_t * likely,
                    float * probabilities) {
    auto * of = (mp::sampler_head *) head;
    std::vector<const float *> rows_before;
    std::vector<float *> rows_after;
    std::vector<mp::distribution> found(n);
    for (int32_t i = 0; i < n; i++) {
        rows_before.push_back(before + (size_t) i * of->n_latent());
        rows_after.push_back(after + (size_t) i * of->n_latent());
    }
    of->evaluate(n, tokens, rows_before.data(), rows_after.data(), found.data());
    for (int32_t i = 0; i < n; i++) {
        std::fill_n(likely + i * mp::N_LIKELY, mp::N_LIKELY, -1);
        std::copy_n(found[i].tokens, found[i].n, likely + i * mp::N_LIKELY);
        std::copy_n(found[i].probabilities, found[i].n, probabilities + i * mp::N_LIKELY);
    }
}

} // extern "C"
