// What earlier tokens tell about the next one, in tables of bounded size: there a new entry takes the place of an old one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace mp {

constexpr int32_t N_SUCCESSORS = 8;
constexpr int32_t N_CONTINUATIONS = 3;
// Of the suffixes that are looked up.
constexpr int32_t NGRAM_LENGTHS[] = {1, 2, 3, 4, 5, 8, 12, 20};
constexpr int32_t N_NGRAM_LENGTHS = 8;
constexpr int32_t LONGEST_NGRAM = 20;
// Of those that are looked up in earlier texts, some of the above.
constexpr int32_t EARLIER_LENGTHS[] = {3, 5, 8, 12};
constexpr int32_t N_EARLIER_LENGTHS = 4;

// -log2 of a probability, rounded down, 0..7.
constexpr int32_t N_PROBABILITY_LEVELS = 8;
int32_t probability_level(float probability);

// The tokens that the model found most likely after a token (or two, or three) in the passes that had it as a row; the
// newest rows count most.
struct successors {
    uint64_t key = 0; // 0: free
    int32_t tokens[N_SUCCESSORS];
    float probabilities[N_SUCCESSORS];
    int32_t n = 0;
};

class successor_table {
public:
    explicit successor_table(int32_t n_slots); // a power of two

    const successors * find(uint64_t key) const; // nullptr where there is none
    // Another row's n most likely tokens after `key`, best first, with their log-probabilities.
    void put(uint64_t key, const int32_t * tokens, const float * logprobs, int32_t n);
    void clear();

    // Appends the entries to `bytes`; reads them back from there. load() returns false where they make no sense.
    void save(std::string & bytes) const;
    bool load(const char *& bytes, const char * end, int32_t n_vocab);

private:
    successors & slot_of(uint64_t key);

    std::vector<successors> slots;
};

// The tokens that followed an n-gram, the latest first.
struct continuations {
    uint64_t key = 0; // 0: free
    int32_t tokens[N_CONTINUATIONS];
    int32_t n = 0;
};

// It begins with n_first slots and doubles as entries fill it, up to n_most, powers of two. What it keeps does not depend on
// n_first: two keys are in each other's place exactly if they would be so in a table of n_most slots.
class continuation_table {
public:
    continuation_table(int32_t n_first, int32_t n_most);

    const continuations * find(uint64_t key) const;
    void put(uint64_t key, int32_t token);
    void clear(); // has n_first slots again

    // As above.
    void save(std::string & bytes) const;
    bool load(const char *& bytes, const char * end, int32_t n_vocab);

private:
    size_t place_of(uint64_t key) const;
    continuations & slot_for(uint64_t key); // grows for a new entry
    void grow();

    size_t n_first, n_most;
    size_t n_used = 0;
    std::vector<continuations> slots;
};

// Keys, never 0.
uint64_t key_of_token(int32_t token);
uint64_t key_of_pair(int32_t before, int32_t token);
uint64_t key_of_triple(int32_t first, int32_t second, int32_t token);
uint64_t key_of_ngram(const int32_t * tokens, int32_t n); // tokens (n)

} // namespace mp
