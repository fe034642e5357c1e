// The few functions of ggml that the kernels and their test programs need, for machines that llama-cpp-python has no
// libraries for: tests/test_kernels_arm.py compiles it for ARM, and on this machine to compare it with ggml itself.
//
// Dequantisation follows the formats' definitions, number by number. Only F32, F16, BF16 and Q8_0 can be quantised to.

#include "ggml.h"

#include <cmath>
#include <cstring>

namespace {

// --- halves and bfloats ----------------------------------------------------------------------------------------------

float from_half(uint16_t half) {
    // With its exponent and fraction where a float has them, a half is 2^112 too small.
    uint32_t bits = static_cast<uint32_t>(half & 0x7fff) << 13;
    float magnitude;
    memcpy(&magnitude, &bits, 4);
    if ((half & 0x7c00) == 0x7c00) {
        magnitude = (half & 1023) != 0 ? NAN : INFINITY;
    }
    return std::copysign(magnitude * 0x1p112f, half & 0x8000 ? -1.0f : 1.0f);
}

uint16_t to_half(float value) {
    uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    if (std::isnan(value)) {
        return sign | 0x7e00;
    }
    double magnitude = std::fabs(static_cast<double>(value));
    if (magnitude >= 65520) {
        return sign | 0x7c00;
    }
    int exponent = magnitude < std::ldexp(1.0, -14) ? -14 : std::ilogb(magnitude);
    // Eleven bits, rounded to even; a carry out of them goes into the exponent.
    auto fraction = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
    return static_cast<uint16_t>(sign | ((exponent + 14) * 1024 + fraction));
}

float from_bfloat(uint16_t upper) {
    uint32_t bits = static_cast<uint32_t>(upper) << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

uint16_t to_bfloat(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if (std::isnan(value)) {
        return static_cast<uint16_t>(bits >> 16 | 64);
    }
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float half_at(const uint8_t * bytes) {
    return from_half(static_cast<uint16_t>(bytes[0] | bytes[1] << 8));
}

// --- values of a block -----------------------------------------------------------------------------------------------

void q4_0_values(const uint8_t * block, float * y) {
    float d = half_at(block);
    for (int i = 0; i < 32; i++) {
        int nibble = i < 16 ? block[2 + i] & 15 : block[2 + i - 16] >> 4;
        y[i] = d * static_cast<float>(nibble - 8);
    }
}

// d, m, 16 bytes of nibbles.
void q4_1_values(const uint8_t * block, float * y) {
    for (int i = 0; i < 32; i++) {
        int nibble = i < 16 ? block[4 + i] & 15 : block[4 + i - 16] >> 4;
        y[i] = static_cast<float>(nibble) * half_at(block) + half_at(block + 2);
    }
}

// A quant of five bits: the fifth ones are a number of 32 bits, then come 16 bytes of nibbles.
int five_bits(const uint8_t * block, int i) {
    int nibble = i < 16 ? block[4 + i] & 15 : block[4 + i - 16] >> 4;
    return nibble + (block[i / 8] >> (i % 8) & 1) * 16;
}

void q5_0_values(const uint8_t * block, float * y) {
    for (int i = 0; i < 32; i++) {
        y[i] = static_cast<float>(five_bits(block + 2, i) - 16) * half_at(block);
    }
}

void q5_1_values(const uint8_t * block, float * y) {
    for (int i = 0; i < 32; i++) {
        y[i] = static_cast<float>(five_bits(block + 4, i)) * half_at(block) + half_at(block + 2);
    }
}

// A scale that is a power of two, 16 bytes of nibbles, which stand for halves of these numbers.
void mxfp4_values(const uint8_t * block, float * y) {
    const int table[8] = {0, 1, 2, 3, 4, 6, 8, 12};
    for (int i = 0; i < 32; i++) {
        int nibble = i < 16 ? block[1 + i] & 15 : block[1 + i - 16] >> 4;
        int value = nibble < 8 ? table[nibble] : -table[nibble - 8];
        y[i] = static_cast<float>(value) * std::ldexp(1.0f, block[0] - 128);
    }
}

const int iq4_table[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

void iq4_nl_values(const uint8_t * block, float * y) {
    float d = half_at(block);
    for (int i = 0; i < 32; i++) {
        y[i] = d * static_cast<float>(iq4_table[i < 16 ? block[2 + i] & 15 : block[2 + i - 16] >> 4]);
    }
}

void q8_0_values(const uint8_t * block, float * y) {
    float d = half_at(block);
    for (int i = 0; i < 32; i++) {
        y[i] = d * static_cast<float>(static_cast<int8_t>(block[2 + i]));
    }
}

// 16 bytes with a scale and a minimum each, 64 bytes of pairs of bits, d, dmin.
void q2_k_values(const uint8_t * block, float * y) {
    for (int i = 0; i < 256; i++) {
        int both = block[i / 16], quant = block[16 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
        y[i] = half_at(block + 80) * static_cast<float>(both & 15) * static_cast<float>(quant) -
               half_at(block + 82) * static_cast<float>(both >> 4);
    }
}

// 32 bytes of third bits, 64 of pairs of bits, 16 scales of 6 bits in 12 bytes, d.
void q3_k_values(const uint8_t * block, float * y) {
    const uint8_t * scales = block + 96;
    for (int i = 0; i < 256; i++) {
        int s = i / 16, low = scales[s % 8] >> (s / 8 * 4) & 15, high = scales[8 + s % 4] >> (s / 4 * 2) & 3;
        int quant = block[32 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
        quant += (block[i % 32] >> (i / 32) & 1) * 4;
        y[i] = half_at(block + 108) * static_cast<float>(low + high * 16 - 32) * static_cast<float>(quant - 4);
    }
}

// d, upper bits of 8 scales in 2 bytes and lower ones in 4, 128 bytes of nibbles.
void iq4_xs_values(const uint8_t * block, float * y) {
    for (int i = 0; i < 256; i++) {
        int s = i / 32, j = i % 32;
        int high = (block[2] | block[3] << 8) >> (2 * s) & 3, low = block[4 + s / 2] >> (s % 2 * 4) & 15;
        int nibble = block[8 + s * 16 + j % 16] >> (j / 16 * 4) & 15;
        y[i] = half_at(block) * static_cast<float>(low + high * 16 - 32) * static_cast<float>(iq4_table[nibble]);
    }
}

// Scale and minimum of sub-block s of 8, six bits each in 12 bytes.
void scale_and_minimum(const uint8_t * packed, int s, int & scale, int & minimum) {
    if (s < 4) {
        scale = packed[s] % 64;
        minimum = packed[s + 4] % 64;
    } else {
        scale = packed[s + 4] % 16 + packed[s - 4] / 64 * 16;
        minimum = packed[s + 4] / 16 + packed[s] / 64 * 16;
    }
}

// d, dmin, scales, (5 bits: 32 bytes of fifth bits,) 128 bytes of nibbles.
template <int bits> void q4_k_or_q5_k_values(const uint8_t * block, float * y) {
    const uint8_t * high = block + 16;
    const uint8_t * low = block + (bits == 5 ? 48 : 16);
    for (int i = 0; i < 256; i++) {
        int s = i / 32, scale, minimum;
        scale_and_minimum(block + 4, s, scale, minimum);
        int quant = low[s / 2 * 32 + i % 32] >> (s % 2 * 4) & 15;
        if (bits == 5) {
            quant += (high[i % 32] >> s & 1) * 16;
        }
        y[i] = half_at(block) * static_cast<float>(scale) * static_cast<float>(quant) -
               half_at(block + 2) * static_cast<float>(minimum);
    }
}

// 128 bytes of nibbles, 64 of upper pairs of bits, 16 scales, d.
void q6_k_values(const uint8_t * block, float * y) {
    for (int i = 0; i < 256; i++) {
        int half = i / 128, quarter = i % 128 / 32, j = i % 32;
        int low = block[half * 64 + quarter % 2 * 32 + j] >> (quarter / 2 * 4) & 15;
        int high = block[128 + half * 32 + j] >> (quarter * 2) & 3;
        auto scale = static_cast<float>(static_cast<int8_t>(block[192 + i / 16]));
        y[i] = half_at(block + 208) * scale * static_cast<float>(low + high * 16 - 32);
    }
}

void f32_value(const uint8_t * block, float * y) {
    memcpy(y, block, 4);
}

void f16_value(const uint8_t * block, float * y) {
    *y = half_at(block);
}

void bf16_value(const uint8_t * block, float * y) {
    *y = from_bfloat(static_cast<uint16_t>(block[0] | block[1] << 8));
}

template <int block, int size, void (*values)(const uint8_t *, float *)>
void to_float(const void * x, float * y, int64_t k) {
    for (int64_t i = 0; i < k / block; i++) {
        values(static_cast<const uint8_t *>(x) + i * size, y + i * block);
    }
}

template <int block, int size, void (*values)(const uint8_t *, float *)> ggml_type_traits traits_of(const char * name) {
    ggml_type_traits traits = {};
    traits.type_name = name;
    traits.blck_size = block;
    traits.type_size = size;
    traits.to_float = to_float<block, size, values>;
    return traits;
}

} // namespace

// --- ggml's functions ------------------------------------------------------------------------------------------------

extern "C" {

float ggml_fp16_to_fp32(ggml_fp16_t half) {
    return from_half(half);
}

ggml_fp16_t ggml_fp32_to_fp16(float value) {
    return to_half(value);
}

ggml_bf16_t ggml_fp32_to_bf16(float value) {
    return {to_bfloat(value)};
}

float ggml_bf16_to_fp32(ggml_bf16_t bfloat) {
    return from_bfloat(bfloat.bits);
}

const ggml_type_traits * ggml_get_type_traits(ggml_type type) {
    static const struct {
        ggml_type type;
        ggml_type_traits traits;
    } known[] = {
        {GGML_TYPE_F32, traits_of<1, 4, f32_value>("f32")},
        {GGML_TYPE_F16, traits_of<1, 2, f16_value>("f16")},
        {GGML_TYPE_BF16, traits_of<1, 2, bf16_value>("bf16")},
        {GGML_TYPE_Q4_0, traits_of<32, 18, q4_0_values>("q4_0")},
        {GGML_TYPE_Q4_1, traits_of<32, 20, q4_1_values>("q4_1")},
        {GGML_TYPE_Q5_0, traits_of<32, 22, q5_0_values>("q5_0")},
        {GGML_TYPE_Q5_1, traits_of<32, 24, q5_1_values>("q5_1")},
        {GGML_TYPE_Q8_0, traits_of<32, 34, q8_0_values>("q8_0")},
        {GGML_TYPE_IQ4_NL, traits_of<32, 18, iq4_nl_values>("iq4_nl")},
        {GGML_TYPE_MXFP4, traits_of<32, 17, mxfp4_values>("mxfp4")},
        {GGML_TYPE_Q2_K, traits_of<256, 84, q2_k_values>("q2_K")},
        {GGML_TYPE_Q3_K, traits_of<256, 110, q3_k_values>("q3_K")},
        {GGML_TYPE_Q4_K, traits_of<256, 144, q4_k_or_q5_k_values<4>>("q4_K")},
        {GGML_TYPE_Q5_K, traits_of<256, 176, q4_k_or_q5_k_values<5>>("q5_K")},
        {GGML_TYPE_Q6_K, traits_of<256, 210, q6_k_values>("q6_K")},
        {GGML_TYPE_IQ4_XS, traits_of<256, 136, iq4_xs_values>("iq4_xs")},
    };
    for (const auto & one : known) {
        if (one.type == type) {
            return &one.traits;
        }
    }
    static const ggml_type_traits none = {};
    return &none;
}

const char * ggml_type_name(ggml_type type) {
    return ggml_get_type_traits(type)->type_name;
}

size_t ggml_type_size(ggml_type type) {
    return ggml_get_type_traits(type)->type_size;
}

size_t ggml_row_size(ggml_type type, int64_t n) {
    return ggml_type_size(type) * n / ggml_get_type_traits(type)->blck_size;
}

size_t ggml_quantize_chunk(ggml_type type, const float * x, void * y, int64_t start, int64_t n_rows, int64_t k,
                           const float *) {
    auto * target = static_cast<uint8_t *>(y) + ggml_row_size(type, start);
    int64_t n = n_rows * k;
    for (int64_t i = 0; i < n && type != GGML_TYPE_Q8_0; i++) {
        uint16_t rounded = type == GGML_TYPE_F16 ? to_half(x[start + i]) : to_bfloat(x[start + i]);
        if (type == GGML_TYPE_F32) {
            memcpy(target + 4 * i, x + start + i, 4);
        } else {
            memcpy(target + 2 * i, &rounded, 2);
        }
    }
    for (int64_t i = 0; i < n && type == GGML_TYPE_Q8_0; i += 32, target += 34) {
        float largest = 0;
        for (int j = 0; j < 32; j++) {
            largest = std::fmax(largest, std::fabs(x[start + i + j]));
        }
        float d = largest / 127;
        uint16_t half = to_half(d);
        memcpy(target, &half, 2);
        for (int j = 0; j < 32; j++) {
            target[2 + j] = static_cast<uint8_t>(static_cast<int8_t>(d > 0 ? std::round(x[start + i + j] / d) : 0));
        }
    }
    return ggml_row_size(type, n);
}

} // extern "C"
