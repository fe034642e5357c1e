// Stands in for what is known of a model in tests of the state alone: a number, and as many bytes as follow from it.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>

namespace mp {

class knowledge {
public:
    explicit knowledge(int32_t n_vocab) : n_vocab(n_vocab) {}

    const int32_t n_vocab;

    int64_t get() const {
        const std::lock_guard<std::mutex> lock(mutex);
        return number;
    }

    void add(int64_t n) {
        const std::lock_guard<std::mutex> lock(mutex);
        number += n;
    }

    std::string save() const {
        for (is_saving = true; holds;) {
            std::this_thread::yield();
        }
        return saved(get());
    }

    // A test may have save() wait.
    static inline std::atomic<bool> holds{false}, is_saving{false};

    bool load(const char * bytes, size_t n) {
        const std::lock_guard<std::mutex> lock(mutex);
        number = 0;
        int64_t read = 0;
        if (n < sizeof(read)) {
            return false;
        }
        memcpy(&read, bytes, sizeof(read));
        if (saved(read) != std::string(bytes, n)) {
            return false;
        }
        number = read;
        return true;
    }

private:
    static std::string saved(int64_t number) {
        const size_t n_filler = (size_t) (number % 20) * 10000;
        return std::string((const char *) &number, sizeof(number)) + std::string(n_filler, (char) ('a' + number % 26));
    }

    mutable std::mutex mutex;
    int64_t number = 0;
};

} // namespace mp
