// States of models for tests/test_state_file.py, with stand-ins for what is learned.
//
//     show PATH                  what a state holds, as lines
//     learn PATH NUMBER TIMES    adds a number to what is known, has a planner with these times, and lets go
//     write PATH NUMBER          does so on and on, until it is killed
//     checks FOLDER              what can be seen within one process
//
// The model is the one named by the environment's MODEL, with the adapter ADAPTER of scale SCALE. Exits with 2 and the
// message where opening is refused.
#include "engine/state.h"
#include "model/identity.h"
#include "status.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

// Nothing was loaded that had to be freed.
mp_model::~mp_model() = default;
mp::embedding_table::~embedding_table() = default;

const std::string & mp_model::identity() const {
    std::call_once(identity_made, [this] { own_identity = mp::model_identity(*this); });
    return own_identity;
}

static const std::string SETTING = "this machine, 2 threads";

static int n_failed = 0;

#define EXPECT(condition)                                                                                                   \
    do {                                                                                                                    \
        if (!(condition)) {                                                                                                 \
            fprintf(stderr, "line %d: %s\n", __LINE__, #condition);                                                         \
            n_failed++;                                                                                                     \
        }                                                                                                                   \
    } while (0)

static mp_model model;

static void describe_model() {
    const char *name = getenv("MODEL"), *adapter = getenv("ADAPTER"), *scale = getenv("SCALE");
    snprintf(model.info.name, sizeof(model.info.name), "%s", name ? name : "one");
    model.info.n_vocab = 1000;
    if (adapter) {
        model.adapter_paths = {adapter};
        model.adapter_scales = {scale ? (float) atof(scale) : 1.0f};
    }
}

static std::shared_ptr<mp::state> open(const std::string & path) {
    return mp::open_state(model, path.c_str());
}

static void learn(mp::state & state, int64_t number) {
    state.known->add(number);
    const std::lock_guard<std::mutex> lock(state.mutex);
    state.claims.number += number;
}

static std::string times_of(mp::state & state, const std::string & setting = SETTING) {
    mp::planner planner;
    state.restore(setting, planner);
    return planner.text;
}

// What tells the file at a path from the one that it replaced; 0 where there is none.
static ino_t inode_of(const std::string & path) {
    struct stat status = {};
    return stat(path.c_str(), &status) == 0 ? status.st_ino : 0;
}

static void show(const std::string & path) {
    const auto state = open(path);
    printf("known=%lld\nclaims=%lld\n", (long long) state->known->get(), (long long) state->claims.number);
    printf("times=%s\n", times_of(*state).c_str());
    printf("note=%s\n", state->note().c_str());
}

static void learn_once(const std::string & path, int64_t number, const char * times) {
    const auto state = open(path);
    learn(*state, number);
    state->keep(SETTING, mp::planner{times}, false);
    printf("note=%s\n", state->note().c_str());
}

[[noreturn]] static void write_for_ever(const std::string & path, int64_t number) {
    const auto state = open(path);
    for (;;) {
        learn(*state, number);
        state->keep(SETTING, mp::planner{"1"}, true);
        if (!state->note().empty()) {
            printf("note=%s\n", state->note().c_str());
            exit(1);
        }
    }
}

// --- within one process ----------------------------------------------------------------------------------------------

static void keep(mp::state & state, bool now, const std::string & setting = SETTING, const char * times = "1") {
    state.keep(setting, mp::planner{times}, now);
}

static void engines_of_one_model_share(const std::string & folder) {
    const std::string path = folder + "/shared";
    const auto first = open(path), second = open(path);
    EXPECT(first == second && open(folder + "/./shared") == first);
    EXPECT(open(path + ".other") != first);
    learn(*first, 1);
    EXPECT(second->known->get() == 1);

    const auto none = mp::open_state(model, nullptr);
    EXPECT(none != mp::open_state(model, nullptr));
    learn(*none, 5);
    keep(*none, true);
    EXPECT(none->note().empty() && inode_of(path) == 0);
}

static void written_when_the_last_lets_go(const std::string & folder) {
    const std::string path = folder + "/last";
    auto first = open(path), second = open(path);
    learn(*first, 7);
    first.reset();
    EXPECT(inode_of(path) == 0);
    second.reset();
    EXPECT(inode_of(path) != 0);
    EXPECT(open(path)->known->get() == 7);
}

// Two hundred short lives of one state in four threads: whoever opens it sees what the one before wrote.
static void nothing_is_lost_between_two_owners(const std::string & folder) {
    const std::string path = folder + "/threads";
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; i++) {
        threads.emplace_back([&] {
            for (int n = 0; n < 50; n++) {
                const auto state = open(path);
                learn(*state, 1);
                keep(*state, n % 7 == 0);
            }
        });
    }
    for (std::thread & thread : threads) {
        thread.join();
    }
    EXPECT(open(path)->known->get() == 200 && open(path)->claims.number == 200);
    EXPECT(open(path)->note().empty());
}

static void who_opens_waits_for_what_is_being_written(const std::string & folder) {
    const std::string path = folder + "/slow";
    learn(*open(path), 1);
    auto last = open(path);
    learn(*last, 1);
    mp::knowledge::is_saving = false;
    mp::knowledge::holds = true;
    std::thread closing([&] { last.reset(); });
    while (!mp::knowledge::is_saving) {
        std::this_thread::yield();
    }
    int64_t known = 0;
    std::thread opening([&] { known = open(path)->known->get(); });
    std::this_thread::sleep_for(std::chrono::milliseconds(50)); // enough to read the file of before, if it did not wait
    mp::knowledge::holds = false;
    closing.join();
    opening.join();
    EXPECT(known == 2);
}

static void not_written_too_often(const std::string & folder) {
    const std::string path = folder + "/often";
    const auto state = open(path);
    keep(*state, false);
    const ino_t first = inode_of(path);
    EXPECT(first != 0);
    learn(*state, 1);
    keep(*state, false);
    EXPECT(inode_of(path) == first);
    keep(*state, true);
    const ino_t second = inode_of(path);
    EXPECT(second != first);
    keep(*state, true); // nothing is new
    EXPECT(inode_of(path) == second);
}

static void nothing_learned_makes_no_file(const std::string & folder) {
    const std::string path = folder + "/nothing";
    open(path).reset();
    EXPECT(inode_of(path) == 0);
}

static void times_of_the_last_settings_stay(const std::string & folder) {
    const std::string path = folder + "/settings";
    const auto setting = [](int i) { return "machine " + std::to_string(i); };
    {
        const auto state = open(path);
        for (int i = 0; i < 20; i++) {
            keep(*state, false, setting(i), setting(i).c_str());
        }
        keep(*state, false, setting(4), "newer");
        keep(*state, false, setting(20), setting(20).c_str());
    }
    const auto state = open(path);
    for (int i = 0; i < 21; i++) {
        EXPECT(times_of(*state, setting(i)) == (i == 4 ? "newer" : i < 6 ? "" : setting(i)));
    }
    EXPECT(state->note().empty());
}

static void times_that_make_no_sense(const std::string & folder) {
    const std::string path = folder + "/times";
    {
        const auto state = open(path);
        learn(*state, 3);
        keep(*state, true, SETTING, "bad");
    }
    const auto state = open(path);
    EXPECT(times_of(*state).empty());
    EXPECT(state->note().find("make no sense") != std::string::npos && state->note().find(path) != std::string::npos);
    EXPECT(state->known->get() == 3);
}

// A limit on the size of files stands for a full disk.
static void a_full_disk_is_told_once(const std::string & folder) {
    const std::string path = folder + "/full/state";
    learn(*open(path), 1);
    const ino_t before = inode_of(path);
    const auto state = open(path);
    signal(SIGXFSZ, SIG_IGN);
    rlimit limit = {};
    getrlimit(RLIMIT_FSIZE, &limit);
    const rlimit small = {1000, limit.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
    for (int i = 0; i < 3; i++) {
        learn(*state, 1);
        keep(*state, true);
    }
    setrlimit(RLIMIT_FSIZE, &limit);
    const std::string note = state->note();
    EXPECT(note.find("cannot be written") != std::string::npos);
    EXPECT(note.find("cannot be written") == note.rfind("cannot be written"));
    EXPECT(inode_of(path) == before);
    EXPECT(open(path) == state && state->known->get() == 4);
    keep(*state, true); // there is room again
    EXPECT(inode_of(path) != before);
}

static void a_forked_child_writes_nothing(const std::string & folder) {
    const std::string path = folder + "/fork", other = folder + "/fork_of_its_own";
    auto state = open(path);
    learn(*state, 1);
    keep(*state, true);
    const ino_t before = inode_of(path);
    const pid_t child = fork();
    if (child == 0) {
        learn(*state, 1);
        keep(*state, true);
        state.reset();
        learn(*open(other), 9);
        _exit(inode_of(path) == before ? 0 : 1);
    }
    int status = -1;
    EXPECT(waitpid(child, &status, 0) == child && status == 0);
    EXPECT(inode_of(path) == before);
    EXPECT(open(other)->known->get() == 9);
}

// What came to lie there after it was opened is left alone, too.
static void what_comes_later_is_left(const std::string & folder) {
    const std::string path = folder + "/later";
    const auto state = open(path);
    FILE * file = fopen(path.c_str(), "w");
    fputs("notes of somebody", file);
    fclose(file);
    const ino_t before = inode_of(path);
    learn(*state, 1);
    keep(*state, true);
    EXPECT(inode_of(path) == before);
    EXPECT(state->note().find("cannot be written (there lies no state of maskprobe)") != std::string::npos);
}

static int check_all(const std::string & folder) {
    engines_of_one_model_share(folder);
    written_when_the_last_lets_go(folder);
    nothing_is_lost_between_two_owners(folder);
    who_opens_waits_for_what_is_being_written(folder);
    not_written_too_often(folder);
    nothing_learned_makes_no_file(folder);
    times_of_the_last_settings_stay(folder);
    times_that_make_no_sense(folder);
    a_full_disk_is_told_once(folder);
    a_forked_child_writes_nothing(folder);
    what_comes_later_is_left(folder);
    return n_failed == 0 ? 0 : 1;
}

int main(int argc, char ** argv) {
    const std::string what = argc > 2 ? argv[1] : "", path = argc > 2 ? argv[2] : "";
    describe_model();
    try {
        if (what == "show") {
            show(path);
        } else if (what == "learn" && argc == 5) {
            learn_once(path, atoll(argv[3]), argv[4]);
        } else if (what == "write" && argc == 4) {
            write_for_ever(path, atoll(argv[3]));
        } else if (what == "checks") {
            return check_all(path);
        } else {
            return 64;
        }
    } catch (const mp::failure & e) {
        printf("refused %d %s\n", e.status, e.message.c_str());
        return 2;
    }
}
