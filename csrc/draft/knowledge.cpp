#include "draft/knowledge.h"

#include <memory>
#include <utility>

namespace mp {

knowledge::tables::tables()
    : by_token(N_SUCCESSOR_SLOTS), by_pair(N_SUCCESSOR_SLOTS), by_triple(N_SUCCESSOR_SLOTS),
      by_earlier(N_EARLIER_SLOTS, N_EARLIER_SLOTS) {}

// Other threads may learn between two tables: each is whole by itself.
std::string knowledge::save() const {
    std::string bytes;
    const auto append = [&](const auto & table) {
        const std::lock_guard<std::mutex> lock(mutex);
        table.save(bytes);
    };
    append(known.model);
    append(known.by_token);
    append(known.by_pair);
    append(known.by_triple);
    append(known.by_earlier);
    return bytes;
}

bool knowledge::load(const char * bytes, size_t n) {
    auto read = std::make_unique<tables>();
    const char * end = bytes + n;
    const bool sound = read->model.load(bytes, end) && read->by_token.load(bytes, end, n_vocab) &&
                       read->by_pair.load(bytes, end, n_vocab) && read->by_triple.load(bytes, end, n_vocab) &&
                       read->by_earlier.load(bytes, end, n_vocab) && bytes == end;
    if (!sound) {
        *read = tables();
    }
    const std::lock_guard<std::mutex> lock(mutex);
    known = std::move(*read);
    return sound;
}

} // namespace mp
