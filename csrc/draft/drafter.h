// Grows one tree of candidates from all evidence at hand, and learns from what became of it. It knows tokens and
// probabilities; sessions, caches and how many rows are worth computing are others' business.
//
//     begin(prompt)        a new text
//     learn_prompt(rows)   what the model gave behind its last tokens
//     learn_unseen(rows)   what it gave behind some of unseen(), tokens that no row told about yet
//     start(), grow(n)     candidates for the places after the newest token, the most probable first
//     observe(pass, path)  the pass over the first of them has been decoded
//     extend(tokens)       instead of observe, for tokens that came without a tree
#pragma once

#include "draft/acceptance_model.h"
#include "draft/evidence_tables.h"
#include "maskprobe.h"

#include <string>
#include <vector>

struct mp_drafter {
    explicit mp_drafter(int32_t n_vocab);

    void begin(const int32_t * tokens, int32_t n);
    void learn_prompt(int32_t n_rows, int32_t n_top, const int32_t * top_tokens, const float * top_logprobs);
    // At most n tokens, the likeliest to come first.
    std::vector<int32_t> unseen(int32_t n) const;
    // Row 0 is the newest token's, row i that of tokens[i - 1] behind it.
    void learn_unseen(const int32_t * tokens, int32_t n, int32_t n_top, const int32_t * top_tokens,
                      const float * top_logprobs);
    void extend(const int32_t * tokens, int32_t n);
    void start(mp_draft & draft); // the root alone
    // To n nodes, or as many as there are. Returns the probability of the node that would come next, 0 if there is none.
    float grow(int32_t n, mp_draft & draft);
    void observe(const mp_draft_result & result);

    int32_t n_repeated() const { return repeated; }

    std::string save() const;
    bool load(const char * bytes, size_t n);

    int32_t n_text() const { return (int32_t) text.size(); }
    int32_t n_grown() const { return n_nodes; } // nodes of the draft under way
    int32_t parent_of(int32_t at) const { return nodes[at].parent; }

    const int32_t n_vocab;
    bool chains_only = false;          // drafts without branches
    int64_t earned[MP_N_SOURCES] = {}; // accepted candidates, by what spoke most for them
    std::vector<mp_example> examples;  // of the last observe()

private:
    struct candidate {
        int32_t token;
        float probability; // given its parent, before those of one parent are made to sum up to 1 at most
        mp::evidence why;
    };

    struct node {
        int32_t token, parent, depth;
        float probability;               // of the whole path
        float share;                     // what its children's probabilities are multiplied with
        std::vector<candidate> children; // the likely tokens behind it, whether or not they are in the tree
    };

    // Tokens of a row of the last pass, most likely first.
    struct distribution {
        std::vector<int32_t> tokens;
        std::vector<float> probabilities;
    };

    // What the model gave as likely behind one token: n_top tokens with their log-probabilities.
    struct model_row {
        const int32_t * tokens;
        const float * logprobs;
        int32_t n_top;
        distribution as_distribution() const;
    };

    void add_ngrams_of_last();
    void forget_pass();
    void add(int32_t token, int32_t parent, float probability, int32_t source);
    void collect(int32_t at); // fills nodes[at].children
    void offer(int32_t parent, size_t child);
    mp::evidence & entry_for(int32_t token);
    void learn_row(const model_row & row, int32_t token, int32_t before, int32_t first);
    void learn_mask_gain(const mp_draft_result & result);
    void learn_siblings(const mp_draft_result & result, int32_t accepted);

    mp::acceptance_model model;
    mp::successor_table by_token, by_pair, by_triple;
    mp::continuation_table by_ngram;   // of this text
    mp::continuation_table by_earlier; // of earlier ones too
    std::vector<int32_t> text;         // of this generation
    int32_t repeated = 0;              // of its last tokens

    // left by the last pass
    std::vector<distribution> masks;   // of the last accepted node, nearest first
    distribution last;                 // of the last accepted row: the root was drawn from it
    std::vector<distribution> sibling; // [d]: for the children of a node of depth d

    // Rise of the emitted token's probability by what the masks of the pass before said, per pass: a running mean. A guess,
    // until masks were tried.
    double gain_of_masks = 0.05;

    struct waiting { // children[child] of a node, not in the draft yet
        float probability;
        int32_t parent, child;
        bool operator<(const waiting & other) const {
            if (probability != other.probability) {
                return probability < other.probability;
            }
            return parent != other.parent ? parent > other.parent : child > other.child;
        }
    };

    std::vector<waiting> heap; // while a draft grows
    std::vector<node> nodes;   // the draft under way, nodes[0] is the root
    int32_t n_nodes = 0;
    std::vector<std::pair<int32_t, mp::evidence>> collected; // while a node's candidates are put together

    // what start() hands out, (MP_N_ROWS_LIMIT)
    std::vector<int32_t> out_tokens, out_parents;
    std::vector<float> out_probabilities;
    std::vector<int8_t> out_sources;
};
