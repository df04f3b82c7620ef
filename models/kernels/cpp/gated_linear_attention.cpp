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
#include "decayed_attention.h"

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

    int64_t chunks() const { return (time + CHUNK - 1) / CHUNK; }
    int64_t steps(int64_t chunk) const { return std::min(CHUNK, time - chunk * CHUNK); }
    // Of a step in (B, T, H); `head` counts through B and H.
    int64_t place(int64_t head, int64_t t) const {
        return (head / heads * time + t) * heads + head % heads;
    }
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

template <class E>
static void read_rows(const E* from, int64_t row, int64_t steps, int64_t width, float* x,
                      int64_t rows) {
    for (int64_t t = 0; t < rows; ++t)
        for (int64_t j = 0; j < width; j += LANES)
            store(x + t * width + j, t < steps ? load(from + t * row + j) : vec{});
}

template <class E>
static void write_rows(const float* x, int64_t row, int64_t steps, int64_t width, E* to) {
    for (int64_t t = 0; t < steps; ++t)
        for (int64_t j = 0; j < width; j += LANES) store(to + t * row + j, load(x + t * width + j));
}

// ---- The tasks

// The queries, keys and decays of `width` key channels of a head, chunk by chunk.
template <class Gates>
struct KeyBlock {
    const Gates& gates;
    const Sizes& z;
    const float scale;
    const int64_t head, first, width;
    Zeros q{size_t((CHUNK + SLACK) * width)}, d{size_t((CHUNK + SLACK) * width)};
    Buffer k{size_t(CHUNK * width)};
    Buffer whole{size_t(width)};  // the decay of the whole chunk

    const int64_t channel = head % z.heads * z.keys + first;

    int64_t place(int64_t t) const { return z.place(head, t) * z.keys + first; }

    // Steps behind the end of the sequence get neither query nor key, and keep the state.
    void read(int64_t chunk) {
        const int64_t at = place(chunk * CHUNK), row = z.heads * z.keys, steps = z.steps(chunk);
        for (int64_t t = 0; t < CHUNK; ++t)
            for (int64_t j = 0; j < width; j += LANES) {
                vec query = {}, key = {}, decay = splat(1.f);
                if (t < steps) gates.read(at + t * row + j, channel + j, query, key, decay);
                store(q.data + t * width + j, query * scale);
                store(k.data + t * width + j, key);
                store(d.data + t * width + j, decay);
            }
    }
};

// `width` value channels from `first` on. Forward in time: out = o from in = v, and `state`
// (K, width) runs from the initial to the last. Backward in time the same recurrence with queries
// and keys exchanged: out = dv from in = do, and `state` holds the gradient of S.
template <class Gates, class E>
static void sweep_columns(KeyBlock<Gates> block, int64_t first, int64_t width, bool reverse,
                          const E* in, E* out, float* state) {
    const Sizes& z = block.z;
    const int64_t keys = z.keys, row = z.heads * z.values;
    Buffer x(CHUNK * width), y(CHUNK * width);
    Zeros scores(CHUNK * PITCH);
    const float* readers = reverse ? block.k.data : block.q.data;
    const float* writers = reverse ? block.q.data : block.k.data;
    const auto more = [&](int64_t i, int64_t j) { return load(y.data + i * width + j); };
    const auto decayed = [&](int64_t i, int64_t j) {
        return block.whole.data[i] * load(state + i * width + j);
    };
    for (int64_t i = 0; i < z.chunks(); ++i) {
        const int64_t c = reverse ? z.chunks() - 1 - i : i, steps = z.steps(c);
        const int64_t at = z.place(block.head, c * CHUNK) * z.values + first;
        const int64_t rows = (steps + TILE - 1) / TILE * TILE;
        block.read(c);
        read_rows(in + at, row, steps, width, x.data, CHUNK);
        products<true>(block.q.data, block.k.data, block.d.data, keys, scores.data);
        decay_from_start(block.d.data, keys, block.q.data);
        decay_to_end(block.d.data, keys, block.k.data, block.whole.data);
        multiply(readers, keys, 1, keys, state, rows, width, y.data, zero);
        multiply(scores.data, reverse ? PITCH : 1, reverse ? 1 : PITCH, steps, x.data, rows, width,
                 y.data, more);
        multiply(writers, 1, keys, steps, x.data, keys, width, state, decayed);
        write_rows(y.data, row, steps, width, out + at);
    }
}

// The gradients of a block of keys. States stand transposed, (V, width): first S forward in time
// for dq, then its gradient backward in time for dk. What a step's query and key give to each
// other no gate scales; it is added behind the gradient of the gates, where it would only leave its
// rounding error.
template <class Gates, class E>
struct RowSweep {
    KeyBlock<Gates>& block;
    const E *v, *dout;
    const Sizes& z = block.z;
    const int64_t width = block.width, values = z.values, size = CHUNK * width;
    Buffer x{size_t(CHUNK * values)}, state{size_t(values * width)}, part{size_t(size)};
    Zeros dy{size_t((CHUNK + SLACK) * values)}, dscores{size_t(CHUNK * PITCH)};
    Buffer dq{size_t(z.chunks() * size)}, dk{size_t(z.chunks() * size)};
    Buffer own{size_t(z.chunks() * CHUNK)};         // gradients of the scores on the diagonal
    Zeros later{size_t(width)}, dbound{size_t(width)};  // sums over the later steps

    void run(const float* initial_state) {
        transpose_rows(initial_state, width, values, state.data);
        for (int64_t c = 0; c < z.chunks(); ++c) chunk_forward(c);
        std::fill_n(state.data, values * width, 0.f);
        for (int64_t c = z.chunks() - 1; c >= 0; --c) chunk_backward(c);
        const int64_t at = block.head / z.heads * z.heads * z.keys + block.channel;
        for (int64_t j = 0; j < width; j += LANES)
            block.gates.write_bound(at + j, load(dbound.data + j));
    }

    void chunk_forward(int64_t c) {
        float *dq_c = dq.data + c * size, *dk_c = dk.data + c * size;
        read(c);
        products<false>(dy.data, x.data, dy.data, values, dscores.data);
        for (int64_t t = 0; t < CHUNK; ++t) own.data[c * CHUNK + t] = dscores.data[t * PITCH + t];
        multiply(dy.data, values, 1, values, state.data, CHUNK, width, dq_c, zero);
        decay_from_start(block.d.data, width, dq_c);
        differentiate_scores(block.q.data, block.k.data, block.d.data, dscores.data, width, dq_c,
                             dk_c);
        decay_to_end(block.d.data, width, block.k.data, block.whole.data);
        update(x.data, block.k.data, z.steps(c));
    }

    void chunk_backward(int64_t c) {
        read(c);
        multiply(x.data, values, 1, values, state.data, CHUNK, width, part.data, zero);
        decay_to_end(block.d.data, width, part.data, block.whole.data);
        for (int64_t t = z.steps(c) - 1; t >= 0; --t) write(c, t);
        decay_from_start(block.d.data, width, block.q.data);
        update(dy.data, block.q.data, z.steps(c));
    }

    void read(int64_t c) {
        const int64_t at = z.place(block.head, c * CHUNK) * values, row = z.heads * values;
        block.read(c);
        read_rows(v + at, row, z.steps(c), values, x.data, CHUNK);
        read_rows(dout + at, row, z.steps(c), values, dy.data, CHUNK);
    }

    void update(const float* columns, const float* rows, int64_t steps) {
        multiply(columns, 1, values, steps, rows, values, width, state.data,
                 [&](int64_t i, int64_t j) {
                     return load(block.whole.data + j) * load(state.data + i * width + j);
                 });
    }

    void write(int64_t c, int64_t t) {
        const int64_t at = block.place(c * CHUNK + t);
        const float own_t = own.data[c * CHUNK + t];
        for (int64_t j = 0; j < width; j += LANES) {
            const int64_t i = t * width + j;
            const vec query = load(block.q.data + i), key = load(block.k.data + i);
            const vec dquery = load(dq.data + c * size + i);
            const vec dkey = load(dk.data + c * size + i) + load(part.data + i);
            // A gate scales all that later queries read of earlier keys.
            const vec dgate = load(later.data + j) + query * dquery - key * dkey;
            store(later.data + j, dgate);
            vec total = load(dbound.data + j);
            block.gates.write(at + j, block.channel + j, (dquery + own_t * key) * block.scale,
                              dkey + own_t * query, dgate, total);
            store(dbound.data + j, total);
        }
    }
};

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
        sweep_columns<Gates>({gates, z, scale, head, 0, z.keys}, first, width, false, v, o,
                             part.data);
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
    const int64_t blocks = row_blocks + (z.values + wide - 1) / wide;
    PARALLEL_FOR(task, heads * blocks) {  // those of a head together: they read the same
        const FlushDenormals flush;
        const int64_t head = task / blocks, block = task % blocks;
        if (block < row_blocks) {
            const int64_t first = block * tall, width = std::min(tall, z.keys - first);
            KeyBlock<Gates> keys{gates, z, scale, head, first, width};
            RowSweep<Gates, E>{keys, v, dout}.run(initial_state +
                                                  (head * z.keys + first) * z.values);
        } else {
            const int64_t first = (block - row_blocks) * wide;
            const int64_t width = std::min(wide, z.values - first);
            Zeros dstate(z.keys * width);
            sweep_columns<Gates>({gates, z, scale, head, 0, z.keys}, first, width, true, dout, dv,
                                 dstate.data);
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

// Calls `run` with a null pointer of the type of q, f, v, o and their gradients.
template <class Run>
static void with_type(bool is_bf16, Run run) {
    is_bf16 ? run((bf16*)nullptr) : run((float*)nullptr);
}

EXPORT void forward_bounded(const void* q, const void* f, const void* v, const float* bound,
                            void* o, float* state, int64_t B, int64_t T, int64_t H, int64_t K,
                            int64_t V, int64_t is_bf16, float scale, int64_t threads) {
    with_type(is_bf16, [&](auto* type) {
        using E = std::remove_pointer_t<decltype(type)>;
        const BoundedGates<E> gates{(const E*)q, (const E*)f, bound, nullptr, nullptr, nullptr};
        run_forward(gates, {B, T, H, K, V}, scale, (const E*)v, (E*)o, state, threads);
    });
}

EXPORT void backward_bounded(const void* q, const void* f, const void* v, const float* bound,
                             const float* initial_state, const void* dout, void* dq, void* df,
                             void* dv, float* dbound, int64_t B, int64_t T, int64_t H, int64_t K,
                             int64_t V, int64_t is_bf16, float scale, int64_t threads) {
    with_type(is_bf16, [&](auto* type) {
        using E = std::remove_pointer_t<decltype(type)>;
        const BoundedGates<E> gates{(const E*)q, (const E*)f, bound, (E*)dq, (E*)df, dbound};
        run_backward(gates, {B, T, H, K, V}, scale, (const E*)v, initial_state, (const E*)dout,
                     (E*)dv, threads);
    });
}
