// Weight formats as the kernels see them: what a block of ggml's holds. This file has the formats with blocks of 32 values,
// gemm_formats_k.h those with blocks of 256; gemm_packing.h says how they are packed.
//
// Everything here is in an unnamed namespace: each instruction set compiles its own copy, and the linker must never take
// one set's copy of a function for another's.
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
// offset         what a stored quant (of a table: its value there) is above its value; signed formats are stored with or
//                without 128
// shift          by how many bits a quant is moved up when it is unpacked; products with it are divided by 2^shift
// halves         scales in a sub-block of 32 values: one, or one for each half
// has_min        a minimum beside each scale, to be subtracted; adds_m: a number m beside d, a weight is d * quant + m
// values         where quants index a table (from_table), the 16 numbers in it
// largest        the largest unsigned number that a quant stands for
// d_bits()       where d is a bfloat (bfloat_d) and not a half
// unpack()       the stored quants of one block, in the order of k (signed formats: as two's complement)
// scales()       of one block: scale and minimum of every sub-block or half of one

struct plain_format {
    static constexpr int block = 32, n_sub = 1, halves = 1, offset = 0, shift = 0;
    static constexpr bool is_signed = false, has_min = false, adds_m = false, signed_scale = false, from_table = false,
                          bfloat_d = false;
};

template <class F> constexpr int largest_quant() {
    if constexpr (F::from_table) {
        int largest = 0;
        for (int8_t value : F::values) {
            largest = value > largest ? value : largest;
        }
        return largest;
    } else {
        return (1 << F::bits) - 1;
    }
}

// Eight bytes in one number, of which those that belong to a byte are masked after a shift. Byte by byte, compilers make
// something several times slower of it.
constexpr uint64_t EACH_BYTE = 0x0101010101010101;

MP_INLINE uint64_t load_8(const uint8_t * source) {
    uint64_t bytes;
    memcpy(&bytes, source, 8);
    return bytes;
}

MP_INLINE void store_8(uint8_t * target, uint64_t bytes) {
    memcpy(target, &bytes, 8);
}

// 32 values in 16 bytes: the lower nibbles are the first 16.
MP_INLINE void unpack_nibbles(const uint8_t * low, uint8_t * quants) {
    for (int i = 0; i < 16; i += 8) {
        store_8(quants + i, load_8(low + i) & 15 * EACH_BYTE);
        store_8(quants + i + 16, load_8(low + i) >> 4 & 15 * EACH_BYTE);
    }
}

// The fifth bit of value i is bit i of 32.
MP_INLINE void add_fifth_bits(const uint8_t * high, uint8_t * quants) {
    for (int i = 0; i < 32; i += 8) {
        uint64_t bits = high[i / 8] * EACH_BYTE & 0x8040201008040201; // bit j alone in byte j
        bits = (bits + 0x7f * EACH_BYTE) >> 3 & 16 * EACH_BYTE;       // bit 7 where there was one, then bit 4
        store_8(quants + i, load_8(quants + i) | bits);
    }
}

struct q4_0_format : plain_format {
    static constexpr ggml_type type = GGML_TYPE_Q4_0;
    static constexpr int bits = 4, offset = 8;

    struct ggml_block {
        ggml_fp16_t d;
        uint8_t low[16];
    };

    static void unpack(const ggml_block & source, uint8_t * quants) { unpack_nibbles(source.low, quants); }
};

struct q4_1_format : plain_format {
    static constexpr ggml_type type = GGML_TYPE_Q4_1;
    static constexpr int bits = 4;
    static constexpr bool adds_m = true;

    struct ggml_block {
        ggml_fp16_t d, m;
        uint8_t low[16];
    };

    static void unpack(const ggml_block & source, uint8_t * quants) { unpack_nibbles(source.low, quants); }
};

struct q5_0_format : plain_format {
    static constexpr ggml_type type = GGML_TYPE_Q5_0;
    static constexpr int bits = 5, offset = 16;

    struct ggml_block {
        ggml_fp16_t d;
        uint8_t high[4];
        uint8_t low[16];
    };

    static void unpack(const ggml_block & source, uint8_t * quants) {
        unpack_nibbles(source.low, quants);
        add_fifth_bits(source.high, quants);
    }
};

struct q5_1_format : plain_format {
    static constexpr ggml_type type = GGML_TYPE_Q5_1;
    static constexpr int bits = 5;
    static constexpr bool adds_m = true;

    struct ggml_block {
        ggml_fp16_t d, m;
        uint8_t high[4];
        uint8_t low[16];
    };

    static void unpack(const ggml_block & source, uint8_t * quants) {
        unpack_nibbles(source.low, quants);
        add_fifth_bits(source.high, quants);
    }
};

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

// Nibbles index a table of signed values.
struct iq4_nl_format : plain_format {
    static constexpr ggml_type type = GGML_TYPE_IQ4_NL;
    static constexpr int bits = 4;
    static constexpr bool is_signed = true, from_table = true;
    static constexpr int8_t values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

    using ggml_block = q4_0_format::ggml_block;

    static void unpack(const ggml_block & source, uint8_t * quants) { unpack_nibbles(source.low, quants); }
};

// Nibbles are floats of 4 bits, in the table twice what they are and 12 more. The scale is a power of two, 2^(e - 127):
// half of it is a bfloat, exactly, down to the smallest e.
struct mxfp4_format : plain_format {
    static constexpr ggml_type type = GGML_TYPE_MXFP4;
    static constexpr int bits = 4, offset = 12;
    static constexpr bool from_table = true, bfloat_d = true;
    static constexpr int8_t values[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

    struct ggml_block {
        uint8_t e;
        uint8_t low[16];
    };

    static uint16_t d_bits(const ggml_block & source) {
        return static_cast<uint16_t>(source.e < 2 ? 32 << source.e : (source.e - 1) << 7);
    }

    static void unpack(const ggml_block & source, uint8_t * quants) { unpack_nibbles(source.low, quants); }
};

} // namespace
} // namespace mp
