// Where the candidates of a generation come from: all evidence, or a caller's own source; what a constraint forces comes
// first, what it forbids never.
//
//     begin(text)                  a new text, which ends with the newest token
//     start(text, room)            a draft of the root alone, of at most `room` rows
//     start_after(forced, p)       or one that begins with a chain that must come
//     next(), take()               the most probable candidate that is left becomes a node
//     observe(pass, path, ...)     the pass over the draft, or its first part, was decoded
#pragma once

#include "draft/drafter.h"
#include "draft/masks.h"
#include "model/constraint.h"
#include "model/sampler.h"
#include "plan/calibration.h"
#include "plan/planner.h"

#include "maskprobe.h"

#include <memory>
#include <vector>

namespace mp {

// The nodes of a draft, the root first.
struct draft_view {
    int32_t n_nodes;
    const int32_t * tokens;      // (n_nodes)
    const int32_t * parents;     // (n_nodes)
    const float * probabilities; // (n_nodes) claimed, of the whole path
    const int8_t * sources;      // (n_nodes) mp_source
};

// What became of a pass over a draft's tree.
struct decoded_pass {
    const mp_tree & tree;
    const mp_pass & pass;
    const int32_t * path;    // (n_path) the root and the accepted nodes
    const int32_t * emitted; // (n_path) the token drawn after each
    int32_t n_path;
    const float * hidden; // (n_states, n_embd) of the last row of the path, nullptr: not known
};

// The rows of a text's last tokens but the newest one, which was drawn from the last of them.
struct drawn_rows {
    const mp_prefix & rows;
    const float * hidden; // (n_states, n_embd) of the last row, nullptr: not known
};

class proposer : public candidates {
public:
    virtual int32_t n_top() const = 0;                   // candidates per row that it learns from
    virtual int32_t n_prompt_rows() const = 0;           // of the prompt's last rows, how many it learns from
    virtual bool wants_hidden() const { return false; }  // hidden states of the rows that tokens are drawn from
    virtual bool wants_guesses() const { return false; } // of the model's own layers for multi-token prediction
    virtual void use_guesses(guesses *) {} // for the next draft; what they were worth is written into them. nullptr: none
    virtual void begin(const std::vector<int32_t> & text, const drawn_rows & from) = 0;
    virtual void start(const std::vector<int32_t> & text, int32_t room) = 0;
    // A draft of the root and this chain after it, each of whose tokens comes with this probability. Others follow it.
    // false: this source cannot.
    virtual bool start_after(const std::vector<int32_t> &, float) { return false; }
    virtual int32_t n_forced() const { return 0; } // first nodes after the root that the draft has in any case
    virtual draft_view draft() const = 0;
    // The candidate that next() tells of: its token, and the node that it would follow. drop() passes it over.
    virtual int32_t next_token() const = 0;
    virtual int32_t next_parent() const = 0;
    virtual void drop() = 0;
    // A tree that is to be decoded as it is, nullptr where the planner takes what pays.
    virtual const mp_tree * whole() const { return nullptr; }
    // Puts masks in the place of some last nodes of the tree, the first part of the draft.
    virtual void add_masks(mp_tree &, const calibration &) {}
    virtual void observe(const decoded_pass & done) = 0;
    // Tokens that came without a draft of its own, with the rows that they were drawn from.
    virtual void extend(const int32_t * tokens, int32_t n, const drawn_rows & from) = 0;
};

// All evidence in one tree.
class evidence_proposer : public proposer {
public:
    evidence_proposer(std::shared_ptr<knowledge> known, bool chains_only, std::unique_ptr<mask_source> masks,
                      std::shared_ptr<head> trained, bool guessed);

    int32_t n_top() const override;
    int32_t n_prompt_rows() const override;
    bool wants_hidden() const override { return has_head; }
    bool wants_guesses() const override { return guessed; }
    void use_guesses(guesses * chain) override { from.use_guesses(chain); }
    void begin(const std::vector<int32_t> & text, const drawn_rows & from) override;
    void start(const std::vector<int32_t> & text, int32_t room) override;
    bool start_after(const std::vector<int32_t> & forced, float probability) override;
    draft_view draft() const override;
    float next() override { return from.next(); }
    void take() override { from.take(); }
    int32_t next_token() const override { return from.next_token(); }
    int32_t next_parent() const override { return from.next_parent(); }
    void drop() override { from.drop(); }
    void observe(const decoded_pass & done) override;
    void extend(const int32_t * tokens, int32_t n, const drawn_rows & from) override;
    void add_masks(mp_tree & tree, const calibration & claims) override;

private:
    const bool has_head, guessed;
    drafter from;
    const int32_t n_vocab;
    const std::unique_ptr<mask_source> masks; // nullptr: none
    int64_t n_drafts = 0;
    int32_t n_certain = 0;
    std::vector<double> probabilities; // (n_nodes) calibrated
    std::vector<int32_t> owners;       // (n_masks)
    std::vector<float> vectors;        // (n_masks, n_embd)
    std::vector<int32_t> owner_tokens; // (n_masks)
    std::vector<int32_t> numbers;      // (n_masks) of those after one owner, 0: the first
};

// A caller's.
class plugged_proposer : public proposer {
public:
    plugged_proposer(const mp_proposer & calls, int32_t n_vocab, bool chains_only);

    int32_t n_top() const override { return calls.n_top; }
    int32_t n_prompt_rows() const override { return 0; }
    void begin(const std::vector<int32_t> & text, const drawn_rows & from) override;
    void start(const std::vector<int32_t> & text, int32_t room) override;
    draft_view draft() const override;
    float next() override;
    void take() override;
    int32_t next_token() const override;
    int32_t next_parent() const override;
    void drop() override;
    const mp_tree * whole() const override;
    void observe(const decoded_pass & done) override;
    void extend(const int32_t * tokens, int32_t n, const drawn_rows & from) override;

private:
    void check(int32_t root, int32_t room) const;

    const mp_proposer calls;
    const int32_t n_vocab;
    const bool chains_only;
    mp_draft given = {};
    bool is_whole = false;
    std::vector<float> claims;    // (given nodes) no child claims more than its parent
    std::vector<int32_t> order;   // given nodes but for the root, the most probable first
    size_t at = 0;                // of the order
    std::vector<int32_t> node_of; // (given nodes) in the draft, -1: not taken, or dropped

    // The draft, (n taken).
    std::vector<int32_t> tokens, parents;
    std::vector<float> probabilities;
    std::vector<int8_t> sources;
};

// Puts a constraint and the sampler's grammar before another proposer.
class constrained_proposer : public proposer {
public:
    constrained_proposer(std::unique_ptr<proposer> inner, constraint * rules, mp_sampler & sampler);

    int32_t n_top() const override { return inner->n_top(); }
    int32_t n_prompt_rows() const override { return inner->n_prompt_rows(); }
    bool wants_hidden() const override { return inner->wants_hidden(); }
    bool wants_guesses() const override { return inner->wants_guesses(); }
    void use_guesses(guesses * chain) override { inner->use_guesses(chain); }
    void begin(const std::vector<int32_t> & text, const drawn_rows & from) override { inner->begin(text, from); }
    void start(const std::vector<int32_t> & text, int32_t room) override;
    int32_t n_forced() const override { return n_chain; }
    draft_view draft() const override;
    float next() override;
    void take() override;
    int32_t next_token() const override { return inner->next_token(); }
    int32_t next_parent() const override { return inner->next_parent(); }
    void drop() override { inner->drop(); }
    const mp_tree * whole() const override { return n_chain > 0 ? nullptr : inner->whole(); }
    void add_masks(mp_tree & tree, const calibration & claims) override;
    void observe(const decoded_pass & done) override;
    void extend(const int32_t * tokens, int32_t n, const drawn_rows & from) override { inner->extend(tokens, n, from); }

private:
    bool may_follow();

    std::unique_ptr<proposer> inner;
    constraint * const rules; // nullptr: the grammar alone
    mp_sampler & sampler;
    float token_probability; // that a forced token is the one the model chooses: a running mean

    int32_t n_chain = 0;   // forced tokens in this draft,
    int32_t n_taken = 0;   // and how many of them were taken
    bool is_alone = false; // the inner proposer adds nothing to them: the draft is this one

    // (1 + n_chain) where it is alone
    std::vector<int32_t> tokens, parents;
    std::vector<float> probabilities;
    std::vector<int8_t> sources;

    std::vector<int32_t> path; // from the root's child down to a candidate
};

} // namespace mp
