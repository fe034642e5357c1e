// What one row of an attention must not notice: other rows, where it stands, other sessions' cells, and what a cell holds
// that it does not see.

#include "attention_problem.h"

#include <sys/mman.h>
#include <unistd.h>

// The rows of p in the order given, some of them perhaps missing.
static std::vector<float> run_rows(const problem & p, const std::vector<int32_t> & rows, instruction_set set) {
    attention_job job = p.job;
    std::vector<float> q;
    std::vector<ggml_fp16_t> mask;
    for (const int32_t row : rows) {
        for (int32_t head = 0; head < job.n_head; head++) {
            const float * from = (const float *) ((const char *) job.q + row * job.q_row + head * job.q_head);
            q.insert(q.end(), from, from + job.head_size);
        }
        const ggml_fp16_t * from = p.mask.data() + row * (job.mask_row / 2);
        mask.insert(mask.end(), from, from + job.n_kv);
    }
    job.n = (int32_t) rows.size();
    job.q = q.data();
    job.q_head = job.head_size * sizeof(float);
    job.q_row = job.n_head * job.q_head;
    job.mask = job.mask ? mask.data() : nullptr;
    job.mask_row = job.n_kv * sizeof(ggml_fp16_t);
    return run(job, set);
}

static void check_rows(const problem & p, const std::vector<float> & out, const std::vector<int32_t> & rows,
                       instruction_set set, const std::string & what) {
    const std::vector<float> again = run_rows(p, rows, set);
    const size_t size = p.out_row() * sizeof(float);
    for (size_t i = 0; i < rows.size(); i++) {
        check(memcmp(again.data() + i * p.out_row(), out.data() + rows[i] * p.out_row(), size) == 0,
              what + ": " + p.describe());
    }
}

static void test_batch_invariance(instruction_set set) {
    for (int32_t i = 0; i < n_problems(60); i++) {
        const problem p = random_problem(i % 20 == 0 ? 100 : 33, 300);
        const std::vector<float> out = run(p.job, set);
        std::vector<int32_t> rows(p.job.n);
        for (int32_t row = 0; row < p.job.n; row++) {
            rows[row] = row;
            check_rows(p, out, {row}, set, "alone");
        }
        for (int32_t j = 0; j < 4; j++) {
            std::shuffle(rows.begin(), rows.end(), engine);
            check_rows(p, out, rows, set, "in another place");
            const std::vector<int32_t> some(rows.begin(), rows.begin() + random_int(1, p.job.n));
            check_rows(p, out, some, set, "among fewer");
        }
    }
}

// A NaN or an infinity in a cell harms exactly the rows that see it.
static void test_bad_numbers(instruction_set set) {
    for (int32_t i = 0; i < n_problems(120); i++) {
        problem p = random_problem(20, 200, true);
        const attention_job & job = p.job;
        const int64_t cell = random_int(0, (int32_t) job.n_kv - 1);
        std::vector<float> values(job.head_size, 0.5f);
        for (int32_t head = 0; head < job.n_head_kv; head++) { // a cell that nobody saw is garbage
            p.write_k(cell, head, values.data());
            p.write_v(cell, head, values.data());
        }
        for (int32_t row = 0; row < job.n; row++) {
            p.set_mask(row, cell, row % 2 ? 0.0f : HIDDEN);
        }
        const std::vector<float> clean = run(job, set);

        // F16 and F32 only know these: Q8_0 has them in its scale.
        const bool in_k = random_int(0, 1);
        const float bad = in_k ? NAN : pick({(float) NAN, INFINITY, -INFINITY});
        const int32_t head_kv = random_int(0, job.n_head_kv - 1);
        std::vector<uint8_t> & cache = in_k ? p.k : p.v;
        uint8_t * at =
            cache.data() + (in_k ? cell * job.k_cell + head_kv * job.k_head : cell * job.v_cell + head_kv * job.v_head);
        const ggml_type type = in_k ? job.k_type : job.v_type;
        if (type == GGML_TYPE_F32) {
            memcpy(at, &bad, 4);
        } else if (type == GGML_TYPE_BF16) {
            const ggml_bf16_t x = ggml_fp32_to_bf16(bad);
            memcpy(at, &x, 2);
        } else {
            const ggml_fp16_t x = ggml_fp32_to_fp16(bad);
            memcpy(at, &x, 2);
        }
        const std::vector<float> out = run(job, set);
        for (int32_t row = 0; row < job.n; row++) {
            for (int32_t head = 0; head < job.n_head; head++) {
                const size_t start = row * p.out_row() + head * job.head_size;
                const bool harmed = row % 2 && head / (job.n_head / job.n_head_kv) == head_kv;
                if (harmed) {
                    check(!std::isfinite(out[start]), "a bad number that a row sees: " + p.describe());
                    check(in_k || type == GGML_TYPE_Q8_0 || std::isfinite(out[start + 1]),
                          "one bad column: " + p.describe());
                } else {
                    check(memcmp(&out[start], &clean[start], job.head_size * sizeof(float)) == 0,
                          "a bad number that a row does not see: " + p.describe());
                }
            }
        }

        p = random_problem(20, 200);
        const std::vector<float> before = run(p.job, set);
        const int32_t bad_row = random_int(0, p.job.n - 1);
        p.q[bad_row * p.job.q_row / 4] = NAN; // of head 0
        const std::vector<float> after = run(p.job, set);
        for (size_t j = 0; j < after.size(); j++) {
            const bool of_row = j / p.out_row() == (size_t) bad_row && j % p.out_row() < (size_t) p.job.head_size;
            bool blind = true;
            for (int64_t c = 0; c < p.job.n_kv; c++) {
                blind &= !p.sees(bad_row, c);
            }
            if (of_row && !blind) {
                check(std::isnan(after[j]), "NaN in Q: " + p.describe());
            } else {
                check(memcmp(&after[j], &before[j], sizeof(float)) == 0, "NaN in Q of another row: " + p.describe());
            }
        }
    }
}

static void test_blind_rows(instruction_set set) {
    problem p(5, 2, 2, 64, 130, GGML_TYPE_F16, GGML_TYPE_Q8_0, RANDOM, false);
    for (int64_t cell = 0; cell < p.job.n_kv; cell++) {
        p.set_mask(3, cell, HIDDEN);
    }
    const std::vector<float> out = run(p.job, set);
    for (size_t i = 0; i < p.out_row(); i++) {
        check(out[3 * p.out_row() + i] == 0 && !std::signbit(out[3 * p.out_row() + i]), "a row that sees nothing");
    }
}

// --- the list of cells ----------------------------------------------------------------------------------------------

// The cells that a row takes, in that order, and how many blocks it has some of them in.
struct taken {
    std::vector<int32_t> cells;
    int32_t n_blocks = 0;
};

static taken cells_of_row(const attention_job & job, int32_t row) {
    taken t;
    for (int32_t block = 0; block < job.n_blocks; block++) {
        const uint64_t visible = job.visible[block * job.visible_block + row];
        t.n_blocks += visible != 0;
        for (int32_t i = 0; i < 64; i++) {
            if (visible >> i & 1) {
                t.cells.push_back(job.cells[block * 64 + i]);
            }
        }
    }
    return t;
}

static std::vector<int32_t> visible_cells(const problem & p, int32_t row) {
    std::vector<int32_t> cells;
    for (int32_t cell = 0; cell < p.job.n_kv; cell++) {
        if (p.sees(row, cell)) {
            cells.push_back(cell);
        }
    }
    return cells;
}

// Whatever the mask: every row takes each cell that it sees once, and one object serves masks of all sizes.
static void test_list() {
    attention_cells cells;
    for (int32_t i = 0; i < n_problems(300); i++) {
        const problem p = random_problem(40, 700);
        attention_job job = p.job;
        cells.find(job);
        cells.put_into(job);
        int64_t n_seen = 0;
        for (int32_t row = 0; row < job.n; row++) {
            std::vector<int32_t> listed = cells_of_row(job, row).cells;
            const bool at_random =
                p.kind == SPARSE || p.kind == RANDOM || p.kind == ADDITIVE; // there, order may cost blocks
            check(at_random || std::is_sorted(listed.begin(), listed.end()), "cells in ascending order: " + p.describe());
            std::sort(listed.begin(), listed.end());
            check(listed == visible_cells(p, row), "cells of a row: " + p.describe());
            n_seen += (int64_t) listed.size();
        }
        check(cells.n_seen() == n_seen, "n_seen");
    }
}

// Sessions whose cells lie mixed in one cache, each with a tree of rows. Some cells may be seen by all of them, some belong
// to sessions that have no row.
struct crowd {
    problem p;
    std::vector<std::vector<int32_t>> rows, cells; // of each session; cells without the shared ones

    crowd(int32_t n_sessions, int32_t rows_each, int32_t n_kv, ggml_type type, int32_t head_size, double share,
          bool shared_first)
        : p(n_sessions * rows_each, 2, 2, head_size, n_kv, type, type, OPEN, false), rows(n_sessions), cells(n_sessions) {
        std::vector<int32_t> shared;
        for (int32_t cell = 0; cell < n_kv; cell++) {
            const int32_t session = random_int(0, n_sessions); // the last one has no rows
            if (shared_first ? cell < share * n_kv : random_int(0, 999) < share * 1000) {
                shared.push_back(cell);
            } else if (session < n_sessions) {
                cells[session].push_back(cell);
            }
        }
        for (int32_t row = 0; row < p.job.n; row++) {
            for (int32_t cell = 0; cell < n_kv; cell++) {
                p.set_mask(row, cell, HIDDEN);
            }
        }
        for (int32_t session = 0; session < n_sessions; session++) {
            std::vector<int32_t> places = cells[session]; // the rows' own cells are anywhere among the session's
            std::shuffle(places.begin(), places.end(), engine);
            std::vector<int32_t> parent(rows_each, -1);
            for (int32_t i = 0; i < rows_each; i++) {
                const int32_t row = session * rows_each + i;
                rows[session].push_back(row);
                for (const int32_t cell : shared) {
                    p.set_mask(row, cell, 0);
                }
                for (size_t j = rows_each; j < places.size(); j++) {
                    p.set_mask(row, places[j], 0);
                }
                parent[i] = i == 0 ? -1 : random_int(0, i - 1);
                for (int32_t above = i; above >= 0; above = parent[above]) {
                    p.set_mask(row, places[above], 0);
                }
            }
        }
    }
};

static crowd random_crowd(double share, bool shared_first) {
    return crowd(random_int(2, 9), random_int(1, 9), random_int(900, 2500),
                 pick({GGML_TYPE_F16, GGML_TYPE_F32, GGML_TYPE_BF16}), pick({32, 64, 80}), share, shared_first);
}

// What a row costs are the blocks it takes part in: as many as its cells need, and one more for each class that it sees.
static void test_blocks_of_sessions() {
    for (int32_t i = 0; i < n_problems(40); i++) {
        const crowd c = random_crowd(i % 2 ? 0.3 : 0, i % 4 == 1);
        attention_job job = c.p.job;
        attention_cells cells;
        cells.find(job);
        cells.put_into(job);
        for (size_t session = 0; session < c.rows.size(); session++) {
            for (const int32_t row : c.rows[session]) {
                const taken t = cells_of_row(job, row);
                const auto n = (int32_t) t.cells.size(), most = (n + (int32_t) c.rows[session].size() + 63) / 64 + 1 + i % 2;
                check(t.n_blocks <= most, "blocks: " + std::to_string(t.n_blocks) + " for " + std::to_string(n) + " cells");
            }
        }
    }
}

// The same session in a cache of its own, its cells in the same order.
static std::vector<float> run_alone(const crowd & c, size_t session, instruction_set set) {
    const problem & p = c.p;
    std::vector<int32_t> all;
    for (int32_t cell = 0; cell < p.job.n_kv; cell++) {
        bool seen = false;
        for (const int32_t row : c.rows[session]) {
            seen |= p.sees(row, cell);
        }
        if (seen) {
            all.push_back(cell);
        }
    }
    problem own((int32_t) c.rows[session].size(), p.job.n_head_kv, p.job.n_head / p.job.n_head_kv, p.job.head_size,
                (int64_t) all.size(), p.job.k_type, p.job.v_type, OPEN, false);
    own.job.soft_cap = p.job.soft_cap;
    own.job.sinks = p.job.sinks;
    for (int32_t i = 0; i < own.job.n; i++) {
        const int32_t row = c.rows[session][i];
        for (int32_t head = 0; head < p.job.n_head; head++) {
            memcpy((char *) own.q.data() + i * own.job.q_row + head * own.job.q_head,
                   (const char *) p.q.data() + row * p.job.q_row + head * p.job.q_head, p.job.head_size * sizeof(float));
        }
        for (size_t j = 0; j < all.size(); j++) {
            own.set_mask(i, (int64_t) j, p.sees(row, all[j]) ? 0 : HIDDEN);
        }
    }
    for (size_t j = 0; j < all.size(); j++) {
        for (int32_t head = 0; head < p.job.n_head_kv; head++) {
            own.write_k((int64_t) j, head, p.k_float.data() + p.float_at(all[j], head));
            own.write_v((int64_t) j, head, p.v_float.data() + p.float_at(all[j], head));
        }
    }
    return run(own.job, set);
}

// Sessions that share no cells, or whose shared ones come first, have the very bits that they have alone. Otherwise the
// cells come in another order, and a last bit differs very rarely.
static void test_sessions(instruction_set set) {
    int64_t n_numbers = 0, n_different = 0;
    for (int32_t i = 0; i < n_problems(30); i++) {
        const bool in_between = i % 3 == 2;
        const crowd c = random_crowd(i % 3 ? 0.3 : 0, !in_between);
        const std::vector<float> out = run(c.p.job, set);
        for (size_t session = 0; session < c.rows.size(); session++) {
            const std::vector<float> alone = run_alone(c, session, set);
            const float * together = out.data() + c.rows[session][0] * c.p.out_row();
            for (size_t j = 0; j < alone.size(); j++) {
                n_different += in_between && alone[j] != together[j];
                n_numbers += in_between;
                check(in_between ? std::fabs(alone[j] - together[j]) <= 1e-6f * std::fabs(alone[j]) + 1e-12f
                                 : memcmp(&alone[j], &together[j], sizeof(float)) == 0,
                      "a session among others: " + c.p.describe());
            }
        }
    }
    check(n_different <= 1, "results that depend on other sessions: " + std::to_string(n_different));
    printf("%-8s sessions that share cells:  %lld of %lld numbers differ\n", name_of(set), (long long) n_different,
           (long long) n_numbers);
}

// All cells of one session are bad: every other row stays as it is.
static void test_bad_session(instruction_set set) {
    for (int32_t i = 0; i < n_problems(20); i++) {
        crowd c = random_crowd(0.2, false);
        const std::vector<float> before = run(c.p.job, set);
        const size_t bad = (size_t) random_int(0, (int32_t) c.rows.size() - 1);
        const std::vector<float> values(c.p.job.head_size, NAN);
        for (const int32_t cell : c.cells[bad]) {
            for (int32_t head = 0; head < c.p.job.n_head_kv; head++) {
                c.p.write_k(cell, head, values.data());
                c.p.write_v(cell, head, values.data());
            }
        }
        const std::vector<float> after = run(c.p.job, set);
        for (size_t session = 0; session < c.rows.size(); session++) {
            for (const int32_t row : c.rows[session]) {
                const float *a = after.data() + row * c.p.out_row(), *b = before.data() + row * c.p.out_row();
                check(session == bad ? std::isnan(a[0]) : memcmp(a, b, c.p.out_row() * sizeof(float)) == 0,
                      "a bad session: " + c.p.describe());
            }
        }
    }
}

// Cells that no row sees are in memory that cannot be read.
static void test_unread_cells(instruction_set set) {
    const crowd c(3, 2, 300, GGML_TYPE_F32, 512, 0, false);
    const attention_job & job = c.p.job;
    const auto page = (size_t) sysconf(_SC_PAGESIZE);
    const size_t cell_bytes = (job.n_head_kv * job.head_size * sizeof(float) + page - 1) / page * page;
    const size_t size = cell_bytes * job.n_kv;
    char * k = (char *) mmap(nullptr, 2 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(k != MAP_FAILED, "mmap");
    attention_job guarded = job;
    guarded.k = k;
    guarded.v = k + size;
    guarded.k_cell = guarded.v_cell = cell_bytes;
    guarded.k_head = guarded.v_head = job.head_size * sizeof(float);
    int32_t n_hidden = 0;
    for (int32_t cell = 0; cell < job.n_kv; cell++) {
        const size_t at = c.p.float_at(cell, 0), bytes = job.n_head_kv * guarded.k_head;
        memcpy(k + cell * cell_bytes, c.p.k_float.data() + at, bytes);
        memcpy(k + size + cell * cell_bytes, c.p.v_float.data() + at, bytes);
        bool seen = false;
        for (int32_t row = 0; row < job.n; row++) {
            seen |= c.p.sees(row, cell);
        }
        if (!seen) {
            mprotect(k + cell * cell_bytes, cell_bytes, PROT_NONE);
            mprotect(k + size + cell * cell_bytes, cell_bytes, PROT_NONE);
            n_hidden++;
        }
    }
    check(n_hidden > 0 && run(guarded, set) == run(job, set), "cells that cannot be read");
    munmap(k, 2 * size);
}

// The same cells in another order: where the prefix lies does not matter, but for a last bit very rarely.
static void test_cell_order(instruction_set set) {
    int64_t n_numbers = 0, n_different = 0;
    for (int32_t i = 0; i < n_problems(30); i++) {
        const int32_t n_kv = random_int(500, 4000);
        problem p(2, 1, 4, pick({64, 128, 256}), n_kv, GGML_TYPE_F32, GGML_TYPE_F32, NO_MASK, false);
        std::vector<int32_t> order(n_kv);
        for (int32_t cell = 0; cell < n_kv; cell++) {
            order[cell] = cell;
        }
        std::shuffle(order.begin(), order.end(), engine);
        problem moved = p;
        moved.job.q = moved.q.data();
        moved.job.k = moved.k.data();
        moved.job.v = moved.v.data();
        for (int32_t cell = 0; cell < n_kv; cell++) {
            moved.write_k(order[cell], 0, p.k_float.data() + p.float_at(cell, 0));
            moved.write_v(order[cell], 0, p.v_float.data() + p.float_at(cell, 0));
        }
        const std::vector<float> a = run(moved.job, set), b = run(p.job, set);
        for (size_t j = 0; j < b.size(); j++) {
            n_different += a[j] != b[j];
            check(std::fabs(a[j] - b[j]) <= 1e-6f * std::fabs(b[j]) + 1e-12f, "a cell's place changes a result");
        }
        n_numbers += b.size();
    }
    check(n_different <= 1, "results that depend on the order of the cells: " + std::to_string(n_different));
    printf("%-8s cells in another order:     %lld of %lld numbers differ\n", name_of(set), (long long) n_different,
           (long long) n_numbers);
}

void test_rows(instruction_set set) {
    test_batch_invariance(set);
    test_bad_numbers(set);
    test_blind_rows(set);
    test_sessions(set);
    test_bad_session(set);
    test_unread_cells(set);
    test_cell_order(set);
}

void test_lists() {
    test_list();
    test_blocks_of_sessions();
}
