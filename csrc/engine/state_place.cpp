#include "engine/state_place.h"

#include "engine/state_format.h"
#include "status.h"

#include <pwd.h>
#include <unistd.h>

#include <cctype>
#include <cstdlib>
#include <fstream>
#include <vector>

namespace mp {

constexpr size_t N_NAME_MAX = 40; // bytes of a model's name in that of its file

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

static std::string environment(const char * name) {
    const char * value = getenv(name);
    return value ? value : "";
}

static std::string state_directory() {
    if (std::string own = environment("MASKPROBE_STATE_DIR"); !own.empty()) {
        return own;
    }
#ifdef __APPLE__
    const char * caches = "/Library/Caches";
#else
    const char * caches = "/.cache";
    if (const std::string cache = environment("XDG_CACHE_HOME"); !cache.empty()) {
        return cache + "/maskprobe/state";
    }
#endif
    std::string home = environment("HOME");
    if (home.empty()) {
        const passwd * user = getpwuid(getuid());
        home = user && user->pw_dir ? user->pw_dir : "";
    }
    return home.empty() ? "" : home + caches + "/maskprobe/state";
}

static std::string place_of(const mp_model & model, const std::string & identity, const char * ending) {
    const std::string directory = state_directory();
    if (directory.empty()) {
        return "";
    }
    std::string name = std::string(model.info.name).substr(0, N_NAME_MAX);
    for (char & c : name) {
        c = isalnum((unsigned char) c) || c == '-' || c == '_' || c == '.' ? c : '-';
    }
    const unsigned long long id = digest(identity.data(), identity.size());
    return format("%s/%s%s%016llx.%s", directory.c_str(), name.c_str(), name.empty() ? "" : "-", id, ending);
}

std::string default_place(const mp_model & model, const std::string & identity) {
    return place_of(model, identity, "state");
}

std::string heads_place(const mp_model & model, const std::string & identity) {
    return place_of(model, identity, "heads.gguf");
}

} // namespace mp
