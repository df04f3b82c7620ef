// Causal softmax attention in blocks, with the rotary embedding on the way in.
//
// B batch, T time, H query heads, G key/value heads (H / G query heads share one), D head dim.
// q, out, dout, dq (B, T, H, D) and k, v, dk, dv (B, T, G, D) are all float or all bf16; lse
// (B, H, T) is log2 of the sum of 2^score. Any T; D % LANES == 0, with rotation D % 2 LANES == 0.
//
// Scores stand transposed, (keys, queries): the lanes of a vector are queries, so that maximum and
// sum over the keys never cross lanes. On the diagonal only what lies on or below it is computed,
// in strips of LANES keys by the queries from the strip on.
#include "vector.h"

// A whole register tile in registers takes loops without a counter.
#define UNROLL _Pragma("GCC unroll 8")

constexpr int64_t BLOCK = 64;  // queries, and keys: 64 x 64 scores stay in the L1 cache
constexpr int64_t TILE = 8;    // rows of a register tile, of two vectors each

struct Shape {
    int64_t B, T, H, G, D;
    int64_t blocks() const { return (T + BLOCK - 1) / BLOCK; }
    int64_t rows(int64_t block) const { return std::min(BLOCK, T - block * BLOCK); }
};

static int64_t padded(int64_t rows) { return (rows + LANES - 1) / LANES * LANES; }

// cos, sin (T, D) of each sequence, `per_sequence` floats apart (0: all share them); or null.
struct Rotary {
    const float *cos, *sin;
    int64_t per_sequence;
    Rotary at(int64_t sequence, int64_t t, int64_t D) const {
        const int64_t offset = sequence * per_sequence + t * D;
        return cos ? Rotary{cos + offset, sin + offset, 0} : *this;
    }
};

// C = A B or C += A B, one register tile; a(i, k) = a[i * a_row + k * a_column].
template <int VECS>
static inline void multiply_tile(const float* a, int64_t a_row, int64_t a_column, const float* b,
                                 int64_t b_row, float* c, int64_t c_row, int64_t depth, bool add) {
    vec total[TILE][VECS] = {};
    if (add)
        UNROLL for (int i = 0; i < TILE; ++i)
            UNROLL for (int v = 0; v < VECS; ++v) total[i][v] = load(c + i * c_row + v * LANES);
    for (int64_t k = 0; k < depth; ++k) {
        vec right[VECS];
        UNROLL for (int v = 0; v < VECS; ++v) right[v] = load(b + k * b_row + v * LANES);
        UNROLL for (int i = 0; i < TILE; ++i) {
            const vec left = splat(a[i * a_row + k * a_column]);
            UNROLL for (int v = 0; v < VECS; ++v) total[i][v] += left * right[v];
        }
    }
    UNROLL for (int i = 0; i < TILE; ++i)
        UNROLL for (int v = 0; v < VECS; ++v) store(c + i * c_row + v * LANES, total[i][v]);
}

// C (rows, columns) = or += A (rows, depth) B (depth, columns); rows % TILE, columns % LANES == 0.
static void multiply(const float* a, int64_t a_row, int64_t a_column, const float* b, int64_t b_row,
                     float* c, int64_t c_row, int64_t rows, int64_t columns, int64_t depth,
                     bool add) {
    for (int64_t j = 0; j < columns; j += 2 * LANES) {
        const auto tile = columns - j > LANES ? multiply_tile<2> : multiply_tile<1>;
        for (int64_t i = 0; i < rows; i += TILE)
            tile(a + i * a_row, a_row, a_column, b + j, b_row, c + i * c_row + j, c_row, depth,
                 add);
    }
}

// Rows of one head -> factor * rotated rows (padded(rows), D) of floats; zeros behind the rows.
template <class E>
static void read_head(const E* x, int64_t stride, Rotary rotary, float factor, int64_t rows,
                      int64_t D, float* out) {
    for (int64_t t = 0; t < rows; ++t, x += stride, out += D) {
        if (!rotary.cos) {
            for (int64_t d = 0; d < D; d += LANES) store(out + d, load(x + d) * factor);
            continue;
        }
        const float *cos = rotary.cos + t * D, *sin = rotary.sin + t * D;
        for (int64_t d = 0, e = D / 2; d < D / 2; d += LANES, e += LANES) {
            const vec first = load(x + d) * factor, second = load(x + e) * factor;
            store(out + d, first * load(cos + d) - second * load(sin + d));
            store(out + e, second * load(cos + e) + first * load(sin + e));
        }
    }
    std::fill(out, out + (padded(rows) - rows) * D, 0.f);
}

// The gradient of `read_head`.
template <class E>
static void write_head(const float* dout, Rotary rotary, float factor, int64_t rows, int64_t D,
                       E* dx, int64_t stride) {
    for (int64_t t = 0; t < rows; ++t, dx += stride, dout += D) {
        if (!rotary.cos) {
            for (int64_t d = 0; d < D; d += LANES) store(dx + d, load(dout + d) * factor);
            continue;
        }
        const float *cos = rotary.cos + t * D, *sin = rotary.sin + t * D;
        for (int64_t d = 0, e = D / 2; d < D / 2; d += LANES, e += LANES) {
            const vec first = load(dout + d) * factor, second = load(dout + e) * factor;
            store(dx + d, first * load(cos + d) + second * load(sin + e));
            store(dx + e, second * load(cos + e) - first * load(sin + d));
        }
    }
}

// x (rows, D) -> (D, BLOCK); rows % LANES == 0.
static void transpose(const float* x, int64_t rows, int64_t D, float* out) {
    for (int64_t t = 0; t < rows; t += LANES)
        for (int64_t d = 0; d < D; d += LANES) {
            vec square[LANES];
            for (int i = 0; i < LANES; ++i) square[i] = load(x + (t + i) * D + d);
            transpose(square);
            for (int i = 0; i < LANES; ++i) store(out + (d + i) * BLOCK + t, square[i]);
        }
}

// One block of queries against one block of keys; `run(key, keys, first)` for each strip of keys
// and the queries from `first` on that see any of them.
struct Pair {
    int64_t queries, keys;  // padded
    bool diagonal;
    template <class Run>
    void each_strip(Run run) const {
        const int64_t strip = diagonal ? LANES : keys;
        for (int64_t key = 0; key < keys; key += strip) run(key, strip, diagonal ? key : 0);
    }
    // Keys that the queries of the vector at `query` see, the diagonal's square included.
    int64_t seen(int64_t query) const { return diagonal ? query + LANES : keys; }
};

// products^T (keys, BLOCK) of keys (keys, D) and transposed queries (D, BLOCK).
static void score(const Pair& pair, const float* keys, const float* queries_t, int64_t D,
                  float* products) {
    pair.each_strip([&](int64_t key, int64_t strip, int64_t first) {
        multiply(keys + key * D, D, 1, queries_t + first, BLOCK, products + key * BLOCK + first,
                 BLOCK, strip, pair.queries - first, D, false);
    });
}

// -inf above the diagonal of the squares that the diagonal crosses.
static void mask_future(const Pair& pair, float* scores) {
    if (!pair.diagonal) return;
    for (int64_t key = 0; key < pair.keys; ++key) {
        float* row = scores + key * BLOCK + key / LANES * LANES;
        std::fill(row, row + key % LANES, -INFINITY);
    }
}

// scores^T -> weights^T = 2^(score - top), with top and the sums of weights brought up to date.
// `decay` receives what earlier sums and outputs have to be multiplied by.
static void soften(const Pair& pair, float* scores, float* top, float* sums, float* decay) {
    for (int64_t query = 0; query < pair.queries; query += LANES) {
        float* column = scores + query;
        const int64_t seen = pair.seen(query);
        vec tops[4], totals[4] = {};  // four chains hide each other's latency; seen % 4 == 0
        for (vec& chain : tops) chain = load(top + query);
        for (int64_t key = 0; key < seen; key += 4)
            for (int i = 0; i < 4; ++i)
                tops[i] = max(load(column + (key + i) * BLOCK), tops[i]);
        const vec now = max(max(tops[0], tops[1]), max(tops[2], tops[3]));
        for (int64_t key = 0; key < seen; key += 4)
            for (int i = 0; i < 4; ++i) {
                const vec weight = exp2_or_zero(load(column + (key + i) * BLOCK) - now);
                store(column + (key + i) * BLOCK, weight);
                totals[i] += weight;
            }
        const vec factor = exp2_or_zero(load(top + query) - now);
        store(decay + query, factor);
        store(top + query, now);
        store(sums + query, load(sums + query) * factor + (totals[0] + totals[1]) +
                                (totals[2] + totals[3]));
    }
}

static void scale_rows(float* x, const float* factors, int64_t rows, int64_t D) {
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t d = i * D; d < (i + 1) * D; d += LANES) store(x + d, load(x + d) * factors[i]);
}

// One block of queries of one head against all keys up to it.
template <class E>
static void attend(const E* q, const E* k, const E* v, Rotary rotary, E* out, float* lse,
                   float scale, int64_t block, const Shape& s) {
    const int64_t D = s.D, rows = s.rows(block), queries = padded(rows);
    Buffer memory(4 * BLOCK * D + BLOCK * BLOCK + 3 * BLOCK);
    float *queries_t = memory.data, *keys = queries_t + BLOCK * D, *values = keys + BLOCK * D;
    float *outputs = values + BLOCK * D, *scores = outputs + BLOCK * D;
    float *top = scores + BLOCK * BLOCK, *sums = top + BLOCK, *decay = sums + BLOCK;
    read_head(q + block * BLOCK * s.H * D, s.H * D, rotary.at(0, block * BLOCK, D), scale * LOG2_E,
              rows, D, outputs);
    transpose(outputs, queries, D, queries_t);
    std::fill(outputs, outputs + BLOCK * D, 0.f);
    std::fill(top, top + BLOCK, -INFINITY);
    std::fill(sums, sums + BLOCK, 0.f);
    for (int64_t other = 0; other <= block; ++other) {
        const Pair pair{queries, padded(s.rows(other)), other == block};
        const int64_t t = other * BLOCK, offset = t * s.G * D;
        read_head(k + offset, s.G * D, rotary.at(0, t, D), 1.f, s.rows(other), D, keys);
        read_head(v + offset, s.G * D, Rotary{}, 1.f, s.rows(other), D, values);
        score(pair, keys, queries_t, D, scores);
        mask_future(pair, scores);
        soften(pair, scores, top, sums, decay);
        scale_rows(outputs, decay, queries, D);
        pair.each_strip([&](int64_t key, int64_t strip, int64_t first) {
            multiply(scores + key * BLOCK + first, 1, BLOCK, values + key * D, D,
                     outputs + first * D, D, queries - first, D, strip, true);
        });
    }
    for (int64_t i = 0; i < rows; ++i) {
        lse[block * BLOCK + i] = top[i] + std::log2(sums[i]);
        decay[i] = 1.f / sums[i];
    }
    scale_rows(outputs, decay, rows, D);
    write_head(outputs, Rotary{}, 1.f, rows, D, out + block * BLOCK * s.H * D, s.H * D);
}

// What the backward pass needs of one head's queries, in blocks of (BLOCK, D) or (D, BLOCK).
struct Queries {
    float *rows, *transposed, *douts, *douts_t, *drows, *lse, *dots;
    Queries(float* memory, int64_t blocks, int64_t D) {
        const int64_t size = blocks * BLOCK * D;
        rows = memory, transposed = rows + size, douts = transposed + size, douts_t = douts + size;
        drows = douts_t + size, lse = drows + size, dots = lse + blocks * BLOCK;
    }
    static int64_t size(int64_t blocks, int64_t D) { return blocks * BLOCK * (5 * D + 2); }
};

template <class E>
static void read_queries(const E* q, const E* out, const E* dout, const float* lse, Rotary rotary,
                         float scale, const Shape& s, Queries& to) {
    const int64_t D = s.D, stride = s.H * D;
    for (int64_t block = 0; block < s.blocks(); ++block) {
        const int64_t t = block * BLOCK, rows = s.rows(block);
        read_head(q + t * stride, stride, rotary.at(0, t, D), scale * LOG2_E, rows, D,
                  to.rows + t * D);
        read_head(dout + t * stride, stride, Rotary{}, 1.f, rows, D, to.douts + t * D);
        transpose(to.rows + t * D, padded(rows), D, to.transposed + t * D);
        transpose(to.douts + t * D, padded(rows), D, to.douts_t + t * D);
    }
    const int64_t end = padded(s.T);
    std::fill(to.drows, to.drows + end * D, 0.f);
    std::fill(std::copy(lse, lse + s.T, to.lse), to.lse + end, 0.f);
    std::fill(to.dots, to.dots + end, 0.f);
    for (int64_t t = 0; t < s.T; ++t) {
        vec total = {};
        for (int64_t d = 0; d < D; d += LANES)
            total += load(out + t * stride + d) * load(to.douts + t * D + d);
        to.dots[t] = sum(total);
    }
}

// scores^T -> weights^T, and dweights^T -> dscores^T = weights^T (dweights^T - dots).
static void differentiate_softmax(const Pair& pair, const float* lse, const float* dots,
                                  float* scores, float* dweights) {
    for (int64_t query = 0; query < pair.queries; query += LANES)
        for (int64_t key = 0; key < pair.seen(query); ++key) {
            float *at = scores + key * BLOCK + query, *gradient = dweights + key * BLOCK + query;
            const vec weight = exp2_or_zero(load(at) - load(lse + query));
            store(at, weight);
            store(gradient, weight * (load(gradient) - load(dots + query)));
        }
}

// One pair of blocks; adds to dkeys, dvalues and the queries' gradient.
static void backward_pair(const Pair& pair, const float* keys, const float* values,
                          const Queries& from, int64_t t, int64_t D, float* scores,
                          float* dscores, float* dkeys, float* dvalues) {
    score(pair, keys, from.transposed + t * D, D, scores);
    score(pair, values, from.douts_t + t * D, D, dscores);
    mask_future(pair, scores);
    differentiate_softmax(pair, from.lse + t, from.dots + t, scores, dscores);
    pair.each_strip([&](int64_t key, int64_t strip, int64_t first) {
        const int64_t at = key * BLOCK + first, queries = pair.queries - first;
        const int64_t query = (t + first) * D;
        multiply(scores + at, BLOCK, 1, from.douts + query, D, dvalues + key * D, D, strip, D,
                 queries, true);
        multiply(dscores + at, BLOCK, 1, from.rows + query, D, dkeys + key * D, D, strip, D,
                 queries, true);
        multiply(dscores + at, 1, BLOCK, keys + key * D, D, from.drows + query, D, queries, D,
                 strip, true);
    });
}

// All of one key/value head: its query heads one after another.
template <class E>
static void backward_head(const E* q, const E* k, const E* v, const E* out, const E* dout,
                          const float* lse, Rotary rotary, E* dq, E* dk, E* dv, float scale,
                          const Shape& s) {
    const int64_t D = s.D, size = s.blocks() * BLOCK * D;
    Buffer memory(Queries::size(s.blocks(), D) + 2 * size + 2 * BLOCK * D + 2 * BLOCK * BLOCK);
    Queries queries(memory.data, s.blocks(), D);
    float *dkeys = memory.data + Queries::size(s.blocks(), D), *dvalues = dkeys + size;
    float *keys = dvalues + size, *values = keys + BLOCK * D;
    float *scores = values + BLOCK * D, *dscores = scores + BLOCK * BLOCK;
    std::fill(dkeys, dkeys + 2 * size, 0.f);
    for (int64_t head = 0; head < s.H / s.G; ++head) {
        const int64_t offset = head * D;
        read_queries(q + offset, out + offset, dout + offset, lse + head * s.T, rotary, scale, s,
                     queries);
        for (int64_t block = 0; block < s.blocks(); ++block) {
            const int64_t t = block * BLOCK, rows = s.rows(block);
            read_head(k + t * s.G * D, s.G * D, rotary.at(0, t, D), 1.f, rows, D, keys);
            read_head(v + t * s.G * D, s.G * D, Rotary{}, 1.f, rows, D, values);
            for (int64_t other = block; other < s.blocks(); ++other) {
                const Pair pair{padded(s.rows(other)), padded(rows), other == block};
                backward_pair(pair, keys, values, queries, other * BLOCK, D, scores, dscores,
                              dkeys + t * D, dvalues + t * D);
            }
        }
        write_head(queries.drows, rotary, scale, s.T, D, dq + offset, s.H * D);
    }
    write_head(dkeys, rotary, 1.f / LOG2_E, s.T, D, dk, s.G * D);  // the queries hold the scale
    write_head(dvalues, Rotary{}, 1.f, s.T, D, dv, s.G * D);
}

template <class E>
static void forward_all(const E* q, const E* k, const E* v, Rotary rotary, E* out, float* lse,
                        float scale, const Shape& s, int64_t threads) {
    PARALLEL_FOR(task, s.B * s.H * s.blocks()) {
        const int64_t block = s.blocks() - 1 - task / (s.B * s.H);  // the longest ones first
        const int64_t b = task % (s.B * s.H) / s.H, h = task % s.H;
        const int64_t query = (b * s.T * s.H + h) * s.D;
        const int64_t key = (b * s.T * s.G + h / (s.H / s.G)) * s.D;
        attend(q + query, k + key, v + key, rotary.at(b, 0, s.D), out + query,
               lse + (b * s.H + h) * s.T, scale, block, s);
    }
}

template <class E>
static void backward_all(const E* q, const E* k, const E* v, const E* out, const E* dout,
                         const float* lse, Rotary rotary, E* dq, E* dk, E* dv, float scale,
                         const Shape& s, int64_t threads) {
    PARALLEL_FOR(task, s.B * s.G) {
        const int64_t b = task / s.G, g = task % s.G, h = g * (s.H / s.G);
        const int64_t query = (b * s.T * s.H + h) * s.D, key = (b * s.T * s.G + g) * s.D;
        backward_head(q + query, k + key, v + key, out + query, dout + query,
                      lse + (b * s.H + h) * s.T, rotary.at(b, 0, s.D), dq + query, dk + key,
                      dv + key, scale, s);
    }
}

// Calls `run` with an element of the tensors' type.
template <class Run>
static void with_type(bool is_bf16, Run run) {
    is_bf16 ? run(bf16{}) : run(float{});
}

EXPORT void forward(const void* q, const void* k, const void* v, const float* cos,
                    const float* sin, void* out, float* lse, int64_t B, int64_t T, int64_t H,
                    int64_t G, int64_t D, int64_t is_bf16, int64_t per_sequence,
                    float scale, int64_t threads) {
    const Rotary rotary{cos, sin, per_sequence};
    with_type(is_bf16, [&](auto element) {
        using E = decltype(element);
        forward_all((const E*)q, (const E*)k, (const E*)v, rotary, (E*)out, lse, scale,
                    Shape{B, T, H, G, D}, threads);
    });
}

EXPORT void backward(const void* q, const void* k, const void* v, const float* cos,
                     const float* sin, const void* out, const float* lse, const void* dout,
                     void* dq, void* dk, void* dv, int64_t B, int64_t T, int64_t H, int64_t G,
                     int64_t D, int64_t is_bf16, int64_t per_sequence,
                     float scale, int64_t threads) {
    const Rotary rotary{cos, sin, per_sequence};
    with_type(is_bf16, [&](auto element) {
        using E = decltype(element);
        backward_all((const E*)q, (const E*)k, (const E*)v, (const E*)out, (const E*)dout, lse,
                     rotary, (E*)dq, (E*)dk, (E*)dv, scale, Shape{B, T, H, G, D}, threads);
    });
}
