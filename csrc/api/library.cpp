// The C functions of the library as a whole: its version, failures, the log, the machine.
#include "hosts/rpc_worker.h"
#include "platform/fork_check.h"
#include "platform/machine_speed.h"
#include "platform/runtime.h"
#include "status.h"

#include "ggml.h"

using namespace mp;

const char * mp_version(void) {
    return MP_VERSION;
}

const char * mp_compiler(void) {
#if defined(__clang__)
    return "clang " __clang_version__;
#else
    return "gcc " __VERSION__;
#endif
}

const char * mp_last_error(void) {
    return last_error();
}

const char * mp_status_name(mp_status status) {
    switch (status) {
    case MP_OK:
        return "ok";
    case MP_ERR_ARGUMENT:
        return "argument";
    case MP_ERR_FILE:
        return "file";
    case MP_ERR_FORMAT:
        return "format";
    case MP_ERR_UNSUPPORTED:
        return "unsupported";
    case MP_ERR_MEMORY:
        return "memory";
    case MP_ERR_CONTEXT_FULL:
        return "context full";
    case MP_ERR_CANCELLED:
        return "cancelled";
    case MP_ERR_DECODE:
        return "decode";
    case MP_ERR_NUMERIC:
        return "numeric";
    case MP_ERR_BUSY:
        return "busy";
    case MP_ERR_STATE:
        return "state";
    case MP_ERR_INTERNAL:
        return "internal";
    case MP_ERR_CALLBACK:
        return "callback";
    case MP_AGAIN:
        return "again";
    }
    return "unknown";
}

void mp_set_verbose(bool value) {
    set_verbose(value);
}

mp_status mp_device_get(int32_t i, mp_device * out) {
    return guarded([&] {
        check_process();
        const int32_t n = device_count();
        if (i < 0 || i >= n || !out) {
            fail(MP_ERR_ARGUMENT, "device %d does not exist: there are %d", i, n);
        }
        describe_device(i, *out);
    });
}

mp_status mp_rpc_serve(const char * endpoint, int32_t n_threads, const char * cache) {
    return guarded([&] {
        if (!endpoint || n_threads < 0 || n_threads > GGML_MAX_N_THREADS) {
            fail(MP_ERR_ARGUMENT, "mp_rpc_serve: endpoint must not be NULL, n_threads = %d must be between 0 and %d",
                 n_threads, GGML_MAX_N_THREADS);
        }
        check_process();
        rpc_serve(endpoint, n_threads, cache);
    });
}

mp_status mp_measure_machine(int32_t n_threads, mp_machine_speed * out) {
    return guarded([&] {
        if (!out || n_threads < 0 || n_threads > GGML_MAX_N_THREADS) {
            fail(MP_ERR_ARGUMENT, "mp_measure_machine: n_threads = %d must be between 0 and %d, and out not NULL", n_threads,
                 GGML_MAX_N_THREADS);
        }
        check_process();
        refuse_children();
        *out = measure_machine(n_threads);
    });
}
