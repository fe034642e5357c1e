#include "session/layer_taps.h"

#include "status.h"

#include "ggml-backend.h"

#include <algorithm>
#include <charconv>
#include <cstring>

namespace mp {

static constexpr char LAYER_END[] = "l_out-"; // llama.cpp's names, followed by the layer
static constexpr char LAST_NORM[] = "result_norm";

void layer_taps::install(llama_context_params & params) {
    params.cb_eval = on_operation;
    params.cb_eval_user_data = this;
}

void layer_taps::choose(const int32_t * layers, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        if (layers[i] < 0 || layers[i] > n_layer) {
            fail(MP_ERR_ARGUMENT, "layer %d is out of range: 0 to %d, or %d for the last norm", layers[i], n_layer - 1,
                 n_layer);
        }
    }
    for (tap & each : taps) {
        each.is_chosen = false;
    }
    for (int32_t i = 0; i < n; i++) {
        taps[layers[i]].is_chosen = true;
    }
    n_chosen = n;
    below.clear();
    for (int32_t layer = 0; layer < n_layer; layer++) {
        if (taps[layer].is_chosen) {
            below.push_back(layer);
        }
    }
}

void layer_taps::begin(int32_t n_rows_) {
    n_rows = n_chosen > 0 ? n_rows_ : 0;
    for (tap & each : taps) {
        each.is_in_pass = each.is_chosen;
        each.was_read = false;
        if (each.is_chosen) {
            each.states.resize((size_t) n_rows_ * n_embd);
        }
    }
}

const float * layer_taps::state(int32_t layer, int32_t row) const {
    if (layer < 0 || layer > n_layer || !taps[layer].is_in_pass) {
        fail(MP_ERR_STATE, "layer %d was not tapped in the last pass", layer);
    }
    if (!taps[layer].was_read) {
        fail(MP_ERR_UNSUPPORTED, "llama.cpp's graph of this model has no hidden states of %d values a row after layer %d",
             n_embd, layer);
    }
    return taps[layer].states.data() + (size_t) row * n_embd;
}

bool layer_taps::gather(int32_t row, float * states) const {
    const auto was_read = [&](int32_t layer) { return taps[layer].is_in_pass && taps[layer].was_read; };
    if (!std::all_of(below.begin(), below.end(), was_read)) {
        return false;
    }
    for (const int32_t layer : below) {
        states = std::copy_n(taps[layer].states.data() + (size_t) row * n_embd, n_embd, states);
    }
    return true;
}

bool layer_taps::on_operation(ggml_tensor * result, bool asks, void * user) {
    layer_taps & self = *(layer_taps *) user;
    tap * const found = self.n_rows > 0 ? self.tap_of(result) : nullptr;
    if (found && !asks) {
        self.read(*found, result);
    }
    return asks ? found != nullptr : true;
}

layer_taps::tap * layer_taps::tap_of(const ggml_tensor * result) {
    const char * name = result->name;
    int32_t layer = n_layer;
    if (strncmp(name, LAYER_END, sizeof(LAYER_END) - 1) == 0) {
        const char * const digits = name + sizeof(LAYER_END) - 1;
        const char * const end = name + strlen(name);
        const auto parsed = std::from_chars(digits, end, layer);
        if (parsed.ec != std::errc() || parsed.ptr != end || layer < 0 || layer >= n_layer) {
            return nullptr;
        }
    } else if (strcmp(name, LAST_NORM) != 0) {
        return nullptr;
    }
    const bool fits = result->type == GGML_TYPE_F32 && result->ne[0] == n_embd && result->ne[1] == n_rows &&
                      ggml_nrows(result) == n_rows && ggml_is_contiguous(result);
    return fits && taps[layer].is_chosen ? &taps[layer] : nullptr;
}

void layer_taps::read(tap & into, const ggml_tensor * result) {
    ggml_backend_tensor_get(result, into.states.data(), 0, into.states.size() * sizeof(float));
    into.was_read = true;
}

} // namespace mp
