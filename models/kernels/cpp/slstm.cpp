// The sLSTM cell. The gates read the previous output, so a sequence is one step after the other.
//
// One task computes the whole sequence of ROWS rows of the batch in one head: at each step their
// outputs times the head's recurrent weights, then the gates while they are in the cache. The
// forward keeps the gates before their activation, and the memory (c, n, m) before every STEPS-th
// step; the backward goes through each STEPS steps forward once more, then back.
//
// x, gates (batch, time, 4, heads, dim), gates i f z o; h (batch, time, heads, dim); states
// (batch, heads, dim); dim % PANEL == 0. The weights of a head come as panels (columns / PANEL,
// depth, PANEL), so that a product reads them from the first to the last.
#include "vector.h"

constexpr int64_t PANEL = 2 * LANES;
constexpr int64_t ROWS = 8;   // as in slstm.py; times two vectors, 16 registers of sums
constexpr int64_t STEPS = 8;  // as in slstm.py
constexpr int64_t GATES = 4;

struct Sizes {
    int64_t batch, time, heads, dim;

    int64_t tasks() const { return (batch + ROWS - 1) / ROWS * heads; }
    int64_t chunks() const { return (time + STEPS - 1) / STEPS; }
};

// Rows [first, first + rows) of the batch in one head, and where their numbers lie.
struct Task : Sizes {
    int64_t index, head, first, rows;

    Task(Sizes sizes, int64_t index)
        : Sizes(sizes), index(index), head(index % heads), first(index / heads * ROWS),
          rows(std::min(ROWS, batch - first)) {}

    int64_t state(int64_t r) const { return ((first + r) * heads + head) * dim; }
    int64_t output(int64_t r, int64_t t) const {
        return (((first + r) * time + t) * heads + head) * dim;
    }
    int64_t gate(int64_t r, int64_t t, int64_t g) const {
        return ((((first + r) * time + t) * GATES + g) * heads + head) * dim;
    }
    // The memory before a chunk of STEPS steps: c, n and m, each (ROWS, dim).
    int64_t mark(int64_t chunk) const { return (index * chunks() + chunk) * 3 * ROWS * dim; }
    int64_t weights() const { return head * GATES * dim * dim; }
};

static inline void copy(float* to, const float* from, int64_t size) {
    std::memcpy(to, from, size * sizeof(float));
}

// c (ROWS, PANEL) += a (ROWS, depth) b (depth, PANEL). b_row and c_row are the distances of rows;
// a has one for columns too, as it may be a transpose.
static inline void multiply_add(int64_t depth, const float* a, int64_t a_row, int64_t a_column,
                                const float* b, int64_t b_row, float* c, int64_t c_row) {
    vec left[ROWS], right[ROWS];
    for (int r = 0; r < ROWS; ++r) {
        left[r] = load(c + r * c_row);
        right[r] = load(c + r * c_row + LANES);
    }
    for (int64_t k = 0; k < depth; ++k) {
        const vec b_left = load(b + k * b_row), b_right = load(b + k * b_row + LANES);
        for (int r = 0; r < ROWS; ++r) {
            const float factor = a[r * a_row + k * a_column];
            left[r] += factor * b_left;
            right[r] += factor * b_right;
        }
    }
    for (int r = 0; r < ROWS; ++r) {
        store(c + r * c_row, left[r]);
        store(c + r * c_row + LANES, right[r]);
    }
}

struct Gates {
    vec keep, forget, closing, z, o;  // closing = sigmoid(-f), the slope of log sigmoid(f)
};

// The gates from their values before activation, `dim` floats apart; m moves on to this step.
static inline Gates activate(const float* raw, int64_t dim, vec& m) {
    const vec i = load(raw), f = load(raw + dim), o = load(raw + 3 * dim);
    const vec decay = exp_negative(-abs(f));
    const vec log_forget = min(f, vec{}) - log1p(decay) + m;
    // Of keep = exp(i - m) and forget = exp(log_forget - m), one is 1.
    const vec difference = log_forget - i;
    const auto remembers = difference > 0.f;
    const vec smaller = exp_negative(-abs(difference));
    m = remembers ? log_forget : i;
    const vec one = 1.f + (m - m);  // NaN for an infinite gate, as exp(i - m) would be
    return {remembers ? smaller : one, remembers ? one : smaller, sigmoid(-f, decay),
            tanh(load(raw + 2 * dim)), sigmoid(o, exp_negative(-abs(o)))};
}

static void forward_task(const Task& task, const float* x, const float* weights, const float* state,
                         float* h, float* last, float* gates, float* marks) {
    const int64_t dim = task.dim, columns = GATES * dim, size = ROWS * dim;
    const int64_t part = task.batch * task.heads * dim;  // distance of h, c, n, m in the states
    Buffer buffer((1 + 3 + GATES) * size);
    float *output = buffer.data, *memory = output + size, *raw = memory + 3 * size;
    std::fill(output, raw + GATES * size, 0.f);  // rows behind the batch stay 0
    for (int64_t r = 0; r < task.rows; ++r)
        for (int p = 0; p < 4; ++p)
            copy(output + p * size + r * dim, state + p * part + task.state(r), dim);
    for (int64_t t = 0; t < task.time; ++t) {
        if (t % STEPS == 0) copy(marks + task.mark(t / STEPS), memory, 3 * size);
        for (int64_t r = 0; r < task.rows; ++r)
            for (int g = 0; g < GATES; ++g)
                copy(raw + r * columns + g * dim, x + task.gate(r, t, g), dim);
        for (int64_t j = 0; j < columns; j += PANEL)
            multiply_add(dim, output, dim, 1, weights + j * dim, PANEL, raw + j, columns);
        for (int64_t r = 0; r < task.rows; ++r) {
            for (int64_t d = 0; d < dim; d += LANES) {
                float *c = memory + r * dim + d, *n = c + size, *m = n + size;
                vec new_m = load(m);
                const Gates gate = activate(raw + r * columns + d, dim, new_m);
                const vec new_c = gate.forget * load(c) + gate.keep * gate.z;
                const vec new_n = gate.forget * load(n) + gate.keep;
                store(c, new_c);
                store(n, new_n);
                store(m, new_m);
                store(output + r * dim + d, gate.o * new_c / new_n);
            }
            copy(h + task.output(r, t), output + r * dim, dim);
            for (int g = 0; g < GATES; ++g)
                copy(gates + task.gate(r, t, g), raw + r * columns + g * dim, dim);
        }
    }
    for (int64_t r = 0; r < task.rows; ++r)
        for (int p = 0; p < 3; ++p)
            copy(last + p * part + task.state(r), memory + p * size + r * dim, dim);
}

// state: h, c, n, m before the first step; last: c, n, m behind the last one; weights: the panels
// of R^T (dim, 4 dim) of each head.
EXPORT void forward(const float* x, const float* weights, const float* state, float* h,
                    float* last, float* gates, float* marks, int64_t batch, int64_t time,
                    int64_t heads, int64_t dim, int64_t threads) {
    const Sizes sizes{batch, time, heads, dim};
    PARALLEL_FOR(index, sizes.tasks()) {
        const Task task(sizes, index);
        forward_task(task, x, weights + task.weights(), state, h, last, gates, marks);
    }
}

// What a step of a row needs on the way back, each (dim,).
enum Field { KEEP, FORGET, CLOSING, Z, O, C_PAST, N_PAST, FIELDS };

// The steps [start, stop) of a chunk forward once more, from the memory before them, which moves
// on; steps (STEPS, ROWS, FIELDS, dim).
static void replay(const Task& task, const float* gates, int64_t start, int64_t stop, float* memory,
                   float* steps) {
    const int64_t dim = task.dim, size = ROWS * dim, stride = task.heads * dim;
    for (int64_t t = start; t < stop; ++t)
        for (int64_t r = 0; r < task.rows; ++r)
            for (int64_t d = 0; d < dim; d += LANES) {
                float* step = steps + ((t - start) * ROWS + r) * FIELDS * dim + d;
                float *c = memory + r * dim + d, *n = c + size, *m = n + size;
                const vec c_past = load(c), n_past = load(n);
                vec new_m = load(m);
                const Gates gate = activate(gates + task.gate(r, t, 0) + d, stride, new_m);
                store(c, gate.forget * c_past + gate.keep * gate.z);
                store(n, gate.forget * n_past + gate.keep);
                store(m, new_m);
                const vec fields[FIELDS] = {gate.keep, gate.forget, gate.closing, gate.z,
                                            gate.o,    c_past,      n_past};
                for (int f = 0; f < FIELDS; ++f) store(step + f * dim, fields[f]);
            }
}

// One step of one row back: dx (4, dim) from dh, with the gradients dc and dn behind the step,
// which become those before it.
static void step_back(const float* step, const float* dh, const float* dh_later, float* dc,
                      float* dn, float* dx, int64_t dim) {
    for (int64_t d = 0; d < dim; d += LANES) {
        vec field[FIELDS];
        for (int f = 0; f < FIELDS; ++f) field[f] = load(step + f * dim + d);
        const vec keep = field[KEEP], forget = field[FORGET], z = field[Z], o = field[O];
        const vec inverse = 1.f / (forget * field[N_PAST] + keep);
        const vec ratio = (forget * field[C_PAST] + keep * z) * inverse;
        const vec dh_here = load(dh + d) + load(dh_later + d);
        const vec direct = dh_here * o * inverse;
        const vec dc_here = load(dc + d) + direct, dn_here = load(dn + d) - direct * ratio;
        const vec dforget = dc_here * field[C_PAST] + dn_here * field[N_PAST];
        store(dx + d, (dc_here * z + dn_here) * keep);
        store(dx + dim + d, dforget * forget * field[CLOSING]);
        store(dx + 2 * dim + d, dc_here * keep * (1.f - z * z));
        store(dx + 3 * dim + d, dh_here * ratio * o * (1.f - o));
        store(dc + d, dc_here * forget);
        store(dn + d, dn_here * forget);
    }
}

static void backward_task(const Task& task, const float* dh, const float* weights, const float* h,
                          const float* h_first, const float* gates, const float* marks, float* dx,
                          float* dweights) {
    const int64_t dim = task.dim, columns = GATES * dim, size = ROWS * dim;
    Buffer buffer((3 + 3 + STEPS * (FIELDS + GATES + 1)) * size);
    float *dh_later = buffer.data, *dc = dh_later + size, *dn = dc + size, *memory = dn + size;
    float *steps = memory + 3 * size, *dgates = steps + STEPS * FIELDS * size;  // (.., ROWS, 4, dim)
    float* outputs = dgates + STEPS * GATES * size;  // those that the steps read, (.., ROWS, dim)
    std::fill(buffer.data, outputs + STEPS * size, 0.f);  // rows behind the batch stay 0
    for (int64_t chunk = task.chunks() - 1; chunk >= 0; --chunk) {
        const int64_t start = chunk * STEPS, stop = std::min(start + STEPS, task.time);
        copy(memory, marks + task.mark(chunk), 3 * size);
        replay(task, gates, start, stop, memory, steps);
        for (int64_t t = stop - 1; t >= start; --t) {
            float* dgate = dgates + (t - start) * GATES * size;
            for (int64_t r = 0; r < task.rows; ++r) {
                const int64_t row = (t - start) * ROWS + r;
                step_back(steps + row * FIELDS * dim, dh + task.output(r, t), dh_later + r * dim,
                          dc + r * dim, dn + r * dim, dgate + r * columns, dim);
                copy(outputs + row * dim,
                     t ? h + task.output(r, t - 1) : h_first + task.state(r), dim);
                for (int g = 0; g < GATES; ++g)
                    copy(dx + task.gate(r, t, g), dgate + r * columns + g * dim, dim);
            }
            std::fill(dh_later, dh_later + size, 0.f);
            for (int64_t j = 0; j < dim; j += PANEL)
                multiply_add(columns, dgate, columns, 1, weights + j * columns, PANEL,
                             dh_later + j, dim);
        }
        for (int64_t g = 0; g < columns; g += ROWS)
            for (int64_t j = 0; j < dim; j += PANEL)
                multiply_add((stop - start) * ROWS, dgates + g, 1, columns, outputs + j, dim,
                             dweights + g * dim + j, dim);
    }
}

// weights: the panels of R (4 dim, dim) of each head; h_first: h before the first step; dweights
// (blocks of rows, heads, 4 dim, dim), to be zero on entry and summed over its blocks.
EXPORT void backward(const float* dh, const float* weights, const float* h, const float* h_first,
                     const float* gates, const float* marks, float* dx, float* dweights,
                     int64_t batch, int64_t time, int64_t heads, int64_t dim, int64_t threads) {
    const Sizes sizes{batch, time, heads, dim};
    PARALLEL_FOR(index, sizes.tasks()) {
        const Task task(sizes, index);
        backward_task(task, dh, weights + task.weights(), h, h_first, gates, marks, dx,
                      dweights + index * GATES * dim * dim);
    }
}
