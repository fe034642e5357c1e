// The drafter as a library of its own, for replaying it on texts (bench/draft_library.py). No errors: its caller is careful.
#include "draft/drafter.h"

#include <algorithm>
#include <memory>
#include <vector>

using namespace mp;

namespace {

struct replayed {
    std::shared_ptr<knowledge> known;
    drafter draft;
    std::vector<example> examples; // of the last pass

    replayed(int32_t n_vocab, bool chains_only) : known(std::make_shared<knowledge>(n_vocab)), draft(known, chains_only) {
        draft.record = &examples;
    }
};

} // namespace

extern "C" {

replayed * draft_new(int32_t n_vocab, bool chains_only) {
    return new replayed(n_vocab, chains_only);
}

void draft_free(replayed * of) {
    delete of;
}

bool draft_load(replayed * of, const char * bytes, size_t n) {
    return of->known->load(bytes, n);
}

void draft_begin(replayed * of, const int32_t * tokens, int32_t n) {
    of->draft.begin(tokens, n);
}

void draft_extend(replayed * of, const int32_t * tokens, int32_t n) {
    of->draft.extend(tokens, n);
}

void draft_learn_prompt(replayed * of, int32_t n_rows, int32_t n_top, const int32_t * top_tokens,
                        const float * top_logprobs) {
    of->draft.learn_prompt({0, n_rows, n_top, top_tokens, top_logprobs});
}

// tokens and parents (n_most). Returns the number of nodes.
int32_t draft_grow(replayed * of, int32_t n_most, int32_t * tokens, int32_t * parents) {
    of->draft.start();
    while (of->draft.n_nodes() < n_most && of->draft.next() > 0) {
        of->draft.take();
    }
    std::copy_n(of->draft.tokens(), of->draft.n_nodes(), tokens);
    std::copy_n(of->draft.parents(), of->draft.n_nodes(), parents);
    return of->draft.n_nodes();
}

// top_tokens, top_logprobs: (n_nodes, n_top). Returns how many examples it learned from.
int32_t draft_observe(replayed * of, int32_t n_nodes, const int32_t * tokens, const int32_t * parents, int32_t n_top,
                      const int32_t * top_tokens, const float * top_logprobs, int32_t n_path, const int32_t * path,
                      const int32_t * emitted) {
    const mp_tree tree = {n_nodes, tokens, parents, nullptr, 0, nullptr, nullptr, n_top};
    std::vector<int32_t> best(n_nodes);
    for (int32_t row = 0; row < n_nodes; row++) {
        best[row] = top_tokens[(size_t) row * n_top];
    }
    of->draft.observe(tree, {n_nodes, n_top, best.data(), top_tokens, top_logprobs, 0, 0}, path, emitted, n_path);
    return (int32_t) of->examples.size();
}

// out: (examples of the last pass, 2 + kinds of evidence): class of depth, right, a level of each kind.
void draft_examples(const replayed * of, uint8_t * out) {
    for (const example & e : of->examples) {
        *out++ = e.depth;
        *out++ = e.right;
        out = std::copy_n(e.why.level, N_EVIDENCE, out);
    }
}

} // extern "C"
