// Attention within a chunk of time whose keys decay on their way to the query, and the matrix
// products that go with it. All arrays are contiguous float; rows are steps or channels, and widths
// are multiples of LANES. Of `d`, the decays of a chunk (CHUNK, width), only products are used.
#pragma once
#include "vector.h"

#define UNROLL PRAGMA(GCC unroll 16)  // arrays of vectors stay in registers only if unrolled

constexpr int64_t CHUNK = 16;         // steps; the scores of one step fill a vector
constexpr int64_t SLACK = 3;          // zero rows behind a chunk that `products` may read
constexpr int64_t TILE = 8;           // rows that a matrix product computes together
constexpr int64_t PITCH = 2 * CHUNK;  // of the scores: a row is written from its diagonal on
static_assert(CHUNK == LANES, "products() sums one vector per step of the chunk");

// x (rows, width) -> y (width, rows)
static void transpose_rows(const float* x, int64_t rows, int64_t width, float* y) {
    for (int64_t i = 0; i < rows; i += LANES)
        for (int64_t j = 0; j < width; j += LANES) {
            vec block[LANES];
            for (int r = 0; r < LANES; ++r) block[r] = load(x + (i + r) * width + j);
            transpose(block);
            for (int r = 0; r < LANES; ++r) store(y + (j + r) * rows + i, block[r]);
        }
}

// x_t *= d_0 ... d_t
static void decay_from_start(const float* d, int64_t width, float* x) {
    for (int64_t j = 0; j < width; j += LANES) {
        vec decay = splat(1.f);
        for (int64_t t = 0; t < CHUNK; ++t) {
            decay *= load(d + t * width + j);
            store(x + t * width + j, load(x + t * width + j) * decay);
        }
    }
}

// x_t *= d_{t+1} ... d_{CHUNK-1}; `whole` (width,) is the decay of the whole chunk.
static void decay_to_end(const float* d, int64_t width, float* x, float* whole) {
    for (int64_t j = 0; j < width; j += LANES) {
        vec decay = splat(1.f);
        for (int64_t t = CHUNK - 1; t >= 0; --t) {
            store(x + t * width + j, load(x + t * width + j) * decay);
            decay *= load(d + t * width + j);
        }
        store(whole + j, decay);
    }
}

// Lane u is sum_j early_j late_{u,j} for u < STEPS, early decayed on its way if there are decays.
template <int STEPS, bool DECAYED>
static inline vec products_of_row(const float* late, const float* early, const float* d,
                                  int64_t width) {
    vec total[LANES] = {};
    for (int64_t j = 0; j < width; j += LANES) {
        vec entry = load(early + j);
        UNROLL for (int u = 0; u < STEPS; ++u) {
            if (DECAYED && u > 0) entry *= load(d + u * width + j);
            total[u] += entry * load(late + u * width + j);
        }
    }
    return sums(total);
}

// scores[s * PITCH + t] = sum_j late_t early_s (prod d_{s+1..t} if DECAYED) for s <= t < CHUNK.
template <bool DECAYED>
static void products(const float* late, const float* early, const float* d, int64_t width,
                     float* scores) {
    for (int64_t s = 0; s < CHUNK; ++s) {
        const int64_t at = s * width;
        vec row;
        if (s < 4)
            row = products_of_row<16, DECAYED>(late + at, early + at, d + at, width);
        else if (s < 8)
            row = products_of_row<12, DECAYED>(late + at, early + at, d + at, width);
        else if (s < 12)
            row = products_of_row<8, DECAYED>(late + at, early + at, d + at, width);
        else
            row = products_of_row<4, DECAYED>(late + at, early + at, d + at, width);
        store(scores + s * PITCH + s, row);
    }
}

// What a chunk's queries and earlier keys give to each other's gradients, from those of the scores.
// It adds to dq and sets dk. What a step gives to itself is left out: see `RowSweep`.
static void differentiate_scores(const float* q, const float* k, const float* d,
                                 const float* dscores, int64_t width, float* dq, float* dk) {
    for (int64_t j = 0; j < width; j += LANES) {
        vec total[CHUNK] = {};
        UNROLL for (int s = 0; s < CHUNK; ++s) {
            vec key = load(k + s * width + j);
            UNROLL for (int t = s + 1; t < CHUNK; ++t) {
                key *= load(d + t * width + j);
                total[t] += dscores[s * PITCH + t] * key;
            }
        }
        for (int t = 0; t < CHUNK; ++t) {
            store(dq + t * width + j, load(dq + t * width + j) + total[t]);
            total[t] = vec{};
        }
        UNROLL for (int t = 0; t < CHUNK; ++t) {
            vec query = load(q + t * width + j);
            UNROLL for (int s = t - 1; s >= 0; --s) {
                query *= load(d + (s + 1) * width + j);
                total[s] += dscores[s * PITCH + t] * query;
            }
        }
        for (int t = 0; t < CHUNK; ++t) store(dk + t * width + j, total[t]);
    }
}

// ---- Matrix products

// TILE rows and VECS vectors of columns of `multiply`, kept in registers.
template <int VECS, class Start>
static inline void multiply_tile(const float* a, int64_t row, int64_t step, int64_t depth,
                                 const float* b, int64_t width, int64_t i, int64_t j, float* c,
                                 Start start) {
    vec total[TILE][VECS];
    UNROLL for (int r = 0; r < TILE; ++r)
        UNROLL for (int n = 0; n < VECS; ++n) total[r][n] = start(i + r, j + n * LANES);
    for (int64_t l = 0; l < depth; ++l) {
        vec columns[VECS];
        UNROLL for (int n = 0; n < VECS; ++n) columns[n] = load(b + l * width + j + n * LANES);
        UNROLL for (int r = 0; r < TILE; ++r) {
            const float factor = a[(i + r) * row + l * step];
            UNROLL for (int n = 0; n < VECS; ++n) total[r][n] += factor * columns[n];
        }
    }
    UNROLL for (int r = 0; r < TILE; ++r)
        UNROLL for (int n = 0; n < VECS; ++n)
            store(c + (i + r) * width + j + n * LANES, total[r][n]);
}

// c_ij = start(i, j) + sum_l a[i * row + l * step] b_lj for i < rows (% TILE == 0), l < depth and
// j < width; b and c are contiguous.
template <class Start>
static void multiply(const float* a, int64_t row, int64_t step, int64_t depth, const float* b,
                     int64_t rows, int64_t width, float* c, Start start) {
    int64_t j = 0;
    for (; j + 2 * LANES <= width; j += 2 * LANES)
        for (int64_t i = 0; i < rows; i += TILE)
            multiply_tile<2>(a, row, step, depth, b, width, i, j, c, start);
    if (j < width)
        for (int64_t i = 0; i < rows; i += TILE)
            multiply_tile<1>(a, row, step, depth, b, width, i, j, c, start);
}

static vec zero(int64_t, int64_t) { return vec{}; }
