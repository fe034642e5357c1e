// Which cells the rows of a pass see: worked out once for all layers that have the same mask.
//
// The cells of several sessions lie mixed in one cache. Attention takes 64 cells at a time, and a row pays for all 64 where
// it sees one of them. So the cells are listed by who sees them: those of one session together, and together those that
// several share. Cells that no row sees are left out. A row then costs what it costs without its neighbours.
//
// Rows form groups, usually one for each session. A row belongs to the group of the row before it if its cells differ from
// those of the group's first row by two for each row between them, at most: so it is in a tree below its root, and in a
// prompt, where a sliding window loses a cell for each new one. Cells that the same groups see are a class. Classes come in
// the order of their first cells, the cells of a class in ascending order. All cells come in ascending order where classes
// would not save an eighth of the work: with one session always.
//
// So a row takes its cells in ascending order, whatever other rows there are. An exception are sessions that share cells
// which do not come before all of their own.
//
// How rows and cells are sorted can change what a pass costs. What a row sees is what its mask says.
#pragma once

#include "kernels/attention/attention.h"

#include <vector>

namespace mp {

class attention_cells {
public:
    // Looks at the mask of a job. Memory is kept for the next one; throws bad_alloc.
    void find(const attention_job & job);

    // Sets the fields of a job, with the mask that was looked at, that say which cells it takes.
    void put_into(attention_job & job) const;

    int64_t n_cells() const { return n_listed; }
    int64_t n_seen() const { return n_pairs; } // of all rows together

private:
    struct row_group {
        int32_t first, n; // rows
    };
    struct cell_class {
        uint64_t signature; // the sum of a random number for each group that sees the cells
        int64_t n;          // cells; later where the next one goes
    };

    void read_mask(const attention_job & job);
    void group_rows(int32_t n);
    void list_in_order();
    void list_by_class();
    void find_places();
    void place_rows(int32_t n);
    int64_t n_busy(); // blocks in which a row's group sees a cell, of all rows
    int32_t n_blocks() const { return (int32_t) ((n_listed + 63) / 64); }

    int64_t n_words = 0;          // of 64 cells each
    std::vector<uint64_t> seen;   // (n, n_words): one bit for each cell
    std::vector<uint64_t> unions; // (groups, n_words): cells that a row of the group sees
    std::vector<uint64_t> any;    // (n_words): cells that some row sees
    std::vector<row_group> groups;

    std::vector<uint64_t> signatures; // (64 * n_words)
    std::vector<cell_class> classes;
    std::vector<int32_t> class_of;   // (64 * n_words)
    std::vector<int32_t> last_group; // (blocks): while busy blocks are counted
    std::vector<int32_t> table;      // of hashed signatures: the class, or -1

    int64_t n_listed = 0, n_pairs = 0;
    bool adds = false;
    std::vector<int32_t> cells;    // (blocks, 64)
    std::vector<int32_t> places;   // (64 * n_words): where a cell is in the list, -1: nowhere
    std::vector<uint8_t> straight; // (n_words): whether the cells of a word are neighbours in the list as well
    std::vector<uint64_t> visible; // (blocks, n): one bit for each cell of the block
};

} // namespace mp
