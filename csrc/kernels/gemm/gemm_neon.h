// What the ARM vector machines share: 4 rows of weights in a vector of 128 bits, and the quantisation of activations.
//
// Where there are instructions for dot products, quants of Q4_0, Q5_0, Q3_K and Q6_K are stored as signed numbers, without
// their offset. Moved to the top of a byte they need no correction; a product is divided by a power of two, exactly, when it
// becomes a float. The table of MXFP4 is signed.
#pragma once

#include "kernels/gemm/gemm_kernel.h"

#include <arm_neon.h>

namespace mp {
namespace {

struct neon_base {
    static constexpr int lanes = 4;
    static constexpr bool signed_weights = true;

    using floats = float32x4_t;
    using ints = int32x4_t;
    using bytes = uint8x16_t;

    // A number for all lanes: instructions take it from a register that a plain load has filled.
    struct one_float {
        float value;
    };

    static MP_INLINE floats zero_floats() { return vdupq_n_f32(0); }
    static MP_INLINE ints zero_ints() { return vdupq_n_s32(0); }
    static MP_INLINE one_float broadcast(const float * value) { return {*value}; }
    static MP_INLINE ints broadcast(const int32_t * value) { return vld1q_dup_s32(value); }
    static MP_INLINE floats multiply(floats a, floats b) { return vmulq_f32(a, b); }
    static MP_INLINE floats multiply(floats a, one_float b) { return vmulq_n_f32(a, b.value); }
    static MP_INLINE floats multiply_add(floats a, floats b, floats c) { return vfmaq_f32(c, a, b); }
    static MP_INLINE floats multiply_add(floats a, one_float b, floats c) { return vfmaq_n_f32(c, a, b.value); }
    static MP_INLINE floats multiply_subtract(floats a, floats b, floats c) { return vfmsq_f32(c, a, b); }
    static MP_INLINE floats to_floats(ints a) { return vcvtq_f32_s32(a); }
    template <int shift> static MP_INLINE floats to_floats(ints a) { return vcvtq_n_f32_s32(a, shift); } // a / 2^shift
    static MP_INLINE void store(float * target, floats a) { vst1q_f32(target, a); }

    static MP_INLINE floats load_singles(const uint8_t * source) { return vreinterpretq_f32_u8(vld1q_u8(source)); }
    static MP_INLINE floats load_halves(const uint8_t * source) {
        return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(source)));
    }
    static MP_INLINE floats load_bfloats(const uint8_t * source) {
        return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(source)), 16));
    }
    template <bool is_signed> static MP_INLINE floats load_scales(const uint8_t * source) {
        uint32_t four;
        memcpy(&four, source, 4);
        uint8x8_t bytes = vreinterpret_u8_u32(vdup_n_u32(four));
        if constexpr (is_signed) {
            return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(bytes)))));
        } else {
            return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes))));
        }
    }
    // The minima of two sub-blocks for four rows, one sub-block after the other.
    static MP_INLINE ints load_pairs(const uint8_t * source) {
        uint8x8_t pairs = vld1_u8(source);
        return vreinterpretq_s32_u16(vmovl_u8(vuzp1_u8(pairs, vext_u8(pairs, pairs, 1))));
    }
    static MP_INLINE ints add_pair_dots(ints dot, ints pairs, const int32_t * sums) {
        int16x8_t minima = vreinterpretq_s16_s32(pairs);
        int16x4_t both = vreinterpret_s16_s32(vld1_dup_s32(sums));
        return vmlal_high_lane_s16(vmlal_lane_s16(dot, vget_low_s16(minima), both, 0), minima, both, 1);
    }
    static MP_INLINE bytes load_bytes(const uint8_t * source) { return vld1q_u8(source); }

    // (a >> shift) & mask in every byte.
    template <int shift> static MP_INLINE bytes field(bytes a, int mask) {
        bytes shifted = a;
        if constexpr (shift > 0) {
            shifted = vshrq_n_u8(a, shift);
        }
        return (255 >> shift & ~mask) == 0 ? shifted : vandq_u8(shifted, vdupq_n_u8(mask));
    }
    static MP_INLINE bytes either(bytes a, bytes b) { return vorrq_u8(a, b); }
    template <int offset> static MP_INLINE bytes look_up(const int8_t * values, bytes index) {
        static_assert(offset == 0, "numbers are stored as they are");
        return vreinterpretq_u8_s8(vqtbl1q_s8(vld1q_s8(values), index));
    }

    static MP_INLINE float round_to_half(float value) {
        return vgetq_lane_f32(vcvt_f32_f16(vcvt_f16_f32(vdupq_n_f32(value))), 0);
    }

    // Magnitudes compared as integers: NaN above infinity above every number.
    static MP_INLINE float largest_magnitude(const float * x, int count) {
        uint32x4_t magnitude = vdupq_n_u32(0x7fffffff);
        uint32x4_t largest[2] = {vdupq_n_u32(0), vdupq_n_u32(0)};
        for (int i = 0; i < count; i += 8) {
            for (int j = 0; j < 2; j++) {
                uint32x4_t bits = vreinterpretq_u32_f32(vld1q_f32(x + i + 4 * j));
                largest[j] = vmaxq_u32(largest[j], vandq_u32(bits, magnitude));
            }
        }
        return vget_lane_f32(vreinterpret_f32_u32(vdup_n_u32(vmaxvq_u32(vmaxq_u32(largest[0], largest[1])))), 0);
    }

    // 32 values times factor, rounded to the nearest integer; the sums of the two halves.
    static MP_INLINE void quantise_32(const float * x, float factor, int8_t * quants, int32_t * sums) {
        for (int half = 0; half < 2; half++) {
            int16x4_t four[4];
            MP_UNROLL
            for (int i = 0; i < 4; i++) {
                four[i] = vmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 16 * half + 4 * i), factor)));
            }
            int8x16_t sixteen =
                vcombine_s8(vmovn_s16(vcombine_s16(four[0], four[1])), vmovn_s16(vcombine_s16(four[2], four[3])));
            vst1q_s8(quants + 16 * half, sixteen);
            sums[half] = vaddlvq_s8(sixteen);
        }
    }
};

// For weights that are not quantised: 8 rows, so that a number of an activation serves two vectors.
template <instruction_set the_set> struct neon_floats {
    static constexpr instruction_set set = the_set;
    static constexpr int lanes = 8;

    using floats = float32x4x2_t;

    static MP_INLINE floats zero_floats() { return {{vdupq_n_f32(0), vdupq_n_f32(0)}}; }
    static MP_INLINE float broadcast(const float * value) { return *value; }
    static MP_INLINE floats add(floats a, floats b) {
        return {{vaddq_f32(a.val[0], b.val[0]), vaddq_f32(a.val[1], b.val[1])}};
    }
    static MP_INLINE floats multiply_add(floats a, float b, floats c) {
        return {{vfmaq_n_f32(c.val[0], a.val[0], b), vfmaq_n_f32(c.val[1], a.val[1], b)}};
    }
    static MP_INLINE void store(float * target, floats a) {
        vst1q_f32(target, a.val[0]);
        vst1q_f32(target + 4, a.val[1]);
    }
    static MP_INLINE floats load_singles(const uint8_t * source) {
        return {{vreinterpretq_f32_u8(vld1q_u8(source)), vreinterpretq_f32_u8(vld1q_u8(source + 16))}};
    }
    static MP_INLINE floats load_halves(const uint8_t * source) {
        float16x8_t eight = vreinterpretq_f16_u8(vld1q_u8(source));
        return {{vcvt_f32_f16(vget_low_f16(eight)), vcvt_high_f32_f16(eight)}};
    }
    static MP_INLINE floats load_bfloats(const uint8_t * source) {
        uint16x8_t eight = vreinterpretq_u16_u8(vld1q_u8(source));
        return {{vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(eight), 16)),
                 vreinterpretq_f32_u32(vshll_high_n_u16(eight, 16))}};
    }
};

// --- formats ---------------------------------------------------------------------------------------------------------

// A format with an offset of half its range, without it.
template <class F> struct signed_format : F {
    static_assert(F::offset == 1 << (F::bits - 1), "two's complement is the other upper bit");
    static constexpr int offset = 0, shift = 8 - F::bits;
    static constexpr bool is_signed = true;

    static void unpack(const typename F::ggml_block & source, uint8_t * quants) {
        F::unpack(source, quants);
        for (int i = 0; i < F::block; i++) {
            quants[i] ^= F::offset;
        }
    }
};

struct signed_mxfp4_format : mxfp4_format {
    static constexpr int offset = 0;
    static constexpr bool is_signed = true;
    static constexpr int8_t values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
};

// Adds the parts of a quant from `part` on below the `filled` upper bits of `upper`. What is below them all may be anything.
template <class F, int g, int part, int filled>
MP_INLINE uint8x16_t insert_parts(uint8x16_t upper, const uint8_t * vectors) {
    constexpr quant_part p = part_of<F::bits>(g, part);
    if constexpr (p.mask == 0) {
        return upper;
    } else {
        constexpr int to_the_top = __builtin_clz(p.mask << p.shift) - 24;
        uint8x16_t bytes = vld1q_u8(vectors + p.vector * 16);
        if constexpr (to_the_top > 0) {
            bytes = vshlq_n_u8(bytes, to_the_top);
        }
        constexpr int now_filled = filled + __builtin_popcount(p.mask);
        return insert_parts<F, g, part + 1, now_filled>(vsriq_n_u8(upper, bytes, filled), vectors);
    }
}

// Quants g of the 8 of a sub-block, or what they stand for.
template <class S, class F, int g> MP_INLINE int8x16_t vector_of(const uint8_t * vectors) {
    constexpr quant_part p = part_of<F::bits>(g, 0);
    constexpr bool is_split = part_of<F::bits>(g, 1).mask != 0;
    constexpr int unused = 8 - F::bits;
    if constexpr (F::shift == 0 && !is_split) {
        return vreinterpretq_s8_u8(weights_of<S, F, g>(vectors));
    } else {
        uint8x16_t bytes = vld1q_u8(vectors + p.vector * 16);
        if constexpr (is_split) {
            bytes = insert_parts<F, g, 1, __builtin_popcount(p.mask)>(bytes, vectors);
        } else if constexpr (unused > p.shift) {
            bytes = vshlq_n_u8(bytes, unused - p.shift);
        }
        if constexpr (F::shift == 0) {
            bytes = vshrq_n_u8(bytes, unused);
        } else if constexpr (is_split || p.shift > 0) {
            bytes = vandq_u8(bytes, vdupq_n_u8(255 << unused & 255));
        }
        return vreinterpretq_s8_u8(bytes);
    }
}

// --- table of kernels ------------------------------------------------------------------------------------------------

// Maker::make<F>() for every format.
template <class Maker> const gemm_kernel * neon_kernel_for(ggml_type type) {
    static constexpr gemm_kernel kernels[] = {
        Maker::template make<signed_format<q4_0_format>>(),
        Maker::template make<q4_1_format>(),
        Maker::template make<signed_format<q5_0_format>>(),
        Maker::template make<q5_1_format>(),
        Maker::template make<q8_0_format>(),
        Maker::template make<q2_k_format>(),
        Maker::template make<signed_format<q3_k_format>>(),
        Maker::template make<q4_k_format>(),
        Maker::template make<q5_k_format>(),
        Maker::template make<signed_format<q6_k_format>>(),
        Maker::template make<iq4_nl_format>(),
        Maker::template make<iq4_xs_format>(),
        Maker::template make<signed_mxfp4_format>(),
    };
    return kernel_of_type(kernels, sizeof(kernels) / sizeof(kernels[0]), type);
}

} // namespace
} // namespace mp
