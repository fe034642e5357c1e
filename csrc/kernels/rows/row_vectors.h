// The row kernels, written once over the compiler's own vectors. row_kernels_<set>.cpp sets the instructions and includes
// this file inside its own unnamed namespace, so that no two instruction sets share a function.
//
// What the including file defines:
//   LANES                  floats in a vector
//   to_halves(x, y, n)     single to half precision, rounded to the nearest

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef double doubles __attribute__((vector_size(8 * LANES)));

#define MP_ROW_INLINE static inline __attribute__((always_inline))

MP_ROW_INLINE floats load(const float * x) {
    floats v;
    memcpy(&v, x, sizeof(v));
    return v;
}

MP_ROW_INLINE void store(float * y, floats v) {
    memcpy(y, &v, sizeof(v));
}

// The last numbers of a row, fewer than LANES, with zeros after them.
MP_ROW_INLINE floats load_some(const float * x, int64_t n) {
    floats v = {};
    memcpy(&v, x, n * sizeof(float));
    return v;
}

MP_ROW_INLINE void store_some(float * y, floats v, int64_t n) {
    memcpy(y, &v, n * sizeof(float));
}

// y = function(a) for every vector of a row, y = function(a, b) for those of two rows.
template <class F> MP_ROW_INLINE void each(const float * a, float * y, int64_t n, F function) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        store(y + i, function(load(a + i)));
    }
    if (i < n) {
        store_some(y + i, function(load_some(a + i, n - i)), n - i);
    }
}

template <class F> MP_ROW_INLINE void each(const float * a, const float * b, float * y, int64_t n, F function) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        store(y + i, function(load(a + i), load(b + i)));
    }
    if (i < n) {
        store_some(y + i, function(load_some(a + i, n - i), load_some(b + i, n - i)), n - i);
    }
}

// The sum of function(x) over a row, in double precision: in as many lanes as the widest set has, for any LANES, then over
// the lanes. So every set gives the same.
template <class F> MP_ROW_INLINE double sum_of(const float * x, int64_t n, F function) {
    constexpr int N_SUMS = 16 / LANES;
    doubles sum[N_SUMS] = {};
    int64_t i = 0;
    for (; i + N_SUMS * LANES <= n; i += N_SUMS * LANES) {
        for (int j = 0; j < N_SUMS; j++) {
            sum[j] += function(__builtin_convertvector(load(x + i + j * LANES), doubles));
        }
    }
    double total = 0;
    for (const doubles & some : sum) {
        for (int lane = 0; lane < LANES; lane++) {
            total += some[lane];
        }
    }
    for (; i < n; i++) {
        const doubles last = function(doubles{} + (double) x[i]);
        total += last[0];
    }
    return total;
}

static void rms_norm(const float * x, float * y, int64_t n, float eps) {
    const double mean = sum_of(x, n, [](doubles v) { return v * v; }) / (double) n;
    const float factor = 1.0f / __builtin_sqrtf((float) mean + eps);
    each(x, y, n, [factor](floats v) { return v * factor; });
}

static void layer_norm(const float * x, float * y, int64_t n, float eps) {
    const double mean = sum_of(x, n, [](doubles v) { return v; }) / (double) n;
    const double variance = sum_of(x, n, [mean](doubles v) { return (v - mean) * (v - mean); }) / (double) n;
    const float middle = (float) mean, factor = 1.0f / __builtin_sqrtf((float) variance + eps);
    each(x, y, n, [middle, factor](floats v) { return (v - middle) * factor; });
}

static void add(const float * a, const float * b, float * y, int64_t n) {
    each(a, b, y, n, [](floats v, floats w) { return v + w; });
}

static void multiply(const float * a, const float * b, float * y, int64_t n) {
    each(a, b, y, n, [](floats v, floats w) { return v * w; });
}

static void divide(const float * a, const float * b, float * y, int64_t n) {
    each(a, b, y, n, [](floats v, floats w) { return v / w; });
}

static void scale_and_shift(const float * x, float scale, float shift, float * y, int64_t n) {
    each(x, y, n, [scale, shift](floats v) { return v * scale + shift; });
}

// e^x with a relative error below 3e-7, for x limited to what gives a finite number; NaN for NaN.
MP_ROW_INLINE floats exponential(floats x) {
    const float low = -87.0f, high = 88.0f, magic = 12582912.0f; // 1.5 * 2^23: rounds to an integer
    x = x < low ? low - floats{} : x;
    x = x > high ? high - floats{} : x;
    const floats shifted = x * 1.44269504f + magic;
    const floats n = shifted - magic;
    floats r = x - n * 0.693145752f; // ln 2 in two parts, the first with few digits
    r = r - n * 1.42860677e-6f;
    floats p = r * (1.0f / 720) + (1.0f / 120);
    p = p * r + (1.0f / 24);
    p = p * r + (1.0f / 6);
    p = p * r + (1.0f / 2);
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    ints bits;
    memcpy(&bits, &shifted, sizeof(bits));
    bits = (bits - 0x4B400000 + 127) << 23;
    floats power;
    memcpy(&power, &bits, sizeof(power));
    return p * power;
}

MP_ROW_INLINE floats silu_of(floats x) {
    return x / (1.0f + exponential(-x));
}

// x / 2 * (1 + tanh(u)), u = sqrt(2 / pi) * (x + 0.044715 x^3)
MP_ROW_INLINE floats gelu_of(floats x) {
    const floats u = x * 0.797884561f * (1.0f + 0.044715f * x * x);
    return x * (1.0f - 1.0f / (1.0f + exponential(u + u)));
}

template <class F> MP_ROW_INLINE void gated(const float * x, const float * gate, float * y, int64_t n, F function) {
    if (gate) {
        each(x, gate, y, n, [function](floats v, floats g) { return function(v) * g; });
    } else {
        each(x, y, n, function);
    }
}

static void silu(const float * x, const float * gate, float * y, int64_t n) {
    gated(x, gate, y, n, [](floats v) { return silu_of(v); });
}

static void gelu(const float * x, const float * gate, float * y, int64_t n) {
    gated(x, gate, y, n, [](floats v) { return gelu_of(v); });
}

static void clamped_swiglu(const float * x, const float * gate, float alpha, float limit, float * y, int64_t n) {
    each(x, gate, y, n, [alpha, limit](floats v, floats g) {
        v = v > limit ? limit + floats{} : v;
        g = g > limit ? limit + floats{} : g;
        g = g < -limit ? -limit + floats{} : g;
        return v / (1.0f + exponential(-alpha * v)) * (g + 1.0f);
    });
}

static void rotate_neighbours(const float * x, const float * cos, const float * sin, float * y, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const float a = x[2 * i], b = x[2 * i + 1];
        y[2 * i] = a * cos[i] - b * sin[i];
        y[2 * i + 1] = a * sin[i] + b * cos[i];
    }
}

static void rotate_halves(const float * x, const float * cos, const float * sin, float * y, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const float a = x[i], b = x[i + n];
        y[i] = a * cos[i] - b * sin[i];
        y[i + n] = a * sin[i] + b * cos[i];
    }
}

static constexpr mp::row_kernels THESE = {rms_norm,       layer_norm,        add,           multiply,
                                          divide,         scale_and_shift,   silu,          gelu,
                                          clamped_swiglu, rotate_neighbours, rotate_halves, to_halves};
