// A Q8_0 matrix with maskprobe's own products, whatever kernels the model runs on.
#pragma once

#include "kernels/gemm/gemm.h"

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

namespace mp {

// Bytes at an address that the kernels take.
class aligned_bytes {
public:
    void resize(size_t n); // what was in them is lost where they grow
    uint8_t * data() { return bytes.get(); }
    const uint8_t * data() const { return bytes.get(); }

private:
    std::unique_ptr<uint8_t, decltype(&std::free)> bytes{nullptr, std::free};
    size_t capacity = 0;
};

class packed_matrix {
public:
    packed_matrix() = default;

    // weights: (n_out, k) in blocks of ggml's Q8_0, k a multiple of 32. They are copied.
    packed_matrix(const void * weights, int64_t n_out, int64_t k);

    // y(n, ldy) = x(n, ldx) times the matrix; ldx and ldy are numbers from row to row, ldy at least width(). The columns
    // from n_out on are zero.
    void multiply(const float * x, int64_t ldx, int64_t n, float * y, int64_t ldy, aligned_bytes & scratch) const;

    int64_t width() const { return n_groups * kernel->group; } // n_out, rounded up

private:
    const gemm_kernel * kernel = nullptr;
    int64_t k = 0, n_groups = 0;
    aligned_bytes packed;
};

} // namespace mp
