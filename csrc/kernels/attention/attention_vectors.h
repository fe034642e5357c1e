// What vectors can do in every instruction set, by the compiler's own extension. attention_<set>.cpp says how long they are
// and includes this file inside its own unnamed namespace, then adds what the sets do differently; see attention_kernel.h.

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef double wide __attribute__((vector_size(4 * LANES)));
constexpr int32_t WIDE_LANES = LANES / 2;

inline vec load(const void * p) {
    vec x;
    memcpy(&x, p, sizeof(x));
    return x;
}
inline void store(float * p, vec x) {
    memcpy(p, &x, sizeof(x));
}
inline vec set1(float x) {
    return x - vec{};
}
inline vec add(vec a, vec b) {
    return a + b;
}
inline vec sub(vec a, vec b) {
    return a - b;
}
inline vec mul(vec a, vec b) {
    return a * b;
}
inline vec div(vec a, vec b) {
    return a / b;
}

inline vec with_sign(vec x, vec sign) {
    return (vec) (((ints) x & INT32_MAX) | ((ints) sign & INT32_MIN));
}
inline vec power_of_two(vec shifted) {
    return (vec) (((ints) shifted - (0x4B400000 - 127)) << 23);
}
inline vec zero_below(vec y, vec x, vec limit) {
    return x < limit ? vec{} : y;
}
inline vec hide(vec x, vec mask) {
    return mask == -INFINITY ? mask : x;
}

inline wide load_wide(const double * p) {
    wide x;
    memcpy(&x, p, sizeof(x));
    return x;
}
inline void store_wide(double * p, wide x) {
    memcpy(p, &x, sizeof(x));
}
inline wide set1_wide(double x) {
    return x - wide{};
}
inline wide add_wide(wide a, wide b) {
    return a + b;
}
inline wide mul_wide(wide a, wide b) {
    return a * b;
}
