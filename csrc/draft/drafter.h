// Grows a tree of candidates for one text from all evidence at hand, and learns from what became of it. It knows tokens and
// probabilities; sessions, caches and how many rows are worth computing are others' business.
//
//     begin(prompt)        a new text
//     learn_prompt(rows)   what the model gave after its last tokens
//     start()              the root alone: the newest token; or with a chain after it that is known to come
//     next(), take()       the most probable candidate that is no node yet; it becomes one
//     observe(pass, path)  a pass over the tree has been decoded
//     extend(tokens)       instead of observe(), for tokens that came without a tree
//     use_latent(state)    what the newest token was drawn from, for the head
//     use_guesses(chain)   or, instead of a head, what was thought out beforehand
//
// In a steady step nothing is allocated: what grows keeps its room.
#pragma once

#include "draft/guesses.h"
#include "draft/head.h"
#include "draft/knowledge.h"
#include "maskprobe.h"

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace mp {

class drafter {
public:
    // chains_only: the most probable chain instead of the most probable tree. trained: nullptr, or heads whose word is
    // evidence as well.
    drafter(std::shared_ptr<knowledge> known, bool chains_only, std::shared_ptr<head> trained = nullptr);

    // The text before becomes an earlier one, of which some n-grams stay.
    void begin(const int32_t * tokens, int32_t n);
    void extend(const int32_t * tokens, int32_t n);
    // Row i was the output after token n_text - n_rows + i of the text as it stands: the last row is that of its newest
    // token. The token that is drawn from it comes by extend().
    void learn_prompt(const mp_prefix & rows);

    // The latent of the place that the newest token was drawn from, (n_latent of the head); nullptr: it is not known. It is
    // for the next draft, and forgotten with any change of the text.
    void use_latent(const float * latent);

    // Evidence like the head's, which there must not be then, for the next draft. observe() writes what it was worth into
    // it. nullptr: none.
    void use_guesses(guesses * chain) { guessed = chain; }

    // The draft. Any first part of it is the best tree of its size. The text must not be empty.
    void start() { start(nullptr, 0, 1.0f); }
    // The first n nodes are the chain that is forced to follow the root, each with this probability. All others come after
    // it.
    void start(const int32_t * forced, int32_t n, float probability);
    float next(); // 0: there is none
    void take();  // there must be one
    // The candidate that next() told of: its token, and the node after which it would stand.
    int32_t next_token() const { return nodes[heap.front().parent].children[heap.front().child].token; }
    int32_t next_parent() const { return heap.front().parent; }
    void drop(); // passes it over, and with it all that would follow it

    // (n_nodes) each, valid until the next call that changes the draft.
    int32_t n_nodes() const { return (int32_t) nodes.size(); }
    const int32_t * tokens() const { return out_tokens.data(); }
    const int32_t * parents() const { return out_parents.data(); }
    const float * probabilities() const { return out_probabilities.data(); } // of the path down to the node, not increasing
    const int8_t * sources() const { return out_sources.data(); }            // mp_source of each, -1 for the root

    // Learns from a pass and adds emitted[0..n_path) to the text. decoded: the draft or a part of it, with masks; nodes that
    // the draft has not are only learned from as rows. Its root is the newest token, path[0] = 0. The draft is over.
    void observe(const mp_tree & decoded, const mp_pass & pass, const int32_t * path, const int32_t * emitted,
                 int32_t n_path);

    // By how much, lately, the masks of each number after the last accepted node had raised the emitted token's probability,
    // per pass: (N_MASKS_EACH).
    const double * mask_gains() const { return gains_of_masks; }

    std::vector<example> * record = nullptr; // gets what observe() learned from; nullptr: nobody asks

private:
    static constexpr int32_t MAX_CHILDREN = 16; // candidates looked at after one node
    static constexpr int32_t N_SIBLING_DEPTHS = 2;
    static constexpr int32_t N_FROM_ROW = N_LIKELY; // tokens looked at in a row of the last pass

    static constexpr int32_t NOT_SAID = -1;

    struct candidate {
        int32_t token;
        float probability; // given its parent, before those of one parent are made to sum up to 1 at most
        evidence why;
        int32_t said = NOT_SAID; // what the head says after it
    };

    struct node {
        int32_t token, parent, depth;
        int32_t said;      // what the head says after it
        float probability; // of the whole path
        float share;       // what its children's probabilities are multiplied with
        int32_t n_children;
        candidate children[MAX_CHILDREN]; // the likely tokens after it, whether or not they are in the tree
    };

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

    // What the model gave as likely after one token.
    struct model_row {
        const int32_t * tokens; // (n_top)
        const float * logprobs; // (n_top)
        int32_t n_top;
        distribution as_distribution() const;
    };

    // drafter.cpp
    void add_to_text(int32_t token);
    void forget_pass();
    void add(const knowledge::held & known, int32_t token, int32_t parent, float probability, int32_t source, int32_t said);
    void grow();
    void expand(const knowledge::held & known, int32_t at);
    void collect(const knowledge::held & known, node & parent);
    void offer(int32_t parent, int32_t child);
    waiting pop();
    evidence & entry_for(int32_t token);

    // head_evidence.cpp
    const float * latent_before(int32_t parent) const;
    void ask_head(int32_t at);
    int32_t note_likely_next(float rival, float least);
    int32_t said_at(int32_t depth);
    int32_t guessed_after(int32_t parent, int32_t token) const;

    // learning.cpp
    void find_nodes(const mp_tree & decoded);
    void learn_outcomes(const int32_t * path, const int32_t * emitted, int32_t n_path);
    double gain_by(const knowledge::held & known, evidence_kind kind, int32_t at, int32_t token) const;
    void learn_mask_gain(const knowledge::held & known, const int32_t * path, const int32_t * emitted, int32_t n_path);
    void learn_guess_gain(const knowledge::held & known, const int32_t * path, const int32_t * emitted, int32_t n_path);
    void learn_row(const model_row & row, int32_t token, int32_t before, int32_t first);
    void learn_siblings(const mp_tree & decoded, const mp_pass & pass, int32_t accepted);

    const std::shared_ptr<knowledge> shared;
    const bool chains_only;
    const std::shared_ptr<head> trained; // nullptr: none. It is one of these:
    token_head * const by_token;
    distance_head * const by_distance;
    std::vector<int32_t> text;
    continuation_table by_ngram; // of this text

    // left by the last pass
    std::vector<distribution> masks;        // of the last accepted node, nearest first; empty ones where not finite
    distribution last;                      // of a row,
    size_t last_is_before = 0;              // from which this token of the text was drawn
    distribution sibling[N_SIBLING_DEPTHS]; // [d]: for the children of a node of depth d

    double gains_of_masks[N_MASKS_EACH]; // running means. A guess, until masks were tried

    std::vector<float> root_latent; // (n_latent), or empty: not known
    guesses * guessed = nullptr;    // of this draft

    // the draft under way, nodes[0] is the root
    int32_t n_forced = 0;
    int32_t n_expected = 8;  // nodes that will be decoded: as many as in the last pass
    int32_t unexpanded = -1; // the newest node, whose children are collected when the next candidate is asked for; -1: none
    std::vector<node> nodes;
    std::vector<waiting> heap;
    std::vector<int32_t> out_tokens, out_parents; // (n_nodes)
    std::vector<float> out_probabilities;         // (n_nodes)
    std::vector<int8_t> out_sources;              // (n_nodes)

    // what was said in this draft: by a token_head, by candidate::said; by a distance_head, by the depth of the node after
    // which it may come; of guesses the i-th is number i
    std::vector<distribution> likely;
    std::vector<float> latents; // (n said, n_latent), of a token_head

    // room for a moment's work
    struct question { // to the head
        float probability;
        int32_t token, parent;
        int32_t * answer; // a candidate's or a node's `said`
    };
    std::vector<question> questions;
    std::vector<int32_t> asked_tokens;
    std::vector<const float *> asked_before;
    std::vector<float *> asked_after;
    std::vector<std::pair<int32_t, evidence>> collected; // of a node's candidates
    std::vector<candidate> scored;                       // the same with their probabilities
    std::vector<int32_t> node_of;                        // (nodes decoded) the draft's, -1 where it has none
    std::vector<std::pair<float, int32_t>> sums;         // probability and token
};

} // namespace mp
