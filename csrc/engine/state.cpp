#include "engine/state.h"

#include "engine/state_file.h"
#include "status.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <map>

namespace mp {

constexpr std::chrono::seconds KEEP_EVERY(5); // between two writes of one process

state::state(int32_t n_vocab) : known(std::make_shared<knowledge>(n_vocab)), owner(getpid()) {}

state::state(int32_t n_vocab, std::string identity, std::string place, std::string name, bool own_place)
    : known(std::make_shared<knowledge>(n_vocab)), identity(std::move(identity)), place(std::move(place)),
      name(std::move(name)), owner(getpid()) {
    read(own_place);
    const std::string bytes = encoded();
    digest_of_kept = digest(bytes.data(), bytes.size());
}

// --- reading ---------------------------------------------------------------------------------------------------------

void state::read(bool own_place) {
    const found_file found = look_at(place, LARGEST_STATE + 1);
    if (found.kind == found_file::OTHER && !own_place) {
        fail(MP_ERR_ARGUMENT, "the state file '%s' is %s: it is left as it is, name another", name.c_str(),
             found.what.c_str());
    }
    remove_abandoned(place);
    can_write = true;
    if (found.kind == found_file::UNREADABLE) {
        can_write = false;
        say(format("the state %s cannot be read (%s): starting without it, nothing is kept", name.c_str(),
                   found.what.c_str()));
    } else if (found.kind == found_file::OTHER && is_plain_file(name)) { // nobody else uses that name: a damaged state
        put_aside("it is " + found.what);
    } else if (found.kind == found_file::OTHER) {
        can_write = false;
        say(format("the state %s is %s: it is left as it is, nothing is kept", name.c_str(), found.what.c_str()));
    } else if (found.kind == found_file::STATE) {
        state_contents contents;
        std::string reason = decode_state(found.bytes, contents);
        if (reason.empty() && contents.model != identity) {
            say(format("the state %s belongs to another model: starting without it, it will be replaced", name.c_str()));
            return;
        }
        reason = reason.empty() ? load(contents) : reason;
        if (!reason.empty()) {
            put_aside(reason);
        }
    }
}

std::string state::load(const state_contents & contents) {
    calibration read_claims;
    if (!read_claims.load(contents.claims.data(), contents.claims.size())) {
        return "what it says of claims makes no sense";
    }
    if (!known->load(contents.known.data(), contents.known.size())) {
        return "its tables make no sense";
    }
    claims = read_claims;
    costs = contents.costs;
    return "";
}

void state::put_aside(const std::string & reason) {
    std::string bad;
    const std::string failure = set_aside(place, bad);
    can_write = failure.empty();
    if (can_write) {
        say(format("the state %s cannot be used (%s): set aside as %s, starting without it", name.c_str(), reason.c_str(),
                   bad.substr(bad.rfind('/') + 1).c_str()));
    } else {
        say(format("the state %s cannot be used (%s), nor set aside (%s): starting without it, nothing is kept",
                   name.c_str(), reason.c_str(), failure.c_str()));
    }
}

void state::restore(const std::string & setting, planner & to) {
    const std::lock_guard<std::mutex> lock(costs_mutex);
    for (const auto & [of, bytes] : costs) {
        if (of == setting && !to.load(bytes.data(), bytes.size())) {
            say(format("the times of passes in the state %s make no sense: they are measured anew", name.c_str()));
        }
    }
}

// --- writing ---------------------------------------------------------------------------------------------------------

void state::keep(const std::string & setting, const planner & from, bool now) noexcept {
    if (!can_write || getpid() != owner) {
        return;
    }
    try {
        {
            const std::string bytes = from.save();
            const std::lock_guard<std::mutex> lock(costs_mutex);
            costs.erase(std::remove_if(costs.begin(), costs.end(), [&](const auto & cost) { return cost.first == setting; }),
                        costs.end());
            costs.emplace_back(setting, bytes);
            if (costs.size() > N_COSTS_MAX) {
                costs.erase(costs.begin());
            }
        }
        write(now);
    } catch (const std::exception &) { // out of memory: the next time
    }
}

std::string state::encoded() {
    state_contents contents;
    contents.model = identity;
    contents.known = known->save();
    {
        const std::lock_guard<std::mutex> lock(mutex);
        contents.claims = claims.save();
    }
    const std::lock_guard<std::mutex> lock(costs_mutex);
    contents.costs = costs;
    return encode_state(contents);
}

void state::write(bool now) {
    std::unique_lock<std::mutex> lock(writing, std::defer_lock);
    if (now) {
        lock.lock();
    } else if (!lock.try_lock() || std::chrono::steady_clock::now() < next_write) {
        return;
    }
    next_write = std::chrono::steady_clock::now() + KEEP_EVERY;
    const std::string bytes = encoded();
    const uint64_t digest_of_bytes = digest(bytes.data(), bytes.size());
    if (digest_of_bytes == digest_of_kept) {
        return;
    }
    const std::string failure =
        bytes.size() > LARGEST_STATE ? format("%zu bytes are too many", bytes.size()) : replace_state(place, bytes);
    if (failure.empty()) {
        digest_of_kept = digest_of_bytes;
    } else if (!told_failure) {
        told_failure = true;
        say(format("the state %s cannot be written (%s): what was learned is not kept", name.c_str(), failure.c_str()));
    }
}

// --- notes -----------------------------------------------------------------------------------------------------------

std::string state::note() const {
    const std::lock_guard<std::mutex> lock(note_mutex);
    return noted;
}

void state::say(const std::string & line) {
    const std::lock_guard<std::mutex> lock(note_mutex);
    noted += (noted.empty() ? "" : "; ") + line;
    std::replace_if(noted.begin(), noted.end(), [](char c) { return c == '\n' || c == '\r'; }, ' ');
}

// --- shared by the engines of a process ------------------------------------------------------------------------------

namespace {

struct registry {
    const pid_t owner = getpid();
    std::mutex mutex;
    std::condition_variable closed;
    std::map<std::pair<std::string, std::string>, std::weak_ptr<state>> open; // by model and place, until it is written
};

} // namespace

// Never freed, since engines may outlive the static objects. A forked child gets one of its own: the lock of its parent's
// may be held by a thread that is not there.
static registry & this_registry() {
    static std::atomic<registry *> current{nullptr};
    registry * found = current.load();
    while (!found || found->owner != getpid()) {
        auto fresh = std::make_unique<registry>();
        if (current.compare_exchange_strong(found, fresh.get())) {
            return *fresh.release();
        }
    }
    return *found;
}

// By the last owner: who opens it again meanwhile waits for the file.
void state::close() noexcept {
    if (getpid() != owner) {
        return;
    }
    try {
        if (can_write) {
            write(true);
        }
    } catch (const std::exception &) { // out of memory
    }
    registry & all = this_registry();
    const std::lock_guard<std::mutex> lock(all.mutex);
    all.open.erase({identity, place});
    all.closed.notify_all();
}

std::shared_ptr<state> open_state(const mp_model & model, const char * path) {
    const int32_t n_vocab = model.info.n_vocab;
    if (!path) {
        return std::make_shared<state>(n_vocab);
    }
    const std::string & identity = model.identity();
    const bool own_place = path[0] == '\0';
    const std::string name = own_place ? default_place(model, identity) : path;
    if (name.empty()) {
        auto made = std::make_shared<state>(n_vocab);
        made->say("no home directory for the state of the model: nothing is kept");
        return made;
    }
    const std::string place = follow_links(name);

    registry & all = this_registry();
    std::unique_lock<std::mutex> lock(all.mutex);
    for (auto at = all.open.find({identity, place}); at != all.open.end(); at = all.open.find({identity, place})) {
        if (std::shared_ptr<state> found = at->second.lock()) {
            return found;
        }
        all.closed.wait(lock);
    }
    std::weak_ptr<state> & entry = all.open[{identity, place}];
    try {
        auto made = std::make_unique<state>(n_vocab, identity, place, name, own_place);
        std::shared_ptr<state> shared(made.release(), [](state * last) {
            last->close();
            delete last;
        });
        entry = shared;
        return shared;
    } catch (...) {
        all.open.erase({identity, place});
        throw;
    }
}

} // namespace mp
