// The embedding of a text: the mean of the hidden states after its tokens.
#include "session/session.h"
#include "status.h"

#include <algorithm>
#include <cmath>

using namespace mp;

// Rows at once: each has its logits too, which nobody reads.
static constexpr int32_t PIECE = 64;

void mp_session::mean_embedding(const int32_t * text, int32_t n, float * out) {
    llama_context * const ctx = context->ctx.get();
    const int32_t n_embd = context->model->info.n_embd;
    context->check_hidden(false);
    mp_prefix ignored = {};
    mtp.follows = false;
    set_prefix(text, 0, 0, 0, ignored); // the state after each token is needed
    std::vector<double> sum(n_embd);    // (n_embd)
    for (int32_t done = 0; done < n;) {
        const int32_t n_piece = std::min({PIECE, context->n_batch, n - done});
        set_prefix(text, done + n_piece, n_piece, 1, ignored, true);
        for (int32_t row = 0; row < n_piece; row++) {
            // Of the last rows: where cells were cleaned, more of the text was evaluated again.
            const float * state = llama_get_embeddings_ith(ctx, row - n_piece);
            if (!state) {
                fail(MP_ERR_UNSUPPORTED, "llama.cpp gives no hidden states of this %s model", context->model->info.arch);
            }
            std::transform(sum.begin(), sum.end(), state, sum.begin(), std::plus<double>());
        }
        done += n_piece;
    }
    for (int32_t i = 0; i < n_embd; i++) {
        out[i] = (float) (sum[i] / n);
        if (!std::isfinite(out[i])) {
            fail(MP_ERR_NUMERIC, "the hidden states of the text have NaN or infinite values");
        }
    }
}
