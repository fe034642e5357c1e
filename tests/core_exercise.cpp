// Drives the C API the way no polite caller would, for a build with sanitizers:  core_exercise MODEL [BAD_FILE ...]
// Prints "ok" and exits 0 if every call gave the status that the header promises.
#include "expect.h"
#include "maskprobe.h"
#include "platform/amx_check.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

static void compilers() {
    const struct {
        const char * comment;
        bool safe;
    } table[] = {
        {"GCC: (Debian 12.2.0-14+deb12u1) 12.2.0", false},
        {"GCC: (Ubuntu 12.4.0-2ubuntu1) 12.4.0", true},
        {"GCC: (GNU) 11.4.1 20231218", false},
        {"GCC: (Ubuntu 13.2.0-23ubuntu4) 13.2.0", false},
        {"GCC: (GNU) 13.3.1 20240913 (Red Hat 13.3.1-3)", true},
        {"GCC: (GNU) 14.1.0", true},
        {"GCC: unknown", false},
        {"Debian clang version 16.0.6", true},
        {"", true},
    };
    for (const auto & row : table) {
        EXPECT(mp::amx_compiler_is_safe(row.comment) == row.safe);
    }
    const std::string own = mp::compiler_of_library_at((const void *) &mp::amx_compiler_is_safe);
    EXPECT(own.find("GCC") == 0 || own.find("clang") != std::string::npos);
}

struct random_tree {
    std::vector<int32_t> tokens, parents, owners;
    std::vector<float> masks, embd;
    mp_tree tree = {};

    random_tree(std::mt19937 & random, const mp_model_info & info, int32_t n_rows) {
        const int32_t n_nodes = 1 + (int32_t) (random() % n_rows);
        for (int32_t i = 0; i < n_nodes; i++) {
            const bool vector = i > 0 && random() % 16 == 0;
            tokens.push_back(vector ? -1 : (int32_t) (random() % info.n_vocab));
            parents.push_back(i == 0 ? -1 : (int32_t) (random() % i));
            embd.resize(embd.size() + (vector ? info.n_embd : 0), 0.1f);
        }
        for (int32_t j = n_nodes; j < n_rows; j++) {
            owners.push_back((int32_t) (random() % n_nodes));
        }
        masks.assign(owners.size() * info.n_embd, 0.05f);
        tree.n_nodes = n_nodes;
        tree.tokens = tokens.data();
        tree.parents = parents.data();
        tree.embd = embd.data();
        tree.n_masks = (int32_t) owners.size();
        tree.mask_owners = owners.data();
        tree.masks = masks.data();
        tree.n_top = 1 + (int32_t) (random() % 8);
    }

    std::vector<int32_t> path_to(int32_t node) const {
        std::vector<int32_t> path;
        for (; node >= 0; node = parents[node]) {
            path.insert(path.begin(), node);
        }
        return path;
    }
};

static mp_status decode(mp_context * context, mp_session * session, const mp_tree * tree, mp_pass * pass) {
    return mp_context_decode(context, 1, &session, tree, pass);
}

static void passes(mp_context * context, mp_session * session, mp_sampler * sampler, const mp_model_info & info) {
    std::mt19937 random(1);
    int32_t n_past = mp_session_n_past(session);
    for (int step = 0; step < 60; step++) {
        random_tree t(random, info, 1 + (int32_t) (random() % 24));
        mp_pass pass;
        EXPECT(decode(context, session, &t.tree, &pass) == MP_OK);
        EXPECT(pass.n_rows == t.tree.n_nodes + t.tree.n_masks && pass.n_top == t.tree.n_top);
        int32_t token = -1;
        EXPECT(mp_sampler_sample(sampler, session, pass.n_rows - 1, &token) == MP_OK && token >= 0 && token < info.n_vocab);
        if (step % 5 == 0) {
            continue; // never committed: the next call drops it
        }
        std::vector<int32_t> path = t.path_to((int32_t) (random() % t.tree.n_nodes));
        EXPECT(mp_session_commit(session, path.data(), (int32_t) path.size()) == MP_OK);
        n_past += (int32_t) path.size();
        EXPECT(mp_session_n_past(session) == n_past);
    }
}

static void wrong_arguments(mp_context * context, mp_session * session, const mp_model_info & info) {
    std::mt19937 random(2);
    const int32_t n_past = mp_session_n_past(session);
    random_tree t(random, info, 6);
    mp_pass pass;
    const auto refuses = [&](mp_status expected) {
        const mp_status status = decode(context, session, &t.tree, &pass);
        EXPECT(status == expected && mp_last_error()[0] != '\0' && !strchr(mp_last_error(), '\n'));
        t = random_tree(random, info, 6);
    };
    t.tokens[0] = info.n_vocab;
    refuses(MP_ERR_ARGUMENT);
    t.parents[0] = 0;
    refuses(MP_ERR_ARGUMENT);
    t.tree.n_nodes = 0;
    refuses(MP_ERR_ARGUMENT);
    t.tree.n_top = 0;
    refuses(MP_ERR_ARGUMENT);
    t.tree.n_masks = 1000;
    refuses(MP_ERR_ARGUMENT);
    EXPECT(decode(context, session, nullptr, &pass) == MP_ERR_ARGUMENT);
    EXPECT(decode(context, nullptr, &t.tree, &pass) == MP_ERR_ARGUMENT);
    EXPECT(decode(nullptr, session, &t.tree, &pass) == MP_ERR_ARGUMENT);
    EXPECT(mp_context_decode(context, 0, &session, &t.tree, &pass) == MP_ERR_ARGUMENT);
    EXPECT(mp_context_decode(context, INT32_MAX, &session, &t.tree, &pass) == MP_ERR_ARGUMENT);
    mp_session * more = session;
    EXPECT(mp_session_open(context, &more) == MP_ERR_STATE && !more);
    EXPECT(mp_session_fork(session, &more) == MP_ERR_STATE && mp_session_fork(nullptr, &more) == MP_ERR_ARGUMENT);

    EXPECT(decode(context, session, &t.tree, &pass) == MP_OK);
    const int32_t bad_path[] = {0, 0};
    EXPECT(mp_session_commit(session, bad_path, 2) == MP_ERR_ARGUMENT);
    EXPECT(mp_session_commit(session, nullptr, 0) == MP_OK);
    EXPECT(mp_session_commit(session, bad_path, 1) == MP_ERR_STATE);
    EXPECT(mp_session_n_past(session) == n_past);
    std::vector<int32_t> too_long(mp_context_n_ctx(context) + 1, 5);
    EXPECT(mp_session_set_prefix(session, too_long.data(), (int32_t) too_long.size(), 0, 0, nullptr) == MP_ERR_CONTEXT_FULL);
    mp_prefix prefix;
    EXPECT(mp_session_set_prefix(session, too_long.data(), 9, -1, 8, &prefix) == MP_ERR_ARGUMENT);
    EXPECT(mp_session_set_prefix(session, too_long.data(), 9, 257, 8, &prefix) == MP_ERR_ARGUMENT);
    EXPECT(mp_session_set_prefix(session, too_long.data(), 9, 1, 0, &prefix) == MP_ERR_ARGUMENT);
    EXPECT(mp_session_set_prefix(session, too_long.data(), 9, 1, 65, &prefix) == MP_ERR_ARGUMENT && prefix.n_rows == 0);
}

// Outputs of prompts of any length, in pieces, after any prompt before.
static void prompts(mp_session * session, const mp_model_info & info) {
    std::mt19937 random(3);
    std::vector<int32_t> tokens(200);
    for (int i = 0; i < 40; i++) {
        for (size_t at = random() % tokens.size(); at < tokens.size(); at++) {
            tokens[at] = (int32_t) (random() % info.n_vocab);
        }
        const int32_t n = (int32_t) (random() % (tokens.size() + 1));
        const int32_t n_outputs = (int32_t) (random() % (MP_N_ROWS_LIMIT + 1)), n_top = 1 + (int32_t) (random() % 64);
        mp_prefix prefix;
        EXPECT(mp_session_set_prefix(session, tokens.data(), n, n_outputs, n_top, &prefix) == MP_OK);
        EXPECT(prefix.n_rows == std::min(n_outputs, n - prefix.n_reused) && mp_session_n_past(session) == n);
        EXPECT(prefix.n_rows == 0 || prefix.n_top == n_top);
        for (int32_t k = 0; k < prefix.n_rows * prefix.n_top; k++) {
            EXPECT(prefix.top_tokens[k] >= 0 && prefix.top_tokens[k] < info.n_vocab && prefix.top_logprobs[k] <= 0.01f);
        }
    }
}

// One thread decodes, the other cancels and tries to get in.
static void threads(mp_context * context, mp_session * session) {
    std::atomic<bool> done{false};
    std::thread other([&] {
        while (!done) {
            mp_context_cancel(context);
            int32_t token = 7;
            const mp_status status = mp_session_set_prefix(session, &token, 0, 0, 0, nullptr);
            EXPECT(status == MP_OK || status == MP_ERR_BUSY || status == MP_ERR_CANCELLED);
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
    });
    std::vector<int32_t> tokens(200, 11);
    for (int i = 0; i < 30; i++) {
        tokens[0] = i;
        mp_prefix prefix;
        const mp_status status = mp_session_set_prefix(session, tokens.data(), 200, 150, 8, &prefix);
        EXPECT(status == MP_OK || status == MP_ERR_BUSY || status == MP_ERR_CANCELLED);
        EXPECT(prefix.n_rows == (status == MP_OK ? 150 : 0));
    }
    done = true;
    other.join();
    mp_session_set_prefix(session, tokens.data(), 1, 0, 0, nullptr); // takes a cancel that is still pending
    EXPECT(mp_session_set_prefix(session, tokens.data(), 3, 0, 0, nullptr) == MP_OK && mp_session_n_past(session) == 3);
}

// Sessions of one context come and go while others are decoded, and are freed by another thread.
static void shared_context(mp_model * model, const mp_model_info & info) {
    mp_context_params params = mp_context_default_params();
    params.n_ctx = 128;
    params.n_sessions_max = 6;
    params.n_rows_max = 24;
    params.n_threads = 2;
    mp_context * context = nullptr;
    EXPECT(mp_context_open(model, &params, &context) == MP_OK);
    std::mt19937 random(4);
    std::vector<mp_session *> sessions;
    for (int step = 0; step < 200; step++) {
        mp_session * session = nullptr;
        if (sessions.size() < 6 && random() % 2) {
            EXPECT((sessions.empty() ? mp_session_open(context, &session) : mp_session_fork(sessions[0], &session)) ==
                   MP_OK);
            sessions.push_back(session);
        } else if (sessions.size() > 1 && random() % 4 == 0) {
            std::thread([session = sessions.back()] { mp_session_free(session); }).join();
            sessions.pop_back();
        }
        const int32_t n = (int32_t) sessions.size();
        std::vector<random_tree> made;
        made.reserve(n);
        std::vector<mp_tree> trees;
        for (int32_t i = 0; i < n; i++) {
            made.emplace_back(random, info, 1 + (int32_t) (random() % (24 / n)));
            trees.push_back(made.back().tree);
        }
        std::vector<mp_pass> results(n);
        const mp_status status = mp_context_decode(context, n, sessions.data(), trees.data(), results.data());
        EXPECT(n == 0 ? status == MP_ERR_ARGUMENT : status == MP_OK || status == MP_ERR_CONTEXT_FULL);
        for (int32_t i = 0; i < n; i++) {
            if (status != MP_OK) { // full
                EXPECT(mp_session_set_prefix(sessions[i], nullptr, 0, 0, 0, nullptr) == MP_OK);
                continue;
            }
            const float * logits = nullptr;
            EXPECT(results[i].n_rows == trees[i].n_nodes + trees[i].n_masks);
            EXPECT(mp_session_logits(sessions[i], results[i].n_rows - 1, &logits) == MP_OK && logits);
            const std::vector<int32_t> path = made[i].path_to((int32_t) (random() % trees[i].n_nodes));
            EXPECT(mp_session_commit(sessions[i], path.data(), (int32_t) path.size() * (i % 3 > 0)) == MP_OK);
        }
    }
    mp_context_free(context); // before its sessions
    for (mp_session * session : sessions) {
        EXPECT(mp_session_set_prefix(session, nullptr, 0, 0, 0, nullptr) == MP_OK);
        mp_session_free(session);
    }
}

int main(int argc, char ** argv) {
    if (argc < 2) {
        return 2;
    }
    compilers();
    mp_model * model = nullptr;
    EXPECT(mp_model_open(argv[1], nullptr, &model) == MP_OK);
    if (!model) {
        return 1;
    }
    mp_model_info info;
    EXPECT(mp_model_get_info(model, &info) == MP_OK && info.can_probe);
    EXPECT(mp_model_metadata(model, "general.architecture") && !mp_model_metadata(model, "no.such.key"));
    int32_t n_keys = 0;
    while (const char * key = mp_model_metadata_key(model, n_keys)) {
        EXPECT(mp_model_metadata(model, key));
        n_keys++;
    }
    EXPECT(n_keys > 0 && !mp_model_metadata_key(model, -1) && !mp_model_metadata_key(model, INT32_MAX));
    EXPECT(!mp_model_metadata_key(nullptr, 0));

    mp_context_params params = mp_context_default_params();
    params.n_ctx = 1024;
    params.n_threads = 2;
    params.n_rows_max = 32;
    params.n_batch = params.n_ubatch = 48;
    mp_context * context = nullptr;
    EXPECT(mp_context_open(model, &params, &context) == MP_OK);
    mp_session * session = nullptr;
    EXPECT(mp_session_open(context, &session) == MP_OK);
    mp_sampler_params sampling = mp_sampler_default_params();
    sampling.penalty_repeat = 1.1f;
    sampling.seed = 3;
    mp_sampler * sampler = nullptr;
    EXPECT(mp_sampler_open(model, &sampling, &sampler) == MP_OK);
    sampling.grammar = "root ::= (";
    mp_sampler * broken = nullptr;
    EXPECT(mp_sampler_open(model, &sampling, &broken) == MP_ERR_ARGUMENT && !broken);
    params.type_k = "q9";
    mp_context * refused = nullptr;
    EXPECT(mp_context_open(model, &params, &refused) == MP_ERR_ARGUMENT && !refused);
    params.type_k = "f16";
    for (const int32_t n_rows_max : {-1, 0, 257, INT32_MAX}) {
        params.n_rows_max = n_rows_max;
        EXPECT(mp_context_open(model, &params, &refused) == MP_ERR_ARGUMENT && !refused);
    }

    int32_t tokens[64], n = 0;
    EXPECT(mp_tokenize(model, "a text", 6, true, false, tokens, 64, &n) == MP_OK && n > 0);
    EXPECT(mp_tokenize(model, "\xff", 1, true, false, tokens, 64, &n) == MP_ERR_ARGUMENT);
    passes(context, session, sampler, info);
    wrong_arguments(context, session, info);
    prompts(session, info);
    threads(context, session);
    shared_context(model, info);

    // The model outlives its handle for as long as something needs it.
    mp_model_free(model);
    tokens[0] = 5;
    EXPECT(mp_session_set_prefix(session, tokens, 1, 0, 0, nullptr) == MP_OK);
    mp_context_free(context);
    EXPECT(mp_session_n_past(session) == 1);
    mp_session_free(session);
    mp_sampler_free(sampler);

    for (int i = 2; i < argc; i++) {
        mp_model * bad = nullptr;
        const mp_status status = mp_model_open(argv[i], nullptr, &bad);
        EXPECT(status != MP_OK && status != MP_ERR_INTERNAL && !bad);
    }
    printf(n_failed == 0 ? "ok\n" : "%d failed\n", n_failed.load());
    return n_failed == 0 ? 0 : 1;
}
