// Completes a prompt with several tokens per pass, and prints the text as it comes:  complete model.gguf "prompt" [n]
#include <maskprobe.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(call) do { if ((call) != MP_OK) { fprintf(stderr, "error: %s\n", mp_last_error()); return 1; } } while (0)

static volatile sig_atomic_t interrupted;
static void on_interrupt(int number) { (void) number; interrupted = 1; }

int main(int argc, char ** argv) {
    if (argc < 3) { fprintf(stderr, "usage: %s model.gguf \"prompt\" [n]\n", argv[0]); return 2; }
    mp_model * model; mp_context * context; mp_engine * engine; mp_generation * generation;
    int32_t tokens[2048], n, n_active;
    mp_token token; mp_stats stats; mp_status status;
    mp_sampler_params greedy = mp_sampler_default_params();
    mp_generation_params params = mp_generation_default_params();
    greedy.temp = 0;
    params.sampler = &greedy;
    params.n_max = argc > 3 ? atoi(argv[3]) : 128;

    CHECK(mp_model_open(argv[1], NULL, &model));
    CHECK(mp_context_open(model, NULL, &context));
    CHECK(mp_engine_open(context, NULL, &engine));
    CHECK(mp_tokenize(model, argv[2], strlen(argv[2]), true, false, tokens, 2048, &n));
    if (n > 2048) { fprintf(stderr, "error: the prompt has %d tokens, at most 2048 fit\n", (int) n); return 1; }
    CHECK(mp_generation_open(engine, tokens, n, &params, &generation));
    signal(SIGINT, on_interrupt);
    do {
        if (interrupted) mp_generation_cancel(generation);
        while ((status = mp_generation_next(generation, &token)) == MP_AGAIN) CHECK(mp_engine_step(engine, &n_active));
        CHECK(status);
        fwrite(token.text, 1, token.n_text, stdout);
        fflush(stdout);
    } while (token.finish == MP_FINISH_NONE);
    CHECK(mp_generation_get_stats(generation, &stats));
    if (stats.n_passes > 0) fprintf(stderr, "\n%.2f tokens per pass\n", (stats.n_gen - 1.0) / stats.n_passes);
    mp_generation_free(generation); mp_engine_free(engine); mp_context_free(context); mp_model_free(model);
    return 0;
}
