// Vectors of 16 floats, and the functions that the recurrences need on them.
//
// GCC's and Clang's vector extensions: one source for AVX-512, AVX2 and NEON. NaN must pass through
// everything: `max(a, b)` and `min(a, b)` return a NaN in a, so the value stands first and the
// bound second.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>

#define PRAGMA(text) _Pragma(#text)
#define EXPORT extern "C" __attribute__((visibility("default")))

constexpr int LANES = 16;
typedef float vec __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(64), aligned(4), may_alias));

constexpr float LOG2_E = 1.44269504f;

static inline vec load(const float* p) { return *(const vec*)p; }
static inline void store(float* p, vec x) { *(vec*)p = x; }
static inline vec splat(float x) { return x - vec{}; }  // x + 0 would cost an addition: -0 + 0 = 0
static inline vec max(vec a, vec b) { return b > a ? b : a; }
static inline vec min(vec a, vec b) { return b < a ? b : a; }

static inline float sum(vec x) {
    float lanes[LANES], partial[4] = {};
    store(lanes, x);
    for (int i = 0; i < LANES; i += 4)
        for (int k = 0; k < 4; ++k) partial[k] += lanes[i + k];
    return (partial[0] + partial[1]) + (partial[2] + partial[3]);
}

// 2^x for x <= 127, relative error below 2e-7; below 2^-126 it returns 2^-126.
static inline vec exp2(vec x) {
    x = max(x, splat(-126.f));
    vec shifted = x + 12582912.f;  // 1.5 * 2^23: the sum's last bits are x rounded to an integer
    vec r = x - (shifted - 12582912.f);
    vec p = splat(1.5403530e-4f) * r + 1.3333558e-3f;
    p = p * r + 9.6181291e-3f;
    p = p * r + 5.5504109e-2f;
    p = p * r + 2.4022651e-1f;
    p = p * r + 6.9314718e-1f;
    p = p * r + 1.f;
    return (vec)((ivec)p + ((ivec)shifted << 23));
}

// 2^x for x <= 127, and 0 below 2^-126: for weights that must vanish at -inf.
static inline vec exp2_or_zero(vec x) { return x < splat(-126.f) ? vec{} : exp2(x); }

// e^x, at most 2^126.
static inline vec exp(vec x) { return exp2(min(x * LOG2_E, splat(126.f))); }

static inline vec sigmoid(vec x) { return 1.f / (1.f + exp(-x)); }

// Rows to columns: each round interleaves row i with row i + 8, which moves one bit of an entry's
// row number to its lane and one of its lane to its row.
static inline void transpose(vec rows[LANES]) {
    for (int round = 0; round < 4; ++round) {
        vec mixed[LANES];
        for (int i = 0; i < LANES / 2; ++i) {
            const vec a = rows[i], b = rows[i + LANES / 2];
            mixed[2 * i] = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21,
                                                   6, 22, 7, 23);
            mixed[2 * i + 1] = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28,
                                                       13, 29, 14, 30, 15, 31);
        }
        std::copy(mixed, mixed + LANES, rows);
    }
}

// Lane i is the sum of the lanes of rows[i], for LANES vectors.
static inline vec sums(const vec* rows) {
    vec level[LANES];
    std::copy(rows, rows + LANES, level);
    PRAGMA(GCC unroll 4)
    for (int count = LANES / 2; count > 0; count /= 2)
        PRAGMA(GCC unroll 8)
        for (int i = 0; i < count; ++i) {  // neighbouring lanes meet: first those of a, then of b
            const vec a = level[2 * i], b = level[2 * i + 1];
            level[i] = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24,
                                               26, 28, 30) +
                       __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25,
                                               27, 29, 31);
        }
    return level[0];
}

static inline vec abs(vec x) { return (vec)((ivec)x & 0x7fffffff); }

// The parts of e^x = power (1 + fraction) for x in [-87, 0]: fraction = e^r - 1, |r| <= ln(2) / 2.
struct Exponential {
    vec power, fraction;
};

static inline Exponential split_exp(vec x) {
    const vec shifted = x * LOG2_E + 12582912.f;  // as in exp2
    const vec k = shifted - 12582912.f;
    const vec r = (x - k * 0.693359375f) + k * 2.12194440e-4f;  // ln(2), its first part exact in k
    vec p = splat(1.39262508e-3f) * r + 8.36323288e-3f;
    p = p * r + 4.16665542e-2f;
    p = p * r + 1.66665767e-1f;
    p = p * r + 0.5f;
    return {(vec)(((ivec)shifted << 23) + (127 << 23)), r + r * r * p};
}

// e^x for x <= 0, relative error below 2e-7; 0 below -87.
static inline vec exp_negative(vec x) {
    const Exponential e = split_exp(max(x, splat(-87.f)));
    const vec y = e.power + e.power * e.fraction;
    return x < -87.f ? vec{} : y;
}

// Relative error below 3e-7, also near 0, where it is e^-2|x| - 1 that must be exact.
static inline vec tanh(vec x) {
    const Exponential e = split_exp(max(-2.f * abs(x), splat(-40.f)));
    const vec minus_one = e.power * e.fraction + (e.power - 1.f);
    const vec y = minus_one / (2.f + minus_one);
    return x > 0.f ? -y : y;
}

// log(1 + x) for x in [0, 1], relative error below 2e-7: 2 atanh(x / (2 + x)).
static inline vec log1p(vec x) {
    const vec s = x / (2.f + x), w = s * s;
    vec p = splat(1.34257490e-1f) * w + 1.41183099e-1f;
    p = p * w + 2.00037803e-1f;
    p = p * w + 3.33333202e-1f;
    return 2.f * (s + s * w * p);
}

// sigmoid(x), given e^-|x|: relative error below 4e-7 on both sides.
static inline vec sigmoid(vec x, vec decay) {
    return (x > 0.f ? splat(1.f) : decay) / (1.f + decay);
}

// The upper half of a float; memory only, all arithmetic is on floats.
struct bf16 {
    uint16_t bits;
};
typedef uint16_t half_vec __attribute__((vector_size(32), aligned(2), may_alias));
typedef uint32_t uvec __attribute__((vector_size(64), aligned(4), may_alias));

static inline vec load(const bf16* p) {
    return (vec)(__builtin_convertvector(*(const half_vec*)p, uvec) << 16);
}

// Rounds to the nearest, to even in a tie; a NaN, whose bits must not be rounded, stays one.
static inline void store(bf16* p, vec x) {
    const uvec bits = (uvec)x;
    const uvec rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    *(half_vec*)p = __builtin_convertvector(x == x ? rounded : uvec{} + 0x7fc0u, half_vec);
}

// Floats in aligned memory that frees itself; the contents are not initialised.
struct Buffer {
    std::unique_ptr<float[]> memory;
    float* data;
    explicit Buffer(size_t size) : memory(new float[size + LANES]) {
        data = (float*)(((uintptr_t)memory.get() + 63) / 64 * 64);
    }
};

// A loop whose iterations run on `threads` threads: PARALLEL_FOR(i, n) { ... }
#define PARALLEL_FOR(i, n) \
    PRAGMA(omp parallel for schedule(dynamic, 1) num_threads(threads)) for (int64_t i = 0; i < (n); ++i)
