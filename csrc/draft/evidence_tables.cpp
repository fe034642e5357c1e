#include "draft/evidence_tables.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>

namespace mp {

int32_t probability_level(float probability) {
    const float level = -std::log2(probability);
    return !(level < N_PROBABILITY_LEVELS - 1) ? N_PROBABILITY_LEVELS - 1 : level > 0.0f ? (int32_t) level : 0;
}

// What the newest row counts for against all earlier ones together.
constexpr float NEWEST_SHARE = 0.6f;

static uint64_t mixed(uint64_t x) {
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    return x ^ x >> 32;
}

uint64_t key_of_token(int32_t token) {
    return ((uint64_t) 1 << 63) | (uint32_t) token;
}

uint64_t key_of_pair(int32_t before, int32_t token) {
    const uint64_t key = ((uint64_t) (uint32_t) before << 32 | (uint32_t) token) & ~((uint64_t) 1 << 63);
    return key ? key : (uint64_t) 1 << 62;
}

uint64_t key_of_triple(int32_t first, int32_t second, int32_t token) {
    const int32_t tokens[] = {first, second, token};
    return key_of_ngram(tokens, 3);
}

uint64_t key_of_ngram(const int32_t * tokens, int32_t n) {
    uint64_t key = (uint64_t) n;
    for (int32_t i = 0; i < n; i++) {
        key = mixed(key * 0x9e3779b97f4a7c15u + (uint32_t) tokens[i] + 1);
    }
    return key ? key : 1;
}

// --- what is kept ----------------------------------------------------------------------------------------------------
// The number of entries; of each its key, n, n tokens, and what else its table has.

template <class Entry, class More>
static void save_entries(const std::vector<Entry> & slots, std::string & bytes, More save_more) {
    const auto n_used = (uint32_t) std::count_if(slots.begin(), slots.end(), [](const Entry & e) { return e.key != 0; });
    bytes.append((const char *) &n_used, sizeof(n_used));
    for (const Entry & entry : slots) {
        if (entry.key != 0) {
            bytes.append((const char *) &entry.key, sizeof(entry.key));
            bytes.push_back((char) entry.n);
            bytes.append((const char *) entry.tokens, entry.n * sizeof(entry.tokens[0]));
            save_more(entry, bytes);
        }
    }
}

// take(entry) reads the rest of an entry and puts it into its slot. false where something makes no sense.
template <class Entry, class Take> static bool load_entries(const char *& bytes, const char * end, int32_t n_vocab,
                                                            int32_t n_least, int32_t n_most, Take take) {
    uint32_t n_used = 0;
    if (end - bytes < (std::ptrdiff_t) sizeof(n_used)) {
        return false;
    }
    memcpy(&n_used, bytes, sizeof(n_used));
    bytes += sizeof(n_used);
    for (uint32_t i = 0; i < n_used; i++) {
        Entry entry;
        if (end - bytes < (std::ptrdiff_t) sizeof(entry.key) + 1) {
            return false;
        }
        memcpy(&entry.key, bytes, sizeof(entry.key));
        entry.n = (uint8_t) bytes[sizeof(entry.key)];
        bytes += sizeof(entry.key) + 1;
        if (entry.key == 0 || entry.n < n_least || entry.n > n_most || end - bytes < entry.n * 4) {
            return false;
        }
        memcpy(entry.tokens, bytes, entry.n * 4);
        bytes += entry.n * 4;
        const auto unknown = [n_vocab](int32_t token) { return token < 0 || token >= n_vocab; };
        if (std::any_of(entry.tokens, entry.tokens + entry.n, unknown) || !take(entry)) {
            return false;
        }
    }
    return true;
}

// --- successors ------------------------------------------------------------------------------------------------------

successor_table::successor_table(int32_t n_slots) : slots(n_slots) {}

// Of two slots, the one that has the key, or else a free one, or else the second: the first keeps its entry longer.
successors & successor_table::slot_of(uint64_t key) {
    const uint64_t at = mixed(key);
    successors & first = slots[at & (slots.size() - 1)];
    successors & second = slots[(at ^ 1) & (slots.size() - 1)];
    return first.key == key || (first.key == 0 && second.key != key) ? first : second;
}

const successors * successor_table::find(uint64_t key) const {
    const successors & slot = const_cast<successor_table *>(this)->slot_of(key);
    return slot.key == key ? &slot : nullptr;
}

void successor_table::put(uint64_t key, const int32_t * tokens, const float * logprobs, int32_t n) {
    successors & slot = slot_of(key);
    struct item {
        float probability;
        int32_t token;
    } items[2 * N_SUCCESSORS];
    int32_t n_items = 0;
    const float share = slot.key == key ? NEWEST_SHARE : 1.0f;
    for (int32_t i = 0; i < std::min(n, N_SUCCESSORS); i++) {
        items[n_items++] = {share * std::exp(std::min(logprobs[i], 0.0f)), tokens[i]};
    }
    for (int32_t i = 0, n_new = n_items; slot.key == key && i < slot.n; i++) {
        const auto same = std::find_if(items, items + n_new, [&](const item & x) { return x.token == slot.tokens[i]; });
        if (same == items + n_new) {
            items[n_items++] = {0, slot.tokens[i]};
        }
        (same == items + n_new ? items[n_items - 1] : *same).probability += (1 - share) * slot.probabilities[i];
    }
    std::sort(items, items + n_items, [](const item & a, const item & b) {
        return a.probability != b.probability ? a.probability > b.probability : a.token < b.token;
    });
    slot.key = key;
    slot.n = std::min(n_items, N_SUCCESSORS);
    for (int32_t i = 0; i < slot.n; i++) {
        slot.tokens[i] = items[i].token;
        slot.probabilities[i] = std::min(items[i].probability, 1.0f); // a row that names a token twice
    }
}

void successor_table::clear() {
    std::fill(slots.begin(), slots.end(), successors());
}

void successor_table::save(std::string & bytes) const {
    save_entries(slots, bytes, [](const successors & entry, std::string & to) {
        to.append((const char *) entry.probabilities, entry.n * sizeof(entry.probabilities[0]));
    });
}

bool successor_table::load(const char *& bytes, const char * end, int32_t n_vocab) {
    clear();
    return load_entries<successors>(bytes, end, n_vocab, 0, N_SUCCESSORS, [&](successors & entry) {
        if (end - bytes < entry.n * 4) {
            return false;
        }
        memcpy(entry.probabilities, bytes, entry.n * 4);
        bytes += entry.n * 4;
        const auto sound = [](float p) { return p >= 0 && p <= 1.001f; };
        if (!std::all_of(entry.probabilities, entry.probabilities + entry.n, sound)) {
            return false;
        }
        slot_of(entry.key) = entry;
        return true;
    });
}

// --- continuations ---------------------------------------------------------------------------------------------------

continuation_table::continuation_table(int32_t n_first, int32_t n_most)
    : n_first((size_t) n_first), n_most((size_t) n_most), slots((size_t) n_first) {}

// The slot of the entry whose place in the largest table is that of `key`, or else a free one. With n_most slots each place
// is a slot of its own; with fewer the next free one is taken.
size_t continuation_table::place_of(uint64_t key) const {
    size_t at = key & (slots.size() - 1);
    while (slots[at].key != 0 && ((slots[at].key ^ key) & (n_most - 1)) != 0) {
        at = (at + 1) & (slots.size() - 1);
    }
    return at;
}

continuations & continuation_table::slot_for(uint64_t key) {
    size_t at = place_of(key);
    if (slots[at].key == 0 && slots.size() < n_most && 2 * (n_used + 1) > slots.size()) {
        grow();
        at = place_of(key);
    }
    n_used += slots[at].key == 0;
    return slots[at];
}

void continuation_table::grow() {
    std::vector<continuations> old(2 * slots.size());
    old.swap(slots);
    for (const continuations & entry : old) {
        if (entry.key != 0) {
            slots[place_of(entry.key)] = entry;
        }
    }
}

const continuations * continuation_table::find(uint64_t key) const {
    const continuations & slot = slots[place_of(key)];
    return slot.key == key ? &slot : nullptr;
}

void continuation_table::put(uint64_t key, int32_t token) {
    continuations & slot = slot_for(key);
    if (slot.key != key) {
        slot.key = key;
        slot.n = 0;
    }
    int32_t at = 0;
    while (at < slot.n && slot.tokens[at] != token) {
        at++;
    }
    if (at == slot.n && slot.n < N_CONTINUATIONS) {
        slot.n++;
    }
    for (at = std::min(at, slot.n - 1); at > 0; at--) {
        slot.tokens[at] = slot.tokens[at - 1];
    }
    slot.tokens[0] = token;
}

void continuation_table::clear() {
    slots.assign(n_first, continuations());
    n_used = 0;
}

void continuation_table::save(std::string & bytes) const {
    save_entries(slots, bytes, [](const continuations &, std::string &) {});
}

bool continuation_table::load(const char *& bytes, const char * end, int32_t n_vocab) {
    clear();
    return load_entries<continuations>(bytes, end, n_vocab, 1, N_CONTINUATIONS, [&](continuations & entry) {
        slot_for(entry.key) = entry;
        return true;
    });
}

} // namespace mp
