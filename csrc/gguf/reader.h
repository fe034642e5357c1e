// Reads the header of one GGUF file through a bounded cursor: nothing is believed before it is measured against the
// bytes that are there, and nothing is copied. Tensor data is never touched here.
#pragma once

#include "status.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace mp {

// Text from a file as it may stand in a message: quoted, printable, not too long.
std::string quoted(std::string_view text);

// A value as it lies in the file. Strings are a 64-bit length and the bytes, arrays their elements one after another.
struct gguf_value {
    uint32_t type; // gguf_type, of the elements where it is an array
    bool is_array;
    uint64_t count;       // elements, 1 for a scalar
    const uint8_t * data; // the first element
    uint64_t position;    // byte of the file where the key-value starts, for messages
};

// Walks the strings of a value; llama.cpp sees them as C strings, so each ends at its first NUL.
class string_walk {
public:
    explicit string_walk(const gguf_value & value) : next_(value.data) {}
    std::string_view next();

private:
    const uint8_t * next_;
};

struct gguf_tensor_info {
    std::string_view name;
    int32_t type; // ggml_type
    uint32_t n_dims;
    int64_t ne[4];
    uint64_t offset; // of the data, from the start of the file
    uint64_t size;   // bytes
};

class gguf_file {
public:
    // Throws mp::failure: MP_ERR_FILE if it cannot be read, MP_ERR_FORMAT if it is not a sound GGUF file.
    explicit gguf_file(const std::string & path);
    ~gguf_file();
    gguf_file(const gguf_file &) = delete;
    gguf_file & operator=(const gguf_file &) = delete;

    const std::string & path() const { return path_; }
    const std::vector<gguf_tensor_info> & tensors() const { return tensors_; }
    const std::unordered_map<std::string_view, gguf_value> & values() const { return values_; }
    const uint8_t * data(const gguf_tensor_info & tensor) const { return data_ + tensor.offset; } // (tensor.size) bytes

    const gguf_value * find(std::string_view key) const; // nullptr if there is none

    // The value of a key of exactly this type, as llama.cpp demands it; nullptr if there is none.
    const gguf_value * find(std::string_view key, uint32_t type, bool is_array) const;

    // MP_ERR_FORMAT with the file's name in front.
    [[noreturn]] void refuse(const char * fmt, ...) const MP_PRINTF(2, 3);

private:
    void map();
    void check_magic() const;
    void read_header();
    void read_key_values();
    gguf_value read_value(std::string_view key, uint64_t start);
    void read_tensor_infos();
    void place_tensors();

    bool has(uint64_t n) const { return n <= size_ && position_ <= size_ - n; }
    void need(uint64_t n, const char * what) const;
    template <typename T> T read(const char * what);
    std::string_view read_string(const char * what);

    std::string path_;
    const uint8_t * data_ = nullptr;
    uint64_t size_ = 0;
    uint64_t position_ = 0;
    uint64_t n_tensors_ = 0;
    uint64_t n_values_ = 0;
    uint64_t alignment_ = 32;
    std::unordered_map<std::string_view, gguf_value> values_;
    std::vector<gguf_tensor_info> tensors_;
};

// One number out of a value; the caller knows the type.
template <typename T> T gguf_number(const gguf_value & value, uint64_t i = 0) {
    T number;
    __builtin_memcpy(&number, value.data + i * sizeof(T), sizeof(T));
    return number;
}

const char * gguf_type_label(uint32_t type); // "u32", "str", ...; "?" for an unknown one

} // namespace mp
