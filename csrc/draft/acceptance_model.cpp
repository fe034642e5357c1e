#include "draft/acceptance_model.h"

#include "draft/acceptance_prior.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>

namespace mp {

constexpr float LEARNING_RATE = 0.15f;
constexpr float FIRST_SQUARE = 0.3f;

acceptance_model::acceptance_model() {
    for (int32_t d = 0; d < N_DEPTHS; d++) {
        weight[d].bias = FIRST_BIAS[d] / 100.0f;
        squares[d].bias = FIRST_SQUARE;
        for (int32_t kind = 0; kind < N_EVIDENCE; kind++) {
            for (int32_t level = 0; level < N_LEVELS; level++) {
                weight[d].level[kind][level] = FIRST_WEIGHTS[d][kind][level] / 100.0f;
                squares[d].level[kind][level] = FIRST_SQUARE;
            }
        }
    }
}

float acceptance_model::predict(int32_t depth, const evidence & candidate) const {
    const weights & w = weight[depth_class(depth)];
    float logit = w.bias;
    for (int32_t kind = 0; kind < N_EVIDENCE; kind++) {
        logit += w.level[kind][candidate.level[kind]];
    }
    return 1.0f / (1.0f + std::exp(-std::min(std::max(logit, -20.0f), 20.0f)));
}

void acceptance_model::learn(int32_t depth, const evidence & candidate, float predicted, bool accepted) {
    const float slope = predicted - (accepted ? 1.0f : 0.0f);
    if (std::fabs(slope) < 0.01f) {
        return;
    }
    weights & w = weight[depth_class(depth)];
    weights & s = squares[depth_class(depth)];
    const auto move = [slope](float & value, float & square) {
        square += slope * slope;
        value -= LEARNING_RATE * slope / std::sqrt(square);
    };
    for (int32_t kind = 0; kind < N_EVIDENCE; kind++) {
        if (kind == BY_HEAD && candidate.level[kind] == NO_LEVEL) {
            continue; // without a head all is as if there were no such thing
        }
        move(w.level[kind][candidate.level[kind]], s.level[kind][candidate.level[kind]]);
    }
    move(w.bias, s.bias);
}

int32_t acceptance_model::main_evidence(int32_t depth, const evidence & candidate) const {
    const weights & w = weight[depth_class(depth)];
    const evidence none;
    int32_t best = BY_MASK; // where there is none
    float largest = -1e30f;
    for (int32_t kind = 0; kind < N_EVIDENCE; kind++) {
        const float gain = w.level[kind][candidate.level[kind]] - w.level[kind][none.level[kind]];
        if (candidate.has(kind) && gain > largest) {
            largest = gain;
            best = kind;
        }
    }
    return best;
}

void acceptance_model::save(std::string & bytes) const {
    bytes.append((const char *) weight, sizeof(weight));
    bytes.append((const char *) squares, sizeof(squares));
}

bool acceptance_model::load(const char *& bytes, const char * end) {
    if (end - bytes < (std::ptrdiff_t) (sizeof(weight) + sizeof(squares))) {
        return false;
    }
    memcpy(weight, bytes, sizeof(weight));
    memcpy(squares, bytes + sizeof(weight), sizeof(squares));
    bytes += sizeof(weight) + sizeof(squares);
    const auto all = [](const weights(&w)[N_DEPTHS], bool (*sound)(float)) {
        const auto * first = (const float *) w;
        return std::all_of(first, first + sizeof(w) / (sizeof(float)), sound);
    };
    return all(weight, [](float x) { return std::fabs(x) < 1e3f; }) &&
           all(squares, [](float x) { return x >= FIRST_SQUARE && x < 1e9f; });
}

} // namespace mp
