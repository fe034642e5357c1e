// Hidden states of the rows of a tree pass, read where a layer ends, through llama.cpp's callback between operations.
//
// The callback is public and serves every architecture whose graph names the ends of its layers; llama.cpp fixes it when a
// context opens, so a context is opened for taps or never asked. The graph is computed in one piece up to each tapped
// layer: the operations and their order stay the same, and with them every bit of the outputs.
#pragma once

#include "llama.h"

#include <cstdint>
#include <vector>

namespace mp {

class layer_taps {
public:
    layer_taps(int32_t n_layer, int32_t n_embd) : n_layer(n_layer), n_embd(n_embd), taps(n_layer + 1) {}
    layer_taps(const layer_taps &) = delete;
    layer_taps & operator=(const layer_taps &) = delete;

    void install(llama_context_params & params); // must outlive the context

    // Layers 0..n_layer - 1: after that layer; n_layer: after the last norm. Throws MP_ERR_ARGUMENT, and nothing changes.
    void choose(const int32_t * layers, int32_t n);

    // While it lives, a pass of n_rows rows runs, in one graph. taps may be null.
    class pass {
    public:
        pass(layer_taps * taps, int32_t n_rows) : taps(taps) {
            if (taps) {
                taps->begin(n_rows);
            }
        }
        ~pass() {
            if (taps) {
                taps->n_rows = 0;
            }
        }
        pass(const pass &) = delete;
        pass & operator=(const pass &) = delete;

    private:
        layer_taps * const taps;
    };

    const std::vector<int32_t> & between() const { return below; } // those chosen below the last norm, ascending
    // Their states of a row of the last pass, (n between, n_embd); false where one was not read.
    bool gather(int32_t row, float * states) const;

    // (n_embd) of a row of the last pass. Throws MP_ERR_STATE where the layer was not tapped in it, and MP_ERR_UNSUPPORTED
    // where the graph has no such place.
    const float * state(int32_t layer, int32_t row) const;

private:
    struct tap {
        bool is_chosen = false;
        bool is_in_pass = false;
        bool was_read = false;
        std::vector<float> states; // (n_rows, n_embd)
    };

    void begin(int32_t n_rows);
    static bool on_operation(ggml_tensor * result, bool asks, void * taps);
    tap * tap_of(const ggml_tensor * result);
    void read(tap & into, const ggml_tensor * result);

    const int32_t n_layer;
    const int32_t n_embd;
    std::vector<tap> taps; // (n_layer + 1)
    std::vector<int32_t> below;
    int32_t n_chosen = 0;
    int32_t n_rows = 0; // of the pass that runs now, 0: none
};

} // namespace mp
