#include "draft/masks.h"

#include "model/model.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>

namespace mp {

mask_source::mask_source(const mp_model & model, mask_kind kind, std::shared_ptr<knowledge> known, masks_ref trained)
    : model(model), kind(kind), known(std::move(known)), from_file(std::move(trained)), mean(model.info.n_embd),
      row(model.info.n_embd) {}

// The token's embedding into `row`; zeros where the file has NaN or an infinity there, which a mask must not bring into a
// pass.
void mask_source::read_row(int32_t token) {
    model.embedding_rows(&token, 1, row.data());
    if (!std::all_of(row.begin(), row.end(), [](float x) { return std::isfinite(x); })) {
        std::fill(row.begin(), row.end(), 0.0f);
    }
}

// Each distinct token of the prompt is read once.
void mask_source::begin(const int32_t * prompt, int32_t n) {
    if (from_file) {
        return; // they are the same in all texts
    }
    std::vector<int32_t> sorted(prompt, prompt + n);
    std::sort(sorted.begin(), sorted.end());
    std::vector<double> sum(row.size());
    for (auto of = sorted.begin(); of != sorted.end();) {
        const auto after = std::upper_bound(of, sorted.end(), *of);
        read_row(*of);
        for (size_t i = 0; i < row.size(); i++) {
            sum[i] += (double) (after - of) * row[i];
        }
        of = after;
    }
    std::transform(sum.begin(), sum.end(), mean.begin(), [n](double x) { return (float) (x / n); });
}

void mask_source::vectors(const int32_t * owner_tokens, const int32_t * numbers, int32_t n, float * out) {
    for (int32_t owner = 0; owner < n; owner++, out += mean.size()) {
        if (from_file) {
            std::copy_n(from_file->vectors.begin() + numbers[owner] * mean.size(), mean.size(), out);
            continue;
        }
        successors after;
        if (kind == mask_kind::soft) {
            const knowledge::held held(*known);
            const successors * found = held->by_token.find(key_of_token(owner_tokens[owner]));
            after = found ? *found : successors();
        }
        const float total = std::accumulate(after.probabilities, after.probabilities + after.n, 0.0f);
        if (!(total > 0)) {
            std::copy(mean.begin(), mean.end(), out);
            continue;
        }
        std::fill_n(out, mean.size(), 0.0f);
        for (int32_t i = 0; i < after.n; i++) {
            read_row(after.tokens[i]);
            for (size_t k = 0; k < row.size(); k++) {
                out[k] += after.probabilities[i] / total * row[k];
            }
        }
    }
}

int32_t place_masks(const int32_t * parents, const double * probabilities, int32_t n, const double * gains, int32_t n_each,
                    int32_t n_trial, int32_t * owners, int32_t * n_masks) {
    double ends[MP_N_ROWS_LIMIT];           // (n) that the path ends at each node
    int32_t n_placed[MP_N_ROWS_LIMIT] = {}; // (n) masks after it
    for (int32_t node = 0; node < n; node++) {
        ends[node] = node == 0 ? 1.0 : probabilities[node];
        if (node > 0) {
            ends[parents[node]] -= probabilities[node];
        }
    }
    const auto likelier = [&](int32_t a, int32_t b) { return ends[a] != ends[b] ? ends[a] > ends[b] : a < b; };
    int32_t likeliest = 0;
    for (int32_t node = 1; node < n; node++) {
        likeliest = likelier(node, likeliest) ? node : likeliest;
    }
    const auto worth = [&](int32_t node) { return gains[n_placed[node]] * ends[node]; };
    int32_t n_nodes = n, n_owners = 0;
    for (;;) {
        int32_t best = -1;
        for (int32_t node = 0; node < n; node++) {
            if (n_placed[node] == n_each) {
                continue;
            }
            const double gained = best < 0 ? 0 : worth(node) - worth(best);
            best = best < 0 || gained > 0 || (gained == 0 && likelier(node, best)) ? node : best;
        }
        const bool on_trial = n_owners < std::min(n_trial, n_each);
        best = on_trial ? likeliest : best;
        const bool pays = best >= 0 && (on_trial || worth(best) > probabilities[n_nodes - 1]);
        if (!pays || n_nodes <= best + 1) {
            break;
        }
        owners[n_owners++] = best;
        n_placed[best]++;
        n_nodes--;
    }
    *n_masks =
        (int32_t) (std::remove_if(owners, owners + n_owners, [&](int32_t owner) { return owner >= n_nodes; }) - owners);
    return n_nodes;
}

} // namespace mp
