// Weight formats with blocks of 256 values in 8 sub-blocks of 32, or 16 halves of one, each of them with its own scale.
#pragma once

#include "kernels/gemm/gemm_formats.h"

namespace mp {
namespace {

struct k_format : plain_format {
    static constexpr int block = 256, n_sub = 8;
};

// 2 bits of the values i to i + 7 of 256: 32 bytes hold 4 times 32 of them.
MP_INLINE uint64_t pairs_of_bits(const uint8_t * pairs, int i) {
    return load_8(pairs + i / 128 * 32 + i % 32) >> (i % 128 / 32 * 2) & 3 * EACH_BYTE;
}

struct q2_k_format : k_format {
    static constexpr ggml_type type = GGML_TYPE_Q2_K;
    static constexpr int bits = 2, halves = 2;
    static constexpr bool has_min = true;

    struct ggml_block {
        uint8_t packed_scales[16];
        uint8_t pairs[64];
        ggml_fp16_t d, dmin;
    };

    static void unpack(const ggml_block & source, uint8_t * quants) {
        for (int i = 0; i < 256; i += 8) {
            store_8(quants + i, pairs_of_bits(source.pairs, i));
        }
    }

    static void scales(const ggml_block & source, uint8_t * scale, uint8_t * min) {
        for (int i = 0; i < 16; i += 8) {
            store_8(scale + i, load_8(source.packed_scales + i) & 15 * EACH_BYTE);
            store_8(min + i, load_8(source.packed_scales + i) >> 4 & 15 * EACH_BYTE);
        }
    }
};

struct q3_k_format : k_format {
    static constexpr ggml_type type = GGML_TYPE_Q3_K;
    static constexpr int bits = 3, offset = 4, halves = 2;
    static constexpr bool signed_scale = true;

    struct ggml_block {
        uint8_t high[32];
        uint8_t pairs[64];
        uint8_t packed_scales[12];
        ggml_fp16_t d;
    };

    static void unpack(const ggml_block & source, uint8_t * quants) {
        for (int i = 0; i < 256; i += 8) {
            uint64_t high = load_8(source.high + i % 32) >> (i / 32) & EACH_BYTE;
            store_8(quants + i, pairs_of_bits(source.pairs, i) | high << 2);
        }
    }

    // Sixteen 6-bit scales: the lower four bits are the nibbles of bytes 0-7, the upper two lie in bytes 8-11.
    static void scales(const ggml_block & source, uint8_t * scale, uint8_t *) {
        for (int i = 0; i < 16; i++) {
            int low = source.packed_scales[i % 8] >> (i / 8 * 4) & 15;
            int high = source.packed_scales[8 + i % 4] >> (i / 4 * 2) & 3;
            scale[i] = static_cast<uint8_t>((low | high << 4) - 32);
        }
    }
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
        for (int i = 0; i < 128; i += 8) {
            uint8_t * target = quants + i / 32 * 64 + i % 32;
            store_8(target, load_8(source.low + i) & 15 * EACH_BYTE);
            store_8(target + 32, load_8(source.low + i) >> 4 & 15 * EACH_BYTE);
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
        for (int i = 0; i < 128; i += 8) {
            uint8_t * target = quants + i / 32 * 64 + i % 32;
            uint64_t low = load_8(source.low + i);
            uint64_t high = load_8(source.high + i % 32) >> (i / 32 * 2);
            store_8(target, (low & 15 * EACH_BYTE) | (high & EACH_BYTE) << 4);
            store_8(target + 32, (low >> 4 & 15 * EACH_BYTE) | (high & 2 * EACH_BYTE) << 3);
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
        for (int i = 0; i < 128; i += 8) {
            // 64 bytes hold 128 values: i counts the bytes of the low bits.
            uint8_t * target = quants + i / 64 * 128 + i % 64;
            uint64_t low = load_8(source.low + i);
            uint64_t high = load_8(source.high + i / 64 * 32 + i % 32) >> (i / 32 % 2 * 2);
            store_8(target, (low & 15 * EACH_BYTE) | (high & 3 * EACH_BYTE) << 4);
            store_8(target + 64, (low >> 4 & 15 * EACH_BYTE) | (high & 48 * EACH_BYTE));
        }
    }

    static void scales(const ggml_block & source, uint8_t * scale, uint8_t *) { memcpy(scale, source.scale, 16); }
};

// The table of IQ4_NL.
struct iq4_xs_format : k_format {
    static constexpr ggml_type type = GGML_TYPE_IQ4_XS;
    static constexpr int bits = 4;
    static constexpr bool is_signed = true, from_table = true, signed_scale = true;
    static constexpr auto & values = iq4_nl_format::values;

    struct ggml_block {
        ggml_fp16_t d;
        uint16_t upper_scales;
        uint8_t lower_scales[4];
        uint8_t low[128];
    };

    static void unpack(const ggml_block & source, uint8_t * quants) {
        for (int sub = 0; sub < n_sub; sub++) {
            unpack_nibbles(source.low + 16 * sub, quants + 32 * sub);
        }
    }

    static void scales(const ggml_block & source, uint8_t * scale, uint8_t *) {
        for (int i = 0; i < n_sub; i++) {
            int low = source.lower_scales[i / 2] >> (i % 2 * 4) & 15;
            int high = source.upper_scales >> (2 * i) & 3;
            scale[i] = static_cast<uint8_t>((low | high << 4) - 32);
        }
    }
};

} // namespace
} // namespace mp
