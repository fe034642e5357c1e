// The keys "<architecture>.*" of a file, read as llama.cpp reads them.
#pragma once

#include "gguf/reader.h"

#include "gguf.h"

#include <cinttypes>
#include <cmath>
#include <string>
#include <vector>

namespace mp {

constexpr uint32_t MAX_LAYERS = 512; // llama.cpp's arrays per layer
constexpr uint32_t MAX_INT = INT32_MAX;

// Each key with the type that llama.cpp demands.
class metadata {
public:
    metadata(const gguf_file & file, const std::string & arch) : file(file), prefix(arch + ".") {}

    std::string full(const char * key) const { return prefix + key; }
    bool has(const char * key) const { return file.find(full(key)) != nullptr; }

    uint32_t u32(const char * key, uint32_t low, uint32_t high) const {
        const gguf_value * value = file.find(full(key), GGUF_TYPE_UINT32, false);
        if (!value) {
            file.refuse("the key %s is missing", full(key).c_str());
        }
        const auto number = gguf_number<uint32_t>(*value);
        in_range(key, number, low, high);
        return number;
    }

    uint32_t u32_or(const char * key, uint32_t absent, uint32_t low, uint32_t high) const {
        return has(key) ? u32(key, low, high) : absent;
    }

    void f32(const char * key, bool positive) const {
        const gguf_value * value = file.find(full(key), GGUF_TYPE_FLOAT32, false);
        const float number = value ? gguf_number<float>(*value) : 1;
        if (!std::isfinite(number) || number < 0 || (positive && number == 0)) {
            file.refuse("%s is %g, it must be a number %s 0", full(key).c_str(), number, positive ? "above" : "not below");
        }
    }

    // One number for all layers, or an array with one for each.
    std::vector<uint32_t> per_layer(const char * key, uint32_t n_layer, uint32_t absent, uint32_t high) const {
        const gguf_value * value = file.find(full(key));
        if (!value || !value->is_array) {
            return std::vector<uint32_t>(n_layer, u32_or(key, absent, 0, high));
        }
        if (value->type != GGUF_TYPE_UINT32 && value->type != GGUF_TYPE_INT32) {
            file.refuse("%s is an array of %s, expected u32 or i32", full(key).c_str(), gguf_type_label(value->type));
        }
        if (value->count != n_layer) {
            file.refuse("%s has %" PRIu64 " elements, the model has %" PRIu32 " layers", full(key).c_str(), value->count,
                        n_layer);
        }
        std::vector<uint32_t> numbers;
        for (uint32_t il = 0; il < n_layer; il++) {
            numbers.push_back(gguf_number<uint32_t>(*value, il));
            in_range(key, numbers.back(), 0, high);
        }
        return numbers;
    }

    void in_range(const char * key, uint32_t number, uint32_t low, uint32_t high) const {
        if (number < low || number > high) {
            file.refuse("%s is %" PRIu32 ", it must be from %" PRIu32 " to %" PRIu32, full(key).c_str(), number, low, high);
        }
    }

    const gguf_file & file;
    const std::string prefix;
};

} // namespace mp
