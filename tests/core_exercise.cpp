// Drives the C API the way no polite caller would, for a build with sanitizers:  core_exercise MODEL [BAD_FILE ...]
// Prints "ok" and exits 0 if every call gave the status that the header promises.
#include "amx_check.h"
#include "maskprobe.h"

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

static std::atomic<int> n_failed{0};

#define EXPECT(condition)                                                                                                   \
    do {                                                                                                                    \
        if (!(condition)) {                                                                                                 \
            fprintf(stderr, "line %d: %s (last error: %s)\n", __LINE__, #condition, mp_last_error());                       \
            n_failed++;                                                                                                     \
        }                                                                                                                   \
    } while (0)

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

static void passes(mp_session * session, mp_sampler * sampler, const mp_model_info & info) {
    std::mt19937 random(1);
    int32_t n_past = mp_session_n_past(session);
    for (int step = 0; step < 60; step++) {
        random_tree t(random, info, 1 + (int32_t) (random() % 24));
        mp_pass pass;
        EXPECT(mp_session_decode(session, &t.tree, &pass) == MP_OK);
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

static void wrong_arguments(mp_session * session, const mp_model_info & info) {
    std::mt19937 random(2);
    const int32_t n_past = mp_session_n_past(session);
    random_tree t(random, info, 6);
    mp_pass pass;
    const auto refuses = [&](mp_status expected) {
        const mp_status status = mp_session_decode(session, &t.tree, &pass);
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
    EXPECT(mp_session_decode(session, nullptr, &pass) == MP_ERR_ARGUMENT);
    EXPECT(mp_session_decode(nullptr, &t.tree, &pass) == MP_ERR_ARGUMENT);

    EXPECT(mp_session_decode(session, &t.tree, &pass) == MP_OK);
    const int32_t bad_path[] = {0, 0};
    EXPECT(mp_session_commit(session, bad_path, 2) == MP_ERR_ARGUMENT);
    EXPECT(mp_session_commit(session, nullptr, 0) == MP_OK);
    EXPECT(mp_session_commit(session, bad_path, 1) == MP_ERR_STATE);
    EXPECT(mp_session_n_past(session) == n_past);
    std::vector<int32_t> too_long(mp_session_n_ctx(session) + 1, 5);
    EXPECT(mp_session_set_prefix(session, too_long.data(), (int32_t) too_long.size(), nullptr) == MP_ERR_CONTEXT_FULL);
}

// One thread decodes, the other cancels and tries to get in.
static void threads(mp_session * session) {
    std::atomic<bool> done{false};
    std::thread other([&] {
        while (!done) {
            mp_session_cancel(session);
            int32_t token = 7;
            const mp_status status = mp_session_set_prefix(session, &token, 0, nullptr);
            EXPECT(status == MP_OK || status == MP_ERR_BUSY || status == MP_ERR_CANCELLED);
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
    });
    std::vector<int32_t> tokens(200, 11);
    for (int i = 0; i < 30; i++) {
        tokens[0] = i;
        const mp_status status = mp_session_set_prefix(session, tokens.data(), 200, nullptr);
        EXPECT(status == MP_OK || status == MP_ERR_BUSY || status == MP_ERR_CANCELLED);
    }
    done = true;
    other.join();
    mp_session_set_prefix(session, tokens.data(), 1, nullptr); // takes a cancel that is still pending
    EXPECT(mp_session_set_prefix(session, tokens.data(), 3, nullptr) == MP_OK && mp_session_n_past(session) == 3);
}

// What a pass over the first part of a draft may have brought: any likely tokens, any path.
struct random_result {
    std::vector<int32_t> top_tokens, owners, path, emitted;
    std::vector<float> top_logprobs;
    mp_draft_result result = {};

    random_result(std::mt19937 & random, const mp_draft & draft, int32_t n_vocab) {
        result.n_nodes = 1 + (int32_t) (random() % draft.n_nodes);
        result.n_masks = (int32_t) (random() % 4);
        result.n_top = 1 + (int32_t) (random() % 12);
        for (int32_t i = 0; i < result.n_masks; i++) {
            owners.push_back((int32_t) (random() % result.n_nodes));
        }
        for (int32_t i = 0; i < (result.n_nodes + result.n_masks) * result.n_top; i++) {
            top_tokens.push_back((int32_t) (random() % n_vocab));
            top_logprobs.push_back(-0.01f * (float) (random() % 1000));
        }
        for (int32_t node = (int32_t) (random() % result.n_nodes); node >= 0; node = draft.parents[node]) {
            path.insert(path.begin(), node);
        }
        for (size_t i = 1; i < path.size(); i++) {
            emitted.push_back(draft.tokens[path[i]]);
        }
        emitted.push_back((int32_t) (random() % n_vocab));
        result.mask_owners = owners.data();
        result.top_tokens = top_tokens.data();
        result.top_logprobs = top_logprobs.data();
        result.n_path = (int32_t) path.size();
        result.path = path.data();
        result.emitted = emitted.data();
    }
};

static void drafts(mp_drafter * drafter, std::mt19937 & random, int32_t n_vocab, int n_steps) {
    std::vector<int32_t> text(1 + random() % 40);
    for (int32_t & token : text) {
        token = (int32_t) (random() % n_vocab);
    }
    EXPECT(mp_drafter_begin(drafter, text.data(), (int32_t) text.size()) == MP_OK);
    for (int step = 0; step < n_steps; step++) {
        const int32_t n_max = 1 + (int32_t) (random() % 256);
        mp_draft draft;
        EXPECT(mp_drafter_grow(drafter, n_max, &draft) == MP_OK && draft.n_nodes >= 1 && draft.n_nodes <= n_max);
        EXPECT(draft.parents[0] == -1 && draft.probabilities[0] == 1.0f && draft.sources[0] == -1);
        for (int32_t i = 1; i < draft.n_nodes; i++) {
            EXPECT(draft.parents[i] >= 0 && draft.parents[i] < i && draft.tokens[i] >= 0 && draft.tokens[i] < n_vocab);
            EXPECT(draft.probabilities[i] > 0 && draft.probabilities[i] <= draft.probabilities[i - 1]);
            EXPECT(draft.sources[i] >= 0 && draft.sources[i] <= 6);
        }
        random_result r(random, draft, n_vocab);
        if (step % 7 == 0) {
            EXPECT(mp_drafter_extend(drafter, r.emitted.data(), r.result.n_path) == MP_OK);
            EXPECT(mp_drafter_observe(drafter, &r.result) == MP_ERR_ARGUMENT); // its draft is over
        } else {
            EXPECT(mp_drafter_observe(drafter, &r.result) == MP_OK);
        }
        EXPECT(mp_drafter_mask_gain(drafter) > -1.0f && mp_drafter_mask_gain(drafter) < 16.0f);
    }
}

static void wrong_results(mp_drafter * drafter, int32_t n_vocab) {
    std::mt19937 random(5);
    const auto refuses = [&](void (*spoil)(random_result &, int32_t)) {
        mp_draft draft;
        EXPECT(mp_drafter_grow(drafter, 16, &draft) == MP_OK);
        random_result r(random, draft, n_vocab);
        spoil(r, n_vocab);
        const mp_status status = mp_drafter_observe(drafter, &r.result);
        EXPECT(status == MP_ERR_ARGUMENT && mp_last_error()[0] != '\0' && !strchr(mp_last_error(), '\n'));
    };
    refuses([](random_result & r, int32_t) { r.result.n_nodes = 17; });
    refuses([](random_result & r, int32_t) { r.result.n_nodes = 0; });
    refuses([](random_result & r, int32_t) { r.result.n_masks = -1; });
    refuses([](random_result & r, int32_t) { r.result.n_masks = 1 << 30; });
    refuses([](random_result & r, int32_t) { r.result.n_top = 0; });
    refuses([](random_result & r, int32_t) { r.result.n_top = 1 << 30; });
    refuses([](random_result & r, int32_t) { r.result.n_path = 0; });
    refuses([](random_result & r, int32_t) { r.result.n_path = r.result.n_nodes + 1; });
    refuses([](random_result & r, int32_t) { r.path[0] = 1; });
    refuses([](random_result & r, int32_t) { r.path.back() = r.result.n_nodes; });
    refuses([](random_result & r, int32_t n_vocab) { r.emitted[0] = n_vocab; });
    refuses([](random_result & r, int32_t) { r.top_tokens[0] = -1; });
    refuses([](random_result & r, int32_t) { r.top_logprobs[0] = NAN; });
    refuses([](random_result & r, int32_t) { r.top_logprobs.back() = 1.0f; });
    refuses([](random_result & r, int32_t) { r.result.path = nullptr; });
    EXPECT(mp_drafter_observe(drafter, nullptr) == MP_ERR_ARGUMENT);
    EXPECT(mp_drafter_begin(drafter, &n_vocab, 1) == MP_ERR_ARGUMENT);
    EXPECT(mp_drafter_extend(drafter, nullptr, 1) == MP_ERR_ARGUMENT);
    mp_draft draft;
    EXPECT(mp_drafter_grow(drafter, 0, &draft) == MP_ERR_ARGUMENT);
    EXPECT(mp_drafter_grow(drafter, 257, &draft) == MP_ERR_ARGUMENT);
    EXPECT(mp_drafter_grow(nullptr, 4, &draft) == MP_ERR_ARGUMENT);
}

// A saved state, whole and damaged: what is taken must be safe to draft from, what is not leaves nothing behind.
static void saved_drafters(mp_drafter * drafter, std::mt19937 & random, int32_t n_vocab) {
    size_t n = 0;
    EXPECT(mp_drafter_save(drafter, nullptr, 0, &n) == MP_OK && n > 0);
    std::vector<char> bytes(n);
    EXPECT(mp_drafter_save(drafter, bytes.data(), n, &n) == MP_OK && n == bytes.size());
    mp_drafter * other = nullptr;
    EXPECT(mp_drafter_open(n_vocab, &other) == MP_OK);
    EXPECT(mp_drafter_load(other, bytes.data(), n) == MP_OK);
    drafts(other, random, n_vocab, 10);
    for (int i = 0; i < 300; i++) {
        std::vector<char> damaged = bytes;
        if (i % 3 == 0) {
            damaged.resize(random() % n);
        } else {
            for (int k = 0; k < 1 + i / 30; k++) {
                damaged[random() % n] ^= (char) (1 << random() % 8);
            }
        }
        const mp_status status = mp_drafter_load(other, damaged.data(), damaged.size());
        EXPECT(status == MP_ERR_FORMAT || (status == MP_OK && i % 3 != 0));
        if (status == MP_OK || i % 30 == 0) {
            drafts(other, random, n_vocab, 2);
        }
    }
    EXPECT(mp_drafter_load(other, nullptr, 0) == MP_ERR_FORMAT);
    mp_drafter_free(other);
}

static void drafter() {
    constexpr int32_t n_vocab = 50;
    mp_drafter * drafter = nullptr;
    EXPECT(mp_drafter_open(0, &drafter) == MP_ERR_ARGUMENT && !drafter);
    EXPECT(mp_drafter_open(n_vocab, &drafter) == MP_OK && drafter);
    mp_draft draft;
    EXPECT(mp_drafter_grow(drafter, 8, &draft) == MP_ERR_STATE);
    std::mt19937 random(4);
    for (int text = 0; text < 5; text++) {
        drafts(drafter, random, n_vocab, 40);
    }
    wrong_results(drafter, n_vocab);
    saved_drafters(drafter, random, n_vocab);
    mp_drafter_free(drafter);
    mp_drafter_free(nullptr);
}

int main(int argc, char ** argv) {
    if (argc < 2) {
        return 2;
    }
    compilers();
    drafter();
    mp_model * model = nullptr;
    EXPECT(mp_model_open(argv[1], nullptr, &model) == MP_OK);
    if (!model) {
        return 1;
    }
    mp_model_info info;
    EXPECT(mp_model_get_info(model, &info) == MP_OK && info.can_probe);
    EXPECT(mp_model_metadata(model, "general.architecture") && !mp_model_metadata(model, "no.such.key"));

    mp_session_params params = mp_session_default_params();
    params.n_ctx = 1024;
    params.n_threads = 2;
    params.n_rows_max = 32;
    mp_session * session = nullptr;
    EXPECT(mp_session_open(model, &params, &session) == MP_OK);
    mp_sampler_params sampling = mp_sampler_default_params();
    sampling.penalty_repeat = 1.1f;
    sampling.seed = 3;
    mp_sampler * sampler = nullptr;
    EXPECT(mp_sampler_open(model, &sampling, &sampler) == MP_OK);
    sampling.grammar = "root ::= (";
    mp_sampler * broken = nullptr;
    EXPECT(mp_sampler_open(model, &sampling, &broken) == MP_ERR_ARGUMENT && !broken);
    params.type_k = "q9";
    mp_session * refused = nullptr;
    EXPECT(mp_session_open(model, &params, &refused) == MP_ERR_ARGUMENT && !refused);

    int32_t tokens[64], n = 0;
    EXPECT(mp_tokenize(model, "a text", 6, true, false, tokens, 64, &n) == MP_OK && n > 0);
    EXPECT(mp_tokenize(model, "\xff", 1, true, false, tokens, 64, &n) == MP_ERR_ARGUMENT);
    passes(session, sampler, info);
    wrong_arguments(session, info);
    threads(session);

    // The model outlives its handle for as long as something needs it.
    mp_model_free(model);
    tokens[0] = 5;
    EXPECT(mp_session_set_prefix(session, tokens, 1, nullptr) == MP_OK);
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
