// The algorithm of attention.h, once for all instruction sets. attention_<set>.cpp defines the vectors and includes this
// file inside its own unnamed namespace, so that no two instruction sets share a function. For the same reason nothing
// here calls templates or inline functions of the standard library.
//
// What is defined before, by attention_<set>.cpp ("by set") or attention_vectors.h:
//   vec, LANES                    a vector of floats
//   VECS                          vectors of one row that a tile holds in registers (by set)
//   load, store, set1, add, sub, mul, div
//   fma(a, b, c)                  a * b + c; always or never rounded in between (by set)
//   max(a, b)                     b where either is NaN (by set)
//   max_of                        over the lanes (by set)
//   power_of_two(x)               2^i where x = 1.5 * 2^23 + i
//   round(x)                      to the nearest integer, ties to even; infinities and NaN stay (by set)
//   zero_below(y, x, limit)       0 where x < limit, else y
//   hide(x, mask)                 -inf where the mask is, else x
//   with_sign(x, sign)            |x| with the sign of the other
//   load_f16, load_bf16, load_i8  LANES numbers as floats (by set)
//   transpose4(from, ld, to)      the first 4 columns of LANES rows, `ld` floats apart; rows of `to` are BLOCK apart (by
//   set) wide, WIDE_LANES              a vector of doubles, half as many as LANES load_wide, store_wide, set1_wide,
//   add_wide, mul_wide fma_wide(a, b, c)             a * b + c (by set) widen(p)                      WIDE_LANES floats from
//   memory as doubles (by set)
//
// Bit-identity of rows. Scores and outputs are pure chains of `fma` in an order that depends on the cell alone, however
// many rows a tile has. All else that concerns one row happens in softmax(), which is one function for all. What a cell
// hidden from a row adds to its sums is 0 times a finite number: nothing but the sign of a zero, and finish() removes it.
//
// The sum of the weights is a chain in the order of the cells too: it does not matter where in its block a cell stands.
//
// Order of cells. A weight is e^score / 2^largest with an integer `largest`: when it grows, all that was summed is scaled
// by a power of two, which rounds nothing. The sums are of exact products in double precision. So the order in which
// cells come moves a result by 1e-16 of its terms, before it is rounded to single precision.

static constexpr int32_t BLOCK = ATTENTION_BLOCK;
static constexpr int32_t TILE = 4; // rows

// What is computed together. All KV heads take their turn at a block of cells: the heads of a cell are neighbours in
// memory, and a walk over the whole cache for each head would read a few scattered bytes of every page.
struct chunk {
    int32_t first, n; // rows of the job
    int32_t head_begin, head_end;
};

// Views of the scratch memory. A "line" is one query head of one row. The lines of a KV head lie together:
// ((KV head - head_begin) * rows + row) * group + head.
struct workspace {
    float * keys;     // (head_size, BLOCK)
    float * values;   // (BLOCK, head_size)
    float * staging;  // (LANES, head_size)
    float * scores;   // (TILE, BLOCK)
    double * weights; // (TILE, BLOCK): what softmax() makes of them
    float * masks;    // (rows, BLOCK)
    double * sums;    // (lines, head_size)
    double * total;   // (lines): running sum of the weights
    float * largest;  // (lines): running maximum of the scores, in powers of two
    int32_t * active; // (lines of one KV head): those that see a cell of the block
};

static workspace divide(void * scratch, const attention_job & job) {
    const size_t head_size = job.head_size;
    const size_t rows = attention_chunk_rows(job);
    const size_t lines = rows * job.n_head;
    workspace w;
    w.keys = (float *) scratch;
    w.values = w.keys + head_size * BLOCK;
    w.staging = w.values + BLOCK * head_size;
    w.scores = w.staging + LANES * head_size;
    w.masks = w.scores + TILE * BLOCK;
    w.weights = (double *) (w.masks + rows * BLOCK);
    w.sums = w.weights + TILE * BLOCK;
    w.total = w.sums + lines * head_size;
    w.largest = (float *) (w.total + lines);
    w.active = (int32_t *) (w.largest + lines);
    return w;
}

// --- conversion ------------------------------------------------------------------------------------------------------

static inline float half_to_float(uint16_t h) {
    uint32_t bits = (uint32_t) (h & 0x7FFF) << 13; // 2^112 too small
    float x;
    memcpy(&x, &bits, sizeof(x));
    x *= 0x1p112f;
    memcpy(&bits, &x, sizeof(x));
    bits |= (uint32_t) (h & 0x8000) << 16;
    bits |= (h & 0x7C00) == 0x7C00 ? 0x7F800000 : 0; // infinities and NaN
    memcpy(&x, &bits, sizeof(x));
    return x;
}

static void cell_to_float(ggml_type type, const char * from, float * to, int32_t head_size) {
    switch (type) {
    case GGML_TYPE_F16:
        for (int32_t i = 0; i < head_size; i += LANES) {
            store(to + i, load_f16(from + i * 2));
        }
        break;
    case GGML_TYPE_BF16:
        for (int32_t i = 0; i < head_size; i += LANES) {
            store(to + i, load_bf16(from + i * 2));
        }
        break;
    case GGML_TYPE_Q8_0: // blocks of an F16 scale and 32 bytes
        for (int32_t i = 0; i < head_size; i += 32, from += 34) {
            uint16_t half;
            memcpy(&half, from, sizeof(half));
            const vec scale = set1(half_to_float(half));
            for (int32_t j = 0; j < 32; j += LANES) {
                store(to + i + j, mul(scale, load_i8(from + 2 + j)));
            }
        }
        break;
    default:
        memcpy(to, from, head_size * sizeof(float));
        break;
    }
}

// Asks for the next block of K or V while this one is worked on: a few bytes with every cell, and in the order in which
// they lie in memory, which is several times faster than the order of use.
struct prefetcher {
    const int32_t * cell;
    uintptr_t cache; // with the first of the heads
    size_t stride, head_stride, bytes;
    int32_t n_heads, head;

    void step() {
        const size_t line = 64; // of the processor's cache
        const uintptr_t at = cache + *cell * stride + head * head_stride;
        for (size_t i = 0; i < bytes; i += line) {
            __builtin_prefetch((const void *) (at + i), 0, 2);
        }
        if (++head == n_heads) {
            head = 0;
            cell++;
        }
    }
};

static prefetcher prefetch_cells(const void * cache, const int32_t * cells, size_t stride, size_t head_stride,
                                 ggml_type type, int32_t head_size, const chunk & c) {
    const size_t bytes = type == GGML_TYPE_F32    ? head_size * 4
                         : type == GGML_TYPE_Q8_0 ? head_size / 32 * 34
                                                  : head_size * 2;
    return {cells, (uintptr_t) cache + c.head_begin * head_stride, stride, head_stride, bytes, c.head_end - c.head_begin, 0};
}

// Cells that are not `wanted` become zeros and their memory is not looked at: it may never have been written.
static void cells_to_float(ggml_type type, const char * from, const int32_t * cells, size_t stride, uint64_t wanted,
                           int32_t n, float * to, int32_t head_size, prefetcher & next) {
    for (int32_t i = 0; i < n; i++, to += head_size) {
        next.step();
        if (wanted >> i & 1) {
            cell_to_float(type, from + cells[i] * stride, to, head_size);
        } else {
            memset(to, 0, head_size * sizeof(float));
        }
    }
}

// By way of w.staging: cells often lie a power of two apart, and many short reads of each would throw one another out of
// the cache.
static void keys_to_float(const attention_job & job, const char * from, const int32_t * cells, uint64_t wanted,
                          const workspace & w, prefetcher & next) {
    for (int32_t i = 0; i < BLOCK; i += LANES) {
        cells_to_float(job.k_type, from, cells + i, job.k_cell, wanted >> i, LANES, w.staging, job.head_size, next);
        for (int32_t d = 0; d < job.head_size; d += 4) {
            transpose4(w.staging + d, job.head_size, w.keys + d * BLOCK + i);
        }
    }
}

// What the mask adds to the scores of a row with the cells of a block: (BLOCK). Usually nothing.
static void mask_to_float(const attention_job & job, int32_t row, const int32_t * cells, uint64_t visible, float * mask) {
    if (job.adds) {
        const char * from = (const char *) job.mask + row * job.mask_row;
        for (int32_t i = 0; i < BLOCK; i++) {
            uint16_t half = 0xFC00; // -inf
            if (visible >> i & 1) {
                memcpy(&half, from + (size_t) cells[i] * sizeof(half), sizeof(half));
            }
            mask[i] = half_to_float(half);
        }
        return;
    }
    memset(mask, 0, BLOCK * sizeof(float));
    for (uint64_t hidden = ~visible; hidden != 0; hidden &= hidden - 1) {
        mask[__builtin_ctzll(hidden)] = -INFINITY;
    }
}

// --- arithmetic ------------------------------------------------------------------------------------------------------
// What is not to be inlined has an inner loop that needs all registers.

// x in powers of two, rounded: the exponent that goes with e^x.
static inline vec exponent_of(vec x) {
    return round(mul(x, set1(1.44269504f)));
}

// e^x / 2^largest for an integer `largest` >= exponent_of(x), relative error below 3e-7; 0 below 2^-126, NaN for NaN.
// Its digits depend on x alone.
static inline vec exp_scaled(vec x, vec largest) {
    const vec limit = set1(-126.0f);
    const vec n = exponent_of(x);
    vec r = fma(n, set1(-0.693145752f), x); // ln 2 in two parts, the first with few digits
    r = fma(n, set1(-1.42860677e-6f), r);
    vec p = set1(1.0f / 720);
    p = fma(p, r, set1(1.0f / 120));
    p = fma(p, r, set1(1.0f / 24));
    p = fma(p, r, set1(1.0f / 6));
    p = fma(p, r, set1(1.0f / 2));
    p = fma(p, r, set1(1.0f));
    p = fma(p, r, set1(1.0f));
    const vec exponent = sub(n, largest);
    const vec scale = power_of_two(add(max(limit, exponent), set1(12582912.0f))); // 1.5 * 2^23
    return zero_below(mul(p, scale), exponent, limit);
}

// 2^exponent for an integer exponent <= 0; 0 where it is far below.
static inline double scale_of(float exponent) {
    if (!(exponent > -1000.0f)) {
        return 0.0;
    }
    const uint64_t bits = (uint64_t) (1023 + (int64_t) exponent) << 52;
    double scale;
    memcpy(&scale, &bits, sizeof(scale));
    return scale;
}

// tanh with an absolute error below 3e-7.
static inline vec hyperbolic_tangent(vec x) {
    const vec magnitude = with_sign(x, set1(1.0f));
    const vec e = exp_scaled(mul(magnitude, set1(-2.0f)), set1(0.0f));
    return with_sign(div(sub(set1(1.0f), e), add(set1(1.0f), e)), x);
}

// Products of ROWS lines of Q with the keys of a block.
template <int32_t ROWS> __attribute__((noinline)) static void score_tile(const float * const * q, const float * keys,
                                                                         int32_t head_size, float * scores) {
    for (int32_t cell = 0; cell < BLOCK; cell += VECS * LANES) {
        vec sum[ROWS][VECS];
        for (int32_t r = 0; r < ROWS; r++) {
            for (int32_t j = 0; j < VECS; j++) {
                sum[r][j] = set1(0.0f);
            }
        }
        const float * key = keys + cell;
        for (int32_t d = 0; d < head_size; d++, key += BLOCK) {
            vec k[VECS];
            for (int32_t j = 0; j < VECS; j++) {
                k[j] = load(key + j * LANES);
            }
            for (int32_t r = 0; r < ROWS; r++) {
                const vec x = set1(q[r][d]);
                for (int32_t j = 0; j < VECS; j++) {
                    sum[r][j] = fma(x, k[j], sum[r][j]);
                }
            }
        }
        for (int32_t r = 0; r < ROWS; r++) {
            for (int32_t j = 0; j < VECS; j++) {
                store(scores + r * BLOCK + cell + j * LANES, sum[r][j]);
            }
        }
    }
}

// From products to weights. Returns what the sums over earlier blocks are to be multiplied with. A score of NaN makes a
// weight of NaN, and with it all that comes out; the maximum passes it over.
__attribute__((noinline)) static double softmax(const attention_job & job, float * scores, const float * mask,
                                                double * weights, float & largest) {
    const vec scale = set1(job.soft_cap != 0 ? job.scale / job.soft_cap : job.scale);
    vec lane_max = set1(-INFINITY);
    for (int32_t i = 0; i < BLOCK; i += LANES) {
        vec x = mul(load(scores + i), scale);
        if (job.soft_cap != 0) {
            x = mul(set1(job.soft_cap), hyperbolic_tangent(x));
        }
        const vec m = load(mask + i);
        x = hide(add(x, m), m);
        lane_max = max(exponent_of(x), lane_max);
        store(scores + i, x);
    }
    const float block_max = max_of(lane_max);
    const float before = largest;
    if (block_max > largest) {
        largest = block_max;
    }
    const vec base = set1(largest == -INFINITY ? 0.0f : largest);
    for (int32_t i = 0; i < BLOCK; i += LANES) {
        store(scores + i, exp_scaled(load(scores + i), base));
    }
    for (int32_t i = 0; i < BLOCK; i += WIDE_LANES) {
        store_wide(weights + i, widen(scores + i));
    }
    return largest == before ? 1.0 : scale_of(before - largest);
}

// sums[r] * factor[r] + weights[r] times the values of the first n_cells cells, columns [0, N * WIDE_LANES). Where they are
// the FIRST columns, the weights themselves are added to *totals[r], cell by cell as well.
template <int32_t ROWS, int32_t N, bool FIRST>
__attribute__((noinline)) static void value_columns(const double * weights, const double * factor, const float * values,
                                                    int32_t n_cells, int32_t head_size, double * const * sums,
                                                    int32_t column, double * const * totals) {
    wide sum[ROWS][N];
    wide total[ROWS]; // every lane is the same
    for (int32_t r = 0; r < ROWS; r++) {
        for (int32_t j = 0; j < N; j++) {
            sum[r][j] = mul_wide(load_wide(sums[r] + column + j * WIDE_LANES), set1_wide(factor[r]));
        }
        total[r] = set1_wide(*totals[r] * factor[r]);
    }
    const float * value = values + column;
    for (int32_t cell = 0; cell < n_cells; cell++, value += head_size) {
        wide v[N];
        for (int32_t j = 0; j < N; j++) {
            v[j] = widen(value + j * WIDE_LANES);
        }
        for (int32_t r = 0; r < ROWS; r++) {
            const wide p = set1_wide(weights[r * BLOCK + cell]);
            for (int32_t j = 0; j < N; j++) {
                sum[r][j] = fma_wide(p, v[j], sum[r][j]);
            }
            if (FIRST) {
                total[r] = add_wide(total[r], p);
            }
        }
    }
    for (int32_t r = 0; r < ROWS; r++) {
        for (int32_t j = 0; j < N; j++) {
            store_wide(sums[r] + column + j * WIDE_LANES, sum[r][j]);
        }
        if (FIRST) {
            double lanes[WIDE_LANES];
            store_wide(lanes, total[r]);
            *totals[r] = lanes[0];
        }
    }
}

// ROWS of the active lines of a KV head.
template <int32_t ROWS> static void run_tile(const attention_job & job, const chunk & c, const workspace & w,
                                             int32_t head_kv, const int32_t * active, int32_t n_cells) {
    const int32_t group = job.n_head / job.n_head_kv;
    const int32_t first_line = (head_kv - c.head_begin) * c.n * group;
    const float * q[ROWS];
    double *sums[ROWS], *totals[ROWS];
    for (int32_t r = 0; r < ROWS; r++) {
        const int32_t row = c.first + active[r] / group;
        const int32_t head = head_kv * group + active[r] % group;
        const int32_t line = first_line + active[r];
        q[r] = (const float *) ((const char *) job.q + row * job.q_row + head * job.q_head);
        sums[r] = w.sums + (size_t) line * job.head_size;
        totals[r] = w.total + line;
    }
    score_tile<ROWS>(q, w.keys, job.head_size, w.scores);
    double factor[ROWS];
    for (int32_t r = 0; r < ROWS; r++) {
        const float * mask = w.masks + active[r] / group * BLOCK;
        factor[r] = softmax(job, w.scores + r * BLOCK, mask, w.weights + r * BLOCK, w.largest[first_line + active[r]]);
    }
    constexpr int32_t MANY = VECS * WIDE_LANES;
    int32_t column = job.head_size < MANY ? WIDE_LANES : MANY;
    if (job.head_size < MANY) {
        value_columns<ROWS, 1, true>(w.weights, factor, w.values, n_cells, job.head_size, sums, 0, totals);
    } else {
        value_columns<ROWS, VECS, true>(w.weights, factor, w.values, n_cells, job.head_size, sums, 0, totals);
    }
    for (; column + MANY <= job.head_size; column += MANY) {
        value_columns<ROWS, VECS, false>(w.weights, factor, w.values, n_cells, job.head_size, sums, column, totals);
    }
    for (; column < job.head_size; column += WIDE_LANES) {
        value_columns<ROWS, 1, false>(w.weights, factor, w.values, n_cells, job.head_size, sums, column, totals);
    }
}

// Of n lines, fewer than TILE.
static void run_last_tile(const attention_job & job, const chunk & c, const workspace & w, int32_t head_kv,
                          const int32_t * active, int32_t n, int32_t n_cells) {
    switch (n) {
    case 3:
        return run_tile<3>(job, c, w, head_kv, active, n_cells);
    case 2:
        return run_tile<2>(job, c, w, head_kv, active, n_cells);
    case 1:
        return run_tile<1>(job, c, w, head_kv, active, n_cells);
    }
}

static int32_t head_of(int32_t line, const chunk & c, int32_t group) {
    return (c.head_begin + line / group / c.n) * group + line % group;
}

// Writes the rows of a chunk; returns whether one has a NaN.
static bool finish(const attention_job & job, const chunk & c, const workspace & w) {
    const int32_t group = job.n_head / job.n_head_kv;
    bool has_nan = false;
    for (int32_t line = 0; line < (c.head_end - c.head_begin) * c.n * group; line++) {
        const int32_t row = c.first + line / group % c.n;
        const int32_t head = head_of(line, c, group);
        const double * sums = w.sums + (size_t) line * job.head_size;
        float * out = job.out + ((size_t) row * job.n_head + head) * job.head_size;
        const double factor = w.total[line] == 0.0 ? 0.0 : 1.0 / w.total[line];
        for (int32_t i = 0; i < job.head_size; i++) {
            out[i] = (float) (sums[i] * factor) + 0.0f; // a zero comes out positive
            has_nan |= out[i] != out[i];
        }
    }
    return has_nan;
}

// The first block from `block` on in which a row of the chunk sees a cell; n_blocks if there is none.
static int32_t next_block(const attention_job & job, const chunk & c, int32_t block) {
    for (; block < job.n_blocks; block++) {
        const uint64_t * visible = job.visible + block * job.visible_block + c.first;
        for (int32_t row = 0; row < c.n; row++) {
            if (visible[row]) {
                return block;
            }
        }
    }
    return block;
}

// Returns the next block.
static int32_t run_block(const attention_job & job, const chunk & c, const workspace & w, int32_t block) {
    const int32_t group = job.n_head / job.n_head_kv;
    const int32_t * cells = job.cells + block * BLOCK;
    const uint64_t * visible = job.visible + block * job.visible_block + c.first;
    uint64_t seen = 0;
    int32_t n_active = 0;
    for (int32_t row = 0; row < c.n; row++) {
        if (visible[row]) {
            seen |= visible[row];
            mask_to_float(job, c.first + row, cells, visible[row], w.masks + row * BLOCK);
            for (int32_t i = 0; i < group; i++) {
                w.active[n_active++] = row * group + i;
            }
        }
    }
    const int32_t n_cells = BLOCK - __builtin_clzll(seen);
    const int32_t next = next_block(job, c, block + 1);
    const int32_t * next_cells = next < job.n_blocks ? job.cells + next * BLOCK : cells;
    prefetcher next_k = prefetch_cells(job.k, next_cells, job.k_cell, job.k_head, job.k_type, job.head_size, c);
    prefetcher next_v = prefetch_cells(job.v, next_cells, job.v_cell, job.v_head, job.v_type, job.head_size, c);
    for (int32_t head = c.head_begin; head < c.head_end; head++) {
        keys_to_float(job, (const char *) job.k + head * job.k_head, cells, seen, w, next_k);
        cells_to_float(job.v_type, (const char *) job.v + head * job.v_head, cells, job.v_cell, seen, n_cells, w.values,
                       job.head_size, next_v);
        int32_t i = 0;
        for (; i + TILE <= n_active; i += TILE) {
            run_tile<TILE>(job, c, w, head, w.active + i, n_cells);
        }
        run_last_tile(job, c, w, head, w.active + i, n_active - i, n_cells);
    }
    return next;
}

// The sums before the first cell: nothing, or the sink.
static void begin(const attention_job & job, const chunk & c, const workspace & w) {
    const int32_t group = job.n_head / job.n_head_kv;
    const int32_t lines = (c.head_end - c.head_begin) * c.n * group;
    memset(w.sums, 0, (size_t) lines * job.head_size * sizeof(double));
    for (int32_t line = 0; line < lines; line++) {
        const float sink = job.sinks ? job.sinks[head_of(line, c, group)] : -INFINITY;
        w.largest[line] = -INFINITY;
        w.total[line] = 0;
        if (sink != -INFINITY) {
            float weights[LANES]; // all the same
            const vec exponent = exponent_of(set1(sink));
            store(weights, exp_scaled(set1(sink), exponent));
            w.largest[line] = max_of(exponent);
            w.total[line] = weights[0];
        }
    }
}

static void run_chunk(const attention_job & job, const chunk & c, const workspace & w) {
    begin(job, c, w);
    for (int32_t block = next_block(job, c, 0); block < job.n_blocks;) {
        block = run_block(job, c, w, block);
    }
    if (finish(job, c, w) && c.n > 1) {
        // A NaN that only some rows see has spread to all by way of 0 * NaN. Alone, a row reads only cells that it sees.
        for (int32_t row = c.first; row < c.first + c.n; row++) {
            run_chunk(job, {row, 1, c.head_begin, c.head_end}, w);
        }
    }
}

static void run_heads(const attention_job & job, int32_t head_begin, int32_t head_end, void * scratch) {
    const workspace w = divide(scratch, job);
    const int32_t rows = attention_chunk_rows(job);
    for (int32_t first = 0; first < job.n; first += rows) {
        run_chunk(job, {first, job.n - first < rows ? job.n - first : rows, head_begin, head_end}, w);
    }
}
