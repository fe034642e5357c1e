// Tree passes with a mark before and after each, for bench/arm_passes.py to count the instructions in between:
//
//     pass_instructions model.gguf ours|stock n_cells n ...
//
// For each n a chain of n nodes is decoded after n_cells tokens, between two marks, with one thread.
#define _GNU_SOURCE
#include <maskprobe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CHECK(call) do { if ((call) != MP_OK) { fprintf(stderr, "error: %s\n", mp_last_error()); return 1; } } while (0)

enum { N_MAX = 256 };

int main(int argc, char ** argv) {
    if (argc < 5) { fprintf(stderr, "usage: %s model.gguf ours|stock n_cells n ...\n", argv[0]); return 2; }
    const int n_cells = atoi(argv[3]);
    mp_model_params params = mp_model_default_params();
    params.kernels = strcmp(argv[2], "ours") == 0 ? MP_KERNELS_OURS : MP_KERNELS_STOCK;
    params.self_check = false;
    params.n_threads = 1;
    mp_context_params room = mp_context_default_params();
    room.n_ctx = 2 * N_MAX;
    room.n_threads = 1;
    mp_model * model; mp_context * context; mp_session * session; mp_model_info info;
    CHECK(mp_model_open(argv[1], &params, &model));
    CHECK(mp_context_open(model, &room, &context));
    CHECK(mp_session_open(context, &session));
    CHECK(mp_model_get_info(model, &info));
    printf("%s\n", info.kernels);

    int32_t tokens[N_MAX], parents[N_MAX];
    for (int i = 0; i < N_MAX; i++) {
        tokens[i] = 100 + i;
        parents[i] = i - 1;
    }
    CHECK(mp_session_set_prefix(session, tokens, n_cells < N_MAX ? n_cells : N_MAX, 0, 1, NULL));
    mp_pass pass;
    mp_tree tree = { .n_nodes = 1, .tokens = tokens, .parents = parents, .n_top = 1 };
    CHECK(mp_context_decode(context, 1, &session, &tree, &pass)); // memory is taken, caches are filled
    for (int i = 4; i < argc; i++) {
        tree.n_nodes = atoi(argv[i]);
        syscall(SYS_sched_get_priority_max, MARK);
        CHECK(mp_context_decode(context, 1, &session, &tree, &pass));
        syscall(SYS_sched_get_priority_max, MARK);
    }
    mp_session_free(session); mp_context_free(context); mp_model_free(model);
    return 0;
}
