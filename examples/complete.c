// Completes a prompt with a GGUF model: cc complete.c $(pkg-config --cflags --libs maskprobe) && ./a.out MODEL PROMPT
#include <maskprobe.h>
#include <stdio.h>
#include <string.h>

#define CHECK(call) do { if ((call) != MP_OK) { fprintf(stderr, "error: %s\n", mp_last_error()); return 1; } } while (0)

int main(int argc, char ** argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s MODEL PROMPT\n", argv[0]);
        return 2;
    }
    mp_model * model; mp_session * session; mp_sampler * sampler; int32_t tokens[512], n, root, path = 0;
    mp_session_params params = mp_session_default_params();
    mp_sampler_params greedy = mp_sampler_default_params();
    params.n_ctx = 512;
    greedy.temp  = 0;
    CHECK(mp_model_open(argv[1], NULL, &model));
    CHECK(mp_session_open(model, &params, &session));
    CHECK(mp_sampler_open(model, &greedy, &sampler));
    CHECK(mp_tokenize(model, argv[2], strlen(argv[2]), true, false, tokens, 256, &n));
    CHECK(mp_session_set_prefix(session, tokens, n - 1, 0, 0, NULL));
    root = tokens[n - 1];
    for (int i = 0; i < 64; i++) {
        const int32_t no_parent = -1;
        const mp_tree tree = { .n_nodes = 1, .tokens = &root, .parents = &no_parent, .n_top = 1 };
        mp_pass pass; char bytes[256]; int32_t n_bytes;
        CHECK(mp_session_decode(session, &tree, &pass));
        CHECK(mp_sampler_sample(sampler, session, 0, &root));
        CHECK(mp_session_commit(session, &path, 1));
        if (mp_token_is_end(model, root)) break;
        CHECK(mp_token_bytes(model, root, false, bytes, sizeof(bytes), &n_bytes));
        fwrite(bytes, 1, n_bytes, stdout);
    }
    mp_sampler_free(sampler); mp_session_free(session); mp_model_free(model);
    return 0;
}
