#include "engine/memory_needed.h"

#include "draft/knowledge.h"
#include "engine/open_heads.h"
#include "gguf/check.h"
#include "model/kernel_policy.h"
#include "model/weights_memory.h"
#include "platform/fork_check.h"
#include "platform/memory_room.h"
#include "platform/worker_pool.h"
#include "session/context_params.h"
#include "session/memory_bridge.h"
#include "session/mtp_layers.h"
#include "status.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>

#include <sys/stat.h>

#if defined(__APPLE__)
#    include <mach/mach.h>
#endif
#include <unistd.h>

namespace mp {

static constexpr int32_t N_CTX_GRAIN = 256;        // of a context that is advised
static constexpr uint64_t USUAL_BUFFERS = 1 << 30; // bytes: graphs, logits, recurrent states, tables

static int64_t resident_size() {
#if defined(__linux__)
    long long pages = 0, resident = 0;
    if (FILE * file = fopen("/proc/self/statm", "re")) {
        if (fscanf(file, "%lld %lld", &pages, &resident) != 2) {
            resident = 0;
        }
        fclose(file);
    }
    return (int64_t) resident * sysconf(_SC_PAGESIZE);
#elif defined(__APPLE__)
    mach_task_basic_info found = {};
    mach_msg_type_number_t n = MACH_TASK_BASIC_INFO_COUNT;
    const bool is_known = task_info(mach_task_self(), MACH_TASK_BASIC_INFO, (task_info_t) &found, &n) == KERN_SUCCESS;
    return is_known ? (int64_t) found.resident_size : 0;
#else
    return 0;
#endif
}

static int64_t file_size(const std::string & path) {
    struct stat found = {};
    return !path.empty() && stat(path.c_str(), &found) == 0 ? (int64_t) found.st_size : 0;
}

static bool is_on_gpu(ggml_backend_buffer_type_t type) {
    const ggml_backend_dev_t device = ggml_backend_buft_get_device(type);
    const auto kind = device ? ggml_backend_dev_type(device) : GGML_BACKEND_DEVICE_TYPE_CPU;
    return kind == GGML_BACKEND_DEVICE_TYPE_GPU || kind == GGML_BACKEND_DEVICE_TYPE_IGPU;
}

// Backends that compute in the same buffers: llama.cpp gives the size of these once for each of them.
static int64_t n_backends_on_cpu() {
    int64_t n = 0;
    for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
        const auto kind = ggml_backend_dev_type(ggml_backend_dev_get(i));
        n += kind == GGML_BACKEND_DEVICE_TYPE_CPU || kind == GGML_BACKEND_DEVICE_TYPE_ACCEL;
    }
    return std::max<int64_t>(n, 1);
}

// Adds up a context that was opened without weights. Those of the second context of a model are counted already.
static void add_context(mp_memory & sum, const llama_context * ctx, bool use_mmap, bool with_weights) {
    for (const auto & [type, bytes] : llama_get_memory_breakdown(ctx)) {
        const int64_t weights = with_weights ? (int64_t) bytes.model : 0;
        if (is_on_gpu(type)) {
            sum.on_gpu += weights + (int64_t) (bytes.context + bytes.compute);
            continue;
        }
        (use_mmap && type == ggml_backend_cpu_buffer_type() ? sum.mapped : sum.packed) += weights;
        sum.cache += (int64_t) bytes.context;
        sum.compute += (int64_t) bytes.compute / n_backends_on_cpu();
    }
}

static int64_t size_of_files(const mp_model & model, const mp_model_params & params, const mp_engine_params * engine) {
    int64_t size = 0;
    for (int32_t i = 0; i < params.n_loras; i++) {
        size += file_size(params.loras[i].path);
    }
    if (engine) {
        const bool has_masks = engine->masks && strncmp(engine->masks, "file:", 5) == 0;
        size += file_size(heads_file(model, engine->heads)) + (has_masks ? file_size(engine->masks + 5) : 0);
    }
    return size;
}

static memory_need need_of(const mp_memory & sum, const mp_model & model) {
    const uint64_t beside = sum.cache + sum.compute + sum.logits + sum.tables + sum.files;
    const memory_need & weights = model.uncounted;
    return {weights.resident + beside, weights.written + beside, weights.addresses + beside};
}

// Opens the context without weights, and adds it up.
static void measure_context(mp_memory & sum, const mp_model & model, const mp_model_params & params,
                            const mp_context_params & wanted, bool with_mtp) {
    const llama_context_params cp = choose_context_params(model, wanted);
    worker_pool workers(1);
    accel_link link{workers};
    {
        const std::unique_ptr<llama_context, decltype(&llama_free)> ctx(make_context(model, cp, link), llama_free);
        add_context(sum, ctx.get(), params.use_mmap, true);
        sum.n_ctx = (int32_t) llama_n_ctx(ctx.get()) / wanted.n_sessions_max;
    }
    if (with_mtp) {
        accel_link link_of_mtp{workers};
        const llama_context_params of_mtp = mtp_context_params(cp, n_sessions_held(model, wanted));
        const std::unique_ptr<llama_context, decltype(&llama_free)> ctx(make_context(model, of_mtp, link_of_mtp),
                                                                        llama_free);
        add_context(sum, ctx.get(), params.use_mmap, false);
    }
    sum.logits = (int64_t) cp.n_seq_max * model.info.n_vocab * (int64_t) sizeof(float);
}

// The largest half, quarter, ... of the context that fits, 0 where none does.
static int32_t smaller_context(const mp_memory & sum, const mp_model & model, const mp_model_params & params,
                               mp_context_params wanted, bool with_mtp, const memory_room & room) {
    for (wanted.n_ctx = sum.n_ctx / 2; wanted.n_ctx >= N_CTX_GRAIN; wanted.n_ctx /= 2) {
        mp_memory less = {};
        less.tables = sum.tables;
        less.files = sum.files;
        measure_context(less, model, params, wanted, with_mtp);
        if (shortage(need_of(less, model), room).empty()) {
            return less.n_ctx;
        }
    }
    return 0;
}

mp_memory memory_needed(const char * path, const mp_model_params & params, const mp_context_params & wanted,
                        const mp_engine_params * engine) {
    check_process();
    check_context_params(wanted);
    if (has_hosts(params)) {
        fail(MP_ERR_UNSUPPORTED, "what a model takes on the RPC hosts %s is not known before it is loaded", params.rpc);
    }
    if (!llama_get_memory_breakdown) {
        fail(MP_ERR_UNSUPPORTED, "this llama.cpp does not say what a context takes");
    }
    mp_memory sum = {};
    std::string refusal;
    const std::shared_ptr<mp_model> model = model_without_weights(path, params, refusal);
    const bool own_layers = engine && engine->heads && engine->heads[0] == '\0' && model->info.n_layer_mtp > 0;
    const bool with_mtp = own_layers && heads_file(*model, engine->heads).empty();
    measure_context(sum, *model, params, wanted, with_mtp);
    sum.tables = engine ? (int64_t) knowledge::tables::SIZE : 0;
    sum.files = size_of_files(*model, params, engine);
    sum.process = resident_size();
    sum.total = sum.mapped + sum.packed + sum.cache + sum.compute + sum.logits + sum.tables + sum.files;
    const memory_room room = find_memory_room();
    sum.free = room.least() == NO_LIMIT ? -1 : (int64_t) room.least();
    snprintf(sum.kernels, sizeof(sum.kernels), "%s", model->info.kernels);
    snprintf(sum.note, sizeof(sum.note), "%s", model->info.kernels_reason);
    const std::string no_room = shortage(need_of(sum, *model), room);
    if (!refusal.empty()) {
        snprintf(sum.problem, sizeof(sum.problem), "%s", refusal.c_str());
    } else if (!no_room.empty()) {
        const int32_t n_ctx = smaller_context(sum, *model, params, wanted, with_mtp, room);
        const std::string advice = n_ctx > 0
                                       ? format("n_ctx = %d would fit; fewer sessions or a quantised cache need less", n_ctx)
                                       : "use a smaller model or one of fewer bits";
        snprintf(sum.problem, sizeof(sum.problem),
                 "it does not fit: %s. Weights take %s, the cache of %d x %d tokens %s, buffers %s: %s", no_room.c_str(),
                 in_mib(model->uncounted.resident).c_str(), wanted.n_sessions_max, sum.n_ctx, in_mib(sum.cache).c_str(),
                 in_mib(sum.compute + sum.logits).c_str(), advice.c_str());
    }
    return sum;
}

// Whether half of what is free holds the weights twice, the largest cache and buffers of the usual size: then there is no
// need to open anything.
static bool has_plenty(const char * path, const mp_context_params & wanted) {
    const gguf_summary summary = gguf_check(path);
    uint64_t weights = 0;
    for (const gguf_tensor & tensor : summary.tensors) {
        weights += tensor.size;
    }
    const double cache = cache_bytes_per_token(summary, GGML_TYPE_F32, GGML_TYPE_F32) * wanted.n_ctx * wanted.n_sessions_max;
    return (double) find_memory_room().least() / 2 > 2.0 * (double) weights + cache + (double) USUAL_BUFFERS;
}

void refuse_what_does_not_fit(const char * path, const mp_model_params & params, const mp_context_params & wanted,
                              const mp_engine_params * engine) {
    check_context_params(wanted);
    if (wanted.n_ctx > 0 && !has_hosts(params) && !has_plenty(path, wanted)) {
        const mp_memory found = memory_needed(path, params, wanted, engine);
        if (found.problem[0] != '\0') {
            fail(MP_ERR_MEMORY, "%s: %s", path, found.problem);
        }
    }
}

} // namespace mp
