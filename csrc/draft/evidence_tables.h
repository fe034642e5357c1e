// What earlier tokens tell about the next one, in tables of fixed size: a new entry takes the place of an old one.
#pragma once

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

// The tokens that the model found most likely behind a token (or two, or three) in the passes that had it as a row; the
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
    // Another row's n most likely tokens behind `key`, best first, with their log-probabilities.
    void put(uint64_t key, const int32_t * tokens, const float * logprobs, int32_t n);
    void clear();

    // Adds to sums[token], (n_vocab), the probabilities that it has behind all keys.
    void add_probabilities(std::vector<float> & sums) const;

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

class continuation_table {
public:
    explicit continuation_table(int32_t n_slots); // a power of two

    const continuations * find(uint64_t key) const;
    void put(uint64_t key, int32_t token);
    void clear();

    // As above.
    void save(std::string & bytes) const;
    bool load(const char *& bytes, const char * end, int32_t n_vocab);

private:
    continuations & slot_of(uint64_t key);

    std::vector<continuations> slots;
};

// Keys, never 0.
uint64_t key_of_token(int32_t token);
uint64_t key_of_pair(int32_t before, int32_t token);
uint64_t key_of_triple(int32_t first, int32_t second, int32_t token);
uint64_t key_of_ngram(const int32_t * tokens, int32_t n); // tokens (n)

} // namespace mp
