#include "model/embedding_rows.h"

#include "status.h"

#include "ggml.h"

#include <cerrno>
#include <cstring>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

namespace mp {

static constexpr const char * TABLE_NAME = "token_embd.weight";

void embedding_table::open(const gguf_summary & summary) {
    const gguf_tensor * tensor = summary.find(TABLE_NAME);
    if (!tensor) {
        fail(MP_ERR_UNSUPPORTED, "the file has no tensor '%s'", TABLE_NAME);
    }
    const auto * traits = ggml_get_type_traits((ggml_type) tensor->type);
    if (tensor->type != GGML_TYPE_F32 && !traits->to_float) {
        fail(MP_ERR_UNSUPPORTED, "rows of type %s in '%s' cannot be dequantised", traits->type_name, TABLE_NAME);
    }
    const std::string & path = summary.files[tensor->file];
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        fail(MP_ERR_FILE, "cannot open '%s': %s", path.c_str(), strerror(errno));
    }
    file = fd;
    begin = (int64_t) tensor->offset;
    type = tensor->type;
    width = (int32_t) tensor->ne[0];
    rows = (int32_t) tensor->ne[1];
    row_size = ggml_row_size((ggml_type) type, width);
}

embedding_table::~embedding_table() {
    if (file >= 0) {
        close(file);
    }
}

// pread() may read less than there is, and be interrupted.
static bool read_at(int file, int64_t begin, void * out, size_t size) {
    for (size_t n = 0; n < size;) {
        const ssize_t more = pread(file, (char *) out + n, size - n, (off_t) (begin + n));
        if (more <= 0 && !(more < 0 && errno == EINTR)) {
            return false;
        }
        n += more > 0 ? more : 0;
    }
    return true;
}

void embedding_table::row(int32_t token, float * out) const {
    static thread_local std::vector<uint8_t> quantised;
    void * bytes = out;
    if (type != GGML_TYPE_F32) {
        quantised.resize(row_size);
        bytes = quantised.data();
    }
    errno = 0;
    if (!read_at(file, begin + (int64_t) row_size * token, bytes, row_size)) {
        fail(MP_ERR_FILE, "the embedding of token %d cannot be read: %s", token,
             errno ? strerror(errno) : "the model file has shrunk since it was opened");
    }
    if (type != GGML_TYPE_F32) {
        ggml_get_type_traits((ggml_type) type)->to_float(bytes, out, width);
    }
}

} // namespace mp
