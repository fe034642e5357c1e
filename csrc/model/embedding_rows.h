// Rows of the token embedding table, read from the model file: llama.cpp has no public way to get at them. Not by mapping
// it: a file that has shrunk is an error then, and no SIGBUS.
#pragma once

#include "gguf/check.h"

#include <cstddef>
#include <cstdint>

namespace mp {

class embedding_table {
public:
    embedding_table() = default;
    ~embedding_table();
    embedding_table(const embedding_table &) = delete;
    embedding_table & operator=(const embedding_table &) = delete;

    // Opens the file that holds token_embd.weight. Throws where there is none, or its type cannot be dequantised.
    void open(const gguf_summary & summary);

    bool is_open() const { return file >= 0; }
    int32_t n_rows() const { return rows; }
    int32_t n_embd() const { return width; }

    // One row, dequantised: out is (n_embd). The token must be in [0, n_rows). Throws MP_ERR_FILE.
    void row(int32_t token, float * out) const;

private:
    int file = -1;
    int64_t begin = 0;   // of row 0 in the file
    size_t row_size = 0; // bytes
    int32_t rows = 0;
    int32_t width = 0;
    int32_t type = 0; // ggml_type
};

} // namespace mp
