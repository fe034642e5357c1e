#include "platform/memory_room.h"

#include <algorithm>
#include <fstream>
#include <sstream>

#if defined(__APPLE__)
#    include <TargetConditionals.h>
#    include <mach/mach.h>
#    if TARGET_OS_IPHONE
#        include <os/proc.h>
#    endif
#endif
#include <sys/resource.h>

namespace mp {

static constexpr uint64_t NO_GROUP_LIMIT = 1ull << 60; // the first version writes a number of pages near 2^63 for none

static uint64_t minus(uint64_t limit, uint64_t used) {
    return limit > used ? limit - used : 0;
}

// The first number after `name` at the start of a line; `missing` where there is none, or a word.
static uint64_t number_after(const std::string & path, const std::string & name, uint64_t missing) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        uint64_t value;
        if (line.rfind(name, 0) == 0 && std::istringstream(line.substr(name.size())) >> value) {
            return value;
        }
    }
    return missing;
}

// What one group leaves. Pages of files are dropped when others are wanted.
static uint64_t left_by_group(const std::string & folder, const char * limit, const char * usage, const char * prefix) {
    const uint64_t most = number_after(folder + limit, "", NO_LIMIT);
    if (most >= NO_GROUP_LIMIT) {
        return NO_LIMIT;
    }
    const std::string stat = folder + "/memory.stat", start = prefix;
    const uint64_t files = number_after(stat, start + "inactive_file ", 0) + number_after(stat, start + "active_file ", 0);
    return minus(most, minus(number_after(folder + usage, "", 0), files));
}

uint64_t left_by_control_groups(const std::string & own, const std::string & groups) {
    uint64_t left = NO_LIMIT;
    std::ifstream list(own);
    for (std::string line; std::getline(list, line);) { // "4:memory:/path", or of the second version "0::/path"
        const size_t first = line.find(':'), second = line.find(':', first + 1);
        if (second == std::string::npos) {
            continue;
        }
        const std::string kinds = "," + line.substr(first + 1, second - first - 1) + ",";
        const bool is_first_version = kinds.find(",memory,") != std::string::npos;
        if (!is_first_version && kinds != ",,") {
            continue;
        }
        // A limit binds all groups below. In a container the upper part of the path may not be there to be seen.
        std::string path = line.substr(second + 1);
        while (true) {
            path.erase(std::find_if(path.rbegin(), path.rend(), [](char c) { return c != '/'; }).base(), path.end());
            if (is_first_version) {
                left = std::min(left, left_by_group(groups + "/memory" + path, "/memory.limit_in_bytes",
                                                    "/memory.usage_in_bytes", "total_"));
            } else {
                left = std::min(left, left_by_group(groups + path, "/memory.max", "/memory.current", ""));
            }
            if (path.empty()) {
                break;
            }
            path.erase(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
        }
    }
    return left;
}

static uint64_t free_in_machine() {
#if defined(__linux__)
    const uint64_t kib = number_after("/proc/meminfo", "MemAvailable:", NO_LIMIT);
    return kib == NO_LIMIT ? NO_LIMIT : kib * 1024;
#elif defined(__APPLE__)
#    if TARGET_OS_IPHONE
    // Up to where the system ends the process. Other memory has no part in it; 0 where there is no such limit.
    if (const size_t left = os_proc_available_memory()) {
        return left;
    }
#    endif
    // What is free, and what can be dropped because a file has it. Speculative pages are counted in both.
    vm_statistics64_data_t pages = {};
    mach_msg_type_number_t n = HOST_VM_INFO64_COUNT;
    const mach_port_t host = mach_host_self();
    const bool is_known = host_statistics64(host, HOST_VM_INFO64, (host_info64_t) &pages, &n) == KERN_SUCCESS;
    mach_port_deallocate(mach_task_self(), host);
    const uint64_t n_pages =
        (uint64_t) pages.free_count - pages.speculative_count + pages.external_page_count + pages.purgeable_count;
    return is_known ? n_pages * vm_kernel_page_size : NO_LIMIT;
#else
    return NO_LIMIT;
#endif
}

// What the process may still take of a limit of its own, of which /proc says what it has: a line of `status` in KiB.
static uint64_t left_of_limit(decltype(RLIMIT_AS) which, const char * used) {
    rlimit limit = {};
    if (getrlimit(which, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) {
        return NO_LIMIT;
    }
    return minus(limit.rlim_cur, number_after("/proc/self/status", used, 0) * 1024);
}

uint64_t memory_room::least() const {
    return std::min({resident, written, addresses});
}

memory_room find_memory_room() {
    memory_room room;
    room.resident = free_in_machine();
#if defined(__linux__)
    const uint64_t in_group = left_by_control_groups("/proc/self/cgroup", "/sys/fs/cgroup");
    room.in_group = in_group < room.resident;
    room.resident = std::min(room.resident, in_group);
#endif
    room.written = left_of_limit(RLIMIT_DATA, "VmData:");
    room.addresses = left_of_limit(RLIMIT_AS, "VmSize:");
    return room;
}

std::string in_mib(uint64_t bytes) {
    return std::to_string((bytes + (1 << 19)) >> 20) + " MiB";
}

std::string shortage(const memory_need & need, const memory_room & room) {
    const auto says = [](uint64_t bytes, uint64_t left, const char * of) {
        return in_mib(bytes) + " are needed, " + in_mib(left) + " are " + of;
    };
    if (need.resident > room.resident) {
        return says(need.resident, room.resident, room.in_group ? "left of the control group's limit" : "free");
    }
    if (need.written > room.written) {
        return says(need.written, room.written, "left of the limit on data (ulimit -d)");
    }
    if (need.addresses > room.addresses) {
        return says(need.addresses, room.addresses, "left of the limit on addresses (ulimit -v)");
    }
    return "";
}

} // namespace mp
