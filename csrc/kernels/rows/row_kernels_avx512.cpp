#include "kernels/rows/row_kernels.h"

#if defined(__x86_64__)

#    include <cmath>
#    include <cstring>

#    if defined(__clang__)
#        pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))),           \
                                     apply_to = function)
#    else
#        pragma GCC push_options
#        pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#    endif

#    include "kernels/rows/row_x86.h"

namespace mp {
namespace {

constexpr int LANES = 16;

#    include "kernels/rows/row_vectors.h"

} // namespace

const row_kernels row_kernels_avx512 = THESE;

} // namespace mp

#    if defined(__clang__)
#        pragma clang attribute pop
#    else
#        pragma GCC pop_options
#    endif

#endif
