// libllama's own samplers, in llama.cpp's order. A grammar is checked after the draw and only applied first where the
// draw breaks it, as llama.cpp does. Where all but the k most likely tokens are thrown away anyway, the samplers do not see
// the others.
#pragma once

#include "guard.h"
#include "model/constraint.h"
#include "model/grammar.h"
#include "model/model.h"
#include "session/top_k.h"

#include <memory>
#include <unordered_map>
#include <vector>

struct mp_sampler {
    mp_sampler(mp::model_ref model, const mp_sampler_params & params);

    // Shows prompt tokens to the penalties.
    void prime(const int32_t * tokens, int32_t n);

    // The next token, given the logits of a row (n_vocab) and the most likely token among them, -1 where that is not known.
    // Returns -1 where the grammar, the rules and the biases leave none.
    int32_t sample(const float * logits, int32_t best, mp::constraint * rules = nullptr);

    bool has_grammar() const { return (bool) rules_of_text; }
    bool grammar_allows(const int32_t * tokens, int32_t n); // one after the other, from this place in the text on

    const mp::model_ref model;
    mp::guard guard{"sampler"};

private:
    void build(const mp_sampler_params & params);
    llama_token_data_array load(const float * logits, int32_t n);
    void weigh(llama_token_data_array & array);
    int32_t draw(const float * logits, bool rules_first, mp::constraint * rules);

    using sampler_ptr = std::unique_ptr<llama_sampler, decltype(&llama_sampler_free)>;
    std::unordered_map<int32_t, float> biases;          // of tokens
    sampler_ptr penalties{nullptr, llama_sampler_free}; // nullptr: none
    sampler_ptr choice{nullptr, llama_sampler_free};    // the rest of the chain
    std::unique_ptr<mp::grammar> rules_of_text;         // nullptr: any
    bool takes_best = false;                            // greedy and nothing else: the pass has the answer already
    int32_t n_listed = 0;                               // the most likely tokens that the chain needs to see; 0: all
    mp::top_k_scratch scratch;
    std::vector<llama_token_data> candidates; // at most (n_vocab)
};
