#include "model/sampler.h"

#include "status.h"

#include <algorithm>
#include <cmath>

using namespace mp;

static void check(const mp_sampler_params & p, int32_t n_vocab) {
    const struct {
        const char * name;
        float value;
    } numbers[] = {
        {"temp", p.temp},
        {"top_p", p.top_p},
        {"min_p", p.min_p},
        {"penalty_repeat", p.penalty_repeat},
        {"penalty_frequency", p.penalty_frequency},
        {"penalty_presence", p.penalty_presence},
    };
    for (const auto & number : numbers) {
        if (!std::isfinite(number.value)) {
            fail(MP_ERR_ARGUMENT, "%s = %g must be a number", number.name, number.value);
        }
    }
    if (p.temp < 0) {
        fail(MP_ERR_ARGUMENT, "temp = %g must not be negative: 0 is greedy", p.temp);
    }
    if (p.penalty_repeat <= 0) {
        fail(MP_ERR_ARGUMENT, "penalty_repeat = %g must be above 0: 1 is off", p.penalty_repeat);
    }
    if (p.penalty_last_n < -1) {
        fail(MP_ERR_ARGUMENT, "penalty_last_n = %d must be -1 (the whole context) or more", p.penalty_last_n);
    }
    if (p.n_logit_bias < 0 || (p.n_logit_bias > 0 && (!p.bias_tokens || !p.bias_values))) {
        fail(MP_ERR_ARGUMENT, "%d logit biases need their tokens and values", p.n_logit_bias);
    }
    for (int32_t i = 0; i < p.n_logit_bias; i++) {
        if (p.bias_tokens[i] < 0 || p.bias_tokens[i] >= n_vocab) {
            fail(MP_ERR_ARGUMENT, "token %d of logit bias %d is out of range, the vocabulary has %d", p.bias_tokens[i], i,
                 n_vocab);
        }
        if (std::isnan(p.bias_values[i]) || p.bias_values[i] == INFINITY) {
            fail(MP_ERR_ARGUMENT, "the bias %g of token %d must be a number or minus infinity", p.bias_values[i],
                 p.bias_tokens[i]);
        }
    }
}

mp_sampler::mp_sampler(model_ref model_, const mp_sampler_params & p)
    : model(std::move(model_)), scratch(model->info.n_vocab) {
    check(p, model->info.n_vocab);
    build_chain(p);
    if (p.grammar) {
        grammar.reset(llama_sampler_init_grammar(model->vocab, p.grammar, "root"));
        if (!grammar) {
            fail(MP_ERR_ARGUMENT, "the grammar cannot be parsed: it must be GBNF with a rule named root");
        }
    }
    candidates.reserve(model->info.n_vocab);
}

void mp_sampler::build_chain(const mp_sampler_params & p) {
    llama_sampler_chain_params chain_params = llama_sampler_chain_default_params();
    chain_params.no_perf = true;
    chain.reset(llama_sampler_chain_init(chain_params));
    const auto add = [&](llama_sampler * link) {
        if (!link) {
            fail(MP_ERR_INTERNAL, "llama.cpp could not make a sampler");
        }
        llama_sampler_chain_add(chain.get(), link);
    };
    if (p.n_logit_bias > 0) {
        std::vector<llama_logit_bias> biases;
        for (int32_t i = 0; i < p.n_logit_bias; i++) {
            biases.push_back({p.bias_tokens[i], p.bias_values[i]});
        }
        add(llama_sampler_init_logit_bias(model->info.n_vocab, p.n_logit_bias, biases.data()));
    }
    const bool penalises =
        p.penalty_last_n != 0 && (p.penalty_repeat != 1 || p.penalty_frequency != 0 || p.penalty_presence != 0);
    if (penalises) {
        const int32_t last_n = p.penalty_last_n < 0 ? model->info.n_ctx_train : p.penalty_last_n;
        add(llama_sampler_init_penalties(model->info.n_vocab, last_n, p.penalty_repeat, p.penalty_frequency,
                                         p.penalty_presence));
    }
    if (p.temp == 0) {
        add(llama_sampler_init_greedy());
    } else {
        if (p.top_k > 0) {
            add(llama_sampler_init_top_k(p.top_k));
        }
        if (p.top_p < 1) {
            add(llama_sampler_init_top_p(p.top_p, 1));
        }
        if (p.min_p > 0) {
            add(llama_sampler_init_min_p(p.min_p, 1));
        }
        add(llama_sampler_init_temp(p.temp));
        add(llama_sampler_init_dist(p.seed));
    }
    takes_best = p.temp == 0 && p.n_logit_bias == 0 && !penalises;
    const bool only_lowers = std::all_of(p.bias_values, p.bias_values + p.n_logit_bias, [](float b) { return b <= 0; });
    const int32_t n_kept = p.temp == 0 ? 1 : p.top_k;
    if (n_kept > 0 && only_lowers && !penalises) {
        // Each token that is lowered lets another one in.
        n_listed = (int32_t) std::min<int64_t>((int64_t) n_kept + p.n_logit_bias, model->info.n_vocab);
    }
}

llama_token_data_array mp_sampler::load(const float * logits, int32_t n) {
    candidates.clear();
    if (n > 0) {
        for (const int32_t token : shortlist(logits, model->info.n_vocab, n, scratch)) {
            candidates.push_back({token, logits[token], 0});
        }
    } else {
        for (int32_t token = 0; token < model->info.n_vocab; token++) {
            candidates.push_back({token, logits[token], 0});
        }
    }
    return {candidates.data(), candidates.size(), -1, false};
}

// With `rules_first` the grammar and the rules apply before anything else. -1 where no token is left.
int32_t mp_sampler::draw(const float * logits, bool rules_first, constraint * rules) {
    llama_token_data_array array = load(logits, rules_first ? 0 : n_listed);
    if (rules_first && grammar) {
        llama_sampler_apply(grammar.get(), &array);
    }
    if (rules) {
        rules->mask(array);
    }
    if (std::none_of(array.data, array.data + array.size, [](const auto & c) { return c.logit > -INFINITY; })) {
        return -1;
    }
    llama_sampler_apply(chain.get(), &array);
    if (array.selected < 0 || array.selected >= (int64_t) array.size) {
        fail(MP_ERR_INTERNAL, "the sampler chain selected none of %zu candidates", array.size);
    }
    const llama_token_data & selected = array.data[array.selected];
    return selected.logit > -INFINITY ? selected.id : -1; // biases may forbid all that the rules allow
}

bool mp_sampler::grammar_allows(int32_t token) {
    if (!grammar) {
        return true;
    }
    llama_token_data single = {token, 1, 0};
    llama_token_data_array array = {&single, 1, -1, false};
    llama_sampler_apply(grammar.get(), &array);
    return single.logit != -INFINITY;
}

void mp_sampler::prime(const int32_t * tokens, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        if (tokens[i] < 0 || tokens[i] >= model->info.n_vocab) {
            fail(MP_ERR_ARGUMENT, "token %d at %d is out of range, the vocabulary has %d", tokens[i], i,
                 model->info.n_vocab);
        }
        llama_sampler_accept(chain.get(), tokens[i]);
    }
}

int32_t mp_sampler::sample(const float * logits, int32_t best, constraint * rules) {
    const auto allowed = [&](int32_t token) { return grammar_allows(token) && (!rules || rules->allows(token)); };
    int32_t id = takes_best && best >= 0 ? best : draw(logits, false, nullptr);
    if (id >= 0 && !allowed(id)) {
        id = draw(logits, true, rules);
    }
    if (id >= 0) {
        llama_sampler_accept(chain.get(), id);
        if (grammar) {
            llama_sampler_accept(grammar.get(), id);
        }
    }
    return id;
}
