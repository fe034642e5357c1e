// maskprobe's kernels as a module for any program of llama.cpp: ggml_backend_load() or the environment variable
// GGML_BACKEND_PATH loads it, and every model that is opened afterwards is computed with them.
#include "kernels/gemm/kernel_choice.h"
#include "kernels/ggml/accel_backend.h"
#include "kernels/ggml/ggml_abi.h"

#include <cstdio>
#include <cstring>

using namespace mp;

// ggml compares the version of the backend interface. It does not cover tensors and the numbers of types and operations,
// which may change with any version.
static bool is_known_ggml() {
    const size_t object = 4 * sizeof(void *); // ggml's own, in front of each tensor
    const bool same_tensors = ggml_tensor_overhead() == sizeof(ggml_tensor) + object;
    const bool same_numbers = strcmp(ggml_op_name(GGML_OP_MUL_MAT), "MUL_MAT") == 0 &&
                              strcmp(ggml_op_name(GGML_OP_FLASH_ATTN_EXT), "FLASH_ATTN_EXT") == 0 &&
                              strcmp(ggml_op_name(GGML_OP_TRANSPOSE), "TRANSPOSE") == 0 &&
                              strcmp(ggml_type_name(GGML_TYPE_Q6_K), "q6_K") == 0 &&
                              strcmp(ggml_type_name(GGML_TYPE_BF16), "bf16") == 0;
    return same_tensors && same_numbers;
}

extern "C" {

__attribute__((visibility("default"))) int ggml_backend_score(void) {
    return is_known_ggml() ? 1 : 0;
}

__attribute__((visibility("default"))) ggml_backend_reg_t ggml_backend_init(void) {
    if (!is_known_ggml()) {
        fprintf(stderr, "maskprobe: ggml %s is not laid out like ggml %s, which this module was built for\n", ggml_version(),
                MP_GGML_VERSION);
        return nullptr;
    }
    if (!kernel_choice_error().empty()) {
        fprintf(stderr, "maskprobe: %s\n", kernel_choice_error().c_str());
        return nullptr;
    }
    return accel_registry_for_all();
}

} // extern "C"
