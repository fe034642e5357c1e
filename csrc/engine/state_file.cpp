#include "engine/state_file.h"

#include "engine/state_format.h"
#include "status.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

namespace mp {

constexpr int N_LINKS_MAX = 40;        // followed one after another, as Linux does
constexpr int N_BAD_MAX = 1000;        // files set aside at one place
constexpr time_t ABANDONED = 600;      // seconds after which a half-written file is one whose writer was killed
constexpr size_t N_RECOGNISED = 32;    // bytes that tell what a file is
constexpr size_t N_NAME_IN_TEMP = 200; // of the name of a file in that of the one under way to it

namespace {

class descriptor {
public:
    explicit descriptor(int fd) : fd(fd) {}
    ~descriptor() { close(); }
    descriptor(const descriptor &) = delete;
    descriptor & operator=(const descriptor &) = delete;

    bool is_open() const { return fd >= 0; }
    int get() const { return fd; }

    int close() {
        const int result = fd >= 0 ? ::close(fd) : 0;
        fd = -1;
        return result;
    }

private:
    int fd;
};

} // namespace

static std::string directory_of(const std::string & path) {
    const size_t slash = path.rfind('/');
    return slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
}

static std::string name_of(const std::string & path) {
    return path.substr(path.rfind('/') + 1); // npos + 1 = 0
}

static std::string join(const std::string & directory, const std::string & name) {
    return directory.back() == '/' ? directory + name : directory + "/" + name;
}

static const char * kind_name(mode_t mode) {
    return S_ISDIR(mode)                    ? "a directory"
           : S_ISFIFO(mode)                 ? "a pipe"
           : S_ISSOCK(mode)                 ? "a socket"
           : S_ISCHR(mode) || S_ISBLK(mode) ? "a device"
                                            : "no plain file";
}

// Appends what is left of a file, so that bytes has n_most at most. false: errno says why.
static bool read_up_to(int fd, size_t n_most, std::string & bytes) {
    char buffer[1 << 16];
    while (bytes.size() < n_most) {
        const ssize_t n = ::read(fd, buffer, std::min(sizeof(buffer), n_most - bytes.size()));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n == 0;
        }
        bytes.append(buffer, n);
    }
    return true;
}

found_file look_at(const std::string & place, size_t n_most) {
    struct stat status;
    if (stat(place.c_str(), &status) != 0) {
        if (errno == ENOENT || errno == ENOTDIR) {
            return {found_file::NOTHING, "", ""};
        }
        return {found_file::UNREADABLE, strerror(errno), ""};
    }
    if (!S_ISREG(status.st_mode)) { // opening a device, a pipe may have effects
        return {found_file::OTHER, kind_name(status.st_mode), ""};
    }
    const descriptor file(open(place.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    if (!file.is_open() || fstat(file.get(), &status) != 0) {
        return {found_file::UNREADABLE, strerror(errno), ""};
    }
    if (!S_ISREG(status.st_mode)) { // it was replaced meanwhile
        return {found_file::OTHER, kind_name(status.st_mode), ""};
    }
    std::string bytes;
    if (!read_up_to(file.get(), N_RECOGNISED, bytes)) {
        return {found_file::UNREADABLE, strerror(errno), ""};
    }
    if (bytes.empty()) {
        return {found_file::NOTHING, "", ""};
    }
    if (!begins_like_state(bytes)) {
        return {found_file::OTHER, bytes.compare(0, 4, "GGUF") == 0 ? "a GGUF model" : "no state of maskprobe", ""};
    }
    if (!read_up_to(file.get(), n_most, bytes)) {
        return {found_file::UNREADABLE, strerror(errno), ""};
    }
    return {found_file::STATE, "", std::move(bytes)};
}

bool is_plain_file(const std::string & path) {
    struct stat status;
    return lstat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode);
}

static std::string absolute(const std::string & directory) {
    char resolved[PATH_MAX];
    if (realpath(directory.c_str(), resolved)) {
        return resolved;
    }
    // not there yet
    return directory[0] != '/' && getcwd(resolved, sizeof(resolved)) ? join(resolved, directory) : directory;
}

std::string follow_links(const std::string & path) {
    std::string place = path;
    struct stat status;
    for (int n = 0; lstat(place.c_str(), &status) == 0 && S_ISLNK(status.st_mode); n++) {
        char target[PATH_MAX];
        const ssize_t length = readlink(place.c_str(), target, sizeof(target));
        if (n == N_LINKS_MAX || length <= 0 || length == sizeof(target)) {
            fail(MP_ERR_ARGUMENT, "the state file '%s' is a symbolic link that leads to no file: name another",
                 path.c_str());
        }
        const std::string next(target, length);
        place = next[0] == '/' ? next : join(directory_of(place), next);
    }
    const std::string name = name_of(place);
    if (name.empty() || name == "." || name == "..") {
        fail(MP_ERR_ARGUMENT, "the state file '%s' is a directory: name a file", path.c_str());
    }
    if (stat(path.c_str(), &status) == 0 && stat(place.c_str(), &status) != 0) { // as /dev/fd/3 of a pipe
        fail(MP_ERR_ARGUMENT, "the state file '%s' has no place in a directory: name a file", path.c_str());
    }
    return join(absolute(directory_of(place)), name);
}

// --- writing ---------------------------------------------------------------------------------------------------------

// The beginning of the names of files under way to a place. They end in ".tmp".
static std::string temporary_prefix(const std::string & place) {
    return "." + name_of(place).substr(0, N_NAME_IN_TEMP) + ".";
}

static bool make_directories(const std::string & directory) {
    if (mkdir(directory.c_str(), 0700) == 0 || errno == EEXIST) {
        return true;
    }
    return errno == ENOENT && make_directories(directory_of(directory)) &&
           (mkdir(directory.c_str(), 0700) == 0 || errno == EEXIST);
}

static bool write_all(int fd, const std::string & bytes) {
    for (size_t at = 0; at < bytes.size();) {
        const ssize_t n = ::write(fd, bytes.data() + at, bytes.size() - at);
        if (n < 0 && errno != EINTR) {
            return false;
        }
        at += std::max<ssize_t>(n, 0);
    }
    return true;
}

std::string replace_state(const std::string & place, const std::string & bytes) {
    static std::atomic<unsigned> n_written{0};
    const found_file found = look_at(place, N_RECOGNISED);
    if (found.kind == found_file::OTHER || found.kind == found_file::UNREADABLE) {
        return (found.kind == found_file::OTHER ? "there lies " : "") + found.what;
    }
    const std::string directory = directory_of(place);
    if (!make_directories(directory)) {
        return strerror(errno);
    }
    std::string temporary;
    int fd;
    do { // names of an earlier process with the same number may be taken
        temporary = join(directory, temporary_prefix(place) + format("%ld-%u.tmp", (long) getpid(), n_written++));
        fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    } while (fd < 0 && errno == EEXIST);
    descriptor file(fd);
    if (!file.is_open()) {
        return strerror(errno);
    }
    if (!write_all(file.get(), bytes) || fsync(file.get()) != 0 || file.close() != 0 ||
        rename(temporary.c_str(), place.c_str()) != 0) {
        const int reason = errno;
        unlink(temporary.c_str());
        return strerror(reason);
    }
    return "";
}

std::string set_aside(const std::string & place, std::string & bad) {
    // An empty file that is made anew reserves the name: no other process can take it before the state is renamed to it.
    int fd = -1;
    for (int i = 0; fd < 0 && i < N_BAD_MAX; i++) {
        bad = place + (i == 0 ? ".bad" : format(".bad.%d", i));
        fd = open(bad.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd < 0 && errno != EEXIST) {
            return strerror(errno);
        }
    }
    const descriptor reserved(fd);
    if (!reserved.is_open()) {
        return format("%d were set aside before", N_BAD_MAX);
    }
    if (rename(place.c_str(), bad.c_str()) != 0) {
        const int reason = errno;
        unlink(bad.c_str());
        return strerror(reason);
    }
    return "";
}

void remove_abandoned(const std::string & place) {
    const std::string directory = directory_of(place), prefix = temporary_prefix(place), suffix = ".tmp";
    DIR * entries = opendir(directory.c_str());
    if (!entries) {
        return;
    }
    const time_t now = time(nullptr);
    while (const dirent * entry = readdir(entries)) {
        const std::string name = entry->d_name;
        if (name.size() <= prefix.size() + suffix.size() || name.compare(0, prefix.size(), prefix) != 0 ||
            name.compare(name.size() - suffix.size(), suffix.size(), suffix) != 0) {
            continue;
        }
        const std::string path = join(directory, name);
        struct stat status;
        if (lstat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode) && now - status.st_mtime > ABANDONED) {
            unlink(path.c_str());
        }
    }
    closedir(entries);
}

} // namespace mp
