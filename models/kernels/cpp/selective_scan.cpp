// Mamba's selective scan with what surrounds it in the layer:
//
//     s_t = softplus(delta_t + bias)                    or without the softplus
//     h_t = exp(s_t a) h_{t-1} + s_t u_t b_t            `states` numbers per channel
//     y_t = (c_t . h_t + skip u_t) * silu(gate_t)       or without the gate, which then is null
//
// u, delta, gate, y (batch, time, dim) are of type T, float or bf16; b, c (batch, time, states);
// a (states, dim); skip, bias (dim,); a state (batch, states, dim); dim % LANES == 0 and
// states % TILE == 0. The lanes of a vector are neighbouring channels, so that the sum over the
// states stays within a lane. Time is cut into chunks: the forward keeps the states before each of
// them, borders (batch, chunks, states, dim), and from these the backward computes the others.
#include <type_traits>

#include "vector.h"

// Without it GCC keeps the arrays of a tile in memory.
#define UNROLL _Pragma("GCC unroll 8")

constexpr int64_t CHUNK = 32;  // steps whose states are held at once
constexpr int64_t TILE = 8;    // states of a channel that stay in the registers
constexpr int64_t GROUPS = 4;  // of LANES channels, in one task
constexpr int64_t BLOCK = GROUPS * LANES;

template <class T>
struct Scan {
    const T *u, *delta, *gate;
    const float *a, *b, *c, *skip, *bias;
    int64_t batch, time, dim, states, gate_stride;  // the stride from one step's gate to the next
    bool with_softplus;

    int64_t chunks() const { return (time + CHUNK - 1) / CHUNK; }
    int64_t blocks() const { return (dim + BLOCK - 1) / BLOCK; }
    int64_t area() const { return states * dim; }
};

// One chunk of one group of LANES channels; `row` is its first step, counted over the whole batch.
struct Place {
    int64_t row, channel, length;
};

// A block of channels of one sequence.
struct Task {
    int64_t item, first, groups;

    template <class T>
    Task(const Scan<T>& scan, int64_t index)
        : item(index / scan.blocks()),
          first(index % scan.blocks() * BLOCK),
          groups(std::min(GROUPS, (scan.dim - first) / LANES)) {}

    template <class T>
    Place place(const Scan<T>& scan, int64_t chunk, int64_t group) const {
        const int64_t start = chunk * CHUNK;
        return {item * scan.time + start, first + group * LANES,
                std::min(CHUNK, scan.time - start)};
    }
};

// `count` rows of a state, LANES channels of each, from p on.
static inline void load_rows(const float* p, int64_t dim, int64_t count, vec* rows) {
    for (int64_t n = 0; n < count; ++n) rows[n] = load(p + n * dim);
}

static inline void store_rows(float* p, int64_t dim, int64_t count, const vec* rows) {
    for (int64_t n = 0; n < count; ++n) store(p + n * dim, rows[n]);
}

static inline vec softplus(vec x) {
    return max(x, splat(0.f)) + log1p(exp_negative(-abs(x)));
}

template <class T>
static inline vec gate_at(const Scan<T>& scan, Place at, int64_t t) {
    return load(scan.gate + (at.row + t) * scan.gate_stride + at.channel);
}

// What the recurrence reads, and c . h, which it writes.
struct Steps {
    vec u[CHUNK], delta[CHUNK], drive[CHUNK], y[CHUNK];

    template <class T>
    Steps(const Scan<T>& scan, Place at) {
        const vec bias = load(scan.bias + at.channel);
        for (int64_t t = 0; t < at.length; ++t) {
            const int64_t offset = (at.row + t) * scan.dim + at.channel;
            const vec sum = load(scan.delta + offset) + bias;
            u[t] = load(scan.u + offset);
            delta[t] = scan.with_softplus ? softplus(sum) : sum;
            drive[t] = delta[t] * u[t];
            y[t] = vec{};
        }
    }
};

// Takes the states n to n + TILE, which lie in `state`, over a chunk and adds c . h to y. KEEP
// leaves every decay and state, (CHUNK, TILE), for the backward.
template <bool KEEP, class T>
static inline void recur(const Scan<T>& scan, Place at, int64_t n, vec* state, Steps& steps,
                         vec* decays = nullptr, vec* kept = nullptr) {
    vec h[TILE], rate[TILE];
    load_rows(scan.a + n * scan.dim + at.channel, scan.dim, TILE, rate);
    for (int i = 0; i < TILE; ++i) {
        h[i] = state[i];
        rate[i] *= LOG2_E;
    }
    for (int64_t t = 0; t < at.length; ++t) {
        const float* b = scan.b + (at.row + t) * scan.states + n;
        const float* c = scan.c + (at.row + t) * scan.states + n;
        const vec delta = steps.delta[t], drive = steps.drive[t];
        vec total = steps.y[t];
        UNROLL for (int i = 0; i < TILE; ++i) {
            const vec decay = exp2(min(delta * rate[i], splat(127.f)));
            h[i] = decay * h[i] + drive * b[i];
            total += h[i] * c[i];
            if (KEEP) {
                decays[t * TILE + i] = decay;
                kept[t * TILE + i] = h[i];
            }
        }
        steps.y[t] = total;
    }
    for (int i = 0; i < TILE; ++i) state[i] = h[i];
}

template <class T>
static inline void write(const Scan<T>& scan, Place at, const Steps& steps, T* y) {
    const vec skip = load(scan.skip + at.channel);
    for (int64_t t = 0; t < at.length; ++t) {
        vec total = steps.y[t] + skip * steps.u[t];
        if (scan.gate) {
            const vec gate = gate_at(scan, at, t);
            total *= gate * sigmoid(gate);
        }
        store(y + (at.row + t) * scan.dim + at.channel, total);
    }
}

// Without borders (null) nothing is kept for a backward.
template <class T>
static void run_forward(const Scan<T>& scan, const float* initial, T* y, float* last,
                        float* borders, int64_t threads) {
    PARALLEL_FOR(index, scan.batch * scan.blocks()) {
        const Task task(scan, index);
        Buffer memory(task.groups * scan.states * LANES);
        for (int64_t chunk = 0; chunk < scan.chunks(); ++chunk)
            for (int64_t group = 0; group < task.groups; ++group) {
                const Place at = task.place(scan, chunk, group);
                vec* state = (vec*)memory.data + group * scan.states;
                const int64_t outside = task.item * scan.area() + at.channel;
                if (chunk == 0) load_rows(initial + outside, scan.dim, scan.states, state);
                if (borders)
                    store_rows(borders + (task.item * scan.chunks() + chunk) * scan.area() +
                                   at.channel,
                               scan.dim, scan.states, state);
                Steps steps(scan, at);
                for (int64_t n = 0; n < scan.states; n += TILE)
                    recur<false>(scan, at, n, state + n, steps);
                write(scan, at, steps, y);
                if (chunk == scan.chunks() - 1)
                    store_rows(last + outside, scan.dim, scan.states, state);
            }
    }
}

// All that the backward writes; the caller adds up the last three over the batch.
template <class T>
struct Gradients {
    T *du, *ddelta, *dgate;
    float *db, *dc;        // (batch, time, states)
    float* da;             // (batch, states, dim)
    float *dskip, *dbias;  // (batch, dim)
};

// Gradients of one chunk's steps: of y before the gate, of s and of the drive s u.
struct StepGradients {
    vec dy[CHUNK], ddelta[CHUNK], ddrive[CHUNK];

    template <class T>
    StepGradients(const Scan<T>& scan, const T* dout, Place at) {
        for (int64_t t = 0; t < at.length; ++t) {
            dy[t] = load(dout + (at.row + t) * scan.dim + at.channel);
            if (scan.gate) {
                const vec gate = gate_at(scan, at, t);
                dy[t] *= gate * sigmoid(gate);
            }
            ddelta[t] = ddrive[t] = vec{};
        }
    }
};

// Takes the gradients of the states n to n + TILE back over a chunk. `before` are the states
// before it; dstate comes as what later steps want of the last state and leaves as what this chunk
// wants of `before`; da and dbc are added to.
template <class T>
static inline void recur_back(const Scan<T>& scan, Place at, int64_t n, const vec* before,
                              const Steps& steps, const vec* decays, const vec* kept,
                              StepGradients& grads, vec* dstate, vec* da_sum, float* dbc) {
    vec dlater[TILE], da[TILE], a[TILE];
    load_rows(scan.a + n * scan.dim + at.channel, scan.dim, TILE, a);
    for (int i = 0; i < TILE; ++i) {
        dlater[i] = dstate[i];
        da[i] = da_sum[i];
    }
    for (int64_t t = at.length - 1; t >= 0; --t) {
        const float* b = scan.b + (at.row + t) * scan.states + n;
        const float* c = scan.c + (at.row + t) * scan.states + n;
        const vec delta = steps.delta[t], drive = steps.drive[t], dy = grads.dy[t];
        const vec* previous = t > 0 ? kept + (t - 1) * TILE : before;
        vec ddelta = grads.ddelta[t], ddrive = grads.ddrive[t];
        vec products[2 * TILE];  // of b, then of c, still to be summed over the channels
        UNROLL for (int i = 0; i < TILE; ++i) {
            const vec dh = dlater[i] + dy * c[i];
            products[i] = dh * drive;
            products[TILE + i] = kept[t * TILE + i] * dy;
            ddrive += dh * b[i];
            dlater[i] = dh * decays[t * TILE + i];
            const vec dexponent = dlater[i] * previous[i];
            ddelta += dexponent * a[i];
            da[i] += dexponent * delta;
        }
        grads.ddelta[t] = ddelta;
        grads.ddrive[t] = ddrive;
        float* target = dbc + 2 * (t * scan.states + n);
        store(target, load(target) + sums(products));
    }
    for (int i = 0; i < TILE; ++i) {
        dstate[i] = dlater[i];
        da_sum[i] = da[i];
    }
}

template <class T>
static inline void write_gradients(const Scan<T>& scan, const T* dout, Place at,
                                   const Steps& steps, const StepGradients& grads,
                                   const Gradients<T>& out, vec& dskip, vec& dbias) {
    const vec skip = load(scan.skip + at.channel), bias = load(scan.bias + at.channel);
    for (int64_t t = 0; t < at.length; ++t) {
        const int64_t offset = (at.row + t) * scan.dim + at.channel;
        const vec u = steps.u[t], dy = grads.dy[t];
        vec ddelta = grads.ddelta[t] + grads.ddrive[t] * u;
        if (scan.with_softplus) ddelta *= sigmoid(load(scan.delta + offset) + bias);
        store(out.du + offset, grads.ddrive[t] * steps.delta[t] + dy * skip);
        store(out.ddelta + offset, ddelta);
        dskip += dy * u;
        dbias += ddelta;
        if (scan.gate) {
            const vec gate = gate_at(scan, at, t), s = sigmoid(gate);
            const vec y = steps.y[t] + skip * u;
            store(out.dgate + offset, load(dout + offset) * y * s * (1.f + gate * (1.f - s)));
        }
    }
}

// A task's sums over all its steps, by group.
struct Sums {
    Buffer memory;
    vec *dstate, *da;  // (groups, states)
    vec dskip[GROUPS] = {}, dbias[GROUPS] = {};

    Sums(int64_t groups, int64_t states) : memory(2 * groups * states * LANES) {
        dstate = (vec*)memory.data;
        da = dstate + groups * states;
        std::fill(dstate, da + groups * states, vec{});
    }
};

template <class T>
static inline void chunk_back(const Scan<T>& scan, const float* border, const T* dout, Place at,
                              int64_t group, const Gradients<T>& out, float* dbc, Sums& total) {
    vec decays[CHUNK * TILE], kept[CHUNK * TILE], before[TILE], state[TILE];
    Steps steps(scan, at);
    StepGradients grads(scan, dout, at);
    for (int64_t n = 0; n < scan.states; n += TILE) {
        const int64_t own = group * scan.states + n;
        load_rows(border + n * scan.dim + at.channel, scan.dim, TILE, before);
        std::copy(before, before + TILE, state);
        recur<true>(scan, at, n, state, steps, decays, kept);
        recur_back(scan, at, n, before, steps, decays, kept, grads, total.dstate + own,
                   total.da + own, dbc);
    }
    write_gradients(scan, dout, at, steps, grads, out, total.dskip[group], total.dbias[group]);
}

// Adds up the blocks' gradients of b and c, in the blocks' order; parts (batch, blocks, time,
// states / TILE, 2 x TILE).
template <class T>
static void add_blocks(const Scan<T>& scan, const float* parts, float* db, float* dc,
                       int64_t threads) {
    PARALLEL_FOR(task, scan.batch * scan.chunks()) {
        const int64_t item = task / scan.chunks(), start = task % scan.chunks() * CHUNK;
        for (int64_t t = start; t < std::min(scan.time, start + CHUNK); ++t)
            for (int64_t n = 0; n < scan.states; n += TILE) {
                vec total = {};
                for (int64_t block = 0; block < scan.blocks(); ++block) {
                    const int64_t row = (item * scan.blocks() + block) * scan.time + t;
                    total += load(parts + 2 * (row * scan.states + n));
                }
                const int64_t offset = (item * scan.time + t) * scan.states + n;
                std::memcpy(db + offset, (float*)&total, TILE * sizeof(float));
                std::memcpy(dc + offset, (float*)&total + TILE, TILE * sizeof(float));
            }
    }
}

template <class T>
static void run_backward(const Scan<T>& scan, const float* borders, const T* dout,
                         const Gradients<T>& out, int64_t threads) {
    Buffer parts(2 * scan.batch * scan.blocks() * scan.time * scan.states);
    PARALLEL_FOR(index, scan.batch * scan.blocks()) {
        const Task task(scan, index);
        Sums total(task.groups, scan.states);
        float* dbc = parts.data + 2 * index * scan.time * scan.states;
        std::fill(dbc, dbc + 2 * scan.time * scan.states, 0.f);
        for (int64_t chunk = scan.chunks() - 1; chunk >= 0; --chunk)
            for (int64_t group = 0; group < task.groups; ++group)
                chunk_back(scan, borders + (task.item * scan.chunks() + chunk) * scan.area(), dout,
                           task.place(scan, chunk, group), group, out,
                           dbc + 2 * chunk * CHUNK * scan.states, total);
        for (int64_t group = 0; group < task.groups; ++group) {
            const int64_t channel = task.first + group * LANES;
            store_rows(out.da + task.item * scan.area() + channel, scan.dim, scan.states,
                       total.da + group * scan.states);
            store(out.dskip + task.item * scan.dim + channel, total.dskip[group]);
            store(out.dbias + task.item * scan.dim + channel, total.dbias[group]);
        }
    }
    add_blocks(scan, parts.data, out.db, out.dc, threads);
}

EXPORT void forward(const void* u, const void* delta, const void* gate, const float* a,
                    const float* b, const float* c, const float* skip, const float* bias,
                    const float* initial, void* y, float* last, float* borders, int64_t batch,
                    int64_t time, int64_t dim, int64_t states, int64_t gate_stride,
                    int64_t with_softplus, int64_t is_bf16, int64_t threads) {
    const auto run = [&](auto* y) {
        using T = std::remove_pointer_t<decltype(y)>;
        const Scan<T> scan{(const T*)u, (const T*)delta, (const T*)gate, a, b, c, skip, bias,
                           batch, time, dim, states, gate_stride, with_softplus != 0};
        run_forward(scan, initial, y, last, borders, threads);
    };
    is_bf16 ? run((bf16*)y) : run((float*)y);
}

EXPORT void backward(const void* u, const void* delta, const void* gate, const float* a,
                     const float* b, const float* c, const float* skip, const float* bias,
                     const float* borders, const void* dy, void* du, void* ddelta, void* dgate,
                     float* db, float* dc, float* da, float* dskip, float* dbias, int64_t batch,
                     int64_t time, int64_t dim, int64_t states, int64_t gate_stride,
                     int64_t with_softplus, int64_t is_bf16, int64_t threads) {
    const auto run = [&](auto* du) {
        using T = std::remove_pointer_t<decltype(du)>;
        const Scan<T> scan{(const T*)u, (const T*)delta, (const T*)gate, a, b, c, skip, bias,
                           batch, time, dim, states, gate_stride, with_softplus != 0};
        const Gradients<T> out{du, (T*)ddelta, (T*)dgate, db, dc, da, dskip, dbias};
        run_backward(scan, borders, (const T*)dy, out, threads);
    };
    is_bf16 ? run((bf16*)du) : run((float*)du);
}
