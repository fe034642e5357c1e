#include "model/model.h"

#include "gguf/reader.h"
#include "hosts/placement.h"
#include "hosts/rpc_hosts.h"
#include "kernels/gemm/kernel_choice.h"
#include "kernels/ggml/accel_backend.h"
#include "model/adapters.h"
#include "model/identity.h"
#include "model/kernel_policy.h"
#include "platform/abort_guard.h"
#include "platform/fork_check.h"
#include "platform/runtime.h"
#include "platform/thread_count.h"
#include "registry.h"
#include "status.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>

using namespace mp;

mp_model::~mp_model() {
    if (weights) {
        llama_model_free(weights);
    }
}

void mp_model::input_row(int32_t token, float * out) const {
    embeddings.row(token, out);
    if (info.embd_scale != 1) {
        for (int32_t i = 0; i < info.n_embd; i++) {
            out[i] *= info.embd_scale;
        }
    }
}

void mp_model::embedding_rows(const int32_t * tokens, int32_t n, float * out) const {
    if (!embeddings.is_open()) {
        fail(MP_ERR_UNSUPPORTED, "this %s model has no embedding table that can be read", info.arch);
    }
    for (int32_t i = 0; i < n; i++) {
        if (tokens[i] < 0 || tokens[i] >= embeddings.n_rows()) {
            fail(MP_ERR_ARGUMENT, "token %d at %d is out of range, the vocabulary has %d", tokens[i], i,
                 embeddings.n_rows());
        }
        embeddings.row(tokens[i], out + (size_t) i * info.n_embd);
    }
}

const std::string & mp_model::identity() const {
    std::call_once(identity_made, [this] { own_identity = model_identity(*this); });
    return own_identity;
}

const token_pieces & mp_model::pieces() const {
    std::call_once(pieces_made, [this] { all_pieces = std::make_unique<token_pieces>(*this); });
    return *all_pieces;
}

namespace mp {

// The C handle is the object itself; the registry holds the reference that model_close() gives up.
static registry<mp_model> & models() {
    static auto & all = *new registry<mp_model>("model");
    return all;
}

model_ref model_retain(mp_model * model) {
    return models().retain(model);
}

struct load_progress {
    mp_progress_callback callback;
    void * user_data;
    bool cancelled;
};

static bool on_progress(float progress, void * data) {
    auto * state = (load_progress *) data;
    if (state->callback && !state->callback(progress, state->user_data)) {
        state->cancelled = true;
    }
    if (is_refused_child()) { // made by the callback, and come back from it
        if (accel_loading * const loading = accel_loading::current()) {
            loading->abandon_means();
        }
        return false;
    }
    return !state->cancelled;
}

// As llama.cpp reads them. All zero: it shares by free memory.
static std::vector<float> device_shares(const mp_model_params & params) {
    std::vector<float> shares(llama_max_devices());
    if (params.n_split > (int32_t) shares.size()) {
        fail(MP_ERR_ARGUMENT, "%d shares of devices are more than the %d devices that there can be", params.n_split,
             (int) shares.size());
    }
    for (int32_t i = 0; i < params.n_split; i++) {
        if (!(params.split[i] >= 0) || std::isinf(params.split[i])) {
            fail(MP_ERR_ARGUMENT, "the share %g of device %d must be a number from 0", params.split[i], i);
        }
        shares[i] = params.split[i];
    }
    return shares;
}

static void load_weights(mp_model & model, const char * path, const mp_model_params & params, const kernel_plan & plan) {
    load_progress progress = {params.progress, params.progress_user_data, false};

    llama_model_params llama_params = llama_model_default_params();
    llama_params.n_gpu_layers = params.n_gpu_layers;
    llama_params.load_mode = params.use_mmap ? (params.use_mlock ? LLAMA_LOAD_MODE_MMAP_MLOCK : LLAMA_LOAD_MODE_MMAP)
                                             : (params.use_mlock ? LLAMA_LOAD_MODE_MLOCK : LLAMA_LOAD_MODE_NONE);
    llama_params.check_tensors = params.check_tensors;
    llama_params.use_extra_bufts = repacking_is_safe() && plan.weights.pack;
    llama_params.load_mtp = params.load_mtp;
    llama_params.vocab_only = params.vocab_only;
    llama_params.progress_callback = on_progress;
    llama_params.progress_callback_user_data = &progress;
    if (model.without_weights) {
        llama_params.no_alloc = true;
        llama_params.load_mode = LLAMA_LOAD_MODE_NONE; // llama.cpp asserts this
        llama_params.check_tensors = false;
    }
    std::vector<ggml_backend_dev_t> devices;
    if (model.hosts) {
        devices = model.hosts->devices_of_model();
        llama_params.devices = devices.data();
    }
    const std::vector<float> shares = device_shares(params);
    llama_params.tensor_split = shares.data();

    const accel_loading loading(plan.own);

    clear_log_error();
    std::string reason;
    try {
        abort_guard guard;
        model.weights = llama_model_load_from_file(path, llama_params);
        reason = guard.reason().empty() ? last_log_error() : guard.reason();
    } catch (const failure &) {
        throw;
    } catch (const std::bad_alloc &) {
        throw;
    } catch (const std::exception & e) {
        fail(MP_ERR_FORMAT, "llama.cpp refused '%s': %s", path, e.what());
    }
    if (!model.weights) {
        check_process();
        if (progress.cancelled) {
            fail(MP_ERR_CANCELLED, "loading '%s' was cancelled", path);
        }
        fail(MP_ERR_FORMAT, "llama.cpp refused '%s': %s", path, reason.c_str());
    }
    model.vocab = llama_model_get_vocab(model.weights);
    model.own_kernels = plan.own;
    model.info.packed_size = loading.packed_bytes();
}

// What a function of llama.cpp writes into a buffer and returns the length of.
template <typename F> static std::string text_of(F && write) {
    char probe[1];
    const int32_t size = write(probe, sizeof(probe));
    std::string text(size < 0 ? 0 : size + 1, '\0');
    if (size >= 0) {
        write(&text[0], text.size());
        text.resize(size);
    }
    return text;
}

static void read_metadata(mp_model & model) {
    const llama_model * from = model.weights;
    for (int32_t i = 0; i < llama_model_meta_count(from); i++) {
        const std::string key =
            text_of([&](char * out, size_t size) { return llama_model_meta_key_by_index(from, i, out, size); });
        model.metadata[key] =
            text_of([&](char * out, size_t size) { return llama_model_meta_val_str_by_index(from, i, out, size); });
    }
}

// Layers for multi-token prediction. Of some files only the metadata tell of them, and the model has none.
static int32_t count_mtp_layers(const mp_model & model) {
    const std::string prefix = format("blk.%d.", llama_model_n_layer(model.weights));
    const auto is_of_first = [&](const gguf_tensor & tensor) { return tensor.name.rfind(prefix, 0) == 0; };
    const auto & tensors = model.summary.tensors;
    return std::any_of(tensors.begin(), tensors.end(), is_of_first) ? llama_model_n_layer_nextn(model.weights) : 0;
}

static void describe(mp_model & model, bool with_mtp) {
    mp_model_info & info = model.info;
    snprintf(info.arch, sizeof(info.arch), "%s", model.summary.arch.c_str());
    snprintf(info.name, sizeof(info.name), "%s", model.summary.name.c_str());
    llama_model_desc(model.weights, info.description, sizeof(info.description));
    info.size = (int64_t) llama_model_size(model.weights);
    info.n_params = (int64_t) llama_model_n_params(model.weights);
    info.n_vocab = llama_vocab_n_tokens(model.vocab);
    info.n_embd = llama_model_n_embd(model.weights);
    info.n_layer = llama_model_n_layer(model.weights);
    info.n_ctx_train = llama_model_n_ctx_train(model.weights);
    info.token_bos = llama_vocab_bos(model.vocab);
    info.token_eos = llama_vocab_eos(model.vocab);
    info.token_fim_pre = llama_vocab_fim_pre(model.vocab);
    info.token_fim_suf = llama_vocab_fim_suf(model.vocab);
    info.token_fim_mid = llama_vocab_fim_mid(model.vocab);
    info.add_bos = llama_vocab_get_add_bos(model.vocab);
    info.embd_scale = 1;
    info.n_layer_mtp = with_mtp ? count_mtp_layers(model) : 0;
    if (model.hosts) {
        snprintf(info.placement, sizeof(info.placement), "%s", describe_placement(model.weights).c_str());
    }

    const llama_rope_type rope = llama_model_rope_type(model.weights);
    model.n_pos_per_embd = rope == LLAMA_ROPE_TYPE_MROPE || rope == LLAMA_ROPE_TYPE_IMROPE ? 4 : 1;
}

static void describe_kernels(mp_model_info & info, const kernel_plan & plan) {
    snprintf(info.kernels, sizeof(info.kernels), "%s", plan.own ? instruction_set_name(kernels_in_use()) : "llama.cpp");
    snprintf(info.kernels_reason, sizeof(info.kernels_reason), "%s", plan.reason.c_str());
}

static void add_note(mp_model_info & info, const std::string & line) {
    const size_t length = strlen(info.note);
    snprintf(info.note + length, sizeof(info.note) - length, "%s%s", length && !line.empty() ? "; " : "", line.c_str());
}

static void refuse_other_kinds(const mp_model & model) {
    const char * arch = model.info.arch;
    if (llama_model_has_encoder(model.weights) || !llama_model_has_decoder(model.weights)) {
        fail(MP_ERR_UNSUPPORTED, "%s has an encoder: only decoder-only models that generate text are run", arch);
    }
    if (llama_model_is_diffusion(model.weights)) {
        fail(MP_ERR_UNSUPPORTED, "%s is a diffusion model: only models that generate token by token are run", arch);
    }
    if (llama_vocab_type(model.vocab) == LLAMA_VOCAB_TYPE_NONE || model.info.n_vocab <= 0) {
        fail(MP_ERR_UNSUPPORTED, "this %s model has no vocabulary", arch);
    }
}

static void find_capabilities(mp_model & model, const mp_model_params & params) {
    mp_model_info & info = model.info;
    info.can_tree = !llama_model_is_recurrent(model.weights) && !llama_model_is_hybrid(model.weights);
    const int32_t n_threads = params.n_threads > 0 ? params.n_threads : default_thread_count();
    if (!info.can_tree) {
        chain_check(model, n_threads, params.self_check);
        try {
            model.embeddings.open(model.summary);
        } catch (const failure &) { // nobody but heads asks for it here, and they say so
        }
        return;
    }
    try {
        model.embeddings.open(model.summary);
        if (aborts_on_embeddings(model.summary.arch)) {
            fail(MP_ERR_UNSUPPORTED, "llama.cpp cannot take embedding rows for %s models", info.arch);
        }
        if (model.embeddings.n_embd() != info.n_embd || llama_model_n_embd_inp(model.weights) != info.n_embd) {
            fail(MP_ERR_UNSUPPORTED, "the embedding rows are %d wide, the model takes rows of %d", model.embeddings.n_embd(),
                 llama_model_n_embd_inp(model.weights));
        }
    } catch (const failure & e) {
        snprintf(info.note, sizeof(info.note), "probing is off: %s", e.what());
        return;
    }
    if (params.self_check) {
        self_check(model, n_threads);
    }
}

static void load(mp_model & model, const char * path, const mp_model_params & p, const kernel_plan & plan) {
    refuse_children();
    load_weights(model, path, p, plan);
    describe(model, p.load_mtp && !p.vocab_only);
    read_metadata(model);
    describe_kernels(model.info, plan);
    refuse_other_kinds(model);
}

mp_model * model_open(const char * path, const mp_model_params & p) {
    const refuse_children_meanwhile inside;
    runtime_init();
    auto model = std::make_shared<mp_model>();
    model->summary = gguf_check(path);
    const kernel_plan plan =
        p.vocab_only ? kernel_plan{false, "there are no weights in this process", "", {}} : plan_kernels(model->summary, p);
    if (!plan.weights.refusal.empty()) {
        fail(MP_ERR_MEMORY, "%s", plan.weights.refusal.c_str());
    }
    if (has_hosts(p) && !p.vocab_only) {
        if (p.n_gpu_layers == 0) {
            fail(MP_ERR_ARGUMENT, "n_gpu_layers = 0 leaves no layer to the RPC hosts %s: -1 are all", quoted(p.rpc).c_str());
        }
        model->hosts = std::make_shared<const rpc_hosts>(p.rpc);
    }
    load(*model, path, p, plan);
    if (p.vocab_only) {
        model->vocab_only = true;
        return models().add(model);
    }
    // What stays in the file is in memory when it is used, but the system counts it as free.
    model->uncounted.resident = plan.weights.need.resident - std::min(plan.weights.need.resident, plan.weights.need.written);
    bool changes_input = false;
    for (int32_t i = 0; i < p.n_loras; i++) {
        changes_input = add_adapter(*model, p.loras[i]) || changes_input;
    }
    models().add(model);
    try {
        find_capabilities(*model, p);
        add_note(model->info, plan.weights.reason);
        add_note(model->info, plan.left);
        if (plan.own && changes_input) {
            add_note(model->info,
                     "an adapter changes token_embd.weight, which llama.cpp computes: drafting may change a token");
        }
    } catch (...) {
        model_close(model.get());
        throw;
    }
    return model.get();
}

std::shared_ptr<mp_model> model_without_weights(const char * path, const mp_model_params & p, std::string & refusal) {
    const refuse_children_meanwhile inside;
    runtime_init();
    auto model = std::make_shared<mp_model>();
    model->summary = gguf_check(path);
    const kernel_plan plan = plan_kernels(model->summary, p);
    refusal = plan.weights.refusal;
    model->without_weights = true;
    model->uncounted = plan.weights.need;
    load(*model, path, p, plan);
    mp_model_params without_check = p;
    without_check.self_check = false; // it computes
    find_capabilities(*model, without_check);
    return model;
}

void model_close(mp_model * model) {
    models().remove(model);
}

} // namespace mp
