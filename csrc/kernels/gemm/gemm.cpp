#include "kernels/gemm/gemm.h"

#include "kernels/gemm/gemm_sets.h"

#include <initializer_list>

#if defined(__x86_64__)
#    include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#    include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#    include <sys/sysctl.h>
#endif

namespace mp {

const char * instruction_set_name(instruction_set set) {
    switch (set) {
    case instruction_set::portable:
        return "portable";
    case instruction_set::avx2:
        return "AVX2";
    case instruction_set::avx_vnni:
        return "AVX-VNNI";
    case instruction_set::avx512_vnni:
        return "AVX512-VNNI";
    case instruction_set::neon_dotprod:
        return "NEON-dotprod";
    case instruction_set::neon_i8mm:
        return "NEON-i8mm";
    }
    return "unknown";
}

#if defined(__x86_64__)

namespace {

// The compiler's own checks include that the operating system saves the
// registers. Clang before 16 does not know F16C.
bool has_avx2() {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 &&
           (ecx & (1u << 29)) != 0;
}

bool has_avx_vnni() {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return has_avx2() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & (1u << 4)) != 0;
}

bool has_avx512_vnni() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}

} // namespace

bool has_instruction_set(instruction_set set) {
    __builtin_cpu_init();
    switch (set) {
    case instruction_set::portable:
        return true;
    case instruction_set::avx2:
        return has_avx2();
    case instruction_set::avx_vnni:
        return has_avx_vnni();
    case instruction_set::avx512_vnni:
        return has_avx512_vnni();
    default:
        return false;
    }
}

const gemm_kernel * find_gemm_kernel(ggml_type type, instruction_set set) {
    switch (set) {
    case instruction_set::portable:
        return find_gemm_kernel_portable(type);
    case instruction_set::avx2:
        return find_gemm_kernel_avx2(type);
    case instruction_set::avx_vnni:
        return find_gemm_kernel_avx_vnni(type);
    case instruction_set::avx512_vnni:
        return find_gemm_kernel_avx512_vnni(type);
    default:
        return nullptr;
    }
}

#elif defined(__aarch64__)

namespace {

#    if defined(__linux__)

// Bits of the kernel's hardware capabilities, which older headers do not name.
bool has_dotprod() {
    return (getauxval(AT_HWCAP) & (1ul << 20)) != 0;
}

bool has_i8mm() {
    return (getauxval(AT_HWCAP2) & (1ul << 13)) != 0;
}

#    elif defined(__APPLE__)

bool has_feature(const char * name) {
    int value = 0;
    size_t size = sizeof(value);
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}

bool has_dotprod() {
    return has_feature("hw.optional.arm.FEAT_DotProd");
}

bool has_i8mm() {
    return has_feature("hw.optional.arm.FEAT_I8MM");
}

#    else

bool has_dotprod() {
    return false;
}

bool has_i8mm() {
    return false;
}

#    endif

} // namespace

bool has_instruction_set(instruction_set set) {
    switch (set) {
    case instruction_set::portable:
        return true;
    case instruction_set::neon_dotprod:
        return has_dotprod();
    case instruction_set::neon_i8mm:
        return has_i8mm();
    default:
        return false;
    }
}

const gemm_kernel * find_gemm_kernel(ggml_type type, instruction_set set) {
    switch (set) {
    case instruction_set::portable:
        return find_gemm_kernel_portable(type);
    case instruction_set::neon_dotprod:
        return find_gemm_kernel_neon_dotprod(type);
    case instruction_set::neon_i8mm:
        return find_gemm_kernel_neon_i8mm(type);
    default:
        return nullptr;
    }
}

#else

bool has_instruction_set(instruction_set set) {
    return set == instruction_set::portable;
}

const gemm_kernel * find_gemm_kernel(ggml_type type, instruction_set set) {
    return set == instruction_set::portable ? find_gemm_kernel_portable(type) : nullptr;
}

#endif

instruction_set best_instruction_set() {
    static const instruction_set best = [] {
        for (instruction_set set : {instruction_set::avx512_vnni, instruction_set::avx_vnni, instruction_set::avx2,
                                    instruction_set::neon_i8mm, instruction_set::neon_dotprod}) {
            if (has_instruction_set(set)) {
                return set;
            }
        }
        return instruction_set::portable;
    }();
    return best;
}

} // namespace mp
