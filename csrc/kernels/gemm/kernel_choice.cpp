#include "kernels/gemm/kernel_choice.h"

#include <cctype>
#include <cstdlib>
#include <cstring>

namespace mp {

namespace {

struct choice {
    instruction_set set = best_instruction_set();
    std::string error;

    choice() {
        const char * wanted = std::getenv("MASKPROBE_ISA");
        if (!wanted || !*wanted) {
            return;
        }
        std::string names;
        for (int i = 0; strcmp(instruction_set_name((instruction_set) i), "unknown") != 0; i++) {
            const std::string name = instruction_set_option((instruction_set) i);
            if (name == wanted && has_instruction_set((instruction_set) i)) {
                set = (instruction_set) i;
                return;
            }
            if (has_instruction_set((instruction_set) i)) {
                names += (names.empty() ? "" : ", ") + name;
            }
        }
        error = "MASKPROBE_ISA is '" + std::string(wanted) + "', which this processor has no kernels for: it has " + names;
    }
};

} // namespace

static const choice & chosen() {
    static const choice once;
    return once;
}

instruction_set kernels_in_use() {
    return chosen().set;
}

const std::string & kernel_choice_error() {
    return chosen().error;
}

std::string instruction_set_option(instruction_set set) {
    std::string name = instruction_set_name(set);
    for (char & c : name) {
        c = (char) tolower((unsigned char) c);
    }
    return name;
}

const gemm_kernel * kernel_of(const ggml_tensor * weights) {
    if (weights->ne[3] != 1) {
        return nullptr;
    }
    const gemm_kernel * fast = find_gemm_kernel(weights->type, kernels_in_use());
    const bool fits = fast && weights->ne[0] % fast->block == 0;
    return fits ? fast : find_gemm_kernel_any_shape(weights->type);
}

int64_t packed_groups(const gemm_kernel & kernel, const ggml_tensor * weights) {
    return (weights->ne[1] + kernel.group - 1) / kernel.group;
}

size_t packed_matrix_size(const gemm_kernel & kernel, const ggml_tensor * weights) {
    return kernel.packed_size(packed_groups(kernel, weights) * kernel.group, weights->ne[0]);
}

} // namespace mp
