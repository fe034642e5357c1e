#include "platform/thread_count.h"

#include <thread>

#if defined(__linux__)
#    include <cstdio>
#    include <sched.h>
#    include <set>
#    include <string>
#elif defined(__APPLE__)
#    include <sys/sysctl.h>
#endif

namespace mp {

int32_t default_thread_count() {
#if defined(__linux__)
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) {
        std::set<std::string> cores; // hyperthreads of one core share one list of siblings
        for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
            if (!CPU_ISSET(cpu, &allowed)) {
                continue;
            }
            char siblings[256] = "";
            const std::string path = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list";
            if (FILE * file = fopen(path.c_str(), "r")) {
                if (!fgets(siblings, sizeof(siblings), file)) {
                    siblings[0] = '\0';
                }
                fclose(file);
            }
            cores.insert(siblings[0] ? siblings : path);
        }
        if (!cores.empty()) {
            return (int32_t) cores.size();
        }
    }
#elif defined(__APPLE__)
    // Performance cores only: an efficiency core makes every barrier wait for it.
    int32_t n = 0;
    size_t size = sizeof(n);
    if (sysctlbyname("hw.perflevel0.physicalcpu", &n, &size, nullptr, 0) == 0 && n > 0) {
        return n;
    }
    if (sysctlbyname("hw.physicalcpu", &n, &size, nullptr, 0) == 0 && n > 0) {
        return n;
    }
#endif
    const unsigned n_logical = std::thread::hardware_concurrency();
    return n_logical > 0 ? (int32_t) n_logical : 4;
}

} // namespace mp
