#include "model/weights_memory.h"

#include "status.h"

namespace mp {

// The smallest context that is worth a model: its cache, and buffers for passes of some rows.
static constexpr int32_t LEAST_TOKENS = 512;
static constexpr int32_t LEAST_ROWS = 64;
static constexpr uint64_t LEAST_BESIDE = 32ull << 20; // graphs, tables of evidence, the vocabulary

double cache_bytes_per_token(const gguf_summary & s, ggml_type type_k, ggml_type type_v) {
    const auto width = [](int64_t n, ggml_type type) { return (double) n * ggml_type_size(type) / ggml_blck_size(type); };
    return s.n_layer * s.n_head_kv * (width(s.n_embd_head_k, type_k) + width(s.n_embd_head_v, type_v));
}

uint64_t least_buffers(const gguf_summary & summary) {
    const gguf_tensor * embedding = summary.find("token_embd.weight");
    const uint64_t n_vocab = embedding ? embedding->ne[1] : 0;
    return 2 * LEAST_ROWS * n_vocab * sizeof(float) + LEAST_BESIDE;
}

static uint64_t small_context(const gguf_summary & summary) {
    const double cache = LEAST_TOKENS * cache_bytes_per_token(summary, GGML_TYPE_F16, GGML_TYPE_F16);
    return (uint64_t) cache + least_buffers(summary);
}

weights_plan plan_weights(const gguf_summary & summary, const weights_size & size, const mp_model_params & params,
                          bool ours) {
    const memory_room room = find_memory_room();
    const uint64_t beside = small_context(summary);
    const uint64_t in_products = size.packed + size.unpacked;
    const uint64_t mapped = params.use_mmap ? size.file_size : 0; // the whole file is, until what was packed is let go
    weights_plan plan;
    plan.need = {in_products, params.use_mmap ? size.packed : size.file_size, mapped + size.packed};

    const memory_need packed = {in_products + beside, (params.use_mmap ? size.packed : size.file_size) + beside,
                                mapped + size.packed + beside};
    const std::string no_room = shortage(packed, room);
    if (no_room.empty()) {
        return plan;
    }
    plan.pack = false;
    if (ours && params.kernels == MP_KERNELS_OURS) {
        plan.refusal = format("the weights do not fit with kernels that pack them (%s) and a small context: %s; the auto "
                              "kernels may leave them in the file, a model of fewer bits needs less",
                              in_mib(size.packed).c_str(), no_room.c_str());
        return plan;
    }
    if (params.use_mmap && !params.use_mlock) {
        plan.need = {in_products, 0, mapped};
        const memory_need in_file = {in_products + beside, beside, mapped + beside};
        const memory_need from_disk = {beside, beside, mapped + beside};
        const std::string no_room_mapped = shortage(in_file, room);
        const std::string no_room_at_all = shortage(from_disk, room);
        if (no_room_mapped.empty()) {
            plan.reason =
                format("no room for packed weights (%s): mapped, passes of several rows are slower", no_room.c_str());
            return plan;
        }
        if (no_room_at_all.empty() && params.kernels == MP_KERNELS_STOCK) {
            plan.reason = format("no room for the weights (%s): each pass reads them from the disk", no_room_mapped.c_str());
            return plan;
        }
        const bool may_read = no_room_at_all.empty();
        plan.refusal =
            format("the weights (%s) and a small context do not fit: %s; use a smaller model or one of fewer bits%s",
                   in_mib(in_products).c_str(), (may_read ? no_room_mapped : no_room_at_all).c_str(),
                   may_read ? ", or llama.cpp's kernels (stock), which then read it from the disk in each pass" : "");
        return plan;
    }
    plan.refusal = format("the weights (%s) and a small context do not fit into memory: %s; map the file (use_mmap without "
                          "use_mlock), or use a smaller model or one of fewer bits",
                          in_mib(in_products).c_str(), no_room.c_str());
    return plan;
}

} // namespace mp
