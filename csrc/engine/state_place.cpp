#include "engine/state_place.h"

#include "platform/digest.h"
#include "status.h"

#include <pwd.h>
#include <unistd.h>

#include <cctype>
#include <cstdlib>

namespace mp {

constexpr size_t N_NAME_MAX = 40; // bytes of a model's name in that of its file

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
