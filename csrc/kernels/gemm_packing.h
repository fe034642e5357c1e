// How the kernels store weights and quantised activations.
//
// Packed weights of a group of `lanes` interleaved rows, block after block along k:
//   d      lanes halves, or bfloats
//   dmin   lanes halves                            (formats with minima), or m (formats that add it)
//   scale  [n_scales][lanes] bytes                 (K formats)
//   min    [n_pairs][lanes][2] bytes               (formats with minima): those of two sub-blocks, or of two halves
//   quants per sub-block of 32 values of k, as 8 vectors; byte (lane, i) of vector g belongs to k = 4 * g + i:
//     4 bits: vectors g and g + 4 share the nibbles of vector g
//     2 bits: two vectors; vector g is bits 2 * (g % 4) of vector g / 4
//     1 bit:  one vector; vector g is bit g
//     8 bits: 8 vectors
//   Of 5 bits the lower four come first, then the fifth; of 6 the lower four, then two; of 3 the lower two, then the third.
//
// Quantised activations, tile after tile (of `t` rows), each of them block after block along k:
//   quants     [sub-block][t][32] signed bytes
//   d          [t] floats
//   correction [sub-block or half of one][t] int32: -offset * sum of quants, where weights are stored with an offset
//   sums       [n_pairs][t] pairs of int16: sums of the quants of two sub-blocks or halves (formats with minima)
//   sum        [t] floats: d times the sum of quants (formats that add m)
#pragma once

#include "gemm_formats.h"

namespace mp {
namespace {

// --- packed weights --------------------------------------------------------------------------------------------------

// Pairs of minima in a block.
template <class F> constexpr int n_min_pairs() {
    return F::has_min ? F::n_sub * F::halves / 2 : 0;
}

// Offsets in the bytes of one packed block; those of pairs and single bits are in a sub-block.
template <class F, int lanes> struct packed_block {
    static constexpr bool has_scales = F::n_sub > 1;
    static constexpr int n_scales = has_scales ? F::n_sub * F::halves : 0;
    static constexpr int vector = 4 * lanes;
    static constexpr size_t d = 0;
    static constexpr size_t dmin = 2 * lanes;
    static constexpr size_t scale = dmin + (F::has_min || F::adds_m ? 2 * lanes : 0);
    static constexpr size_t min = scale + n_scales * lanes;
    static constexpr size_t quants = min + 2 * n_min_pairs<F>() * lanes;
    static constexpr bool has_nibbles = F::bits >= 4 && F::bits <= 6;
    static constexpr bool has_pairs = F::bits == 2 || F::bits == 3 || F::bits == 6;
    static constexpr bool has_singles = F::bits == 3 || F::bits == 5;
    static constexpr size_t pairs = has_nibbles ? 4 * vector : 0;
    static constexpr size_t singles = pairs + (has_pairs ? 2 * vector : 0);
    static constexpr size_t sub_size = F::bits == 8 ? 8 * vector : singles + (has_singles ? vector : 0);
    static constexpr size_t size = quants + F::n_sub * sub_size;
};

template <class F, int lanes> size_t packed_size(int64_t n_out, int64_t k) {
    return static_cast<size_t>(n_out / lanes * (k / F::block)) * packed_block<F, lanes>::size;
}

// Bits from `shift` on of `count` words of four quants, in one word.
template <int width, int count> MP_INLINE uint32_t join_bits(const uint32_t * words, int stride, int shift) {
    constexpr uint32_t mask = 0x01010101 * ((1 << width) - 1);
    uint32_t joined = 0;
    for (int i = 0; i < count; i++) {
        joined |= (words[i * stride] >> shift & mask) << (i * width);
    }
    return joined;
}

// The quants of one block, 8 words of four for each sub-block, into a lane. The bytes of a word never mix.
template <class F, int lanes, bool keep_sign> void pack_quants(const uint8_t * quants, uint8_t * target, int lane) {
    using P = packed_block<F, lanes>;
    for (int sub = 0; sub < F::n_sub; sub++) {
        uint32_t words[8];
        memcpy(words, quants + 32 * sub, 32);
        uint8_t * base = target + P::quants + sub * P::sub_size + 4 * lane;
        auto store = [&](size_t offset, uint32_t word) { memcpy(base + offset, &word, 4); };
        if constexpr (F::bits == 8) {
            for (int g = 0; g < 8; g++) {
                store(g * P::vector, keep_sign ? words[g] : words[g] ^ 0x80808080);
            }
        }
        if constexpr (P::has_nibbles) {
            for (int g = 0; g < 4; g++) {
                store(g * P::vector, join_bits<4, 2>(words + g, 4, 0));
            }
        }
        if constexpr (P::has_pairs) {
            for (int i = 0; i < 2; i++) {
                store(P::pairs + i * P::vector, join_bits<2, 4>(words + 4 * i, 1, P::has_nibbles ? 4 : 0));
            }
        }
        if constexpr (P::has_singles) {
            store(P::singles, join_bits<1, 8>(words, 1, F::bits - 1));
        }
    }
}

// What a block says of all its quants, but for the minima.
template <class F, int lanes>
MP_INLINE void pack_scales(const typename F::ggml_block & source, const uint8_t * scale, uint8_t * target, int lane) {
    using P = packed_block<F, lanes>;
    uint16_t d;
    if constexpr (F::bfloat_d) {
        d = F::d_bits(source);
    } else {
        d = source.d;
    }
    memcpy(target + P::d + 2 * lane, &d, 2);
    if constexpr (F::adds_m) {
        memcpy(target + P::dmin + 2 * lane, &source.m, 2);
    }
    if constexpr (F::has_min) {
        memcpy(target + P::dmin + 2 * lane, &source.dmin, 2);
    }
    for (int i = 0; i < P::n_scales; i++) {
        target[P::scale + i * lanes + lane] = scale[i];
    }
}

// One block of one row into its lane.
template <class F, int lanes, bool keep_sign>
void pack_lane(const typename F::ggml_block & source, uint8_t * target, int lane) {
    using P = packed_block<F, lanes>;
    uint8_t scale[16], min[16];
    if constexpr (P::has_scales) {
        F::scales(source, scale, min);
    }
    pack_scales<F, lanes>(source, scale, target, lane);
    for (int pair = 0; pair < n_min_pairs<F>(); pair++) {
        memcpy(target + P::min + (pair * lanes + lane) * 2, min + 2 * pair, 2);
    }
    uint8_t quants[F::block];
    F::unpack(source, quants);
    pack_quants<F, lanes, keep_sign>(quants, target, lane);
}

template <class F, int lanes, bool keep_sign>
void pack(const void * weights, void * packed, int64_t k, int64_t group_begin, int64_t group_end) {
    using P = packed_block<F, lanes>;
    static_assert(sizeof(typename F::ggml_block) * 8 >= F::block * F::bits, "a block of ggml's has no padding");
    int64_t n_blocks = k / F::block;
    const auto * source = static_cast<const typename F::ggml_block *>(weights);
    for (int64_t group = group_begin; group < group_end; group++) {
        for (int64_t block = 0; block < n_blocks; block++) {
            uint8_t * target = static_cast<uint8_t *>(packed) + static_cast<size_t>(group * n_blocks + block) * P::size;
            for (int lane = 0; lane < lanes; lane++) {
                pack_lane<F, lanes, keep_sign>(source[(group * lanes + lane) * n_blocks + block], target, lane);
            }
        }
    }
}

// --- quantised activations -------------------------------------------------------------------------------------------

// Offsets, for a tile of `t` rows, in the bytes of one block. `offset` is the one of the stored weights.
template <class F, int offset> struct activation_block {
    static constexpr int n_corrections = offset != 0 ? F::n_sub * F::halves : 0;
    static constexpr size_t row_size = F::block + 4 + 4 * n_corrections + 4 * n_min_pairs<F>() + (F::adds_m ? 4 : 0);

    static constexpr size_t quants(int t, int sub) { return static_cast<size_t>(32) * t * sub; }
    static constexpr size_t d(int t) { return static_cast<size_t>(F::block) * t; }
    static constexpr size_t correction(int t, int i) { return static_cast<size_t>(F::block + 4 + 4 * i) * t; }
    static constexpr size_t sums(int t, int pair) { return correction(t, n_corrections + pair); }
    static constexpr size_t sum(int t) { return sums(t, n_min_pairs<F>()); }
};

// n rows in the fewest tiles of at most `max_tile` rows, nearly equal.
struct tiling {
    int64_t n_tiles, width, n_wider;

    tiling(int64_t n, int max_tile) : n_tiles((n + max_tile - 1) / max_tile) {
        width = n_tiles > 0 ? n / n_tiles : 0;
        n_wider = n - width * n_tiles;
    }

    int tile_width(int64_t tile) const { return static_cast<int>(width + (tile < n_wider ? 1 : 0)); }
    int64_t first_row(int64_t tile) const { return tile * width + (tile < n_wider ? tile : n_wider); }
    int64_t tile_of(int64_t row) const {
        int64_t in_wider = n_wider * (width + 1);
        return row < in_wider ? row / (width + 1) : n_wider + (row - in_wider) / width;
    }
};

} // namespace
} // namespace mp
