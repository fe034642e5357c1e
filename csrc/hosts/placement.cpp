#include "hosts/placement.h"

#include "status.h"

#include "ggml-backend.h"

#include <cstdio>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

// A function of llama.cpp that its library exports and its public headers lack: all tensors of a model by name. Declared as
// in src/llama-model.h; see session/nextn_bridge.h for why that is safe.
#ifdef __APPLE__
__attribute__((weak_import))
#else
__attribute__((weak))
#endif
const std::vector<std::pair<std::string, ggml_tensor *>> & llama_internal_get_tensor_map(const llama_model * model);

namespace mp {

static std::string place_of(const ggml_tensor * tensor) {
    ggml_backend_dev_t device =
        tensor->buffer ? ggml_backend_buft_get_device(ggml_backend_buffer_get_type(tensor->buffer)) : nullptr;
    if (!device || ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_CPU) {
        return "this machine";
    }
    const bool is_remote = strcmp(ggml_backend_reg_name(ggml_backend_dev_backend_reg(device)), "RPC") == 0;
    return is_remote ? ggml_backend_dev_description(device) : ggml_backend_dev_name(device); // of a worker: its address
}

std::string describe_placement(const llama_model * weights) {
    if (!llama_internal_get_tensor_map) {
        return "";
    }
    std::map<int, std::string> layers;
    std::string output; // the last of these: a tied output is a second tensor of the embedding's name
    for (const auto & [name, tensor] : llama_internal_get_tensor_map(weights)) {
        int layer = 0;
        if (sscanf(name.c_str(), "blk.%d.", &layer) == 1) {
            layers.emplace(layer, place_of(tensor));
        } else if (name == "token_embd.weight" || name == "output.weight") {
            output = place_of(tensor);
        }
    }
    std::string line;
    for (auto first = layers.begin(); first != layers.end();) {
        auto last = first, next = std::next(first);
        while (next != layers.end() && next->second == first->second) {
            last = next++;
        }
        const std::string numbers =
            first == last ? std::to_string(first->first) : std::to_string(first->first) + "-" + std::to_string(last->first);
        const bool has_output = next == layers.end() && output == first->second;
        line += (line.empty() ? "layers " : ", ") + numbers + (has_output ? " and the output at " : " at ") + first->second;
        first = next;
    }
    if (!layers.empty() && output != layers.rbegin()->second) {
        line += ", the output at " + output;
    }
    return line;
}

} // namespace mp
