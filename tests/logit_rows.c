// Writes the logits of all rows of some tree passes to stdout, as floats, so that two builds can be compared bit by bit:
//
//     logit_rows model.gguf auto|ours|stock > rows
//
// Tokens and the shapes of the trees are fixed. Errors go to stderr, with status 1.
#include <maskprobe.h>
#include <stdio.h>
#include <string.h>

#define CHECK(call) do { if ((call) != MP_OK) { fprintf(stderr, "error: %s\n", mp_last_error()); return 1; } } while (0)

enum { N_PROMPT = 40, N_ROWS_MAX = 16 };

static const int sizes[] = {1, 2, 4, 8, 16};

// A sequence of tokens that looks like no text.
static int32_t next_token(int32_t n_vocab) {
    static uint32_t state = 1;
    state = state * 1664525 + 1013904223;
    return (int32_t) ((state >> 8) % (uint32_t) n_vocab);
}

int main(int argc, char ** argv) {
    if (argc != 3) { fprintf(stderr, "usage: %s model.gguf auto|ours|stock\n", argv[0]); return 2; }
    mp_model_params params = mp_model_default_params();
    params.kernels = strcmp(argv[2], "ours") == 0 ? MP_KERNELS_OURS : strcmp(argv[2], "stock") == 0 ? MP_KERNELS_STOCK
                                                                                                   : MP_KERNELS_AUTO;
    params.self_check = false;
    mp_context_params room = mp_context_default_params();
    room.n_ctx = 256;
    room.n_threads = 1;
    mp_model * model; mp_context * context; mp_session * session; mp_model_info info;
    CHECK(mp_model_open(argv[1], &params, &model));
    CHECK(mp_context_open(model, &room, &context));
    CHECK(mp_session_open(context, &session));
    CHECK(mp_model_get_info(model, &info));
    fprintf(stderr, "%s: %s\n", info.kernels, info.kernels_reason);

    int32_t tokens[N_PROMPT];
    for (int i = 0; i < N_PROMPT; i++) tokens[i] = next_token(info.n_vocab);
    CHECK(mp_session_set_prefix(session, tokens, N_PROMPT, 0, 1, NULL));
    for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
        int32_t nodes[N_ROWS_MAX], parents[N_ROWS_MAX], path[2] = {0, 1};
        for (int i = 0; i < sizes[k]; i++) {
            nodes[i] = next_token(info.n_vocab);
            parents[i] = i == 0 ? -1 : (i - 1) / 2;
        }
        mp_tree tree = { .n_nodes = sizes[k], .tokens = nodes, .parents = parents, .n_top = 1 };
        mp_pass pass;
        CHECK(mp_context_decode(context, 1, &session, &tree, &pass));
        for (int i = 0; i < sizes[k]; i++) {
            const float * logits;
            CHECK(mp_session_logits(session, i, &logits));
            fwrite(logits, sizeof(float), (size_t) info.n_vocab, stdout);
        }
        CHECK(mp_session_commit(session, path, sizes[k] > 1 ? 2 : 1));
    }
    mp_session_free(session); mp_context_free(context); mp_model_free(model);
    return 0;
}
