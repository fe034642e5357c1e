#include "evidence_tables.h"

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

void successor_table::add_probabilities(std::vector<float> & sums) const {
    for (const successors & slot : slots) {
        for (int32_t i = 0; slot.key != 0 && i < slot.n; i++) {
            sums[slot.tokens[i]] += slot.probabilities[i];
        }
    }
}

// An entry is its key, n, n tokens and n probabilities.
void successor_table::save(std::string & bytes) const {
    uint32_t n_used = 0;
    for (const successors & slot : slots) {
        n_used += slot.key != 0;
    }
    bytes.append((const char *) &n_used, sizeof(n_used));
    for (const successors & slot : slots) {
        if (slot.key != 0) {
            bytes.append((const char *) &slot.key, sizeof(slot.key));
            bytes.push_back((char) slot.n);
            bytes.append((const char *) slot.tokens, slot.n * sizeof(slot.tokens[0]));
            bytes.append((const char *) slot.probabilities, slot.n * sizeof(slot.probabilities[0]));
        }
    }
}

bool successor_table::load(const char *& bytes, const char * end, int32_t n_vocab) {
    clear();
    uint32_t n_used = 0;
    if (end - bytes < (std::ptrdiff_t) sizeof(n_used)) {
        return false;
    }
    memcpy(&n_used, bytes, sizeof(n_used));
    bytes += sizeof(n_used);
    for (uint32_t i = 0; i < n_used; i++) {
        successors entry;
        if (end - bytes < (std::ptrdiff_t) sizeof(entry.key) + 1) {
            return false;
        }
        memcpy(&entry.key, bytes, sizeof(entry.key));
        entry.n = (uint8_t) bytes[sizeof(entry.key)];
        bytes += sizeof(entry.key) + 1;
        if (entry.key == 0 || entry.n > N_SUCCESSORS || end - bytes < entry.n * 8) {
            return false;
        }
        memcpy(entry.tokens, bytes, entry.n * 4);
        memcpy(entry.probabilities, bytes + entry.n * 4, entry.n * 4);
        bytes += entry.n * 8;
        for (int32_t j = 0; j < entry.n; j++) {
            if (entry.tokens[j] < 0 || entry.tokens[j] >= n_vocab ||
                !(entry.probabilities[j] >= 0 && entry.probabilities[j] <= 1.001f)) {
                return false;
            }
        }
        slot_of(entry.key) = entry;
    }
    return true;
}

// --- continuations ---------------------------------------------------------------------------------------------------

continuation_table::continuation_table(int32_t n_slots) : slots(n_slots) {}

continuations & continuation_table::slot_of(uint64_t key) {
    return slots[key & (slots.size() - 1)];
}

const continuations * continuation_table::find(uint64_t key) const {
    const continuations & slot = const_cast<continuation_table *>(this)->slot_of(key);
    return slot.key == key ? &slot : nullptr;
}

void continuation_table::put(uint64_t key, int32_t token) {
    continuations & slot = slot_of(key);
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
    std::fill(slots.begin(), slots.end(), continuations());
}

// An entry is its key, n and n tokens.
void continuation_table::save(std::string & bytes) const {
    uint32_t n_used = 0;
    for (const continuations & slot : slots) {
        n_used += slot.key != 0;
    }
    bytes.append((const char *) &n_used, sizeof(n_used));
    for (const continuations & slot : slots) {
        if (slot.key != 0) {
            bytes.append((const char *) &slot.key, sizeof(slot.key));
            bytes.push_back((char) slot.n);
            bytes.append((const char *) slot.tokens, slot.n * sizeof(slot.tokens[0]));
        }
    }
}

bool continuation_table::load(const char *& bytes, const char * end, int32_t n_vocab) {
    clear();
    uint32_t n_used = 0;
    if (end - bytes < (std::ptrdiff_t) sizeof(n_used)) {
        return false;
    }
    memcpy(&n_used, bytes, sizeof(n_used));
    bytes += sizeof(n_used);
    for (uint32_t i = 0; i < n_used; i++) {
        continuations entry;
        if (end - bytes < (std::ptrdiff_t) sizeof(entry.key) + 1) {
            return false;
        }
        memcpy(&entry.key, bytes, sizeof(entry.key));
        entry.n = (uint8_t) bytes[sizeof(entry.key)];
        bytes += sizeof(entry.key) + 1;
        if (entry.key == 0 || entry.n < 1 || entry.n > N_CONTINUATIONS || end - bytes < entry.n * 4) {
            return false;
        }
        memcpy(entry.tokens, bytes, entry.n * 4);
        bytes += entry.n * 4;
        const auto unknown = [n_vocab](int32_t token) { return token < 0 || token >= n_vocab; };
        if (std::any_of(entry.tokens, entry.tokens + entry.n, unknown)) {
            return false;
        }
        slot_of(entry.key) = entry;
    }
    return true;
}

} // namespace mp
