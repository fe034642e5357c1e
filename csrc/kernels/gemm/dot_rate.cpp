#include "kernels/gemm/dot_rate.h"

#if defined(__x86_64__)
#    include <immintrin.h>
#elif defined(__aarch64__)
#    include <arm_neon.h>
#endif

namespace mp {

// Independent sums, so that the instructions' latency is hidden. They are written as assembly: compilers that know the
// instructions do not all have functions for them, and none leaves out what it does not understand.
static constexpr int N_SUMS = 8;

#if defined(__x86_64__)

#    define MP_TARGET(names) __attribute__((target(names)))

// As the kernels do it: one product of bytes and one sum of 16-bit numbers.
MP_TARGET("avx2") static int64_t rounds_avx2(int64_t n) {
    __m256i sums[N_SUMS] = {}, a = _mm256_set1_epi8(1), b = _mm256_set1_epi8(1);
    for (int64_t i = 0; i < n; i++) {
        for (__m256i & sum : sums) {
            __m256i products;
            asm volatile("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(sum), "=&x"(products) : "x"(a), "x"(b));
        }
    }
    return n * N_SUMS * 32;
}

MP_TARGET("avx2") static int64_t rounds_avx_vnni(int64_t n) {
    __m256i sums[N_SUMS] = {}, a = _mm256_set1_epi8(1), b = _mm256_set1_epi8(1);
    for (int64_t i = 0; i < n; i++) {
        for (__m256i & sum : sums) {
            asm volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
        }
    }
    return n * N_SUMS * 32;
}

MP_TARGET("avx512f,avx512vnni") static int64_t rounds_avx512_vnni(int64_t n) {
    __m512i sums[N_SUMS] = {}, a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(1);
    for (int64_t i = 0; i < n; i++) {
        for (__m512i & sum : sums) {
            asm volatile("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
        }
    }
    return n * N_SUMS * 64;
}

int64_t run_dot_rounds(instruction_set set, int64_t n) {
    switch (set) {
    case instruction_set::avx2:
        return rounds_avx2(n);
    case instruction_set::avx_vnni:
        return rounds_avx_vnni(n);
    case instruction_set::avx512_vnni:
        return rounds_avx512_vnni(n);
    default:
        return 0;
    }
}

#elif defined(__aarch64__)

#    if defined(__clang__)
#        define MP_TARGET(name) __attribute__((target(name)))
#    else
#        define MP_TARGET(name) __attribute__((target("arch=armv8.2-a+" name)))
#    endif

// As the kernels do it, but for the sums in 32 bits that follow a few of these.
static int64_t rounds_neon(int64_t n) {
    int16x8_t sums[N_SUMS] = {};
    const int8x16_t a = vdupq_n_s8(1), b = vdupq_n_s8(1);
    for (int64_t i = 0; i < n; i++) {
        for (int16x8_t & sum : sums) {
            asm volatile("smlal %0.8h, %1.8b, %2.8b" : "+w"(sum) : "w"(a), "w"(b));
        }
    }
    return n * N_SUMS * 8;
}

MP_TARGET("dotprod") static int64_t rounds_dotprod(int64_t n) {
    int32x4_t sums[N_SUMS] = {};
    const int8x16_t a = vdupq_n_s8(1), b = vdupq_n_s8(1);
    for (int64_t i = 0; i < n; i++) {
        for (int32x4_t & sum : sums) {
            asm volatile("sdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(a), "w"(b));
        }
    }
    return n * N_SUMS * 16;
}

MP_TARGET("i8mm") static int64_t rounds_i8mm(int64_t n) {
    int32x4_t sums[N_SUMS] = {};
    const int8x16_t a = vdupq_n_s8(1), b = vdupq_n_s8(1);
    for (int64_t i = 0; i < n; i++) {
        for (int32x4_t & sum : sums) {
            asm volatile("smmla %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(a), "w"(b));
        }
    }
    return n * N_SUMS * 32;
}

int64_t run_dot_rounds(instruction_set set, int64_t n) {
    switch (set) {
    case instruction_set::neon:
        return rounds_neon(n);
    case instruction_set::neon_dotprod:
        return rounds_dotprod(n);
    case instruction_set::neon_i8mm:
        return rounds_i8mm(n);
    default:
        return 0;
    }
}

#else

int64_t run_dot_rounds(instruction_set, int64_t) {
    return 0;
}

#endif

} // namespace mp
