// Multiplies a random 2048 x 2048 matrix with n rows, for bench/arm_instructions.py to count the instructions.
// Arguments: set (as printed), type (as in ggml), n, how often. Exit status 2 where the processor has no such set.

#include "kernels/gemm/gemm.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <vector>

int main(int n_arguments, char ** arguments) {
    if (n_arguments != 5) {
        return 1;
    }
    const int64_t n_out = 2048, k = 2048, n = atoi(arguments[3]);
    const mp::gemm_kernel * kernel = nullptr;
    for (mp::instruction_set set : {mp::instruction_set::portable, mp::instruction_set::neon,
                                    mp::instruction_set::neon_dotprod, mp::instruction_set::neon_i8mm}) {
        for (int type = 0; type < GGML_TYPE_COUNT; type++) {
            const char * name = ggml_type_name(static_cast<ggml_type>(type));
            if (strcmp(mp::instruction_set_name(set), arguments[1]) == 0 && name && strcmp(name, arguments[2]) == 0 &&
                mp::has_instruction_set(set)) {
                kernel = mp::find_gemm_kernel(static_cast<ggml_type>(type), set);
            }
        }
    }
    if (!kernel) {
        return 2;
    }
    std::vector<uint8_t> weights(ggml_row_size(kernel->type, k) * n_out, 0x11);
    std::vector<float> x(n * k, 1.0f), y(n * n_out);
    void * packed = aligned_alloc(64, (kernel->packed_size(n_out, k) + 63) / 64 * 64);
    void * quantised = aligned_alloc(64, (kernel->activations_size(n, k) + 63) / 64 * 64);
    const int64_t n_groups = n_out / kernel->group;
    kernel->pack(weights.data(), packed, k, 0, n_groups);
    kernel->quantise(x.data(), k * sizeof(float), quantised, n, k, 0, 1);
    for (int i = 0; i < atoi(arguments[4]); i++) {
        kernel->multiply(packed, quantised, y.data(), n_out, n, k, 0, n_groups);
    }
    free(packed);
    free(quantised);
    return 0;
}
