// Refuses, with one line, a GGUF file that llama.cpp would crash on or load wrongly; says what is in a good one.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace mp {

struct gguf_tensor {
    std::string name;
    int32_t type;     // ggml_type
    int64_t ne[4];    // as ggml: ne[0] is the row length
    uint64_t offset;  // of the data, from the start of its file
    uint64_t size;    // bytes
    int32_t file;     // index into gguf_summary::files
    bool in_products; // a matrix that activations are multiplied with; the token embedding counts, it may be the head
};

// What the rest of the core needs to know of a model file, split or not.
struct gguf_summary {
    std::vector<std::string> files;   // every part, in order
    std::vector<gguf_tensor> tensors; // of every part
    std::string arch;                 // general.architecture
    std::string name;                 // general.name, or empty
    int64_t n_layer = 0;
    int64_t n_embd = 0;
    int64_t n_head_kv = 0;     // the largest of any layer; 0 where the architecture has none
    int64_t n_embd_head_k = 0; // widths of one head in the cache; 0 where the architecture keeps none
    int64_t n_embd_head_v = 0;
    int64_t n_ctx_train = 0;
    int64_t n_ctx_max = 0; // rows of a learned table of positions, which no position may pass; 0: none

    const gguf_tensor * find(const std::string & tensor_name) const; // nullptr if there is none
};

// Throws mp::failure (MP_ERR_FILE, MP_ERR_FORMAT or MP_ERR_UNSUPPORTED).
gguf_summary gguf_check(const std::string & path);

// Refuses, likewise, a LoRA adapter that llama.cpp would crash on, and one that was not made for this model. Returns whether
// it changes the embeddings of tokens.
bool gguf_check_adapter(const std::string & path, const gguf_summary & model);

// A file of trained masks: where its numbers lie.
struct gguf_masks {
    struct tensor {
        std::string name; // of a pair: the model's weight
        int32_t type;     // F32, of pairs also F16
        int64_t ne[2];
        uint64_t offset, size; // bytes
    };
    tensor vectors;                               // (n_embd, n_masks) as ggml
    std::vector<std::pair<tensor, tensor>> pairs; // a (n_in, rank) and b (rank, n_out)
};

// Refuses what is no file of masks for this model; `identity` is the model's, see model/identity.h.
gguf_masks gguf_check_masks(const std::string & path, const gguf_summary & model, const std::string & identity,
                            int32_t n_vocab);

// Whether llama.cpp ends the process when this architecture is given embedding rows.
bool aborts_on_embeddings(const std::string & arch);

// Whether llama.cpp's graph of this architecture has no logits where hidden states are wanted.
bool has_states_or_logits(const std::string & arch);

} // namespace mp
