#include "model/constraint.h"

#include "status.h"

#include <algorithm>
#include <cmath>

namespace mp {

constraint::constraint(const mp_constraint & calls, int32_t n_vocab)
    : calls(calls), n_vocab(n_vocab), bits((n_vocab + 31) / 32) {}

static int32_t checked(int32_t result, const char * callback) {
    if (result < 0) {
        fail(MP_ERR_CALLBACK, "the constraint failed: its %s() returned %d", callback, result);
    }
    return result;
}

void constraint::fetch_bits() {
    if (!has_bits) {
        std::fill(bits.begin(), bits.end(), 0u);
        checked(calls.allowed(calls.user, bits.data()), "allowed");
        has_bits = true;
    }
}

bool constraint::allows(int32_t token) {
    if (!calls.allowed) {
        return true;
    }
    fetch_bits();
    return is_set(token);
}

void constraint::mask(llama_token_data_array & candidates) {
    if (!calls.allowed) {
        return;
    }
    fetch_bits();
    for (size_t i = 0; i < candidates.size; i++) {
        if (!is_set(candidates.data[i].id)) {
            candidates.data[i].logit = -INFINITY;
        }
    }
}

void constraint::accept(int32_t token) {
    has_bits = false;
    if (calls.accept) {
        checked(calls.accept(calls.user, token), "accept");
    }
}

bool constraint::passes(const int32_t * tokens, int32_t n) {
    if (calls.n_valid) {
        return checked(calls.n_valid(calls.user, tokens, n), "n_valid") >= n;
    }
    return n != 1 || allows(tokens[0]); // of later places nothing is known yet
}

const std::vector<int32_t> & constraint::forced(int32_t n_max) {
    chain.clear();
    if (calls.forced && n_max > 0) {
        chain.resize(n_max);
        const int32_t n = std::min(checked(calls.forced(calls.user, chain.data(), n_max), "forced"), n_max);
        chain.resize(n);
        for (const int32_t token : chain) {
            if (token < 0 || token >= n_vocab) {
                fail(MP_ERR_CALLBACK, "the constraint forces token %d, the vocabulary has %d", token, n_vocab);
            }
        }
    }
    return chain;
}

const float * constraint::changed(const std::vector<int32_t> & text, const float * logits) {
    if (!calls.logits) {
        return logits;
    }
    logits_copy.assign(logits, logits + n_vocab);
    checked(calls.logits(calls.user, text.data(), (int32_t) text.size(), logits_copy.data()), "logits");
    const auto bad = [](float x) { return std::isnan(x) || x == INFINITY; };
    if (const auto at = std::find_if(logits_copy.begin(), logits_copy.end(), bad); at != logits_copy.end()) {
        fail(MP_ERR_CALLBACK, "the constraint's logits() gave %g to token %d: finite numbers, or minus infinity", *at,
             (int) (at - logits_copy.begin()));
    }
    return logits_copy.data();
}

} // namespace mp
