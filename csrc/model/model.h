// A loaded model: llama.cpp's weights, the embedding table, and what this kind of model can do.
#pragma once

#include "gguf/check.h"
#include "maskprobe.h"
#include "model/embedding_rows.h"
#include "model/token_pieces.h"
#include "platform/memory_room.h"

#include "llama.h"

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace mp {
class rpc_hosts;
}

struct mp_model {
    mp::gguf_summary summary;
    llama_model * weights = nullptr;
    const llama_vocab * vocab = nullptr;
    mp::embedding_table embeddings;
    std::vector<llama_adapter_lora *> adapters; // freed with the weights
    std::vector<float> adapter_scales;          // of each of them
    std::vector<std::string> adapter_paths;     // likewise
    mp_model_info info = {};
    std::shared_ptr<const mp::rpc_hosts> hosts; // where its layers lie on others
    bool own_kernels = false;                   // loaded for maskprobe's CPU kernels
    bool vocab_only = false;                    // there are no weights
    bool without_weights = false;               // opened to find out sizes: nothing can be computed
    mp::memory_need uncounted = {};             // what the weights need and the system does not count as taken
    int32_t n_pos_per_embd = 1;                 // positions that an embedding row carries (M-RoPE: 4)

    std::map<std::string, std::string, std::less<>> metadata; // of the file, all but arrays, as text

    mp_model() = default;
    ~mp_model();
    mp_model(const mp_model &) = delete;
    mp_model & operator=(const mp_model &) = delete;

    // The embedding of a token as it must enter the model as an embedding row: out is (n_embd).
    void input_row(int32_t token, float * out) const;

    // The embeddings of tokens as they are in the file: out is (n, n_embd).
    void embedding_rows(const int32_t * tokens, int32_t n, float * out) const;

    // What tells it from others; made when it is asked for first.
    const std::string & identity() const;

    // The bytes of all tokens, made when they are asked for first.
    const mp::token_pieces & pieces() const;

private:
    mutable std::once_flag identity_made;
    mutable std::string own_identity;
    mutable std::once_flag pieces_made;
    mutable std::unique_ptr<mp::token_pieces> all_pieces;
};

namespace mp {

// Checks the file, loads it and finds out what can be done with it. The handle is for model_retain() and model_close().
mp_model * model_open(const char * path, const mp_model_params & params);
// As it would be opened, but the weights are neither mapped nor read. Where they would be refused, `refusal` says why.
std::shared_ptr<mp_model> model_without_weights(const char * path, const mp_model_params & params, std::string & refusal);
void model_close(mp_model * model); // nothing where it is closed already

// Handles share the model: it lives until the last of them is freed, whatever the order.
using model_ref = std::shared_ptr<mp_model>;
model_ref model_retain(mp_model * model);

// Sets can_probe, embd_scale and note by comparing token input with embedding input.
void self_check(mp_model & model, int32_t n_threads);

// Of a model with a recurrent state: sets max_chain, state_size and note. With `trial` a chain is taken back and what
// follows compared, else llama.cpp's word counts.
void chain_check(mp_model & model, int32_t n_threads, bool trial);

} // namespace mp
