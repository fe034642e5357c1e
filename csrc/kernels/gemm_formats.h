// Weight formats as the kernels see them: ggml's blocks, their packed layout for `lanes` interleaved rows, the layout of
// quantised activations.
//
// Everything here is in an unnamed namespace: each instruction set compiles its own copy, and the linker must never take
// one set's copy of a function for another's.
//
// Packed weights of a group of `lanes` rows, block after block along k:
//   d      lanes halves
//   dmin   lanes halves                            (formats with minima)
//   scale  [n_scales][lanes] bytes                 (K formats)
//   min    [4][lanes][2] bytes, two sub-blocks     (formats with minima)
//   quants per sub-block of 32 values of k, as 8 vectors; byte (lane, i) of vector g belongs to k = 4 * g + i:
//     4 bits: vectors g and g + 4 share the nibbles of vector g
//     5 bits: the same, then one vector with the fifth bit of vector g in bit g
//     6 bits: the same, then two vectors; the upper two bits of vector g are bits 2 * (g % 4) of vector g / 4
//     8 bits: 8 vectors
//
// Quantised activations, tile after tile (of `t` rows), each of them block after block along k:
//   quants     [sub-block][t][32] signed bytes
//   d          [t] floats
//   correction [sub-block or half of one][t] int32: -offset * sum of quants, where weights are stored with an offset
//   sums       [4][t] pairs of int16: sums of the quants of two sub-blocks (formats with minima)
#pragma once

#include "ggml.h"

#include <cstddef>
#include <cstdint>
#include <cstring>

#define MP_INLINE inline __attribute__((always_inline))

#if defined(__clang__)
#    define MP_UNROLL _Pragma("clang loop unroll(full)")
#else
#    define MP_UNROLL _Pragma("GCC unroll 16")
#endif

namespace mp {
namespace {

// --- formats ---------------------------------------------------------------------------------------------------------
// type, block    the ggml type, values in one of its blocks
// bits           of a stored quant
// offset         what a stored quant is above its value; signed formats are stored with or without 128
// shift          by how many bits a quant is moved up when it is unpacked; products with it are divided by 2^shift
// halves         scales in a sub-block of 32 values: one, or one for each half
// unpack()       the stored quants of one block, in the order of k (signed formats: as two's complement)
// scales()       of one block: scale and minimum of every sub-block

struct plain_format {
    static constexpr int block = 32, n_sub = 1, halves = 1, offset = 0, shift = 0;
    static constexpr bool is_signed = false, has_min = false, signed_scale = false, from_table = false;
};

struct k_format : plain_format {
    static constexpr int block = 256, n_sub = 8;
};

struct q4_0_format : plain_format {
    static constexpr ggml_type type = GGML_TYPE_Q4_0;
    static constexpr int bits = 4, offset = 8;

    struct ggml_block {
        ggml_fp16_t d;
        uint8_t low[16];
    };

    static void unpack(const ggml_block & source, uint8_t * quants) {
        for (int i = 0; i < 16; i++) {
            quants[i] = source.low[i] & 15;
            quants[i + 16] = source.low[i] >> 4;
        }
    }
};

// Nibbles index a table of signed values.
struct iq4_nl_format : plain_format {
    static constexpr ggml_type type = GGML_TYPE_IQ4_NL;
    static constexpr int bits = 4;
    static constexpr bool is_signed = true, from_table = true;

    using ggml_block = q4_0_format::ggml_block;

    static void unpack(const ggml_block & source, uint8_t * quants) { q4_0_format::unpack(source, quants); }
};

constexpr int8_t iq4_nl_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

struct q8_0_format : plain_format {
    static constexpr ggml_type type = GGML_TYPE_Q8_0;
    static constexpr int bits = 8;
    static constexpr bool is_signed = true;

    struct ggml_block {
        ggml_fp16_t d;
        uint8_t quants[32];
    };

    static void unpack(const ggml_block & source, uint8_t * quants) { memcpy(quants, source.quants, 32); }
};

// Eight 6-bit scales and eight 6-bit minima in 12 bytes: the first four of each are the lower bits of bytes 0-3 and 4-7,
// the others have four bits in bytes 8-11 and two in the upper bits of bytes 0-7.
MP_INLINE void unpack_scales_and_minima(const uint8_t * packed, uint8_t * scale, uint8_t * min) {
    for (int i = 0; i < 4; i++) {
        scale[i] = packed[i] & 63;
        min[i] = packed[i + 4] & 63;
        scale[i + 4] = static_cast<uint8_t>((packed[i + 8] & 15) | (packed[i] >> 6) << 4);
        min[i + 4] = static_cast<uint8_t>((packed[i + 8] >> 4) | (packed[i + 4] >> 6) << 4);
    }
}

struct q4_k_format : k_format {
    static constexpr ggml_type type = GGML_TYPE_Q4_K;
    static constexpr int bits = 4;
    static constexpr bool has_min = true;

    struct ggml_block {
        ggml_fp16_t d, dmin;
        uint8_t packed_scales[12];
        uint8_t low[128];
    };

    static void unpack(const ggml_block & source, uint8_t * quants) {
        for (int i = 0; i < 128; i++) {
            uint8_t * target = quants + i / 32 * 64 + i % 32;
            target[0] = source.low[i] & 15;
            target[32] = source.low[i] >> 4;
        }
    }

    static void scales(const ggml_block & source, uint8_t * scale, uint8_t * min) {
        unpack_scales_and_minima(source.packed_scales, scale, min);
    }
};

struct q5_k_format : k_format {
    static constexpr ggml_type type = GGML_TYPE_Q5_K;
    static constexpr int bits = 5;
    static constexpr bool has_min = true;

    struct ggml_block {
        ggml_fp16_t d, dmin;
        uint8_t packed_scales[12];
        uint8_t high[32];
        uint8_t low[128];
    };

    static void unpack(const ggml_block & source, uint8_t * quants) {
        for (int i = 0; i < 128; i++) {
            uint8_t * target = quants + i / 32 * 64 + i % 32;
            int high = source.high[i % 32] >> (i / 32 * 2);
            target[0] = static_cast<uint8_t>((source.low[i] & 15) | (high & 1) << 4);
            target[32] = static_cast<uint8_t>((source.low[i] >> 4) | (high & 2) << 3);
        }
    }

    static void scales(const ggml_block & source, uint8_t * scale, uint8_t * min) {
        unpack_scales_and_minima(source.packed_scales, scale, min);
    }
};

struct q6_k_format : k_format {
    static constexpr ggml_type type = GGML_TYPE_Q6_K;
    static constexpr int bits = 6, offset = 32, halves = 2;
    static constexpr bool signed_scale = true;

    struct ggml_block {
        uint8_t low[128];
        uint8_t high[64];
        uint8_t scale[16];
        ggml_fp16_t d;
    };

    static void unpack(const ggml_block & source, uint8_t * quants) {
        for (int i = 0; i < 128; i++) {
            // 64 bytes hold 128 values: i counts the bytes of the low bits.
            uint8_t * target = quants + i / 64 * 128 + i % 64;
            int high = source.high[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 2);
            target[0] = static_cast<uint8_t>((source.low[i] & 15) | (high & 3) << 4);
            target[64] = static_cast<uint8_t>((source.low[i] >> 4) | (high & 48));
        }
    }

    static void scales(const ggml_block & source, uint8_t * scale, uint8_t *) { memcpy(scale, source.scale, 16); }
};

// --- packed weights --------------------------------------------------------------------------------------------------

// Offsets in the bytes of one packed block.
template <class F, int lanes> struct packed_block {
    static constexpr bool has_scales = F::n_sub > 1;
    static constexpr int n_scales = has_scales ? F::n_sub * F::halves : 0;
    static constexpr int vector = 4 * lanes;
    static constexpr size_t d = 0;
    static constexpr size_t dmin = 2 * lanes;
    static constexpr size_t scale = dmin + (F::has_min ? 2 * lanes : 0);
    static constexpr size_t min = scale + n_scales * lanes;
    static constexpr size_t quants = min + (F::has_min ? 8 * lanes : 0);
    static constexpr int high_vectors = F::bits == 5 ? 1 : F::bits == 6 ? 2 : 0;
    static constexpr size_t sub_size = (F::bits == 8 ? 8 : 4 + high_vectors) * vector;
    static constexpr size_t size = quants + F::n_sub * sub_size;
};

template <class F, int lanes> size_t packed_size(int64_t n_out, int64_t k) {
    return static_cast<size_t>(n_out / lanes * (k / F::block)) * packed_block<F, lanes>::size;
}

// The quants of one block, 8 words of four for each sub-block, into a lane. The bytes of a word never mix.
template <class F, int lanes, bool keep_sign> void pack_quants(const uint8_t * quants, uint8_t * target, int lane) {
    using P = packed_block<F, lanes>;
    for (int sub = 0; sub < F::n_sub; sub++) {
        uint32_t words[8];
        memcpy(words, quants + 32 * sub, 32);
        uint8_t * base = target + P::quants + sub * P::sub_size + 4 * lane;
        auto store = [&](int vector, uint32_t word) { memcpy(base + vector * P::vector, &word, 4); };
        if constexpr (F::bits == 8) {
            for (int g = 0; g < 8; g++) {
                store(g, keep_sign ? words[g] : words[g] ^ 0x80808080);
            }
        } else {
            for (int g = 0; g < 4; g++) {
                store(g, (words[g] & 0x0f0f0f0f) | (words[g + 4] & 0x0f0f0f0f) << 4);
            }
        }
        constexpr int high_bits = F::bits == 8 ? 0 : F::bits - 4;
        constexpr uint32_t mask = 0x01010101 * ((1 << high_bits) - 1);
        constexpr int per_vector = high_bits > 0 ? 8 / high_bits : 8;
        for (int i = 0; i < P::high_vectors; i++) {
            uint32_t high = 0;
            for (int g = 0; g < per_vector; g++) {
                high |= (words[i * per_vector + g] >> 4 & mask) << (g * high_bits);
            }
            store(4 + i, high);
        }
    }
}

// One block of one row into its lane.
template <class F, int lanes, bool keep_sign>
void pack_lane(const typename F::ggml_block & source, uint8_t * target, int lane) {
    using P = packed_block<F, lanes>;
    memcpy(target + P::d + 2 * lane, &source.d, 2);
    if constexpr (P::has_scales) {
        uint8_t scale[16], min[16];
        F::scales(source, scale, min);
        for (int i = 0; i < P::n_scales; i++) {
            target[P::scale + i * lanes + lane] = scale[i];
        }
        if constexpr (F::has_min) {
            memcpy(target + P::dmin + 2 * lane, &source.dmin, 2);
            for (int i = 0; i < F::n_sub; i++) {
                target[P::min + (i / 2 * lanes + lane) * 2 + i % 2] = min[i];
            }
        }
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
    static constexpr size_t row_size = F::block + 4 + 4 * n_corrections + (F::has_min ? 16 : 0);

    static constexpr size_t quants(int t, int sub) { return static_cast<size_t>(32) * t * sub; }
    static constexpr size_t d(int t) { return static_cast<size_t>(F::block) * t; }
    static constexpr size_t correction(int t, int i) { return static_cast<size_t>(F::block + 4 + 4 * i) * t; }
    static constexpr size_t sums(int t, int pair) { return correction(t, n_corrections + pair); }
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
