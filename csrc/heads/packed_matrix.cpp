#include "heads/packed_matrix.h"

#include "kernels/gemm/kernel_choice.h"

#include <cstring>
#include <new>

#if defined(__linux__)
#    include <sys/mman.h>
#endif

namespace mp {

constexpr size_t ALIGNMENT = 64;
constexpr size_t HUGE_PAGE = 2 << 20;

void aligned_bytes::resize(size_t n) {
    if (n <= capacity) {
        return;
    }
    const size_t alignment = n < HUGE_PAGE / 2 ? ALIGNMENT : HUGE_PAGE;
    const size_t rounded = (n + alignment - 1) / alignment * alignment;
    bytes.reset((uint8_t *) std::aligned_alloc(alignment, rounded));
#if defined(__linux__)
    if (bytes && alignment == HUGE_PAGE) { // a product walks through all of it: fewer pages to look up
        madvise(bytes.get(), rounded, MADV_HUGEPAGE);
    }
#endif
    capacity = bytes ? rounded : 0;
    if (!bytes) {
        throw std::bad_alloc();
    }
}

packed_matrix::packed_matrix(const void * weights, int64_t n_out, int64_t k)
    : kernel(find_gemm_kernel(GGML_TYPE_Q8_0, kernels_in_use())), k(k),
      n_groups((n_out + kernel->group - 1) / kernel->group) {
    packed.resize(kernel->packed_size(width(), k));
    const int64_t n_whole = n_out / kernel->group;
    kernel->pack(weights, packed.data(), k, 0, n_whole);
    if (n_whole < n_groups) { // rows of zeros fill the last group
        const size_t row_size = ggml_row_size(GGML_TYPE_Q8_0, k);
        std::vector<uint8_t> group(kernel->group * row_size);
        memcpy(group.data(), (const uint8_t *) weights + n_whole * kernel->group * row_size,
               n_out % kernel->group * row_size);
        kernel->pack(group.data(), packed.data() + kernel->packed_size(n_whole * kernel->group, k), k, 0, 1);
    }
}

void packed_matrix::multiply(const float * x, int64_t ldx, int64_t n, float * y, int64_t ldy,
                             aligned_bytes & scratch) const {
    scratch.resize(kernel->activations_size(n, k));
    kernel->quantise(x, ldx * sizeof(float), scratch.data(), n, k, 0, 1);
    kernel->multiply(packed.data(), scratch.data(), y, ldy, n, k, 0, n_groups);
}

} // namespace mp
