// One generation: its text, where it ends, its sampler, its candidates, and what it has emitted but nobody has read yet.
// The engine's thread does the work; whoever holds the handle reads, cancels and asks for counts from any thread.
#pragma once

#include "engine/proposer.h"
#include "engine/text_stream.h"
#include "model/constraint.h"
#include "model/sampler.h"
#include "session/session.h"
#include "status.h"

#include "maskprobe.h"

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace mp {

// An mp_token with its arrays.
struct emitted_token {
    mp_token token = {};
    std::vector<int32_t> top_tokens;
    std::vector<float> top_logprobs;
    std::vector<float> hidden; // (n_states, n_embd) or empty
    std::string text;
};

// The tree of a pass and what became of it.
struct drafted_tree {
    int64_t n_pass = 0;
    std::vector<int32_t> tokens, parents, path, emitted;
    std::vector<int8_t> sources;
};

class generation : private candidates {
public:
    // `source` proposes; nullptr: nothing is drafted.
    generation(model_ref model, const int32_t * tokens, int32_t n, const mp_generation_params & params,
               std::unique_ptr<proposer> source);

    // --- the engine's thread ---

    // A piece of at most n tokens of the prompt; returns how many were evaluated, and not found in the session. With its end
    // comes the first token. Throws what ends the generation.
    int32_t evaluate_prompt(int32_t n);
    bool has_prompt_left() const { return n_evaluated < n_to_evaluate; }
    int32_t n_prompt_left() const { return n_to_evaluate - n_evaluated; }

    // Gives its session to others. In the next one it evaluates what that does not hold, and goes on; for models whose
    // cache can be rolled back.
    std::unique_ptr<mp_session> suspend();
    bool was_suspended() const { return is_resumed; }
    int64_t n_emitted() const { return (int64_t) text.size() - n_prompt; }

    // Whether what follows its newest token may be thought out before the draft, into `guessed`.
    bool wants_guesses() const { return source && source->wants_guesses() && !is_suspect && n_left > 1; }
    guesses guessed;

    // Starts a draft of at most `room` rows and says what the planner may give it.
    share start_draft(int32_t room);
    void check_draft() const; // throws what went wrong while the draft grew
    // The tree of the pass: the first n_rows nodes of the draft, or as they were given. It lives until learn().
    mp_tree tree(int32_t n_rows);
    // Draws tokens as far as the tree goes, and keeps what was accepted. Throws what ends the generation.
    void accept(const mp_pass & pass);
    void learn_claims(calibration & of) const; // what those of the draft were worth; before learn()
    void learn(const mp_pass & pass);

    void publish(); // what was emitted can be read from here on
    void finish(mp_finish why);
    void fail_with(const failure & why);
    bool ended() const { return is_ended; }
    // Rows of its own in a pass at most, 0: as many as the engine says.
    int32_t n_rows_wanted() const { return n_rows; }
    bool wants_pass_alone() const { return is_suspect; }
    bool wants_hidden() const { return gives_hidden || (source && source->wants_hidden()); } // of its passes' rows

    void count_prompt(int64_t us);
    void count_pass(int64_t us, int64_t decode_us);

    const std::vector<int32_t> & tokens() const { return text; } // the last one is the next root

    std::unique_ptr<mp_session> session;  // while it is active
    const calibration * claims = nullptr; // of its candidates

    // --- any thread ---

    bool read(emitted_token & out); // false: nothing to read yet. Throws what ended it
    mp_stats stats() const;
    void newest_draft(drafted_tree & out) const;
    std::atomic<bool> cancelled{false};

private:
    float next() override;
    void take() override;
    int32_t n_top_of_pass() const;
    int32_t child(int32_t node, int32_t token, const mp_pass & pass) const;
    void note_draft(const draft_view & draft);
    bool draw(const float * logits, int32_t best);
    void emit(float logprob, mp_source source_of, const int32_t * tops, const float * logprobs, const float * hidden);
    void finish_if_full();

    const model_ref model;
    std::vector<int32_t> text; // prompt and emitted tokens
    const int32_t n_prompt;
    int32_t n_to_evaluate;   // tokens before passes can be made: of the prompt, or of all but the newest
    int32_t n_evaluated = 0; // of these
    bool is_resumed = false;
    int64_t n_left;      // tokens that may still be emitted
    const int32_t n_top; // wanted with each token
    const int32_t n_rows;
    const bool gives_hidden; // with each token, of the row that it was drawn from
    mp_sampler sampler;
    std::optional<constraint> rules;
    std::unique_ptr<proposer> source;
    // The root of its last pass was not finite. That may come from a candidate's row, from another generation's, or from
    // what is left in the cache: the pass is made again over the root alone, and what comes of that counts.
    bool is_suspect = false;
    text_stream stream;
    bool is_ended = false;

    // the pass under way
    bool is_drafted = false;
    std::optional<failure> broken; // the draft
    mp_tree decoded = {};
    std::vector<int32_t> path, drawn;
    drafted_tree noted;
    std::vector<emitted_token> fresh; // not published yet

    mutable std::mutex mutex; // of what follows
    std::deque<emitted_token> unread;
    std::optional<failure> failed;
    bool has_told_end = false;
    mp_stats counts = {};
    drafted_tree newest;
};

} // namespace mp
