#include "kernels/ggml/mapped_source.h"

#if defined(__linux__)

#    include <cinttypes>
#    include <cstdio>
#    include <cstring>
#    include <memory>

#    include <sys/mman.h>
#    include <unistd.h>

namespace mp {

bool mapped_source::holds(const void * data, size_t size) {
    const auto begin = (uintptr_t) data;
    if (begin >= mapping_begin && begin + size <= mapping_end) {
        return true;
    }
    const std::unique_ptr<FILE, decltype(&fclose)> maps{is_read ? nullptr : fopen("/proc/self/maps", "re"), fclose};
    char line[512]; // what is cut off of a long path looks like no mapping
    while (maps && fgets(line, sizeof(line), maps.get())) {
        uintptr_t first, last;
        uint64_t inode;
        char access[5];
        const int n = sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %4s %*s %*s %" SCNu64, &first, &last, access, &inode);
        if (n == 4 && begin >= first && begin + size <= last && inode != 0 && strncmp(access, "r-", 2) == 0) {
            mapping_begin = first;
            mapping_end = last;
            return true;
        }
    }
    is_read = true;
    return false;
}

void mapped_source::release(const void * begin, const void * end) {
    static const uintptr_t page = (uintptr_t) sysconf(_SC_PAGESIZE);
    const uintptr_t first = (uintptr_t) begin / page * page, last = (uintptr_t) end / page * page;
    if (first < last) {
        madvise((void *) first, last - first, MADV_DONTNEED); // refused where the pages are locked: they stay
    }
}

} // namespace mp

#else // elsewhere such advice does not lower what a process is charged for

namespace mp {

bool mapped_source::holds(const void *, size_t) {
    return false;
}

void mapped_source::release(const void *, const void *) {}

} // namespace mp

#endif
