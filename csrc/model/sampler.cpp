#include "model/sampler.h"

#include "status.h"

#include <algorithm>
#include <cmath>

using namespace mp;

// Beyond this a logit says no more, and llama.cpp's top-k sorts it to the wrong end.
constexpr float LARGEST = 1e8f;
constexpr float LARGEST_PENALTY = 1e30f; // times a count it is a number still
// Below this the last bit of a logit decides, and a little further down the quotient is no number any more: greedy.
constexpr float COLDEST = 1e-8f;

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
    build(p);
    if (p.grammar) {
        rules_of_text = std::make_unique<grammar>(*model, p.grammar);
    }
    candidates.reserve(model->info.n_vocab);
}

void mp_sampler::build(const mp_sampler_params & p) {
    const auto made = [](llama_sampler * sampler) {
        if (!sampler) {
            fail(MP_ERR_INTERNAL, "llama.cpp could not make a sampler");
        }
        return sampler;
    };
    for (int32_t i = 0; i < p.n_logit_bias; i++) {
        float & bias = biases.emplace(p.bias_tokens[i], 0.0f).first->second;
        const bool is_forbidden = bias == -INFINITY || p.bias_values[i] == -INFINITY;
        bias = is_forbidden ? -INFINITY : std::clamp(bias + p.bias_values[i], -LARGEST, LARGEST);
    }
    if (p.penalty_last_n != 0 && (p.penalty_repeat != 1 || p.penalty_frequency != 0 || p.penalty_presence != 0)) {
        const int32_t last_n = p.penalty_last_n < 0 ? model->info.n_ctx_train : p.penalty_last_n;
        penalties.reset(made(
            llama_sampler_init_penalties(model->info.n_vocab, last_n, std::clamp(p.penalty_repeat, 1 / LARGEST, LARGEST),
                                         std::clamp(p.penalty_frequency, -LARGEST_PENALTY, LARGEST_PENALTY),
                                         std::clamp(p.penalty_presence, -LARGEST_PENALTY, LARGEST_PENALTY))));
    }
    llama_sampler_chain_params chain_params = llama_sampler_chain_default_params();
    chain_params.no_perf = true;
    choice.reset(made(llama_sampler_chain_init(chain_params)));
    const auto add = [&](llama_sampler * link) { llama_sampler_chain_add(choice.get(), made(link)); };
    const bool is_greedy = p.temp < COLDEST;
    if (is_greedy) {
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
    takes_best = is_greedy && biases.empty() && !penalties;
    const bool only_lowers = std::all_of(p.bias_values, p.bias_values + p.n_logit_bias, [](float b) { return b <= 0; });
    const int32_t n_kept = is_greedy ? 1 : p.top_k;
    if (n_kept > 0 && only_lowers && !penalties) {
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

// Biases and penalties. Minus infinity stays what is forbidden: nothing else gets there.
void mp_sampler::weigh(llama_token_data_array & array) {
    const auto limit = [&] {
        for (size_t i = 0; i < array.size; i++) {
            float & logit = array.data[i].logit;
            logit = logit == -INFINITY ? logit : std::clamp(logit, -LARGEST, LARGEST);
        }
    };
    limit();
    if (!biases.empty()) {
        if (array.size == (size_t) model->info.n_vocab) { // in the order of the vocabulary
            for (const auto & [token, bias] : biases) {
                array.data[token].logit += bias;
            }
        } else {
            for (size_t i = 0; i < array.size; i++) {
                const auto bias = biases.find(array.data[i].id);
                array.data[i].logit += bias == biases.end() ? 0 : bias->second;
            }
        }
        limit();
    }
    if (penalties) {
        llama_sampler_apply(penalties.get(), &array);
        limit();
    }
}

// With `rules_first` the grammar and the rules apply before anything else. -1 where no token is left.
int32_t mp_sampler::draw(const float * logits, bool rules_first, constraint * rules) {
    llama_token_data_array array = load(logits, rules_first ? 0 : n_listed);
    if (rules_first && rules_of_text) {
        rules_of_text->mask(array);
    }
    if (rules) {
        rules->mask(array);
    }
    weigh(array);
    const auto is_forbidden = [](const llama_token_data & c) { return c.logit == -INFINITY; };
    array.size = std::remove_if(array.data, array.data + array.size, is_forbidden) - array.data;
    if (array.size == 0) {
        return -1;
    }
    llama_sampler_apply(choice.get(), &array);
    if (array.selected < 0 || array.selected >= (int64_t) array.size) {
        fail(MP_ERR_INTERNAL, "the sampler chain selected none of %zu candidates", array.size);
    }
    return array.data[array.selected].id;
}

bool mp_sampler::grammar_allows(const int32_t * tokens, int32_t n) {
    return !rules_of_text || rules_of_text->allows(tokens, n);
}

void mp_sampler::prime(const int32_t * tokens, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        if (tokens[i] < 0 || tokens[i] >= model->info.n_vocab) {
            fail(MP_ERR_ARGUMENT, "token %d at %d is out of range, the vocabulary has %d", tokens[i], i,
                 model->info.n_vocab);
        }
        if (penalties) {
            llama_sampler_accept(penalties.get(), tokens[i]);
        }
    }
}

int32_t mp_sampler::sample(const float * logits, int32_t best, constraint * rules) {
    const auto allowed = [&](int32_t token) { return grammar_allows(&token, 1) && (!rules || rules->allows(token)); };
    int32_t id = takes_best && best >= 0 ? best : draw(logits, false, nullptr);
    if (id >= 0 && !allowed(id)) {
        id = draw(logits, true, rules);
    }
    if (id >= 0) {
        if (penalties) {
            llama_sampler_accept(penalties.get(), id);
        }
        if (rules_of_text) {
            rules_of_text->accept(id);
        }
    }
    return id;
}
