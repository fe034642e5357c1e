// How the kernels store weights and quantised activations.
//
// Packed weights of a group of `lanes` interleaved rows, block after block along k:
//   d      lanes halves, or bfloats
//   dmin   lanes halves                            (formats with minima), or m (formats that add it)
//   scale  [n_scales][lanes] bytes                 (K formats)
//   min    [n_pairs][lanes][2] bytes               (formats with minima): those of two sub-blocks, or of two halves
//   quants per sub-block of 32 values of k as many vectors as a quant has bits; part_of() says where they are. Byte (lane,
//   i)
//          of quant g of 8 belongs to k = 4 * g + i
//
// Quantised activations, tile after tile (of `t` rows), each of them block after block along k:
//   quants     [sub-block][t][32] signed bytes
//   d          [t] floats
//   correction [sub-block or half of one][t] int32: -offset * sum of quants, where weights are stored with an offset
//   sums       [n_pairs][t] pairs of int16: sums of the quants of two sub-blocks or halves (formats with minima)
//   sum        [t] floats: d times the sum of quants (formats that add m)
#pragma once

#include "kernels/gemm/gemm_formats.h"

namespace mp {
namespace {

// --- packed weights --------------------------------------------------------------------------------------------------

// Pairs of minima in a block.
template <class F> constexpr int n_min_pairs() {
    return F::has_min ? F::n_sub * F::halves / 2 : 0;
}

// Where quant g of the 8 in a byte's place is: in parts, of which each is (vector >> shift) & mask, the upper one first. The
// mask is 0 where there are no more. As many as fit a byte are whole, and one or two are made of the bits left over.
struct quant_part {
    int vector, shift, mask;
};

template <int bits> constexpr quant_part part_of(int g, int part) {
    constexpr int per_byte = 8 / bits;
    constexpr int n_whole = per_byte * bits;
    constexpr quant_part split_3[2][4] = {{{0, 5, 6}, {1, 7, 1}}, {{2, 5, 6}, {1, 6, 1}}};
    constexpr quant_part split_5[3][4] = {
        {{0, 3, 28}, {1, 6, 3}}, {{2, 3, 28}, {3, 6, 3}}, {{4, 3, 28}, {1, 4, 2}, {3, 5, 1}}};
    constexpr quant_part split_6[2][4] = {{{0, 2, 48}, {1, 4, 12}, {2, 6, 3}}, {{3, 2, 48}, {4, 4, 12}, {5, 6, 3}}};
    if (g < n_whole) {
        bool in_order = bits == 2; // 2 bits: 0 to 3 in the first vector; else 0, 1, 2, ... in the first place of each
        int vector = in_order ? g / per_byte : g % bits, place = in_order ? g % per_byte : g / bits;
        return {vector, place * bits, part == 0 ? (1 << bits) - 1 : 0};
    }
    return bits == 3 ? split_3[g - n_whole][part] : bits == 5 ? split_5[g - n_whole][part] : split_6[g - n_whole][part];
}

// Offsets in the bytes of one packed block.
template <class F, int lanes> struct packed_block {
    static constexpr bool has_scales = F::n_sub > 1;
    static constexpr int n_scales = has_scales ? F::n_sub * F::halves : 0;
    static constexpr int vector = 4 * lanes;
    static constexpr size_t d = 0;
    static constexpr size_t dmin = 2 * lanes;
    static constexpr size_t scale = dmin + (F::has_min || F::adds_m ? 2 * lanes : 0);
    static constexpr size_t min = scale + n_scales * lanes;
    static constexpr size_t quants = min + 2 * n_min_pairs<F>() * lanes;
    static constexpr size_t sub_size = F::bits * vector;
    static constexpr size_t size = quants + F::n_sub * sub_size;
};

template <class F, int lanes> size_t packed_size(int64_t n_out, int64_t k) {
    return static_cast<size_t>(n_out / lanes * (k / F::block)) * packed_block<F, lanes>::size;
}

// The quants of one block, 8 words of four for each sub-block, into a lane. The bytes of a word never mix.
template <class F, int lanes, bool keep_sign> void pack_quants(const uint8_t * quants, uint8_t * target, int lane) {
    using P = packed_block<F, lanes>;
    for (int sub = 0; sub < F::n_sub; sub++) {
        uint32_t words[8], vectors[F::bits] = {};
        memcpy(words, quants + 32 * sub, 32);
        MP_UNROLL
        for (int g = 0; g < 8; g++) {
            uint32_t word = F::bits == 8 && !keep_sign ? words[g] ^ 0x80808080 : words[g];
            MP_UNROLL
            for (int part = 0; part < 3; part++) {
                quant_part p = part_of<F::bits>(g, part);
                vectors[p.vector] |= (word & p.mask * 0x01010101u) << p.shift;
            }
        }
        uint8_t * base = target + P::quants + sub * P::sub_size + 4 * lane;
        for (int v = 0; v < F::bits; v++) {
            memcpy(base + v * P::vector, vectors + v, 4);
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
    uint8_t scale[16] = {}, min[16] = {};
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

// function(row, begin, end) for each row that has blocks, from `begin` to `end`, in the part [part, n_parts) of the blocks.
template <class L>
MP_INLINE void for_each_row_part(int64_t n, int64_t n_blocks, int32_t part, int32_t n_parts, L && function) {
    int64_t item = n * n_blocks * part / n_parts, end = n * n_blocks * (part + 1) / n_parts;
    while (item < end) {
        int64_t row = item / n_blocks, begin = item - row * n_blocks;
        int64_t count = n_blocks - begin < end - item ? n_blocks - begin : end - item;
        function(row, begin, begin + count);
        item += count;
    }
}

} // namespace
} // namespace mp
