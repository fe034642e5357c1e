// Plain C++, 8 rows of weights at a time: loops that any compiler can turn into its vectors.
#include "kernels/gemm/gemm_floats.h"
#include "kernels/gemm/gemm_kernel.h"
#include "kernels/gemm/gemm_sets.h"

namespace mp {
namespace {

struct portable {
    static constexpr instruction_set set = instruction_set::portable;
    static constexpr int lanes = 8, columns = 2, max_tile = 4;
    static constexpr bool signed_weights = true;

    struct floats {
        float lane[lanes];
    };
    struct ints {
        int32_t lane[lanes];
    };
    struct bytes {
        uint8_t byte[4 * lanes];
    };

    // function(i) for every lane.
    template <class R, class L> static MP_INLINE R each(L && function) {
        R result;
        for (int i = 0; i < lanes; i++) {
            result.lane[i] = function(i);
        }
        return result;
    }
    template <class L> static MP_INLINE bytes each_byte(L && function) {
        bytes result;
        for (int i = 0; i < 4 * lanes; i++) {
            result.byte[i] = static_cast<uint8_t>(function(i));
        }
        return result;
    }

    static MP_INLINE floats zero_floats() { return floats{}; }
    static MP_INLINE ints zero_ints() { return ints{}; }
    static MP_INLINE floats broadcast(const float * value) {
        return each<floats>([&](int) { return *value; });
    }
    static MP_INLINE ints broadcast(const int32_t * value) {
        return each<ints>([&](int) { return *value; });
    }
    static MP_INLINE floats add(const floats & a, const floats & b) {
        return each<floats>([&](int i) { return a.lane[i] + b.lane[i]; });
    }
    static MP_INLINE floats multiply(const floats & a, const floats & b) {
        return each<floats>([&](int i) { return a.lane[i] * b.lane[i]; });
    }
    // Left to itself, a compiler for a processor with such an instruction uses it for some tile widths and not for others.
    static MP_INLINE float multiply_add(float a, float b, float c) {
#if defined(__FP_FAST_FMAF)
        return __builtin_fmaf(a, b, c);
#else
        return a * b + c;
#endif
    }
    static MP_INLINE floats multiply_add(const floats & a, const floats & b, const floats & c) {
        return each<floats>([&](int i) { return multiply_add(a.lane[i], b.lane[i], c.lane[i]); });
    }
    static MP_INLINE floats multiply_subtract(const floats & a, const floats & b, const floats & c) {
        return each<floats>([&](int i) { return multiply_add(-a.lane[i], b.lane[i], c.lane[i]); });
    }
    static MP_INLINE floats to_floats(const ints & a) {
        return each<floats>([&](int i) { return static_cast<float>(a.lane[i]); });
    }
    static MP_INLINE void store(float * target, const floats & a) { memcpy(target, a.lane, sizeof(a.lane)); }

    static MP_INLINE floats load_singles(const uint8_t * source) {
        floats singles;
        memcpy(singles.lane, source, sizeof(singles.lane));
        return singles;
    }
    static MP_INLINE floats load_halves(const uint8_t * source) {
        return each<floats>([&](int i) {
            ggml_fp16_t half;
            memcpy(&half, source + 2 * i, 2);
            return ggml_fp16_to_fp32(half);
        });
    }
    static MP_INLINE floats load_bfloats(const uint8_t * source) {
        return each<floats>([&](int i) {
            uint16_t upper;
            memcpy(&upper, source + 2 * i, 2);
            uint32_t bits = static_cast<uint32_t>(upper) << 16;
            float value;
            memcpy(&value, &bits, 4);
            return value;
        });
    }
    template <bool is_signed> static MP_INLINE floats load_scales(const uint8_t * source) {
        return each<floats>(
            [&](int i) { return static_cast<float>(is_signed ? static_cast<int8_t>(source[i]) : source[i]); });
    }
    // Two bytes in the halves of an int32.
    static MP_INLINE ints load_pairs(const uint8_t * source) {
        return each<ints>([&](int i) { return source[2 * i] | source[2 * i + 1] << 16; });
    }
    static MP_INLINE ints add_pair_dots(const ints & dot, const ints & pairs, const int32_t * sums) {
        int16_t both[2];
        memcpy(both, sums, 4);
        return each<ints>(
            [&](int i) { return dot.lane[i] + (pairs.lane[i] & 0xffff) * both[0] + (pairs.lane[i] >> 16) * both[1]; });
    }
    static MP_INLINE bytes load_bytes(const uint8_t * source) {
        bytes result;
        memcpy(result.byte, source, sizeof(result.byte));
        return result;
    }

    // (a >> shift) & mask in every byte.
    template <int shift> static MP_INLINE bytes field(const bytes & a, int mask) {
        return each_byte([&](int i) { return a.byte[i] >> shift & mask; });
    }
    static MP_INLINE bytes either(const bytes & a, const bytes & b) {
        return each_byte([&](int i) { return a.byte[i] | b.byte[i]; });
    }
    template <int offset> static MP_INLINE bytes look_up(const int8_t * values, const bytes & index) {
        return each_byte([&](int i) { return values[index.byte[i]] + offset; });
    }

    template <class F> struct sub_block {
        bytes vectors[8];

        MP_INLINE explicit sub_block(const uint8_t * quants) { load(quants, make_indices<8>::type()); }
        template <int... g> MP_INLINE void load(const uint8_t * quants, indices<g...>) {
            ((vectors[g] = weights_of<portable, F, g>(quants)), ...);
        }
    };

    template <class F, int count>
    static MP_INLINE void add_dots(const sub_block<F> & weights, const int8_t * quants, ints (&dot)[F::halves][count]) {
        for (int g = 0; g < 8; g++) {
            const uint8_t * vector = weights.vectors[g].byte;
            for (int column = 0; column < count; column++) {
                const int8_t * four = quants + 32 * column + 4 * g;
                int32_t * sums = dot[F::halves == 2 ? g / 4 : 0][column].lane;
                for (int i = 0; i < lanes; i++) {
                    for (int j = 0; j < 4; j++) {
                        int weight = F::is_signed ? static_cast<int8_t>(vector[4 * i + j]) : vector[4 * i + j];
                        sums[i] += weight * four[j];
                    }
                }
            }
        }
    }

    static MP_INLINE float round_to_half(float value) { return ggml_fp16_to_fp32(ggml_fp32_to_fp16(value)); }

    static MP_INLINE float largest_magnitude(const float * x, int count) {
        float largest = 0;
        for (int i = 0; i < count; i++) {
            float magnitude = std::fabs(x[i]);
            largest = magnitude <= largest ? largest : magnitude;
            if (!(largest <= FLT_MAX)) {
                return largest;
            }
        }
        return largest;
    }

    static MP_INLINE void quantise_32(const float * x, float factor, int8_t * quants, int32_t * sums) {
        for (int i = 0; i < 32; i++) {
            quants[i] = static_cast<int8_t>(std::nearbyint(x[i] * factor));
            sums[i / 16] += quants[i];
        }
    }
};

} // namespace

const gemm_kernel * find_gemm_kernel_portable(ggml_type type) {
    const gemm_kernel * kernel = kernel_for<portable>(type);
    return kernel != nullptr ? kernel : float_kernel_for<portable>(type);
}

} // namespace mp
