// The engine under threads, for a build with -fsanitize=thread:  engine_threads MODEL STATE_FILE
// Prints "ok" and exits with 0 where every generation gave what it gives alone.
#include "expect.h"
#include "maskprobe.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

static constexpr int N_THREADS = 4;
static constexpr int N_ROUNDS = 4;   // generations of each thread
static constexpr int64_t N_MAX = 24; // tokens of each

using tokens = std::vector<int32_t>;

static tokens prompt_of(int i) {
    tokens prompt;
    for (int k = 0; k < 8 + 5 * i; k++) {
        prompt.push_back(3 + (7 * k * (i + 1) + i) % 200);
    }
    return prompt;
}

static void pause_briefly() {
    std::this_thread::sleep_for(std::chrono::microseconds(200));
}

// A context for four generations, and an engine over it.
struct workplace {
    mp_context * context = nullptr;
    mp_engine * engine = nullptr;

    workplace(mp_model * model, const char * state) {
        mp_context_params room = mp_context_default_params();
        room.n_ctx = 256;
        room.n_sessions_max = N_THREADS;
        room.n_threads = 2;
        EXPECT(mp_context_open(model, &room, &context) == MP_OK);
        mp_engine_params params = mp_engine_default_params();
        params.state = state;
        EXPECT(mp_engine_open(context, &params, &engine) == MP_OK);
    }

    ~workplace() {
        mp_engine_free(engine);
        mp_context_free(context);
    }

    mp_generation * open(const tokens & prompt) const {
        mp_sampler_params greedy = mp_sampler_default_params();
        greedy.temp = 0;
        mp_generation_params params = mp_generation_default_params();
        params.sampler = &greedy;
        params.n_max = N_MAX;
        params.ignore_end = true;
        mp_generation * generation = nullptr;
        EXPECT(mp_generation_open(engine, prompt.data(), (int32_t) prompt.size(), &params, &generation) == MP_OK);
        return generation;
    }
};

// All tokens of one generation. `wait` lets steps happen; `cancelled` after so many tokens, -1: never.
template <class Wait> static tokens read_all(mp_generation * generation, int n_until_cancel, Wait wait) {
    tokens all;
    mp_token token = {};
    while (token.finish == MP_FINISH_NONE) {
        if ((int) all.size() == n_until_cancel) {
            mp_generation_cancel(generation);
        }
        const mp_status status = mp_generation_next(generation, &token);
        if (status == MP_AGAIN) {
            wait();
            continue;
        }
        EXPECT(status == MP_OK);
        if (status != MP_OK) {
            break;
        }
        if (token.id >= 0) {
            all.push_back(token.id);
        }
    }
    EXPECT(n_until_cancel < 0 ? token.finish == MP_FINISH_LENGTH
                              : token.finish == MP_FINISH_CANCELLED || token.finish == MP_FINISH_LENGTH);
    mp_stats stats;
    EXPECT(mp_generation_get_stats(generation, &stats) == MP_OK && stats.n_gen == (int64_t) all.size());
    mp_generation_free(generation);
    return all;
}

static tokens alone(const workplace & place, int i) {
    return read_all(place.open(prompt_of(i)), -1, [&] {
        int32_t n_active;
        EXPECT(mp_engine_step(place.engine, &n_active) == MP_OK);
    });
}

static bool starts_with(const tokens & all, const tokens & first) {
    return first.size() <= all.size() && std::equal(first.begin(), first.end(), all.begin());
}

// Four threads open, read, cancel and free generations; one makes the steps; another one tries to, and is turned away.
static void one_engine(const workplace & place, const std::vector<tokens> & expected) {
    std::atomic<bool> done{false};
    std::thread stepper([&] {
        while (!done) {
            int32_t n_active = 0;
            const mp_status status = mp_engine_step(place.engine, &n_active);
            EXPECT(status == MP_OK || status == MP_ERR_BUSY);
            if (status == MP_ERR_BUSY || n_active == 0) {
                pause_briefly();
            }
        }
    });
    std::thread intruder([&] {
        while (!done) {
            int32_t n_active = 0;
            const mp_status status = mp_engine_step(place.engine, &n_active);
            EXPECT(status == MP_OK || status == MP_ERR_BUSY);
            pause_briefly();
        }
    });
    std::vector<std::thread> readers;
    for (int i = 0; i < N_THREADS; i++) {
        readers.emplace_back([&, i] {
            for (int round = 0; round < N_ROUNDS; round++) {
                const bool is_cancelled = (i + round) % 3 == 2;
                const tokens got = read_all(place.open(prompt_of(i)), is_cancelled ? round : -1, pause_briefly);
                EXPECT(is_cancelled ? starts_with(expected[i], got) : got == expected[i]);
            }
            mp_generation_free(place.open(prompt_of(i))); // while it is under way
        });
    }
    for (std::thread & reader : readers) {
        reader.join();
    }
    done = true;
    stepper.join();
    intruder.join();
}

// Both learn into the tables of the one model.
static void two_engines(mp_model * model, const char * state, const std::vector<tokens> & expected) {
    std::vector<std::thread> threads;
    for (int t = 0; t < 2; t++) {
        threads.emplace_back([&, t] {
            for (int round = 0; round < 2; round++) {
                const workplace place(model, state);
                for (int i = 0; i < N_THREADS; i++) {
                    const int which = (i + 2 * t) % N_THREADS;
                    EXPECT(alone(place, which) == expected[which]);
                }
            }
        });
    }
    for (std::thread & thread : threads) {
        thread.join();
    }
}

int main(int argc, char ** argv) {
    if (argc != 3) {
        return 2;
    }
    mp_model * model = nullptr;
    EXPECT(mp_model_open(argv[1], nullptr, &model) == MP_OK);
    if (!model) {
        fprintf(stderr, "%s\n", mp_last_error());
        return 1;
    }
    std::vector<tokens> expected;
    {
        const workplace place(model, nullptr);
        for (int i = 0; i < N_THREADS; i++) {
            expected.push_back(alone(place, i));
            EXPECT((int64_t) expected.back().size() == N_MAX);
        }
    }
    one_engine(workplace(model, argv[2]), expected);
    two_engines(model, argv[2], expected);
    mp_model_free(model);
    printf(n_failed == 0 ? "ok\n" : "%d failed\n", n_failed.load());
    return n_failed == 0 ? 0 : 1;
}
