#include "model/token_pieces.h"

#include "model/model.h"
#include "model/text.h"

#include <algorithm>
#include <numeric>

namespace mp {

token_pieces::token_pieces(const mp_model & model) : begins(1, 0), ends(model.info.n_vocab), order(model.info.n_vocab) {
    for (int32_t token = 0; token < model.info.n_vocab; token++) {
        all += token_text(model, token, true).c_str();
        begins.push_back(all.size());
        ends[token] = token_is_end(model, token);
    }
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return bytes(a) < bytes(b); });
}

} // namespace mp
