// Objects that live until their last user lets go, whatever the order in which their handles are freed: a handle that is
// freed, or never was one, is an error and no crash. Registries themselves are never freed: when the process ends, threads
// may still be at work on what they hold, and in a forked child the threads are missing that an object would wait for.
#pragma once

#include "platform/fork_check.h"
#include "status.h"

#include <memory>
#include <mutex>
#include <unordered_map>

namespace mp {

template <typename T> class registry {
public:
    explicit registry(const char * what) : what(what) {}

    T * add(std::shared_ptr<T> object) {
        const std::lock_guard<std::mutex> lock(mutex);
        T * handle = object.get();
        objects[handle] = std::move(object);
        return handle;
    }

    std::shared_ptr<T> retain(T * handle) {
        check_process();
        const std::lock_guard<std::mutex> lock(mutex);
        const auto found = objects.find(handle);
        if (found == objects.end()) {
            fail(handle ? MP_ERR_STATE : MP_ERR_ARGUMENT, "the %s is %s", what, handle ? "closed" : "NULL");
        }
        return found->second;
    }

    // The last reference of the handle, nullptr where there is none, and in a refused child, which frees nothing.
    std::shared_ptr<T> remove(T * handle) {
        if (is_refused_child()) {
            return nullptr;
        }
        const std::lock_guard<std::mutex> lock(mutex);
        const auto found = objects.find(handle);
        if (found == objects.end()) {
            return nullptr;
        }
        std::shared_ptr<T> last = std::move(found->second);
        objects.erase(found);
        return last;
    }

private:
    const char * const what; // "model", "context", ...
    std::mutex mutex;
    std::unordered_map<const T *, std::shared_ptr<T>> objects;
};

} // namespace mp
