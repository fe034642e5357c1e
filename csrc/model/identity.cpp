#include "model/identity.h"

#include "platform/digest.h"
#include "status.h"

#include <fstream>
#include <vector>

namespace mp {

// The digest of a file's bytes, or its path where it is gone since it was loaded.
static std::string digest_of_file(const std::string & path) {
    std::ifstream file(path, std::ios::binary);
    std::vector<char> piece(1 << 20);
    uint64_t value = 0;
    while (file.read(piece.data(), (std::streamsize) piece.size()) || file.gcount() > 0) {
        value = digest(piece.data(), (size_t) file.gcount(), value);
    }
    return file.eof() ? format("%016llx", (unsigned long long) value) : path;
}

std::string model_identity(const mp_model & model) {
    const mp_model_info & info = model.info;
    std::string identity = format("%s\n%s\n%s\n%lld parameters, %lld bytes, %d tokens\n", info.arch, info.name,
                                  info.description, (long long) info.n_params, (long long) info.size, info.n_vocab);
    for (size_t i = 0; i < model.adapter_paths.size(); i++) {
        if (model.adapter_scales[i] != 0) {
            identity +=
                format("adapter %s, scale %g\n", digest_of_file(model.adapter_paths[i]).c_str(), model.adapter_scales[i]);
        }
    }
    return identity;
}

} // namespace mp
