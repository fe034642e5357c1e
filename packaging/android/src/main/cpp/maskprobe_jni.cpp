// The native methods of Native.java over maskprobe.h. A failure becomes a MaskprobeException with the line of the library.
// Text crosses as bytes of UTF-8: JNI's own strings are in another encoding, where characters beyond U+FFFF differ.
#include <jni.h>
#include <maskprobe.h>

#include <string>
#include <vector>

static jclass bytes_class, error_class, token_class;
static jmethodID new_error, new_token;

static jclass find_class(JNIEnv * env, const char * name) {
    const jclass found = env->FindClass(name);
    return found ? (jclass) env->NewGlobalRef(found) : nullptr;
}

// Here the class loader is that of the program: in a thread of its own it may be another.
JNIEXPORT jint JNI_OnLoad(JavaVM * vm, void *) {
    JNIEnv * env = nullptr;
    if (vm->GetEnv((void **) &env, JNI_VERSION_1_6) != JNI_OK) {
        return JNI_ERR;
    }
    bytes_class = find_class(env, "[B");
    error_class = find_class(env, "org/maskprobe/MaskprobeException");
    token_class = find_class(env, "org/maskprobe/Token");
    if (!bytes_class || !error_class || !token_class) {
        return JNI_ERR;
    }
    new_error = env->GetMethodID(error_class, "<init>", "(I[B)V");
    new_token = env->GetMethodID(token_class, "<init>", "([BIFF[BI)V");
    return new_error && new_token ? JNI_VERSION_1_6 : JNI_ERR;
}

// --- text and failures -----------------------------------------------------------------------------------------------

static jbyteArray to_java(JNIEnv * env, const char * text, size_t n) {
    const jbyteArray bytes = env->NewByteArray((jsize) n);
    if (bytes) {
        env->SetByteArrayRegion(bytes, 0, (jsize) n, (const jbyte *) text);
    }
    return bytes;
}

static jbyteArray to_java(JNIEnv * env, const std::string & text) {
    return to_java(env, text.data(), text.size());
}

static void raise(JNIEnv * env, mp_status status, const std::string & message) {
    if (const jbyteArray line = to_java(env, message)) {
        const auto error = (jthrowable) env->NewObject(error_class, new_error, (jint) status, line);
        if (error) {
            env->Throw(error);
        }
    }
}

// Whether the call failed: then a Java exception is pending, and the native method returns at once.
static bool failed(JNIEnv * env, mp_status status) {
    if (status == MP_OK) {
        return false;
    }
    raise(env, status, mp_last_error());
    return true;
}

static std::string to_text(JNIEnv * env, jbyteArray bytes) {
    std::string text(bytes ? env->GetArrayLength(bytes) : 0, '\0');
    if (!text.empty()) {
        env->GetByteArrayRegion(bytes, 0, (jsize) text.size(), (jbyte *) &text[0]);
    }
    return text;
}

// Of text that C reads up to its first NUL. False: refused, with an exception.
static bool check_no_nul(JNIEnv * env, const std::string & text, const char * what) {
    if (text.find('\0') == std::string::npos) {
        return true;
    }
    raise(env, MP_ERR_ARGUMENT, std::string(what) + " must not contain a NUL character");
    return false;
}

// Texts that C sees as an array of strings.
struct text_list {
    std::vector<std::string> texts;
    std::vector<const char *> pointers;

    bool read(JNIEnv * env, jobjectArray from, const char * what) {
        for (jsize i = 0; i < (from ? env->GetArrayLength(from) : 0); i++) {
            const auto bytes = (jbyteArray) env->GetObjectArrayElement(from, i);
            texts.push_back(to_text(env, bytes));
            env->DeleteLocalRef(bytes);
            if (!check_no_nul(env, texts.back(), what)) {
                return false;
            }
        }
        for (const std::string & text : texts) {
            pointers.push_back(text.c_str());
        }
        return true;
    }
};

// --- the native methods, in the order of Native.java -----------------------------------------------------------------

extern "C" {

JNIEXPORT jlong JNICALL Java_org_maskprobe_Native_openModel(JNIEnv * env, jclass, jbyteArray path, jint n_gpu_layers) {
    const std::string file = to_text(env, path);
    mp_model_params params = mp_model_default_params();
    params.n_gpu_layers = n_gpu_layers;
    mp_model * model = nullptr;
    if (!check_no_nul(env, file, "the path of a model") || failed(env, mp_model_open(file.c_str(), &params, &model))) {
        return 0;
    }
    return (jlong) model;
}

JNIEXPORT void JNICALL Java_org_maskprobe_Native_freeModel(JNIEnv *, jclass, jlong model) {
    mp_model_free((mp_model *) model);
}

JNIEXPORT jobjectArray JNICALL Java_org_maskprobe_Native_describe(JNIEnv * env, jclass, jlong model) {
    mp_model_info info;
    if (failed(env, mp_model_get_info((const mp_model *) model, &info))) {
        return nullptr;
    }
    const char * lines[] = {info.description, info.kernels, info.kernels_reason, info.note};
    const jsize n = sizeof(lines) / sizeof(lines[0]);
    const jobjectArray out = env->NewObjectArray(n, bytes_class, nullptr);
    for (jsize i = 0; out && i < n; i++) {
        const jbyteArray line = to_java(env, lines[i]);
        if (!line) {
            return nullptr;
        }
        env->SetObjectArrayElement(out, i, line);
        env->DeleteLocalRef(line);
    }
    return out;
}

JNIEXPORT jintArray JNICALL Java_org_maskprobe_Native_tokenize(JNIEnv * env, jclass, jlong model, jbyteArray text,
                                                               jboolean add_special, jboolean parse_special) {
    const std::string bytes = to_text(env, text);
    std::vector<int32_t> tokens;
    int32_t n = 0;
    do {
        tokens.resize(n);
        if (failed(env, mp_tokenize((const mp_model *) model, bytes.data(), bytes.size(), add_special, parse_special,
                                    tokens.data(), (int32_t) tokens.size(), &n))) {
            return nullptr;
        }
    } while (n > (int32_t) tokens.size());
    const jintArray out = env->NewIntArray(n);
    if (out) {
        env->SetIntArrayRegion(out, 0, n, tokens.data());
    }
    return out;
}

JNIEXPORT jbyteArray JNICALL Java_org_maskprobe_Native_formatChat(JNIEnv * env, jclass, jlong model, jobjectArray roles,
                                                                  jobjectArray contents) {
    text_list who, what;
    if (!who.read(env, roles, "a role") || !what.read(env, contents, "a message")) {
        return nullptr;
    }
    std::string text;
    int32_t n = 0;
    do {
        text.resize(n);
        if (failed(env, mp_chat_format((const mp_model *) model, who.pointers.data(), what.pointers.data(),
                                       (int32_t) who.pointers.size(), true, &text[0], (int32_t) text.size(), &n))) {
            return nullptr;
        }
    } while (n > (int32_t) text.size());
    return to_java(env, text.data(), n);
}

JNIEXPORT jlong JNICALL Java_org_maskprobe_Native_openContext(JNIEnv * env, jclass, jlong model, jint n_ctx, jint n_sessions,
                                                              jint n_threads) {
    mp_context_params params = mp_context_default_params();
    params.n_ctx = n_ctx;
    params.n_sessions_max = n_sessions;
    params.n_threads = n_threads;
    mp_context * context = nullptr;
    return failed(env, mp_context_open((mp_model *) model, &params, &context)) ? 0 : (jlong) context;
}

JNIEXPORT void JNICALL Java_org_maskprobe_Native_freeContext(JNIEnv *, jclass, jlong context) {
    mp_context_free((mp_context *) context);
}

JNIEXPORT jint JNICALL Java_org_maskprobe_Native_contextSize(JNIEnv *, jclass, jlong context) {
    return mp_context_n_ctx((const mp_context *) context);
}

JNIEXPORT jlong JNICALL Java_org_maskprobe_Native_openEngine(JNIEnv * env, jclass, jlong context, jbyteArray state) {
    const std::string file = to_text(env, state);
    mp_engine_params params = mp_engine_default_params();
    params.state = state ? file.c_str() : nullptr;
    mp_engine * engine = nullptr;
    if (!check_no_nul(env, file, "the path of the state") ||
        failed(env, mp_engine_open((mp_context *) context, &params, &engine))) {
        return 0;
    }
    return (jlong) engine;
}

JNIEXPORT void JNICALL Java_org_maskprobe_Native_freeEngine(JNIEnv *, jclass, jlong engine) {
    mp_engine_free((mp_engine *) engine);
}

JNIEXPORT jint JNICALL Java_org_maskprobe_Native_step(JNIEnv * env, jclass, jlong engine) {
    int32_t n_active = 0;
    failed(env, mp_engine_step((mp_engine *) engine, &n_active));
    return n_active;
}

JNIEXPORT jlong JNICALL Java_org_maskprobe_Native_openGeneration(JNIEnv * env, jclass, jlong engine, jintArray tokens,
                                                                 jlong n_max, jobjectArray stop, jboolean draft,
                                                                 jfloat temperature, jint top_k, jfloat top_p, jfloat min_p,
                                                                 jfloat repeat_penalty, jint seed, jbyteArray grammar) {
    text_list stops;
    const std::string rules = to_text(env, grammar);
    if (!stops.read(env, stop, "a stop string") || !check_no_nul(env, rules, "a grammar")) {
        return 0;
    }
    std::vector<int32_t> prompt(env->GetArrayLength(tokens));
    env->GetIntArrayRegion(tokens, 0, (jsize) prompt.size(), prompt.data());
    mp_sampler_params sampler = mp_sampler_default_params();
    sampler.temp = temperature;
    sampler.top_k = top_k;
    sampler.top_p = top_p;
    sampler.min_p = min_p;
    sampler.penalty_repeat = repeat_penalty;
    sampler.seed = (uint32_t) seed;
    sampler.grammar = grammar ? rules.c_str() : nullptr;
    mp_generation_params params = mp_generation_default_params();
    params.sampler = &sampler;
    params.n_max = n_max;
    params.stop = stops.pointers.data();
    params.n_stop = (int32_t) stops.pointers.size();
    params.draft = draft;
    mp_generation * generation = nullptr;
    const mp_status status =
        mp_generation_open((mp_engine *) engine, prompt.data(), (int32_t) prompt.size(), &params, &generation);
    return failed(env, status) ? 0 : (jlong) generation;
}

JNIEXPORT jobject JNICALL Java_org_maskprobe_Native_next(JNIEnv * env, jclass, jlong generation) {
    mp_token token;
    const mp_status status = mp_generation_next((mp_generation *) generation, &token);
    if (status == MP_AGAIN || failed(env, status)) {
        return nullptr;
    }
    const jbyteArray text = to_java(env, token.text, token.n_text);
    const jbyteArray source = text ? to_java(env, mp_source_name(token.source)) : nullptr;
    return source ? env->NewObject(token_class, new_token, text, (jint) token.id, token.logprob, token.margin, source,
                                   (jint) token.finish)
                  : nullptr;
}

JNIEXPORT void JNICALL Java_org_maskprobe_Native_cancel(JNIEnv *, jclass, jlong generation) {
    mp_generation_cancel((mp_generation *) generation);
}

JNIEXPORT void JNICALL Java_org_maskprobe_Native_freeGeneration(JNIEnv *, jclass, jlong generation) {
    mp_generation_free((mp_generation *) generation);
}

JNIEXPORT jlongArray JNICALL Java_org_maskprobe_Native_stats(JNIEnv * env, jclass, jlong generation) {
    mp_stats stats;
    if (failed(env, mp_generation_get_stats((mp_generation *) generation, &stats))) {
        return nullptr;
    }
    const jlong numbers[] = {stats.n_prompt, stats.n_gen, stats.n_drafted, stats.n_accepted, stats.n_passes};
    const jsize n = sizeof(numbers) / sizeof(numbers[0]);
    const jlongArray out = env->NewLongArray(n);
    if (out) {
        env->SetLongArrayRegion(out, 0, n, numbers);
    }
    return out;
}

} // extern "C"
