#include "gguf/reader.h"

#include "platform/memory_room.h"

#include "ggml.h"
#include "gguf.h"

#include <cerrno>
#include <cinttypes>
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace mp {

static constexpr uint64_t HEADER_SIZE = 24;
static constexpr uint64_t MIN_VALUE = 8 + 1 + 4 + 1;          // the shortest key-value
static constexpr uint64_t MIN_TENSOR = 8 + 1 + 4 + 8 + 4 + 8; // the shortest tensor info
static constexpr uint64_t MAX_ITEMS = 1u << 30;               // llama.cpp's own limit for strings and arrays
static constexpr uint64_t MIN_ALIGNMENT = 32;                 // what ggml demands of mapped tensors
static constexpr uint64_t MAX_ALIGNMENT = 1u << 24;

std::string quoted(std::string_view text) {
    static constexpr size_t MAX_SHOWN = 60;
    std::string shown = "'";
    for (const char c : text.substr(0, MAX_SHOWN)) {
        shown += c >= ' ' && c <= '~' ? c : '?';
    }
    shown += text.size() > MAX_SHOWN ? "...'" : "'";
    return shown;
}

const char * gguf_type_label(uint32_t type) {
    static const char * const labels[] = {"u8",   "i8",  "u16",   "i16", "u32", "i32", "f32",
                                          "bool", "str", "array", "u64", "i64", "f64"};
    static_assert(sizeof(labels) / sizeof(labels[0]) == GGUF_TYPE_COUNT, "one label per type");
    return type < GGUF_TYPE_COUNT ? labels[type] : "?";
}

// Bytes of one element, 0 for strings, arrays and unknown types.
static uint64_t element_size(uint32_t type) {
    static const uint8_t sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    static_assert(sizeof(sizes) == GGUF_TYPE_COUNT, "one size per type");
    return type < GGUF_TYPE_COUNT ? sizes[type] : 0;
}

std::string_view string_walk::next() {
    uint64_t length;
    memcpy(&length, next_, sizeof(length));
    const auto * text = (const char *) next_ + sizeof(length);
    next_ += sizeof(length) + length;
    return {text, strnlen(text, length)};
}

gguf_file::gguf_file(const std::string & path) : path_(path) {
    map();
    try {
        check_magic();
        read_header();
        read_key_values();
        read_tensor_infos();
        place_tensors();
    } catch (...) {
        munmap((void *) data_, size_);
        throw;
    }
}

gguf_file::~gguf_file() {
    munmap((void *) data_, size_);
}

void gguf_file::map() {
    const int fd = open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat info;
    if (fd < 0 || fstat(fd, &info) != 0) {
        const int error = errno;
        if (fd >= 0) {
            close(fd);
        }
        fail(MP_ERR_FILE, "cannot open '%s': %s", path_.c_str(), strerror(error));
    }
    void * address = MAP_FAILED;
    int error = 0;
    if (S_ISREG(info.st_mode) && info.st_size > 0) {
        address = mmap(nullptr, (size_t) info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        error = errno;
    }
    close(fd);
    if (!S_ISREG(info.st_mode)) {
        fail(MP_ERR_FILE, "'%s' is %s, not a file: give the path of a .gguf file", path_.c_str(),
             S_ISDIR(info.st_mode) ? "a directory" : "a device or a pipe");
    }
    if (info.st_size == 0) {
        fail(MP_ERR_FILE, "'%s' is empty: download it again", path_.c_str());
    }
    if (address == MAP_FAILED && error == ENOMEM) {
        const uint64_t size = info.st_size;
        fail(MP_ERR_MEMORY, "'%s' does not fit, not even mapped: %s; use a smaller model or one of fewer bits",
             path_.c_str(), shortage({0, 0, size}, find_memory_room()).c_str());
    }
    if (address == MAP_FAILED) {
        fail(MP_ERR_FILE, "cannot map '%s': %s", path_.c_str(), strerror(error));
    }
    data_ = (const uint8_t *) address;
    size_ = (uint64_t) info.st_size;
}

void gguf_file::refuse(const char * fmt, ...) const {
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    const size_t slash = path_.find_last_of('/');
    fail(MP_ERR_FORMAT, "%s: %s", path_.substr(slash == std::string::npos ? 0 : slash + 1).c_str(), text);
}

// What else users take for a model file.
static const char * other_format(std::string_view start) {
    const auto begins = [&](std::string_view text) { return start.substr(0, text.size()) == text; };
    if (begins("lmgg") || begins("fmgg") || begins("tjgg") || begins("GGML") || begins("GGJT")) {
        return "it is an old GGML file: convert the original model to GGUF";
    }
    if (begins("PK\x03\x04") || begins("\x80\x02")) {
        return "it is a PyTorch checkpoint: convert it to GGUF";
    }
    if (start.size() > 9 && start.substr(8, 2) == "{\"") {
        return "it is a safetensors file: convert it to GGUF";
    }
    if (begins("version https://git-lfs")) {
        return "it is a git-lfs pointer: fetch the file itself with 'git lfs pull'";
    }
    const size_t text = start.find_first_not_of(" \t\r\n");
    if (text != std::string_view::npos && start[text] == '<') {
        return "it is a web page: the download failed";
    }
    return "it is not a GGUF file";
}

void gguf_file::check_magic() const {
    const std::string_view start((const char *) data_, size_ < 64 ? size_ : 64);
    if (start.substr(0, 4) != "GGUF") {
        refuse("the first bytes are %s, expected 'GGUF': %s", quoted(start.substr(0, 4)).c_str(), other_format(start));
    }
    if (size_ < HEADER_SIZE) {
        refuse("the file has %" PRIu64 " bytes, a GGUF header has %" PRIu64 ": it is truncated, download it again", size_,
               HEADER_SIZE);
    }
}

void gguf_file::need(uint64_t n, const char * what) const {
    if (!has(n)) {
        refuse("%s at byte %" PRIu64 " takes %" PRIu64 " bytes, the file has %" PRIu64
               ": it is truncated or damaged, download it again",
               what, position_, n, size_);
    }
}

template <typename T> T gguf_file::read(const char * what) {
    need(sizeof(T), what);
    T value;
    memcpy(&value, data_ + position_, sizeof(T));
    position_ += sizeof(T);
    return value;
}

std::string_view gguf_file::read_string(const char * what) {
    const auto length = read<uint64_t>(what);
    need(length, what);
    if (length > MAX_ITEMS) {
        refuse("%s at byte %" PRIu64 " is %" PRIu64 " bytes long, the limit is %" PRIu64, what, position_, length,
               MAX_ITEMS);
    }
    const std::string_view text((const char *) data_ + position_, length);
    position_ += length;
    return text;
}

void gguf_file::read_header() {
    position_ = 4;
    const auto version = read<uint32_t>("the version");
    if ((version & 0xFFFF) == 0) {
        refuse("version %" PRIu32 " at byte 4: it is a big-endian file, convert it for little-endian machines", version);
    }
    if (version == 1) {
        refuse("it is GGUF version 1, versions 2 and 3 are read: convert the model again");
    }
    if (version > 3) {
        refuse("it is GGUF version %" PRIu32 ", versions 2 and 3 are read", version);
    }
    n_tensors_ = read<uint64_t>("the number of tensors");
    n_values_ = read<uint64_t>("the number of key-values");
    const uint64_t rest = size_ - position_;
    if (n_values_ > rest / MIN_VALUE) {
        refuse("%" PRIu64 " key-values are announced at byte 16, %" PRIu64 " bytes have room for %" PRIu64
               ": it is truncated or damaged, download it again",
               n_values_, size_, rest / MIN_VALUE);
    }
    if (n_tensors_ > rest / MIN_TENSOR) {
        refuse("%" PRIu64 " tensors are announced at byte 8, %" PRIu64 " bytes have room for %" PRIu64
               ": it is truncated or damaged, download it again",
               n_tensors_, size_, rest / MIN_TENSOR);
    }
}

void gguf_file::read_key_values() {
    for (uint64_t i = 0; i < n_values_; i++) {
        const uint64_t start = position_;
        const std::string_view key = read_string("a key");
        // llama.cpp compares keys as C strings: one with a NUL would stand for another
        if (key.empty() || key.find('\0') != std::string_view::npos) {
            refuse("key %" PRIu64 " at byte %" PRIu64 " is empty or has a NUL byte", i, start);
        }
        if (values_.count(key)) {
            refuse("key %s at byte %" PRIu64 " is there twice", quoted(key).c_str(), start);
        }
        values_[key] = read_value(key, start);
    }
    if (const gguf_value * value = find("general.alignment", GGUF_TYPE_UINT32, false)) {
        alignment_ = gguf_number<uint32_t>(*value);
        if (alignment_ < MIN_ALIGNMENT || alignment_ > MAX_ALIGNMENT || (alignment_ & (alignment_ - 1)) != 0) {
            refuse("general.alignment is %" PRIu64 ", it must be a power of two from %" PRIu64 " to %" PRIu64, alignment_,
                   MIN_ALIGNMENT, MAX_ALIGNMENT);
        }
    }
}

gguf_value gguf_file::read_value(std::string_view key, uint64_t start) {
    gguf_value value = {};
    value.position = start;
    const uint64_t type_position = position_;
    value.type = read<uint32_t>("the type of a value");
    value.count = 1;
    if (value.type == GGUF_TYPE_ARRAY) {
        value.is_array = true;
        value.type = read<uint32_t>("the type of an array");
        value.count = read<uint64_t>("the length of an array");
    }
    if (value.type >= GGUF_TYPE_COUNT || value.type == GGUF_TYPE_ARRAY) {
        refuse("key %s has %s type %" PRIu32 " at byte %" PRIu64, quoted(key).c_str(),
               value.type == GGUF_TYPE_ARRAY ? "the nested array" : "the unknown", value.type, type_position);
    }
    const bool is_string = value.type == GGUF_TYPE_STRING;
    const uint64_t size = is_string ? sizeof(uint64_t) : element_size(value.type);
    if (value.count > MAX_ITEMS || !has(value.count * size)) {
        refuse("key %s has %" PRIu64 " elements at byte %" PRIu64 ", the file ends at byte %" PRIu64
               ": it is truncated or damaged, download it again",
               quoted(key).c_str(), value.count, position_, size_);
    }
    value.data = data_ + position_;
    if (is_string) {
        for (uint64_t i = 0; i < value.count; i++) {
            read_string("a string");
        }
    } else {
        position_ += value.count * size;
    }
    return value;
}

void gguf_file::read_tensor_infos() {
    std::unordered_map<std::string_view, uint64_t> names;
    for (uint64_t i = 0; i < n_tensors_; i++) {
        gguf_tensor_info tensor = {};
        const uint64_t start = position_;
        tensor.name = read_string("a tensor name");
        if (tensor.name.empty() || tensor.name.size() >= GGML_MAX_NAME || tensor.name.find('\0') != std::string_view::npos) {
            refuse("the name of tensor %" PRIu64 " at byte %" PRIu64 " has %zu bytes, expected 1 to %d without NUL", i,
                   start, tensor.name.size(), GGML_MAX_NAME - 1);
        }
        const std::string name = quoted(tensor.name);
        if (!names.emplace(tensor.name, i).second) {
            refuse("tensor %s at byte %" PRIu64 " is there twice", name.c_str(), start);
        }
        tensor.n_dims = read<uint32_t>("the number of dimensions");
        if (tensor.n_dims == 0 || tensor.n_dims > GGML_MAX_DIMS) {
            refuse("tensor %s has %" PRIu32 " dimensions at byte %" PRIu64 ", expected 1 to %d", name.c_str(), tensor.n_dims,
                   position_ - 4, GGML_MAX_DIMS);
        }
        int64_t n_elements = 1;
        for (uint32_t d = 0; d < GGML_MAX_DIMS; d++) {
            tensor.ne[d] = d < tensor.n_dims ? read<int64_t>("a dimension") : 1;
            if (tensor.ne[d] < 1 || tensor.ne[d] > INT64_MAX / n_elements) {
                refuse("tensor %s has dimension %" PRIu32 " of %" PRId64 " at byte %" PRIu64
                       ", expected 1 or more and no overflow",
                       name.c_str(), d, tensor.ne[d], position_ - 8);
            }
            n_elements *= tensor.ne[d];
        }
        tensor.type = read<int32_t>("a tensor type");
        const bool known = tensor.type >= 0 && tensor.type < GGML_TYPE_COUNT;
        const int64_t block = known ? ggml_blck_size((ggml_type) tensor.type) : 0;
        if (block == 0) {
            refuse("tensor %s has the %s type %" PRId32 " at byte %" PRIu64 ": quantise the model again", name.c_str(),
                   known ? "removed" : "unknown", tensor.type, position_ - 4);
        }
        if (tensor.ne[0] % block != 0) {
            refuse("tensor %s has rows of %" PRId64 " elements, type %s has blocks of %" PRId64, name.c_str(), tensor.ne[0],
                   ggml_type_name((ggml_type) tensor.type), block);
        }
        const uint64_t n_blocks = (uint64_t) (n_elements / block);
        const uint64_t block_size = ggml_type_size((ggml_type) tensor.type);
        if (n_blocks > (uint64_t) INT64_MAX / block_size) {
            refuse("tensor %s has %" PRId64 " elements of type %s, more bytes than 63 bits count", name.c_str(), n_elements,
                   ggml_type_name((ggml_type) tensor.type));
        }
        tensor.size = n_blocks * block_size;
        tensor.offset = read<uint64_t>("a tensor offset");
        tensors_.push_back(tensor);
    }
}

// ggml demands that tensors follow one another in the order of their infos, each padded to the alignment.
void gguf_file::place_tensors() {
    const uint64_t start = (position_ + alignment_ - 1) / alignment_ * alignment_;
    uint64_t expected = 0;
    for (gguf_tensor_info & tensor : tensors_) {
        const std::string name = quoted(tensor.name);
        if (tensor.offset != expected) {
            refuse("tensor %s starts at byte %" PRIu64 " of the data, expected %" PRIu64 ": it %s", name.c_str(),
                   tensor.offset, expected,
                   tensor.offset % alignment_ != 0 ? "is misaligned"
                   : tensor.offset < expected      ? "overlaps the tensor before"
                                                   : "leaves a gap");
        }
        if (start > size_ || expected > size_ - start || tensor.size > size_ - start - expected) {
            refuse("tensor %s ends at byte %" PRIu64 ", the file has %" PRIu64 " bytes: it is truncated, download it again",
                   name.c_str(), start + expected + tensor.size, size_);
        }
        tensor.offset += start;
        expected = (expected + tensor.size + alignment_ - 1) / alignment_ * alignment_;
    }
}

const gguf_value * gguf_file::find(std::string_view key) const {
    const auto found = values_.find(key);
    return found == values_.end() ? nullptr : &found->second;
}

const gguf_value * gguf_file::find(std::string_view key, uint32_t type, bool is_array) const {
    const gguf_value * value = find(key);
    if (value && (value->type != type || value->is_array != is_array)) {
        refuse("%s at byte %" PRIu64 " is %s%s, expected %s%s", std::string(key).c_str(), value->position,
               value->is_array ? "an array of " : "", gguf_type_label(value->type), is_array ? "an array of " : "",
               gguf_type_label(type));
    }
    return value;
}

} // namespace mp
