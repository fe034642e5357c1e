// What control groups leave, of both versions, from files that are written here.
#include "platform/memory_room.h"

#include <cstdio>
#include <filesystem>
#include <fstream>

#define CHECK(condition)                                                                                                    \
    if (!(condition)) {                                                                                                     \
        fprintf(stderr, "line %d: %s\n", __LINE__, #condition);                                                             \
        return 1;                                                                                                           \
    }

using namespace mp;
namespace fs = std::filesystem;

static void write(const fs::path & path, const std::string & text) {
    fs::create_directories(path.parent_path());
    std::ofstream(path) << text;
}

int main(int, char ** argv) {
    const fs::path root = argv[1];
    const std::string own = root / "own", groups = root / "groups";
    write(own, "4:memory:/a/b\n3:cpuset:/\n");
    CHECK(left_by_control_groups(own, groups) == NO_LIMIT); // none of the files is there
    write(root / "groups/memory/memory.limit_in_bytes", "9223372036854771712\n");
    CHECK(left_by_control_groups(own, groups) == NO_LIMIT);
    write(root / "groups/memory/a/memory.limit_in_bytes", "1000\n"); // of the group above
    write(root / "groups/memory/a/memory.usage_in_bytes", "700\n");
    write(root / "groups/memory/a/memory.stat", "total_inactive_file 200\ntotal_active_file 100\ninactive_file 5\n");
    CHECK(left_by_control_groups(own, groups) == 600);
    write(own, "0::/c\n");
    write(root / "groups/c/memory.max", "max\n");
    CHECK(left_by_control_groups(own, groups) == NO_LIMIT);
    write(root / "groups/c/memory.max", "5000\n");
    write(root / "groups/c/memory.current", "6000\n");
    CHECK(left_by_control_groups(own, groups) == 0);
    write(root / "groups/c/memory.stat", "anon 1\ninactive_file 3000\nactive_file 500\n");
    CHECK(left_by_control_groups(own, groups) == 2500);
    const memory_room room = {100 << 20, 50 << 20, 200 << 20, true};
    CHECK(room.least() == 50 << 20);
    CHECK(shortage({100 << 20, 50 << 20, 200 << 20}, room).empty());
    CHECK(shortage({101 << 20, 0, 0}, room) == "101 MiB are needed, 100 MiB are left of the control group's limit");
    CHECK(shortage({0, 51 << 20, 0}, room).find("ulimit -d") != std::string::npos);
    CHECK(shortage({0, 0, 201 << 20}, room).find("ulimit -v") != std::string::npos);
}
