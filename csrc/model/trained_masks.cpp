#include "model/trained_masks.h"

#include "gguf/check.h"
#include "gguf/reader.h"
#include "kernels/gemm/kernel_choice.h"
#include "kernels/ggml/accel_buffer.h"
#include "registry.h"
#include "status.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>

using namespace mp;

static void check_model(const mp_model & model) {
    if (!model.info.can_tree || !model.info.can_probe) {
        fail(MP_ERR_UNSUPPORTED, "masks on a %s model: %s", model.info.arch,
             model.info.note[0] ? model.info.note : "it was opened without the self-check");
    }
    if (!model.own_kernels) {
        fail(MP_ERR_UNSUPPORTED, "trained masks need maskprobe's kernels, this model has llama.cpp's: %s",
             model.info.kernels_reason);
    }
}

// The products of a weight that is changed must be maskprobe's.
static void check_kernel(const mp_model & model, const std::string & path, const std::string & name) {
    const gguf_tensor * weight = model.summary.find(name);
    ggml_tensor as_ggml = {};
    as_ggml.type = (ggml_type) weight->type;
    std::copy(weight->ne, weight->ne + GGML_MAX_DIMS, as_ggml.ne);
    if (!kernel_of(&as_ggml)) {
        fail(MP_ERR_UNSUPPORTED, "'%s': it changes %s, whose type %s llama.cpp computes, not maskprobe's kernels",
             path.c_str(), mp::quoted(name).c_str(), ggml_type_name(as_ggml.type));
    }
}

// The bytes of a tensor, all of whose values must be finite.
static std::vector<char> read_tensor(std::ifstream & file, const std::string & path, const gguf_masks::tensor & tensor,
                                     const char * ending) {
    std::vector<char> bytes(tensor.size);
    errno = 0;
    if (!file.seekg((std::streamoff) tensor.offset) || !file.read(bytes.data(), (std::streamsize) bytes.size())) {
        fail(MP_ERR_FILE, "'%s' cannot be read: %s", path.c_str(), errno ? strerror(errno) : "it has shrunk meanwhile");
    }
    const int64_t n = tensor.ne[0] * tensor.ne[1];
    for (int64_t i = 0; i < n; i++) {
        const float value = tensor.type == GGML_TYPE_F32 ? ((const float *) bytes.data())[i]
                                                         : ggml_fp16_to_fp32(((const ggml_fp16_t *) bytes.data())[i]);
        if (!std::isfinite(value)) {
            fail(MP_ERR_FORMAT, "'%s': tensor %s has NaN or infinite values", path.c_str(),
                 mp::quoted(tensor.name + ending).c_str());
        }
    }
    return bytes;
}

mp_masks::mp_masks(model_ref model_, const std::string & path) : model(std::move(model_)) {
    check_model(*model);
    const gguf_masks found = gguf_check_masks(path, model->summary, model->identity(), model->info.n_vocab);
    std::ifstream file(path, std::ios::binary);
    const std::vector<char> bytes = read_tensor(file, path, found.vectors, "");
    vectors.resize(bytes.size() / sizeof(float));
    memcpy(vectors.data(), bytes.data(), bytes.size());
    if (found.pairs.empty()) {
        return;
    }
    ggml_init_params params = {};
    params.mem_size = 2 * found.pairs.size() * ggml_tensor_overhead();
    params.no_alloc = true;
    tensors.reset(ggml_init(params));
    if (!tensors) {
        throw std::bad_alloc();
    }
    for (const auto & [a, b] : found.pairs) {
        check_kernel(*model, path, a.name);
        low_rank[a.name] = {ggml_new_tensor_2d(tensors.get(), (ggml_type) a.type, a.ne[0], a.ne[1]),
                            ggml_new_tensor_2d(tensors.get(), (ggml_type) b.type, b.ne[0], b.ne[1])};
    }
    memory.reset(ggml_backend_alloc_ctx_tensors_from_buft(tensors.get(), packed_buffer_type()));
    if (!memory) {
        throw std::bad_alloc();
    }
    for (const auto & [a, b] : found.pairs) {
        const low_rank_of_weights::mapped_type & pair = low_rank[a.name];
        const std::vector<char> down = read_tensor(file, path, a, ".lora_a"), up = read_tensor(file, path, b, ".lora_b");
        ggml_backend_tensor_set((ggml_tensor *) pair.a, down.data(), 0, down.size());
        ggml_backend_tensor_set((ggml_tensor *) pair.b, up.data(), 0, up.size());
    }
}

namespace mp {

static registry<mp_masks> & all_masks() {
    static auto & all = *new registry<mp_masks>("mask file");
    return all;
}

mp_masks * masks_open(model_ref model, const std::string & path) {
    return all_masks().add(std::make_shared<mp_masks>(std::move(model), path));
}

masks_ref masks_retain(const mp_masks * masks) {
    return all_masks().retain(const_cast<mp_masks *>(masks));
}

void masks_close(mp_masks * masks) {
    all_masks().remove(masks);
}

} // namespace mp
