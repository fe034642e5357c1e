#include "kernels/rows/row_kernels.h"
#include "kernels/target_region.h"

#if defined(__x86_64__)

#    include <cmath>
#    include <cstring>

MP_TARGET_BEGIN("avx2,fma,f16c")

#    include "kernels/rows/row_x86.h"

namespace mp {
namespace {

constexpr int LANES = 8;

#    include "kernels/rows/row_vectors.h"

} // namespace

const row_kernels row_kernels_avx2 = THESE;

} // namespace mp

MP_TARGET_END

#endif
