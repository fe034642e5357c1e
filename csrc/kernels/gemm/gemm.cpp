#include "kernels/gemm/gemm.h"

#include "kernels/gemm/gemm_sets.h"

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
    case instruction_set::neon:
        return "NEON";
    case instruction_set::neon_dotprod:
        return "NEON-dotprod";
    case instruction_set::neon_i8mm:
        return "NEON-i8mm";
    }
    return "unknown";
}

namespace {

#if defined(__x86_64__)

// The compiler's own checks include that the operating system saves the
// registers. Clang before 16 does not know F16C.
bool has_avx2() {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    __builtin_cpu_init();
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

#elif defined(__aarch64__) && defined(__linux__)

// Bits of the kernel's hardware capabilities, which older headers do not name.
bool has_dotprod() {
    return (getauxval(AT_HWCAP) & (1ul << 20)) != 0;
}

bool has_i8mm() {
    return (getauxval(AT_HWCAP2) & (1ul << 13)) != 0;
}

#elif defined(__aarch64__) && defined(__APPLE__)

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

#elif defined(__aarch64__)

bool has_dotprod() {
    return false;
}

bool has_i8mm() {
    return false;
}

#endif

struct kernel_set {
    instruction_set set;
    bool (*is_here)();
    const gemm_kernel * (*find)(ggml_type);
};

// Those of this architecture, the best first.
constexpr kernel_set SETS[] = {
#if defined(__x86_64__)
    {instruction_set::avx512_vnni, has_avx512_vnni, find_gemm_kernel_avx512_vnni},
    {instruction_set::avx_vnni, has_avx_vnni, find_gemm_kernel_avx_vnni},
    {instruction_set::avx2, has_avx2, find_gemm_kernel_avx2},
#elif defined(__aarch64__)
    {instruction_set::neon_i8mm, has_i8mm, find_gemm_kernel_neon_i8mm},
    {instruction_set::neon_dotprod, has_dotprod, find_gemm_kernel_neon_dotprod},
    {instruction_set::neon, [] { return true; }, find_gemm_kernel_neon},
#endif
    {instruction_set::portable, [] { return true; }, find_gemm_kernel_portable},
};

const kernel_set * find_set(instruction_set set) {
    for (const kernel_set & one : SETS) {
        if (one.set == set) {
            return &one;
        }
    }
    return nullptr;
}

} // namespace

const gemm_kernel * kernel_of_type(const gemm_kernel * kernels, size_t n, ggml_type type) {
    for (size_t i = 0; i < n; i++) {
        if (kernels[i].type == type) {
            return kernels + i;
        }
    }
    return nullptr;
}

bool has_instruction_set(instruction_set set) {
    const kernel_set * found = find_set(set);
    return found && found->is_here();
}

const gemm_kernel * find_gemm_kernel(ggml_type type, instruction_set set) {
    const kernel_set * found = find_set(set);
    return found ? found->find(type) : nullptr;
}

instruction_set best_instruction_set() {
    static const instruction_set best = [] {
        const kernel_set * one = SETS;
        while (!one->is_here()) { // the last one always is
            one++;
        }
        return one->set;
    }();
    return best;
}

} // namespace mp
