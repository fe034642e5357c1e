// What llama.cpp would crash on, although the file is sound as a container: metadata, vocabulary, tensors.
#pragma once

#include "gguf/archs.h"
#include "gguf/check.h"
#include "gguf/reader.h"

#include <map>
#include <string>
#include <vector>

namespace mp {

class metadata;

struct layer_sizes {
    std::vector<uint32_t> q;       // (n_layer) heads
    std::vector<uint32_t> kv;      // (n_layer) key-value heads
    std::vector<uint32_t> ff;      // (n_layer) feed-forward width
    std::vector<uint32_t> experts; // (n_layer) experts used for a token
    bool one_width = true;         // heads are as wide in windowed layers as in the others
};

// The value of a key, empty where it is missing.
std::string string_key(const gguf_file & file, const char * key);

// The keys of the architecture. Fills the sizes of the summary.
layer_sizes check_metadata(const gguf_file & file, const arch_info & arch, gguf_summary & summary);

// Which layers attend, have windows, experts or a recurrent state. Fills sizes.experts.
void check_layers(const metadata & keys, const arch_info & arch, layer_sizes & sizes, const gguf_summary & summary);

// The tokenizer. Returns the number of tokens.
uint64_t check_vocabulary(const gguf_file & file);

// Whether a tensor is a matrix that activations are multiplied with: no vector, no kernel of a convolution, no table whose
// rows are looked up, but for the token embedding, which may be the head.
bool enters_products(const gguf_tensor_info & tensor);

// The tensors of one part against the metadata. Fills n_ctx_max.
void check_tensors(const gguf_file & file, const arch_info & arch, const layer_sizes & sizes, uint64_t n_vocab,
                   gguf_summary & summary);

// Tensors that llama.cpp takes for granted where others are, although its loader does not ask for them.
void check_companions(const gguf_file & file, const layer_sizes & sizes, const gguf_summary & summary);

// The two matrices of a weight that an adapter, or a file of masks, changes: NAME.lora_a (n_in, rank), NAME.lora_b
// (rank, n_out).
struct matrix_pair {
    const gguf_tensor_info * a = nullptr;
    const gguf_tensor_info * b = nullptr;
};

// Puts a tensor that is one of such a pair into `pairs`, by the weight's name; false where it is none.
bool find_pair(const gguf_file & file, const gguf_tensor_info & tensor, std::map<std::string, matrix_pair> & pairs);

// Whether a pair is complete and fits the model's weight of that name.
void check_pair(const gguf_file & file, const gguf_summary & model, const std::string & name, const matrix_pair & pair);

} // namespace mp
