#include "model/embedding_rows.h"

#include "status.h"

#include "ggml.h"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
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
    struct stat info;
    const bool ok = fstat(fd, &info) == 0;
    mapping_size = ok ? (size_t) info.st_size : 0;
    void * mapped = ok ? mmap(nullptr, mapping_size, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
    const int error = errno;
    close(fd);
    if (mapped == MAP_FAILED) {
        fail(MP_ERR_FILE, "cannot map '%s': %s", path.c_str(), strerror(error));
    }
    mapping = mapped;
    if (tensor->offset + tensor->size > mapping_size) {
        fail(MP_ERR_FILE, "'%s' has shrunk to %zu bytes while it was opened", path.c_str(), mapping_size);
    }
    type = tensor->type;
    width = (int32_t) tensor->ne[0];
    rows = (int32_t) tensor->ne[1];
    row_size = ggml_row_size((ggml_type) type, width);
    data = (const uint8_t *) mapping + tensor->offset;
}

embedding_table::~embedding_table() {
    if (mapping) {
        munmap(mapping, mapping_size);
    }
}

void embedding_table::row(int32_t token, float * out) const {
    const uint8_t * src = data + row_size * (size_t) token;
    if (type == GGML_TYPE_F32) {
        memcpy(out, src, row_size);
    } else {
        ggml_get_type_traits((ggml_type) type)->to_float(src, out, width);
    }
}

} // namespace mp
