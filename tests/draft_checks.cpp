// Runs the check of a name, and counts what is allocated meanwhile. The checks are in tests/draft_*.cpp.
#include "draft_checks.h"

#include <cstdlib>
#include <cstring>
#include <new>

std::atomic<int64_t> n_allocated{0};

void * operator new(size_t n) {
    n_allocated++;
    if (void * memory = malloc(n)) {
        return memory;
    }
    throw std::bad_alloc();
}

void operator delete(void * memory) noexcept {
    free(memory);
}

void operator delete(void * memory, size_t) noexcept {
    free(memory);
}

int main(int argc, char ** argv) {
    for (const named_check * check = named_check::first(); check; check = check->next) {
        if (argc == 2 && strcmp(check->name, argv[1]) == 0) {
            check->run();
            return n_failed ? 1 : 0;
        }
    }
    fprintf(stderr, "no check of that name\n");
    return 2;
}
