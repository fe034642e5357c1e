// Checks every kernel of quantised products that this processor can run; exits with 1 where one is wrong.
//
// Weights are either ggml's quantisation of normal values or random bits (so that every code and scale occurs). Rows of
// activations differ in scale by up to 1e60; some are zero and some have values that are not finite.
//
// With MP_GGML_STAND_IN it is linked with tests/ggml_stand_in.cpp and not with ggml: quantised weights are then always
// random bits, and nothing is compared with ggml's own product.

#include "kernels/gemm/gemm.h"

#include "ggml.h"
#if !defined(MP_GGML_STAND_IN)
#    include "ggml-backend.h"
#    include "ggml-cpu.h"
#endif

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

namespace {

#if defined(MP_GGML_STAND_IN)
constexpr bool has_ggml = false;
#else
constexpr bool has_ggml = true;
#endif

std::mt19937_64 random_bits(20);

int64_t random_int(int64_t low, int64_t high) { // both included
    return std::uniform_int_distribution<int64_t>(low, high)(random_bits);
}

float random_normal() {
    return std::normal_distribution<float>()(random_bits);
}

int n_failures = 0;

void fail(const mp::gemm_kernel & kernel, const char * what, double value) {
    if (n_failures++ < 30) {
        printf("%s %s: %s (%g)\n", mp::instruction_set_name(kernel.set), ggml_type_name(kernel.type), what, value);
    }
}

struct free_memory {
    void operator()(void * memory) const { free(memory); }
};

// Exactly `size` bytes, aligned to 64.
using buffer = std::unique_ptr<uint8_t, free_memory>;

buffer make_buffer(size_t size) {
    void * memory = nullptr;
    if (posix_memalign(&memory, 64, std::max<size_t>(size, 1)) != 0) {
        abort();
    }
    memset(memory, 0xa5, size);
    return buffer(static_cast<uint8_t *>(memory));
}

// --- weights and activations -----------------------------------------------------------------------------------------

bool is_float(ggml_type type) {
    return type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16;
}

// A half between 2^-9 and 2^-5, of either sign.
uint16_t random_half() {
    return static_cast<uint16_t>(random_int(6, 9) << 10 | random_int(0, 1023) | random_int(0, 1) << 15);
}

// Where the halves are in a block of ggml's.
std::vector<size_t> halves_in(ggml_type type) {
    size_t block = ggml_type_size(type);
    switch (type) {
    case GGML_TYPE_Q4_1:
    case GGML_TYPE_Q5_1:
    case GGML_TYPE_Q4_K:
    case GGML_TYPE_Q5_K:
        return {0, 2};
    case GGML_TYPE_Q2_K:
        return {block - 4, block - 2};
    case GGML_TYPE_Q3_K:
    case GGML_TYPE_Q6_K:
        return {block - 2};
    case GGML_TYPE_MXFP4:
        return {};
    default:
        return {0};
    }
}

std::vector<uint8_t> random_weights(ggml_type type, int64_t n_out, int64_t k, bool bits) {
    std::vector<uint8_t> weights(ggml_row_size(type, k) * n_out);
    if ((!bits && has_ggml) || is_float(type)) {
        std::vector<float> values(n_out * k);
        for (float & value : values) {
            value = random_normal();
        }
        ggml_quantize_chunk(type, values.data(), weights.data(), 0, n_out, k, nullptr);
        return weights;
    }
    for (uint8_t & byte : weights) {
        byte = static_cast<uint8_t>(random_bits());
    }
    size_t block = ggml_type_size(type);
    for (size_t i = 0; i < weights.size(); i += block) {
        if (type == GGML_TYPE_MXFP4) {
            weights[i] = static_cast<uint8_t>(random_int(105, 140)); // a power of two
        }
        for (size_t offset : halves_in(type)) {
            uint16_t half = random_half();
            memcpy(&weights[i + offset], &half, 2);
        }
    }
    return weights;
}

struct activations {
    int64_t n, k;
    size_t stride; // bytes
    std::vector<float> values;

    const float * row(int64_t i) const { return values.data() + i * (stride / sizeof(float)); }
    float * row(int64_t i) { return values.data() + i * (stride / sizeof(float)); }
};

enum class row_kind { usual, tiny_or_huge, mixed, zero, not_finite, count };

activations random_activations(int64_t n, int64_t k, std::vector<row_kind> & kinds) {
    activations x{n, k, (k + random_int(0, 5)) * sizeof(float), {}};
    x.values.resize(n * x.stride / sizeof(float));
    kinds.resize(n);
    for (int64_t i = 0; i < n; i++) {
        auto kind = static_cast<row_kind>(random_int(0, 9));
        kinds[i] = kind = kind < row_kind::count ? kind : row_kind::usual;
        float scale = kind == row_kind::tiny_or_huge ? std::pow(10.0f, static_cast<float>(random_int(-30, 30))) : 1.0f;
        for (int64_t j = 0; j < k; j++) {
            if (kind == row_kind::mixed && j % 16 == 0) {
                scale = std::pow(10.0f, static_cast<float>(random_int(-3, 3)));
            }
            x.row(i)[j] = kind == row_kind::zero ? 0.0f : scale * random_normal();
        }
        if (kind == row_kind::not_finite) {
            float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
            float values[] = {inf, -inf, nan, -nan};
            x.row(i)[random_int(0, k - 1)] = values[random_int(0, 3)];
        }
    }
    return x;
}

// What the formats with 8 bits make of a row, and how far each value may be from it.
void round_to_8_bits(const float * x, int64_t k, int block, std::vector<double> & rounded, std::vector<double> & bound) {
    rounded.assign(k, 0.0);
    bound.assign(k, 0.0);
    for (int64_t begin = 0; begin < k; begin += block) {
        float largest = 0;
        for (int i = 0; i < block; i++) {
            largest = std::max(largest, std::fabs(x[begin + i]));
        }
        float factor = largest > 0 ? 127.0f / largest : 0.0f;
        float exact = largest / 127.0f;
        float d = block == 32 ? ggml_fp16_to_fp32(ggml_fp32_to_fp16(exact)) : factor > 0 ? 1.0f / factor : 0.0f;
        if (!std::isfinite(d)) {
            d = exact;
        }
        for (int i = 0; i < block; i++) {
            rounded[begin + i] = static_cast<double>(d) * std::nearbyint(x[begin + i] * factor);
            bound[begin + i] = 0.50001 * exact + 127 * std::fabs(static_cast<double>(d) - exact);
        }
    }
}

// --- running a kernel ------------------------------------------------------------------------------------------------

constexpr float canary = -12345.5f;

buffer pack(const mp::gemm_kernel & kernel, const std::vector<uint8_t> & weights, int64_t n_out, int64_t k) {
    buffer packed = make_buffer(kernel.packed_size(n_out, k));
    int64_t n_groups = n_out / kernel.group;
    int64_t middle = random_int(0, n_groups);
    kernel.pack(weights.data(), packed.get(), k, middle, n_groups);
    kernel.pack(weights.data(), packed.get(), k, 0, middle);
    return packed;
}

// y of the rows [first, first + n), everything divided at random; ldy is n_out + 3.
std::vector<float> multiply(const mp::gemm_kernel & kernel, const uint8_t * packed, const activations & x, int64_t first,
                            int64_t n, int64_t n_out) {
    buffer quantised = make_buffer(kernel.activations_size(n, x.k));
    int32_t n_parts = static_cast<int32_t>(random_int(1, 5));
    for (int32_t part = n_parts - 1; part >= 0; part--) {
        kernel.quantise(x.row(first), x.stride, quantised.get(), n, x.k, part, n_parts);
    }
    size_t ldy = n_out + 3;
    std::vector<float> y(n * ldy, canary);
    int64_t n_groups = n_out / kernel.group;
    int64_t middle = random_int(0, n_groups);
    kernel.multiply(packed, quantised.get(), y.data(), ldy, n, x.k, middle, n_groups);
    kernel.multiply(packed, quantised.get(), y.data(), ldy, n, x.k, 0, middle);
    for (int64_t i = 0; i < n; i++) {
        for (size_t j = n_out; j < ldy; j++) {
            if (y[i * ldy + j] != canary) {
                fail(kernel, "written beyond a row", static_cast<double>(j));
            }
        }
    }
    return y;
}

// ggml's own product on the CPU, weights as they are.
std::vector<float> multiply_in_ggml(ggml_type type, const std::vector<uint8_t> & weights, const activations & x,
                                    int64_t n_out) {
#if defined(MP_GGML_STAND_IN)
    (void) type, (void) weights;
    return std::vector<float>(x.n * n_out);
#else
    static ggml_backend_t backend = ggml_backend_cpu_init();
    ggml_backend_cpu_set_n_threads(backend, 1);
    ggml_context * context = ggml_init({ggml_tensor_overhead() * 8 + ggml_graph_overhead(), nullptr, true});
    ggml_tensor * w = ggml_new_tensor_2d(context, type, x.k, n_out);
    ggml_tensor * input = ggml_new_tensor_2d(context, GGML_TYPE_F32, x.k, x.n);
    ggml_tensor * output = ggml_mul_mat(context, w, input);
    ggml_cgraph * graph = ggml_new_graph(context);
    ggml_build_forward_expand(graph, output);
    ggml_backend_buffer_t memory = ggml_backend_alloc_ctx_tensors(context, backend);
    ggml_backend_tensor_set(w, weights.data(), 0, weights.size());
    for (int64_t i = 0; i < x.n; i++) {
        ggml_backend_tensor_set(input, x.row(i), i * x.k * sizeof(float), x.k * sizeof(float));
    }
    ggml_backend_graph_compute(backend, graph);
    std::vector<float> y(x.n * n_out);
    ggml_backend_tensor_get(output, y.data(), 0, y.size() * sizeof(float));
    ggml_backend_buffer_free(memory);
    ggml_free(context);
    return y;
#endif
}

// --- the checks ------------------------------------------------------------------------------------------------------

struct errors {
    double exact = 0, in_ggml = 0, by_rounding = 0, to_portable = 0;

    static void add(double & largest, double error) { largest = std::max(largest, error); }
};

// The one for the same weights; where the kernel takes any shape, itself.
const mp::gemm_kernel & portable_kernel(const mp::gemm_kernel & kernel) {
    return kernel.block == 1 ? kernel : *mp::find_gemm_kernel(kernel.type, mp::instruction_set::portable);
}

double tolerance_to_ggml(ggml_type type) {
    switch (type) {
    case GGML_TYPE_F16: // ggml rounds the activations of these to the weights' precision
        return 1e-3;
    case GGML_TYPE_BF16:
        return 8e-3;
    case GGML_TYPE_Q4_1: // and to a half what is multiplied by m
    case GGML_TYPE_Q5_1:
        return 5e-3;
    default:
        return 1e-4;
    }
}

// Relative to the norm of the products' row sums, which is what a sum of random signs comes to.
void check_values(const mp::gemm_kernel & kernel, int64_t n, int64_t n_out, int64_t k, bool bits, errors & largest) {
    std::vector<row_kind> kinds;
    activations x = random_activations(n, k, kinds);
    std::vector<uint8_t> weights = random_weights(kernel.type, n_out, k, bits);
    buffer packed = pack(kernel, weights, n_out, k);
    std::vector<float> y = multiply(kernel, packed.get(), x, 0, n, n_out);
    std::vector<float> in_ggml = multiply_in_ggml(kernel.type, weights, x, n_out);
    const mp::gemm_kernel & portable = portable_kernel(kernel);
    buffer portable_packed = pack(portable, weights, n_out, k);
    std::vector<float> in_portable = multiply(portable, portable_packed.get(), x, 0, n, n_out);
    std::vector<float> values(n_out * k);
    if (kernel.type == GGML_TYPE_F32) {
        memcpy(values.data(), weights.data(), weights.size());
    } else {
        ggml_get_type_traits(kernel.type)->to_float(weights.data(), values.data(), n_out * k);
    }
    std::vector<double> rounded, bound;
    for (int64_t i = 0; i < n; i++) {
        const float * row = &y[i * (n_out + 3)];
        if (kinds[i] == row_kind::not_finite) {
            if (!std::all_of(row, row + n_out, [](float value) { return std::isnan(value); })) {
                fail(kernel, "a value that is not finite does not make its row NaN", static_cast<double>(i));
            }
            continue;
        }
        if (is_float(kernel.type)) {
            rounded.assign(x.row(i), x.row(i) + k);
            bound.assign(k, 0.0);
        } else {
            round_to_8_bits(x.row(i), k, kernel.block, rounded, bound);
        }
        double error_squares = 0, ggml_squares = 0, portable_squares = 0, squares = 0, worst = 0;
        std::vector<double> magnitudes(n_out);
        for (int64_t j = 0; j < n_out; j++) {
            double sum = 0, unrounded = 0, allowed = 0, product_squares = 0;
            for (int64_t l = 0; l < k; l++) {
                double weight = values[j * k + l];
                sum += weight * rounded[l];
                unrounded += weight * x.row(i)[l];
                allowed += std::fabs(weight) * bound[l];
                product_squares += weight * rounded[l] * weight * rounded[l];
            }
            error_squares += std::pow(row[j] - sum, 2);
            ggml_squares += std::pow(static_cast<double>(row[j]) - in_ggml[i * n_out + j], 2);
            portable_squares += std::pow(static_cast<double>(row[j]) - in_portable[i * (n_out + 3) + j], 2);
            squares += product_squares;
            allowed += 1e-5 * std::sqrt(product_squares) + 1e-37;
            worst = std::max(worst, std::fabs(row[j] - unrounded) / allowed);
        }
        double norm = std::sqrt(squares) + 1e-37;
        double error = std::sqrt(error_squares) / norm;
        errors::add(largest.exact, error);
        errors::add(largest.by_rounding, worst);
        errors::add(largest.to_portable, std::sqrt(portable_squares) / norm);
        if (!(error < 1e-5)) {
            fail(kernel, "not the product of the quantised values", error);
        }
        if (!(worst <= 1)) {
            fail(kernel, "further from the product than rounding allows", worst);
        }
        // Scales beyond half precision are where ggml has no result.
        if (has_ggml && kinds[i] != row_kind::tiny_or_huge) {
            errors::add(largest.in_ggml, std::sqrt(ggml_squares) / norm);
            if (!(std::sqrt(ggml_squares) / norm < tolerance_to_ggml(kernel.type))) {
                fail(kernel, "not ggml's product", std::sqrt(ggml_squares) / norm);
            }
        }
    }
}

// The bits of a row are the same for every n, place and division of the work.
void check_bits(const mp::gemm_kernel & kernel, int64_t n_out, int64_t k) {
    constexpr int64_t n_rows = 44;
    std::vector<row_kind> kinds;
    activations x = random_activations(n_rows, k, kinds);
    buffer packed = pack(kernel, random_weights(kernel.type, n_out, k, false), n_out, k);
    std::vector<float> expected;
    for (int64_t i = 0; i < n_rows; i++) {
        std::vector<float> row = multiply(kernel, packed.get(), x, i, 1, n_out);
        expected.insert(expected.end(), row.begin(), row.end());
    }
    for (int64_t n = 1; n <= 40; n++) {
        int64_t first = random_int(0, n_rows - n);
        std::vector<float> y = multiply(kernel, packed.get(), x, first, n, n_out);
        if (memcmp(y.data(), &expected[first * (n_out + 3)], y.size() * sizeof(float)) != 0) {
            fail(kernel, "bits that depend on n", static_cast<double>(n));
        }
    }
}

void check(const mp::gemm_kernel & kernel) {
    errors largest;
    int max_blocks = 4096 / kernel.block;
    int group = std::max(kernel.group, portable_kernel(kernel).group);
    for (int round = 0; round < 8; round++) {
        int64_t n = round == 0 ? 1 : round == 1 ? 40 : random_int(1, 40);
        int64_t n_blocks = round == 0 ? 1 : round == 2 ? max_blocks : random_int(1, max_blocks / 4);
        int64_t n_groups = round == 0 ? 1 : random_int(1, 5);
        check_values(kernel, n, n_groups * group, n_blocks * kernel.block, round % 2 == 1, largest);
    }
    check_bits(kernel, 3 * kernel.group, kernel.block * random_int(1, max_blocks / 8));
#if defined(__aarch64__)
    if (largest.to_portable != 0) {
        fail(kernel, "not the bits of the portable kernel", largest.to_portable);
    }
#endif
    printf("%-12s %-6s error %.1e, to ggml %.1e, to portable %.1e, of what rounding allows %.2f\n",
           mp::instruction_set_name(kernel.set), ggml_type_name(kernel.type), largest.exact, largest.in_ggml,
           largest.to_portable, largest.by_rounding);
}

} // namespace

int main() {
    int n_kernels = 0;
    for (ggml_type type : {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16}) {
        check(*mp::find_gemm_kernel_any_shape(type));
        n_kernels++;
    }
    for (mp::instruction_set set : {mp::instruction_set::portable, mp::instruction_set::avx2, mp::instruction_set::avx_vnni,
                                    mp::instruction_set::avx512_vnni, mp::instruction_set::neon,
                                    mp::instruction_set::neon_dotprod, mp::instruction_set::neon_i8mm}) {
        if (!mp::has_instruction_set(set)) {
            continue;
        }
        for (ggml_type type :
             {GGML_TYPE_Q4_0, GGML_TYPE_Q4_1, GGML_TYPE_Q5_0, GGML_TYPE_Q5_1, GGML_TYPE_Q8_0, GGML_TYPE_Q2_K, GGML_TYPE_Q3_K,
              GGML_TYPE_Q4_K, GGML_TYPE_Q5_K, GGML_TYPE_Q6_K, GGML_TYPE_IQ4_NL, GGML_TYPE_IQ4_XS, GGML_TYPE_MXFP4,
              GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16}) {
            const mp::gemm_kernel * kernel = mp::find_gemm_kernel(type, set);
            if (kernel == nullptr || kernel->type != type || kernel->set != set) {
                printf("no kernel for %s with %s\n", ggml_type_name(type), mp::instruction_set_name(set));
                return 1;
            }
            check(*kernel);
            n_kernels++;
        }
    }
    printf("%d kernels, %d failures\n", n_kernels, n_failures);
    return n_failures != 0;
}
