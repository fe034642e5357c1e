#include "kernels/rows/row_kernels.h"
#include "kernels/target_region.h"

#if defined(__x86_64__)

#    include <cmath>
#    include <cstring>

MP_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")

#    include "kernels/rows/row_x86.h"

namespace mp {
namespace {

constexpr int LANES = 16;

#    include "kernels/rows/row_vectors.h"

} // namespace

const row_kernels row_kernels_avx512 = THESE;

} // namespace mp

MP_TARGET_END

#endif
