// Gated linear attention: S_t = diag(d_t) S_{t-1} + k_t v_t^T, o_t = scale * q_t^T S_t.
//
// B batch, T time, H heads, K key dim, V value dim; q, k and gates (B, T, H, K), v and o
// (B, T, H, V), states (B, H, K, V) in float; K and V % LANES == 0.
//
// Time goes in chunks. What a chunk reads from the state before it, and what it adds to the state
// behind it, are matrix products with queries decayed from the chunk's start and keys decayed to
// its end; the rest is attention within the chunk. All decays are products of gates between an
// earlier and a later step, at most 1: unlike ratios of cumulative gates they cannot overflow.
//
// The columns of S (one per value channel) are independent in the forward pass and for dv, its rows
// (one per key channel) for dq, dk and dg: blocks of them are the tasks. The result does not
// depend on the blocks, since no sum runs over one.
#include "vector.h"

constexpr int64_t CHUNK = 16;         // steps; the scores of one step fill a vector
constexpr int64_t SLACK = 3;          // zero rows behind a chunk that `products` may read
constexpr int64_t TILE = 8;           // rows that a matrix product computes together
constexpr int64_t PITCH = 2 * CHUNK;  // of the scores: a row is written from its diagonal on
static_assert(CHUNK == LANES, "products() sums one vector per step of the chunk");

#define UNROLL PRAGMA(GCC unroll 16)  // arrays of vectors stay in registers only if unrolled

// Decays become denormal on their way to zero, which is slow on many CPUs: x86 flushes them.
struct FlushDenormals {
#ifdef __SSE__
    const unsigned before = __builtin_ia32_stmxcsr();
    FlushDenormals() { __builtin_ia32_ldmxcsr(before | 0x8040); }
    ~FlushDenormals() { __builtin_ia32_ldmxcsr(before); }
#else
    FlushDenormals() {}
#endif
};

struct Zeros : Buffer {
    explicit Zeros(size_t size) : Buffer(size) { std::fill_n(data, size, 0.f); }
};

struct Sizes {
    int64_t batch, time, heads, keys, values;
};

// ---- Where queries, keys and decays come from, and where their gradients go

// They are given, the decays as logarithms.
struct LogGates {
    const float *q, *k, *g;
    float *dq, *dk, *dg;

    void read(int64_t at, int64_t, vec& query, vec& key, vec& decay) const {
        query = load(q + at);
        key = load(k + at);
        decay = exp(load(g + at));
    }
    void write(int64_t at, int64_t, vec dquery, vec dkey, vec dgate, vec&) const {
        store(dq + at, dquery);
        store(dk + at, dkey);
        store(dg + at, dgate);
    }
    void write_bound(int64_t, vec) const {}
};

// HGRN2: query = silu(q), decay = bound + (1 - bound) * sigmoid(f), key = 1 - decay.
// E is float or bf16; bound (H * K,), its gradient (B, H * K).
template <class E>
struct BoundedGates {
    const E *q, *f;
    const float* bound;
    E *dq, *df;
    float* dbound;

    // sigmoid(x), and 1 - sigmoid(x) without cancellation
    static void open_and_closed(vec x, vec& open, vec& closed) {
        const vec e = exp(-x);
        open = 1.f / (1.f + e);
        closed = e * open;
    }
    void read(int64_t at, int64_t channel, vec& query, vec& key, vec& decay) const {
        vec open, closed;
        const vec low = load(bound + channel), x = load(q + at);
        open_and_closed(load(f + at), open, closed);
        query = x * sigmoid(x);
        key = (1.f - low) * closed;
        decay = low + (1.f - low) * open;
    }
    void write(int64_t at, int64_t channel, vec dquery, vec dkey, vec dgate, vec& dlow) const {
        vec open, closed;
        const vec low = load(bound + channel), x = load(q + at), gate = sigmoid(x);
        store(dq + at, dquery * gate * (1.f + x * (1.f - gate)));
        open_and_closed(load(f + at), open, closed);
        const vec decay = low + (1.f - low) * open;
        const vec dforget = dgate * (open / decay) - dkey * open;  // the quotient cannot overflow
        store(df + at, dforget * (1.f - low) * closed);
        dlow += (dgate / decay - dkey) * closed;
    }
    void write_bound(int64_t at, vec dlow) const { store(dbound + at, dlow); }
};

// ---- One chunk: arrays of CHUNK (+ SLACK) rows

// Steps behind the end of the sequence get neither query nor key, and keep the state.
template <class Gates>
static void read_gates(const Gates& gates, int64_t at, int64_t row, int64_t channel, float scale,
                       int64_t steps, int64_t width, float* q, float* k, float* d) {
    for (int64_t t = 0; t < CHUNK; ++t)
        for (int64_t j = 0; j < width; j += LANES) {
            vec query = {}, key = {}, decay = splat(1.f);
            if (t < steps) gates.read(at + t * row + j, channel + j, query, key, decay);
            store(q + t * width + j, query * scale);
            store(k + t * width + j, key);
            store(d + t * width + j, decay);
        }
}

template <class E>
static void read_rows(const E* from, int64_t row, int64_t steps, int64_t width, float* x,
                      int64_t rows = CHUNK) {
    for (int64_t t = 0; t < rows; ++t)
        for (int64_t j = 0; j < width; j += LANES)
            store(x + t * width + j, t < steps ? load(from + t * row + j) : vec{});
}

template <class E>
static void write_rows(const float* x, int64_t row, int64_t steps, int64_t width, E* to) {
    for (int64_t t = 0; t < steps; ++t)
        for (int64_t j = 0; j < width; j += LANES) store(to + t * row + j, load(x + t * width + j));
}

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

// The sums of 16 vectors: every round adds neighbours and halves their number.
static inline vec sums(vec* x) {
    for (int count = LANES; count > 1; count /= 2)
        for (int i = 0; i < count / 2; ++i) {
            const vec a = x[2 * i], b = x[2 * i + 1];
            x[i] = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26,
                                           28, 30) +
                   __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27,
                                           29, 31);
        }
    return x[0];
}

// Lane u is sum_j early_j late_{u,j} for u < STEPS, early decayed on its way if there are decays.
template <int STEPS, bool DECAYED>
static inline vec products_of_row(const float* late, const float* early, const float* d,
                                  int64_t width) {
    vec total[LANES] = {};
    for (int64_t j = 0; j < width; j += LANES) {
        vec entry = load(early + j);
UNROLL
        for (int u = 0; u < STEPS; ++u) {
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
// It adds to dq and sets dk. What a step gives to itself is left out: see `sweep_rows`.
static void differentiate_scores(const float* q, const float* k, const float* d,
                                 const float* dscores, int64_t width, float* dq, float* dk) {
    for (int64_t j = 0; j < width; j += LANES) {
        vec total[CHUNK] = {};
UNROLL
        for (int s = 0; s < CHUNK; ++s) {
            vec key = load(k + s * width + j);
UNROLL
            for (int t = s + 1; t < CHUNK; ++t) {
                key *= load(d + t * width + j);
                total[t] += dscores[s * PITCH + t] * key;
            }
        }
        for (int t = 0; t < CHUNK; ++t) {
            store(dq + t * width + j, load(dq + t * width + j) + total[t]);
            total[t] = vec{};
        }
UNROLL
        for (int t = 0; t < CHUNK; ++t) {
            vec query = load(q + t * width + j);
UNROLL
            for (int s = t - 1; s >= 0; --s) {
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

// ---- The tasks

// `width` value channels from `first` on. Forward in time: out = o from in = v, and `state`
// (K, width) runs from the initial to the last. Backward in time the same recurrence with queries
// and keys exchanged: out = dv from in = do, and `state` holds the gradient of S.
template <class Gates, class E>
static void sweep_columns(const Gates& gates, const Sizes& z, float scale, int64_t head,
                          int64_t first, int64_t width, bool reverse, const E* in, E* out,
                          float* state) {
    const int64_t keys = z.keys, chunks = (z.time + CHUNK - 1) / CHUNK;
    const int64_t b = head / z.heads, h = head % z.heads;
    Zeros q((CHUNK + SLACK) * keys), d((CHUNK + SLACK) * keys), scores(CHUNK * PITCH);
    Buffer k(CHUNK * keys), whole(keys), x(CHUNK * width), y(CHUNK * width);
    for (int64_t c = 0; c < chunks; ++c) {
        const int64_t t = (reverse ? chunks - 1 - c : c) * CHUNK;
        const int64_t steps = std::min(CHUNK, z.time - t), rows = (steps + TILE - 1) / TILE * TILE;
        const int64_t at = (b * z.time + t) * z.heads + h;
        read_gates(gates, at * keys, z.heads * keys, h * keys, scale, steps, keys, q.data, k.data,
                   d.data);
        read_rows(in + at * z.values + first, z.heads * z.values, steps, width, x.data);
        products<true>(q.data, k.data, d.data, keys, scores.data);
        decay_from_start(d.data, keys, q.data);
        decay_to_end(d.data, keys, k.data, whole.data);
        const float *readers = reverse ? k.data : q.data, *writers = reverse ? q.data : k.data;
        multiply(readers, keys, 1, keys, state, rows, width, y.data, zero);
        multiply(scores.data, reverse ? PITCH : 1, reverse ? 1 : PITCH, steps, x.data, rows, width,
                 y.data, [&](int64_t i, int64_t j) { return load(y.data + i * width + j); });
        multiply(writers, 1, keys, steps, x.data, keys, width, state, [&](int64_t i, int64_t j) {
            return whole.data[i] * load(state + i * width + j);
        });
        write_rows(y.data, z.heads * z.values, steps, width, out + at * z.values + first);
    }
}

// The gradients of `width` key channels from `first` on. States stand transposed, (V, width): first
// S forward in time for dq, then its gradient backward in time for dk. What a step's query and key
// give to each other no gate scales; it is added behind the gradient of the gates, where it would
// only leave its rounding error.
template <class Gates, class E>
static void sweep_rows(const Gates& gates, const Sizes& z, float scale, int64_t head, int64_t first,
                       int64_t width, const E* v, const E* dout, const float* initial_state) {
    const int64_t values = z.values, chunks = (z.time + CHUNK - 1) / CHUNK;
    const int64_t b = head / z.heads, h = head % z.heads, channel = h * z.keys + first;
    Buffer q(CHUNK * width), k(CHUNK * width), d(CHUNK * width), x(CHUNK * values), whole(width);
    Zeros dy((CHUNK + SLACK) * values), dscores(CHUNK * PITCH), later(width), dlow(width);
    Buffer dq(chunks * CHUNK * width), dk(chunks * CHUNK * width), part(CHUNK * width);
    Buffer state(values * width), own(chunks * CHUNK);
    const auto read = [&](int64_t c) {
        const int64_t t = c * CHUNK, steps = std::min(CHUNK, z.time - t);
        const int64_t at = (b * z.time + t) * z.heads + h;
        read_gates(gates, at * z.keys + first, z.heads * z.keys, channel, scale, steps, width,
                   q.data, k.data, d.data);
        read_rows(v + at * values, z.heads * values, steps, values, x.data);
        read_rows(dout + at * values, z.heads * values, steps, values, dy.data);
        return steps;
    };
    const auto decayed_state = [&](int64_t i, int64_t j) {
        return load(whole.data + j) * load(state.data + i * width + j);
    };

    transpose_rows(initial_state + (head * z.keys + first) * values, width, values, state.data);
    for (int64_t c = 0; c < chunks; ++c) {
        const int64_t steps = read(c);
        float *dq_c = dq.data + c * CHUNK * width, *dk_c = dk.data + c * CHUNK * width;
        products<false>(dy.data, x.data, nullptr, values, dscores.data);
        for (int64_t t = 0; t < CHUNK; ++t) own.data[c * CHUNK + t] = dscores.data[t * PITCH + t];
        multiply(dy.data, values, 1, values, state.data, CHUNK, width, dq_c, zero);
        decay_from_start(d.data, width, dq_c);
        differentiate_scores(q.data, k.data, d.data, dscores.data, width, dq_c, dk_c);
        decay_to_end(d.data, width, k.data, whole.data);
        multiply(x.data, 1, values, steps, k.data, values, width, state.data, decayed_state);
    }

    std::fill_n(state.data, values * width, 0.f);
    for (int64_t c = chunks - 1; c >= 0; --c) {
        const int64_t steps = read(c);
        const float *dq_c = dq.data + c * CHUNK * width, *dk_c = dk.data + c * CHUNK * width;
        multiply(x.data, values, 1, values, state.data, CHUNK, width, part.data, zero);
        decay_to_end(d.data, width, part.data, whole.data);
        for (int64_t t = steps - 1; t >= 0; --t)
            for (int64_t j = 0; j < width; j += LANES) {
                const int64_t i = t * width + j;
                vec dquery = load(dq_c + i), dkey = load(dk_c + i) + load(part.data + i);
                // A gate scales all that later queries read of earlier keys.
                const vec query = load(q.data + i), key = load(k.data + i);
                const vec dgate = load(later.data + j) + query * dquery - key * dkey;
                dquery += own.data[c * CHUNK + t] * key;
                dkey += own.data[c * CHUNK + t] * query;
                store(later.data + j, dgate);
                vec total = load(dlow.data + j);
                const int64_t step = (b * z.time + c * CHUNK + t) * z.heads * z.keys;
                gates.write(step + channel + j, channel + j, dquery * scale, dkey, dgate, total);
                store(dlow.data + j, total);
            }
        decay_from_start(d.data, width, q.data);
        multiply(dy.data, 1, values, steps, q.data, values, width, state.data, decayed_state);
    }
    for (int64_t j = 0; j < width; j += LANES)
        gates.write_bound(b * z.heads * z.keys + channel + j, load(dlow.data + j));
}

// As narrow as it takes to give every thread work.
static int64_t block_width(int64_t dim, int64_t heads, int64_t threads) {
    int64_t width = dim;
    while (width > 2 * LANES && heads * ((dim + width - 1) / width) < 2 * threads)
        width = (width / 2 + LANES - 1) / LANES * LANES;
    return width;
}

// state (B, H, K, V) holds the initial one, then the last.
template <class Gates, class E>
static void run_forward(const Gates& gates, const Sizes& z, float scale, const E* v, E* o,
                        float* state, int64_t threads) {
    const int64_t heads = z.batch * z.heads, wide = block_width(z.values, heads, threads);
    const int64_t blocks = (z.values + wide - 1) / wide;
    PARALLEL_FOR(task, heads * blocks) {
        const FlushDenormals flush;
        const int64_t head = task / blocks, first = task % blocks * wide;
        const int64_t width = std::min(wide, z.values - first);
        float* whole = state + head * z.keys * z.values + first;
        Buffer part(z.keys * width);
        read_rows(whole, z.values, z.keys, width, part.data, z.keys);
        sweep_columns(gates, z, scale, head, first, width, false, v, o, part.data);
        write_rows(part.data, z.values, z.keys, width, whole);
    }
}

template <class Gates, class E>
static void run_backward(const Gates& gates, const Sizes& z, float scale, const E* v,
                         const float* initial_state, const E* dout, E* dv, int64_t threads) {
    const int64_t heads = z.batch * z.heads;
    const int64_t tall = block_width(z.keys, heads, threads);
    const int64_t wide = block_width(z.values, heads, threads);
    const int64_t row_blocks = (z.keys + tall - 1) / tall;
    const int64_t column_blocks = (z.values + wide - 1) / wide;
    PARALLEL_FOR(task, heads * (row_blocks + column_blocks)) {
        const FlushDenormals flush;
        const int64_t rows = heads * row_blocks;  // the longer tasks come first
        if (task < rows) {
            const int64_t first = task % row_blocks * tall;
            sweep_rows(gates, z, scale, task / row_blocks, first, std::min(tall, z.keys - first), v,
                       dout, initial_state);
        } else {
            const int64_t first = (task - rows) % column_blocks * wide;
            const int64_t width = std::min(wide, z.values - first);
            Zeros dstate(z.keys * width);
            sweep_columns(gates, z, scale, (task - rows) / column_blocks, first, width, true, dout,
                          dv, dstate.data);
        }
    }
}

EXPORT void forward(const float* q, const float* k, const float* v, const float* g, float* o,
                    float* state, int64_t B, int64_t T, int64_t H, int64_t K, int64_t V,
                    float scale, int64_t threads) {
    const LogGates gates{q, k, g, nullptr, nullptr, nullptr};
    run_forward(gates, {B, T, H, K, V}, scale, v, o, state, threads);
}

EXPORT void backward(const float* q, const float* k, const float* v, const float* g,
                     const float* initial_state, const float* dout, float* dq, float* dk, float* dv,
                     float* dg, int64_t B, int64_t T, int64_t H, int64_t K, int64_t V, float scale,
                     int64_t threads) {
    const LogGates gates{q, k, g, dq, dk, dg};
    run_backward(gates, {B, T, H, K, V}, scale, v, initial_state, dout, dv, threads);
}

template <class E>
static void bounded_forward(const void* q, const void* f, const void* v, const float* bound,
                            void* o, float* state, const Sizes& z, float scale, int64_t threads) {
    const BoundedGates<E> gates{(const E*)q, (const E*)f, bound, nullptr, nullptr, nullptr};
    run_forward(gates, z, scale, (const E*)v, (E*)o, state, threads);
}

template <class E>
static void bounded_backward(const void* q, const void* f, const void* v, const float* bound,
                             const float* initial_state, const void* dout, void* dq, void* df,
                             void* dv, float* dbound, const Sizes& z, float scale,
                             int64_t threads) {
    const BoundedGates<E> gates{(const E*)q, (const E*)f, bound, (E*)dq, (E*)df, dbound};
    run_backward(gates, z, scale, (const E*)v, initial_state, (const E*)dout, (E*)dv, threads);
}

// q, f, v and o are bf16 or float.
EXPORT void forward_bounded(const void* q, const void* f, const void* v, const float* bound,
                            void* o, float* state, int64_t B, int64_t T, int64_t H, int64_t K,
                            int64_t V, int64_t is_bf16, float scale, int64_t threads) {
    const auto run = is_bf16 ? bounded_forward<bf16> : bounded_forward<float>;
    run(q, f, v, bound, o, state, {B, T, H, K, V}, scale, threads);
}

EXPORT void backward_bounded(const void* q, const void* f, const void* v, const float* bound,
                             const float* initial_state, const void* dout, void* dq, void* df,
                             void* dv, float* dbound, int64_t B, int64_t T, int64_t H, int64_t K,
                             int64_t V, int64_t is_bf16, float scale, int64_t threads) {
    const auto run = is_bf16 ? bounded_backward<bf16> : bounded_backward<float>;
    run(q, f, v, bound, initial_state, dout, dq, df, dv, dbound, {B, T, H, K, V}, scale, threads);
}
