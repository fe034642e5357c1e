#include "platform/runtime.h"

#include "platform/amx_check.h"
#include "platform/fork_check.h"
#include "status.h"

#include "ggml-backend.h"
#include "llama.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <string>

#ifndef MP_VERSION
#    error "MP_VERSION comes from CMakeLists.txt"
#endif

namespace mp {

static std::atomic<bool> verbose{false};
static thread_local std::string log_error;
static thread_local bool log_error_open; // the last error line did not end yet

static void on_log(ggml_log_level level, const char * text, void *) {
    if (verbose.load(std::memory_order_relaxed)) {
        fputs(text, stderr);
    }
    const bool is_error = level == GGML_LOG_LEVEL_ERROR || (level == GGML_LOG_LEVEL_CONT && log_error_open);
    if (!is_error) {
        log_error_open = false;
        return;
    }
    try {
        if (!log_error_open) {
            log_error.clear();
        }
        log_error += text;
        log_error_open = log_error.empty() || log_error.back() != '\n';
        while (!log_error.empty() && (log_error.back() == '\n' || log_error.back() == ' ')) {
            log_error.pop_back();
        }
    } catch (...) {
        log_error.clear();
    }
}

std::string ggml_folder() {
    Dl_info info;
    const bool is_known = dladdr((const void *) ggml_backend_load_all_from_path, &info) && info.dli_fname;
    const std::string file = is_known ? info.dli_fname : "";
    const size_t slash = file.rfind('/');
    return slash == std::string::npos ? "." : file.substr(0, slash);
}

// Of a build whose backends are modules: they lie beside ggml. It would look for them beside the program, and in the
// working directory.
static void load_backends() {
    if (ggml_backend_dev_count() == 0) {
        ggml_backend_load_all_from_path(ggml_folder().c_str());
    }
}

void runtime_init() {
    static std::once_flag once;
    const refuse_children_meanwhile inside;
    std::call_once(once, [] {
        if (strcmp(ggml_version(), MP_GGML_VERSION) != 0) {
            fail(MP_ERR_STATE, "maskprobe %s was built for ggml %s, but ggml %s is loaded: install %s", MP_VERSION,
                 MP_GGML_VERSION, ggml_version(), MP_LLAMA_NAME);
        }
        llama_log_set(on_log, nullptr);
        load_backends();
        llama_backend_init(); // loads them from elsewhere if none was there
        if (has_gpu()) {      // what a driver has opened does not work in a child
            refuse_children();
        }
    });
    // llama_cpp's own Python objects may have set theirs in between.
    llama_log_set(on_log, nullptr);
}

std::string last_log_error() {
    return log_error;
}

void clear_log_error() {
    log_error.clear();
    log_error_open = false;
}

bool repacking_is_safe() {
    static const bool safe = [] {
        ggml_backend_reg_t reg = ggml_backend_reg_by_name("CPU");
        void * address = reg ? ggml_backend_reg_get_proc_address(reg, "ggml_backend_get_features") : nullptr;
        if (!address) {
            return true;
        }
        bool has_amx = false;
        for (auto * f = ((ggml_backend_get_features_t) address)(reg); f && f->name; f++) {
            has_amx = has_amx || (strcmp(f->name, "AMX_INT8") == 0 && strcmp(f->value, "1") == 0);
        }
        return !has_amx || amx_compiler_is_safe(compiler_of_library_at(address));
    }();
    return safe;
}

bool has_gpu() {
    return ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_GPU) || ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_IGPU);
}

void set_verbose(bool value) {
    verbose.store(value, std::memory_order_relaxed);
}

int32_t device_count() {
    runtime_init();
    return (int32_t) ggml_backend_dev_count();
}

void describe_device(int32_t i, mp_device & out) {
    ggml_backend_dev_t device = ggml_backend_dev_get(i);
    ggml_backend_dev_props props = {};
    ggml_backend_dev_get_props(device, &props);
    out.name = props.name;
    out.description = props.description;
    out.memory_free = props.memory_free;
    out.memory_total = props.memory_total;
    switch (props.type) {
    case GGML_BACKEND_DEVICE_TYPE_CPU:
        out.kind = "cpu";
        break;
    case GGML_BACKEND_DEVICE_TYPE_GPU:
        out.kind = "gpu";
        break;
    case GGML_BACKEND_DEVICE_TYPE_IGPU:
        out.kind = "igpu";
        break;
    default:
        out.kind = "accel";
        break;
    }
}

} // namespace mp
