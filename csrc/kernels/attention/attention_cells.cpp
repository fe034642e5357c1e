#include "kernels/attention/attention_cells.h"

#include "kernels/attention/attention_sets.h"

#include <algorithm>
#include <cstring>

namespace mp {

static constexpr uint16_t HIDDEN = 0xFC00; // -inf
static constexpr uint16_t MAGNITUDE = 0x7FFF;
static constexpr uint64_t ALL = ~0ull;

static_assert(ATTENTION_BLOCK == 64, "a word has one bit for each cell of a block");

// Calls found(cell) for each bit of n words, in ascending order.
template <class Found> static void for_each_cell(const uint64_t * words, int64_t n, Found found) {
    for (int64_t i = 0; i < n; i++) {
        for (uint64_t left = words[i]; left != 0; left &= left - 1) {
            found(i * 64 + __builtin_ctzll(left));
        }
    }
}

static int32_t count(uint64_t bits) {
    return __builtin_popcountll(bits);
}

// A well mixed number for each i (the finalizer of MurmurHash3).
static uint64_t mixed(uint64_t i) {
    i = (i ^ i >> 33) * 0xff51afd7ed558ccd;
    i = (i ^ i >> 33) * 0xc4ceb9fe1a85ec53;
    return i ^ i >> 33;
}

// One bit for each of 64 numbers of a mask that is not -inf; `values` collects the bits of what they add.
static uint64_t visible_bits(const uint16_t * mask, uint16_t & values) {
    uint8_t sees[64]; // 0 or 1
    for (int32_t i = 0; i < 64; i++) {
        const bool is_visible = mask[i] != HIDDEN;
        sees[i] = is_visible;
        values |= is_visible ? mask[i] & MAGNITUDE : 0;
    }
    uint64_t bits = 0;
    for (int32_t i = 0; i < 64; i += 8) {
        uint64_t eight;
        memcpy(&eight, sees + i, 8);
        bits |= (eight * 0x0102040810204080 >> 56) << i; // bit j of the product's last byte is byte j
    }
    return bits;
}

void attention_cells::read_mask(const attention_job & job) {
    const int64_t n_whole = job.n_kv / 64, rest = job.n_kv % 64;
    uint16_t values = 0;
    for (int32_t row = 0; row < job.n; row++) {
        uint64_t * bits = seen.data() + row * n_words;
        if (!job.mask) {
            std::fill(bits, bits + n_whole, ALL);
            if (rest > 0) {
                bits[n_whole] = ~(ALL << rest);
            }
            continue;
        }
        const auto * mask = (const uint16_t *) ((const char *) job.mask + row * job.mask_row);
        for (int64_t i = 0; i < n_whole; i++) {
            bits[i] = visible_bits(mask + i * 64, values);
        }
        if (rest > 0) {
            uint16_t last[64];
            std::fill(last, last + 64, HIDDEN);
            memcpy(last, mask + n_whole * 64, rest * sizeof(last[0]));
            bits[n_whole] = visible_bits(last, values);
        }
    }
    adds = values != 0;
}

// Whether two rows differ in at most `most` cells.
static bool is_near(const uint64_t * a, const uint64_t * b, int64_t n_words, int64_t most) {
    int64_t n = 0;
    for (int64_t i = 0; i < n_words && n <= most; i++) {
        n += a[i] == b[i] ? 0 : count(a[i] ^ b[i]);
    }
    return n <= most;
}

void attention_cells::group_rows(int32_t n) {
    groups.clear();
    std::fill(any.begin(), any.begin() + n_words, 0);
    for (int32_t row = 0; row < n; row++) {
        const uint64_t * bits = seen.data() + row * n_words;
        const uint64_t * first = groups.empty() ? nullptr : seen.data() + groups.back().first * n_words;
        if (!first || !is_near(bits, first, n_words, 2 * (row - groups.back().first))) {
            groups.push_back({row, 0});
            std::fill_n(unions.begin() + (groups.size() - 1) * n_words, n_words, 0);
        }
        groups.back().n++;
        uint64_t * all = unions.data() + (groups.size() - 1) * n_words;
        for (int64_t i = 0; i < n_words; i++) {
            all[i] |= bits[i];
            any[i] |= bits[i];
        }
    }
}

void attention_cells::list_in_order() {
    int32_t * next = cells.data();
    for_each_cell(any.data(), n_words, [&](int64_t cell) { *next++ = (int32_t) cell; });
    n_listed = next - cells.data();
    find_places();
}

void attention_cells::list_by_class() {
    std::fill(signatures.begin(), signatures.begin() + n_words * 64, 0);
    for (size_t group = 0; group < groups.size(); group++) {
        const uint64_t number = mixed(group + 1);
        for_each_cell(unions.data() + group * n_words, n_words, [&](int64_t cell) { signatures[cell] += number; });
    }

    size_t capacity = 64;
    while (capacity < (size_t) n_words * 128) {
        capacity *= 2;
    }
    table.assign(capacity, -1);
    classes.clear();
    for_each_cell(any.data(), n_words, [&](int64_t cell) {
        const uint64_t signature = signatures[cell];
        size_t at = signature & (capacity - 1);
        while (table[at] >= 0 && classes[table[at]].signature != signature) {
            at = (at + 1) & (capacity - 1);
        }
        if (table[at] < 0) {
            table[at] = (int32_t) classes.size();
            classes.push_back({signature, 0});
        }
        class_of[cell] = table[at];
        classes[table[at]].n++;
    });

    int64_t end = 0;
    for (cell_class & c : classes) {
        end += c.n;
        c.n = end - c.n;
    }
    for_each_cell(any.data(), n_words, [&](int64_t cell) { cells[classes[class_of[cell]].n++] = (int32_t) cell; });
    find_places();
}

int64_t attention_cells::n_busy() {
    std::fill(last_group.begin(), last_group.begin() + n_blocks(), -1);
    int64_t n = 0;
    for (size_t group = 0; group < groups.size(); group++) {
        for_each_cell(unions.data() + group * n_words, n_words, [&](int64_t cell) {
            int32_t & last = last_group[places[cell] / 64];
            n += last == (int32_t) group ? 0 : groups[group].n;
            last = (int32_t) group;
        });
    }
    return n;
}

void attention_cells::find_places() {
    std::fill(places.begin(), places.begin() + n_words * 64, -1);
    for (int64_t i = 0; i < n_listed; i++) {
        places[cells[i]] = (int32_t) i;
    }
    for (int64_t word = 0; word < n_words; word++) {
        const int32_t * place = places.data() + word * 64;
        bool is_straight = place[0] >= 0;
        for (int32_t i = 0; i < 64; i++) {
            is_straight &= place[i] == place[0] + i;
        }
        straight[word] = is_straight;
    }
}

// Brings what each row sees into the order of the list. It costs what the row sees, not what is listed.
void attention_cells::place_rows(int32_t n) {
    std::fill(visible.begin(), visible.begin() + n_blocks() * n, 0);
    n_pairs = 0;
    for (int32_t row = 0; row < n; row++) {
        uint64_t * words = visible.data() + row; // n apart
        for (int64_t i = 0; i < n_words; i++) {
            const uint64_t bits = seen[row * n_words + i];
            n_pairs += bits == ALL ? 64 : count(bits);
            if (bits == ALL && straight[i]) {
                const int64_t place = places[i * 64];
                words[place / 64 * n] |= ALL << place % 64;
                if (place % 64 != 0) {
                    words[(place / 64 + 1) * n] |= ALL >> (64 - place % 64);
                }
                continue;
            }
            for (uint64_t left = bits; left != 0; left &= left - 1) {
                const int64_t place = places[i * 64 + __builtin_ctzll(left)];
                words[place / 64 * n] |= 1ull << place % 64;
            }
        }
    }
}

// Grows by more than it has to, so that a cache that fills up seldom needs memory.
template <class T> static void make_room(std::vector<T> & v, int64_t n) {
    if (v.size() < (size_t) n) {
        v.resize(n + n / 2);
    }
}

void attention_cells::find(const attention_job & job) {
    n_words = (job.n_kv + 63) / 64;
    for (std::vector<uint64_t> * v : {&seen, &unions, &visible}) {
        make_room(*v, job.n * n_words);
    }
    for (std::vector<int32_t> * v : {&cells, &places, &class_of}) {
        make_room(*v, n_words * 64);
    }
    make_room(signatures, n_words * 64);
    make_room(any, n_words);
    make_room(last_group, n_words);
    make_room(straight, n_words);

    read_mask(job);
    group_rows(job.n);
    list_in_order();
    if (groups.size() > 1) {
        const int64_t in_order = n_busy();
        list_by_class();
        if (n_busy() > in_order - in_order / 8) {
            list_in_order();
        }
    }
    std::fill(cells.begin() + n_listed, cells.begin() + n_blocks() * 64, 0); // nobody sees these
    place_rows(job.n);
}

void attention_cells::put_into(attention_job & job) const {
    job.cells = cells.data();
    job.visible = visible.data();
    job.visible_block = job.n;
    job.n_blocks = n_blocks();
    job.adds = adds;
}

} // namespace mp
