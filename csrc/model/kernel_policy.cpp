#include "model/kernel_policy.h"

#include "kernels/gemm/kernel_choice.h"
#include "kernels/ggml/accel_backend.h"
#include "platform/runtime.h"
#include "status.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <vector>

namespace mp {

static constexpr size_t MAX_NAMED = 4; // types in a line

namespace {

using type_bytes = std::map<ggml_type, uint64_t>;

// Bytes of the matrices that enter products, by their types.
struct coverage {
    uint64_t total = 0;
    uint64_t packed = 0; // of those with a kernel of ours, in its layout
    type_bytes others;   // without a kernel of ours

    uint64_t uncovered() const {
        uint64_t sum = 0;
        for (const auto & [type, bytes] : others) {
            sum += bytes;
        }
        return sum;
    }
};

} // namespace

static coverage cover(const gguf_summary & summary, bool own) {
    coverage found;
    const bool has_head = summary.find("output.weight") != nullptr;
    for (const gguf_tensor & tensor : summary.tensors) {
        if (!tensor.in_products || (has_head && tensor.name == "token_embd.weight")) {
            continue; // an embedding without a head beside it is the head as well
        }
        found.total += tensor.size;
        ggml_tensor weights = {};
        weights.type = (ggml_type) tensor.type;
        std::copy(tensor.ne, tensor.ne + GGML_MAX_DIMS, weights.ne);
        const gemm_kernel * kernel = own ? kernel_of(&weights) : nullptr;
        if (kernel) {
            found.packed += packed_matrix_size(*kernel, &weights) * weights.ne[2];
        } else {
            found.others[weights.type] += tensor.size;
        }
    }
    return found;
}

static std::string percent(uint64_t part, uint64_t whole) {
    const double share = whole ? 100.0 * (double) part / (double) whole : 0;
    if (part > 0 && share < 1) {
        return "under 1 %";
    }
    return part < whole && share > 99 ? "over 99 %" : format("%.0f %%", share);
}

// "IQ3_S 20 %, Q2_K 3 %": the types with the most bytes, and their shares; the name alone where it is one.
static std::string list_types(const type_bytes & types, uint64_t total, bool with_share) {
    std::vector<std::pair<uint64_t, ggml_type>> sorted;
    for (const auto & [type, bytes] : types) {
        sorted.emplace_back(bytes, type);
    }
    std::sort(sorted.rbegin(), sorted.rend());
    std::string line;
    for (size_t i = 0; i < sorted.size() && i < MAX_NAMED; i++) {
        std::string name = ggml_type_name(sorted[i].second);
        std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return (char) toupper(c); });
        line += (i ? ", " : "") + name + (with_share ? " " + percent(sorted[i].first, total) : "");
    }
    return line + (sorted.size() > MAX_NAMED ? ", ..." : "");
}

// Says which weights ggml computes. Its float kernels are rarely what makes a difference: alone, they are not named where
// all is ggml's.
static std::string what_is_left(const gguf_summary & summary, bool own) {
    const coverage found = cover(summary, own);
    const bool quantised = std::any_of(found.others.begin(), found.others.end(),
                                       [](const auto & entry) { return ggml_is_quantized(entry.first); });
    if (found.others.empty() || (!own && !quantised)) {
        return "";
    }
    return percent(found.uncovered(), found.total) + " of the weights (" +
           list_types(found.others, found.total, found.others.size() > 1) +
           ") are computed by llama.cpp, where a row's result may depend on the others: drafting may change a token";
}

// Why `auto` leaves the weights to llama.cpp; "" if it does not.
static std::string reason_against(const coverage & found, const mp_model_params & params) {
    if (params.n_gpu_layers != 0 && has_gpu()) {
        return "layers are kept on a GPU";
    }
    if (best_instruction_set() == instruction_set::portable) {
        return "this processor has none of the instructions that ours are made for";
    }
    const uint64_t others = found.uncovered();
    if (others * 2 >= found.total) {
        return "only " + percent(found.total - others, found.total) + " of the weights have a type of ours (" +
               list_types(found.others, found.total, true) + ")";
    }
    return "";
}

// Gives up packing where there is no room for it. Weights on a GPU and on other hosts are not looked at.
static void fit_into_memory(kernel_plan & plan, const gguf_summary & summary, const mp_model_params & params) {
    if (has_hosts(params) || (params.n_gpu_layers != 0 && has_gpu())) {
        return;
    }
    const coverage found = cover(summary, plan.own);
    weights_size size = {};
    for (const gguf_tensor & tensor : summary.tensors) {
        size.file_size += tensor.size;
    }
    // llama.cpp packs what it has kernels for, into as many bytes: at most all.
    size.packed = plan.own ? found.packed : found.total;
    size.unpacked = plan.own ? found.uncovered() : 0;
    plan.weights = plan_weights(summary, size, params, plan.own);
    if (!plan.weights.reason.empty()) {
        plan.own = false;
        plan.reason = plan.weights.reason;
    }
}

kernel_plan plan_kernels(const gguf_summary & summary, const mp_model_params & params) {
    if (params.kernels != MP_KERNELS_AUTO && params.kernels != MP_KERNELS_OURS && params.kernels != MP_KERNELS_STOCK) {
        fail(MP_ERR_ARGUMENT, "kernels = %d must be %d (auto), %d (ours) or %d (stock)", (int) params.kernels,
             MP_KERNELS_AUTO, MP_KERNELS_OURS, MP_KERNELS_STOCK);
    }
    kernel_plan plan = {};
    if (params.kernels == MP_KERNELS_STOCK) {
        plan.reason = "asked for";
    } else if (has_hosts(params)) {
        plan.reason = "layers lie on other hosts";
    } else {
        if (!kernel_choice_error().empty()) {
            fail(MP_ERR_ARGUMENT, "%s", kernel_choice_error().c_str());
        }
        const coverage found = cover(summary, true);
        plan.reason = params.kernels == MP_KERNELS_AUTO ? reason_against(found, params) : "";
        if (plan.reason.empty() && !accel_register()) {
            plan.reason = "this ggml takes no kernels of ours";
        }
        if (plan.reason.empty()) {
            plan.own = true;
            plan.reason = percent(found.total - found.uncovered(), found.total) + " of the weights";
        }
    }
    fit_into_memory(plan, summary, params);
    plan.left = what_is_left(summary, plan.own);
    return plan;
}

} // namespace mp
