// Four prompts in shared passes, each printed with its number when it is complete:  many model.gguf "a" "b" "c" "d"
#include <maskprobe.h>
#include <stdio.h>
#include <string.h>

#define CHECK(call) do { if ((call) != MP_OK) { fprintf(stderr, "error: %s\n", mp_last_error()); return 1; } } while (0)

enum { N = 4, N_MAX = 64, N_PROMPT_MAX = 512 };

static struct { mp_generation * generation; char text[64 * N_MAX]; size_t n; } answers[N];

// Takes what the i-th generation has emitted, and prints it all when it is complete.
static void collect(int i) {
    mp_token token = { .finish = MP_FINISH_NONE };
    mp_status status = MP_AGAIN;
    while (token.finish == MP_FINISH_NONE && (status = mp_generation_next(answers[i].generation, &token)) == MP_OK) {
        size_t n = token.n_text <= sizeof(answers[i].text) - answers[i].n ? token.n_text : 0;
        memcpy(answers[i].text + answers[i].n, token.text, n);
        answers[i].n += n;
    }
    if (status == MP_AGAIN) return;
    printf("%d: %.*s\n", i + 1, (int) answers[i].n, answers[i].text);
    if (status != MP_OK) fprintf(stderr, "%d: error: %s\n", i + 1, mp_last_error());
    mp_generation_free(answers[i].generation);
    answers[i].generation = NULL;
}

int main(int argc, char ** argv) {
    if (argc != 2 + N) { fprintf(stderr, "usage: %s model.gguf \"a\" \"b\" \"c\" \"d\"\n", argv[0]); return 2; }
    mp_model * model; mp_context * context; mp_engine * engine;
    mp_context_params room = mp_context_default_params();
    mp_sampler_params greedy = mp_sampler_default_params();
    mp_generation_params params = mp_generation_default_params();
    room.n_sessions_max = N;
    room.n_ctx = N_PROMPT_MAX + N_MAX;
    greedy.temp = 0;
    params.sampler = &greedy;
    params.n_max = N_MAX;

    CHECK(mp_model_open(argv[1], NULL, &model));
    CHECK(mp_context_open(model, &room, &context));
    CHECK(mp_engine_open(context, NULL, &engine));
    int32_t tokens[N_PROMPT_MAX], n, n_active = N;
    for (int i = 0; i < N; i++) {
        CHECK(mp_tokenize(model, argv[2 + i], strlen(argv[2 + i]), true, false, tokens, N_PROMPT_MAX, &n));
        if (n > N_PROMPT_MAX) { fprintf(stderr, "error: prompt %d has %d tokens, at most %d fit\n", i + 1, (int) n, N_PROMPT_MAX); return 1; }
        CHECK(mp_generation_open(engine, tokens, n, &params, &answers[i].generation));
    }
    while (n_active > 0) {
        CHECK(mp_engine_step(engine, &n_active));
        for (int i = 0; i < N; i++) if (answers[i].generation) collect(i);
    }
    mp_engine_free(engine); mp_context_free(context); mp_model_free(model);
    return 0;
}
