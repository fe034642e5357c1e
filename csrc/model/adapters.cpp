#include "model/adapters.h"

#include "gguf/check.h"
#include "kernels/ggml/accel_backend.h"
#include "platform/abort_guard.h"
#include "platform/runtime.h"
#include "status.h"

#include <cmath>
#include <exception>

namespace mp {

// llama.cpp puts the matrices where the weight lies that they change: those of packed weights are packed as well, and
// products with them are maskprobe's.
bool add_adapter(mp_model & model, const mp_lora & lora) {
    if (!lora.path || !std::isfinite(lora.scale)) {
        fail(MP_ERR_ARGUMENT, "an adapter must have a path, its scale = %g must be finite", lora.scale);
    }
    const bool changes_input = gguf_check_adapter(lora.path, model.summary);

    const accel_loading loading(model.own_kernels);
    clear_log_error();
    llama_adapter_lora * adapter = nullptr;
    std::string reason;
    try {
        abort_guard guard;
        adapter = llama_adapter_lora_init(model.weights, lora.path);
        reason = guard.reason().empty() ? last_log_error() : guard.reason();
    } catch (const failure &) {
        throw;
    } catch (const std::bad_alloc &) {
        throw;
    } catch (const std::exception & e) {
        reason = e.what();
    }
    if (!adapter) {
        fail(MP_ERR_FORMAT, "llama.cpp refused the adapter '%s': %s", lora.path, reason.c_str());
    }
    model.adapters.push_back(adapter);
    model.adapter_scales.push_back(lora.scale);
    model.adapter_paths.push_back(lora.path);
    model.info.packed_size += loading.packed_bytes();
    return changes_input;
}

void use_adapters(llama_context * ctx, const mp_model & model) {
    if (!model.adapters.empty()) {
        std::vector<llama_adapter_lora *> adapters = model.adapters; // llama.cpp takes them without const
        std::vector<float> scales = model.adapter_scales;
        llama_set_adapters_lora(ctx, adapters.data(), adapters.size(), scales.data());
    }
}

} // namespace mp
