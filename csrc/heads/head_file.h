// A GGUF file of heads that were trained for one model (docs/heads.md has the layout). Nothing in it is believed: what does
// not fit the model, or is not finite, is refused with one line.
#pragma once

#include "gguf/reader.h"
#include "heads/head_layers.h"

#include <cstdint>
#include <string>
#include <vector>

namespace mp {

// The model that heads are wanted for.
struct head_model {
    int32_t n_embd, n_vocab, n_layer;
    std::string identity;
};

enum class head_kind { sampler, mtp };

// All throw mp::failure: MP_ERR_FILE, MP_ERR_FORMAT.
class head_file {
public:
    head_file(const std::string & path, const head_model & model);

    const gguf_file gguf;
    const head_model & model() const { return wanted; }
    head_kind kind() const { return found; }

    uint32_t number(const char * key, uint32_t least, uint32_t most) const;

    // That it has no tensors but these.
    void expect(const std::vector<std::string> & names) const;

    packed_matrix matrix(const std::string & name, int64_t n_out, int64_t n_in) const; // of Q8_0
    std::vector<float> vector(const std::string & name, int64_t n) const;
    std::vector<int32_t> numbers(const std::string & name, int32_t end) const; // ascending, from 0 and below end

    // NAME.weight (n_out, n_in), NAME.bias, NAME.norm.weight, NAME.norm.bias; n_inner: of its rows, what the file says.
    head_block block(const std::string & name, int64_t n_out, int64_t n_in) const;
    int64_t n_inner(const std::string & name) const;
    static void add_block_names(std::vector<std::string> & names, const std::string & name);

    // short.tokens, short.weight and the temperature.
    short_list listed() const;

private:
    head_kind check_keys() const;
    float temperature() const;
    const gguf_tensor_info & find(const std::string & name) const;
    const uint8_t * data(const std::string & name, int32_t type, int64_t n, int64_t n_rows) const; // (n_rows, n)
    void check(const std::string & name, float value, int64_t i) const;

    const head_model wanted;
    const head_kind found;
};

} // namespace mp
