// The mLSTM cell in chunks of time; the equations stand in mlstm.py.
//
// q, k (B, T, H, K) and v (B, T, H, V), floats or bf16; h, dh like v in floats; everything about
// gates (B, H, T). A task is one head of one sequence and a block of its value columns, W of them:
// its scores are those of the whole head, and its part of every gradient adds to those of the other
// blocks. It goes through the sequence chunk by chunk and keeps its state in the cache.
//
// The vectors of a chunk are copied into tiles of floats, padded by zeros to multiples of LANES;
// from then on no code looks at odd sizes. Steps of a chunk are called t where they read from the
// memory and s where they write to it.
#include "matrix.h"

typedef double dvec __attribute__((vector_size(128), aligned(8), may_alias));

constexpr int64_t CHUNK = 64;
constexpr float EPS = 1e-6f;

struct Sizes {
    int64_t batch, time, heads, key, value, blocks;
};

// What both directions read. Without an initial state its pointers are null.
template <typename T>
struct Inputs {
    const T *q, *k, *v;
    const double *a, *peak, *before;
    const float *floor, *memory, *normalizer;
};

// One head of one sequence, and `width` of its value columns from `first` on.
struct Task {
    const Sizes& size;
    int64_t block, head, first, width;

    Task(int64_t index, const Sizes& size) : size(size) {
        block = index % size.blocks, head = index / size.blocks;
        const int64_t share = padded((size.value + size.blocks - 1) / size.blocks);
        first = std::min(block * share, size.value);
        width = std::min(share, size.value - first);
    }

    // The head's part of a tensor (B, T, H, K) or (B, T, H, V), and the task's part of the latter.
    template <typename T>
    Rows<T> keys(T* data) const { return steps(data, size.key); }
    template <typename T>
    Rows<T> all_values(T* data) const { return steps(data, size.value); }
    template <typename T>
    Rows<T> values(T* data) const {
        const Rows<T> all = all_values(data);
        return {all.data + first, all.stride, width};
    }
    // The head's part of a tensor (B, H, K, V), and of one (B, H, K).
    template <typename T>
    Rows<T> memory(T* data) const {
        return {data + head * size.key * size.value + first, size.value, width};
    }
    template <typename T>
    T* normalizer(T* data) const { return data + head * size.key; }

private:
    template <typename T>
    Rows<T> steps(T* data, int64_t dim) const {
        const int64_t batch = head / size.heads, h = head % size.heads;
        return {data + (batch * size.time * size.heads + h) * dim, size.heads * dim, dim};
    }
};

// The steps of one chunk and what its gates amount to.
struct Chunk {
    int64_t start, count, rows;  // rows: the count, padded
    double a[CHUNK], peak[CHUNK];
    float from_state[CHUNK];  // weight of the state in front of the chunk in row t
    float to_state[CHUNK];    // weight of step s in the state behind the chunk
    float keep;               // weight of the state in front of the chunk in the one behind it

    template <typename T>
    Chunk(int64_t start, const Inputs<T>& inputs, const Task& task) : start(start) {
        count = std::min(CHUNK, task.size.time - start);
        rows = padded(count);
        const int64_t offset = task.head * task.size.time + start;
        const double first = inputs.before[offset], last = inputs.peak[offset + count - 1];
        for (int64_t t = 0; t < CHUNK; ++t) {
            a[t] = t < count ? inputs.a[offset + t] : last;
            peak[t] = t < count ? inputs.peak[offset + t] : last;
        }
        for (int64_t t = 0; t < CHUNK; t += LANES) {
            store(from_state + t, exp_negative(-distance(peak + t, first)));
            store(to_state + t, exp_negative(distance(a + t, last)));
        }
        keep = exp_negative(splat(float(first - last)))[0];
    }

    // The gates are float64 up to here: only differences of long sums are small numbers.
    static vec distance(const double* x, double from) {
        return __builtin_convertvector(*(const dvec*)x - from, vec);
    }

    // Weights in row t of the steps from s on, zero for those that lie behind t.
    vec decay(int64_t t, int64_t s) const {
        ivec step;
        for (int i = 0; i < LANES; ++i) step[i] = int32_t(s) + i;
        return step <= int32_t(t) ? exp_negative(distance(a + s, peak[t])) : vec{};
    }
};

// Products that know that a row reads no later step: they take LANES rows at once.
//
// out (count, count) = a (count, depth) b (depth, count), in the blocks on and below the diagonal
static void lower_product(Tile a, Tile b, Tile out, int64_t count, int64_t depth) {
    for (int64_t t = 0; t < count; t += LANES)
        set_product(plain(a.from(t)), b, out.from(t), LANES, t + LANES, depth);
}

// out (count, width) = beta out + a (count, count) b (count, width) for a lower triangular a
static void product_of_lower(Tile a, Tile b, Tile out, int64_t count, int64_t width, float beta) {
    for (int64_t t = 0; t < count; t += LANES)
        product(plain(a.from(t)), b, out.from(t), LANES, width, t + LANES, beta, out.from(t));
}

// The same with a transposed: its row s begins at column s.
static void product_of_upper(Tile a, Tile b, Tile out, int64_t count, int64_t width, float beta) {
    for (int64_t s = 0; s < count; s += LANES) {
        const View block = transposed({a.row(s) + s, a.stride});
        product(block, b.from(s), out.from(s), LANES, width, count - s, beta, out.from(s));
    }
}

// Turns scores into weights and sums up every row.
static void weigh(const Chunk& chunk, Tile scores, float* sums) {
    for (int64_t t = 0; t < chunk.rows; ++t) {
        vec total = {};
        for (int64_t s = 0; s <= t; s += LANES) {
            float* entry = scores.row(t) + s;
            const vec weight = load(entry) * chunk.decay(t, s);
            store(entry, weight);
            total += weight;
        }
        sums[t] = sum(total);
    }
}

template <typename T>
struct Forward {
    const Task& task;
    const Inputs<T>& inputs;
    float *h_data, *row_sum_data, *memory_data, *normalizer_data;  // the last two null if unwanted

    int64_t key = padded(task.size.key), width = padded(task.width);
    Tile q, k, k_t, v, h, weights, memory;
    float* normalizer;

    void run() {
        Scratch scratch;
        for (Tile* tile : {&q, &k}) *tile = scratch.tile(CHUNK, key);
        for (Tile* tile : {&v, &h}) *tile = scratch.tile(CHUNK, width);
        k_t = scratch.tile(key, CHUNK), weights = scratch.tile(CHUNK, CHUNK);
        memory = scratch.tile(key, width), normalizer = scratch.take(key);

        bool empty = inputs.memory == nullptr;
        if (empty) {
            std::fill_n(normalizer, key, 0.f);
        } else {
            read_tile(task.memory(inputs.memory), 0, task.size.key, 1.f, memory);
            read_row(task.normalizer(inputs.normalizer), task.size.key, 1.f, normalizer);
        }
        for (int64_t start = 0; start < task.size.time; start += CHUNK) {
            const Chunk chunk(start, inputs, task);
            answer(chunk, empty);
            if (start + CHUNK < task.size.time || memory_data) memorize(chunk, empty);
            empty = false;
        }
        if (!memory_data) return;
        write_tile(memory, 1.f, task.memory(memory_data), 0, task.size.key);
        if (task.block == 0)
            write_row(normalizer, 1.f, task.normalizer(normalizer_data), task.size.key);
    }

    void answer(const Chunk& chunk, bool empty) {
        const float root = 1.f / std::sqrt(float(task.size.key));
        const int64_t offset = task.head * task.size.time + chunk.start;
        read_tile(task.keys(inputs.q), chunk.start, chunk.count, 1.f, q);
        read_tile(task.keys(inputs.k), chunk.start, chunk.count, root, k);
        read_tile(task.values(inputs.v), chunk.start, chunk.count, 1.f, v);

        float sums[CHUNK], inverse[CHUNK];
        transpose(k, k_t, chunk.rows, key);
        lower_product(q, k_t, weights, chunk.rows, key);
        weigh(chunk, weights, sums);
        product_of_lower(weights, v, h, chunk.rows, width, 0.f);
        if (!empty) {
            scale_rows(q, chunk.from_state, q, chunk.rows, key);
            add_product(plain(q), memory, h, chunk.rows, width, key);
        }
        for (int64_t t = 0; t < chunk.count; ++t) {
            if (!empty) sums[t] += dot(q.row(t), normalizer, key);
            inverse[t] = 1.f / (std::max(std::fabs(sums[t]), inputs.floor[offset + t]) + EPS);
        }
        scale_rows(h, inverse, h, chunk.count, width);
        write_tile(h, 1.f, task.values(h_data), chunk.start, chunk.count);
        if (task.block == 0) std::copy_n(sums, chunk.count, row_sum_data + offset);
    }

    void memorize(const Chunk& chunk, bool empty) {
        add_rows(normalizer, chunk.keep, chunk.to_state, k, chunk.rows, key);
        scale_rows(k, chunk.to_state, k, chunk.rows, key);
        product(transposed(k), v, memory, key, width, chunk.rows, empty ? 0.f : chunk.keep, memory);
    }
};

// T is the type of q, k and v, G that of the gradients of q and k.
template <typename T, typename G>
struct Backward {
    const Task& task;
    const Inputs<T>& inputs;
    const float *h_data, *row_sum_data, *dh_data;
    G *dq_data, *dk_data;
    T* dv_data;
    float *q_dq_data, *k_dk_data, *dscale_data;

    int64_t key = padded(task.size.key), width = padded(task.width);
    float root = 1.f / std::sqrt(float(task.size.key));
    Tile q, k, k_t, scaled, dq, dk;  // keys
    Tile v, v_t, dh, dv;             // values; dh is divided by the scale
    Tile weights, dscores;
    float *memories, *normalizers;  // the states in front of the chunks
    Tile dmemory;                   // with dnormalizer the gradient of the state behind the chunk
    float *dnormalizer, drow_sum[CHUNK];

    void run() {
        lay_out();
        recompute_states();
        for (int64_t start = (task.size.time - 1) / CHUNK * CHUNK; start >= 0; start -= CHUNK) {
            const Chunk chunk(start, inputs, task);
            read(chunk);
            differentiate_weights(chunk);
            differentiate_values(chunk);
            differentiate_queries(chunk);
            differentiate_keys(chunk);
            if (start > 0) differentiate_state(chunk);
        }
    }

    void lay_out() {
        const int64_t chunks = (task.size.time + CHUNK - 1) / CHUNK;
        Scratch scratch;
        for (Tile* tile : {&q, &k, &scaled, &dq, &dk}) *tile = scratch.tile(CHUNK, key);
        for (Tile* tile : {&v, &dh, &dv}) *tile = scratch.tile(CHUNK, width);
        for (Tile* tile : {&weights, &dscores}) *tile = scratch.tile(CHUNK, CHUNK);
        k_t = scratch.tile(key, CHUNK), v_t = scratch.tile(width, CHUNK);
        dmemory = scratch.tile(key, width), dnormalizer = scratch.take(key);
        memories = scratch.take(chunks * Scratch::tile_size(width, key));
        normalizers = scratch.take(chunks * key);
    }

    // Memories are kept transposed, (W, K): the backward multiplies by them in this form.
    Tile memory(int64_t start) const {
        return {memories + start / CHUNK * Scratch::tile_size(width, key), q.stride};
    }
    float* normalizer(int64_t start) const { return normalizers + start / CHUNK * key; }
    bool empty(int64_t start) const { return start == 0 && inputs.memory == nullptr; }
    bool last(const Chunk& chunk) const { return chunk.start + CHUNK >= task.size.time; }
    int64_t gate(const Chunk& chunk) const { return task.head * task.size.time + chunk.start; }

    void recompute_states() {
        std::fill_n(normalizer(0), key, 0.f);
        if (!empty(0)) {
            read_tile(task.memory(inputs.memory), 0, task.size.key, 1.f, dmemory);
            transpose(dmemory, memory(0), key, width);
            read_row(task.normalizer(inputs.normalizer), task.size.key, 1.f, normalizer(0));
        }
        for (int64_t start = 0; start + CHUNK < task.size.time; start += CHUNK) {
            const Chunk chunk(start, inputs, task);
            read_tile(task.keys(inputs.k), start, CHUNK, root, k);
            read_tile(task.values(inputs.v), start, CHUNK, 1.f, v);
            float* next = std::copy_n(normalizer(start), key, normalizer(start + CHUNK)) - key;
            add_rows(next, chunk.keep, chunk.to_state, k, CHUNK, key);
            scale_rows(k, chunk.to_state, k, CHUNK, key);
            product(transposed(v), k, memory(start + CHUNK), width, key, CHUNK,
                    empty(start) ? 0.f : chunk.keep, memory(start));
        }
    }

    void read(const Chunk& chunk) {
        read_tile(task.keys(inputs.q), chunk.start, chunk.count, 1.f, q);
        read_tile(task.keys(inputs.k), chunk.start, chunk.count, root, k);
        read_tile(task.values(inputs.v), chunk.start, chunk.count, 1.f, v);
        read_tile(task.values(dh_data), chunk.start, chunk.count, 1.f, dh);
        const Rows<const float> all_h = task.all_values(h_data), all_dh = task.all_values(dh_data);
        float inverse[CHUNK];
        for (int64_t t = 0; t < chunk.count; ++t) {
            const int64_t step = gate(chunk) + t;
            const float row_sum = row_sum_data[step], floor = inputs.floor[step];
            inverse[t] = 1.f / (std::max(std::fabs(row_sum), floor) + EPS);
            const float dscale = -inverse[t] * dot(all_dh.row(chunk.start + t),
                                                   all_h.row(chunk.start + t), task.size.value);
            if (task.block == 0) dscale_data[step] = dscale;
            // The row sum sets the scale only where it is above the floor. Blocks of value columns
            // add their gradients, so that only one of them has those of the row sum.
            const bool counts = task.block == 0 && std::fabs(row_sum) > floor;
            drow_sum[t] = counts ? (row_sum > 0.f ? dscale : -dscale) : 0.f;
        }
        std::fill(drow_sum + chunk.count, drow_sum + CHUNK, 0.f);
        scale_rows(dh, inverse, dh, chunk.count, width);
    }

    void differentiate_weights(const Chunk& chunk) {
        transpose(k, k_t, chunk.rows, key);
        transpose(v, v_t, chunk.rows, width);
        lower_product(q, k_t, weights, chunk.rows, key);
        lower_product(dh, v_t, dscores, chunk.rows, width);
        for (int64_t t = 0; t < chunk.rows; ++t)
            for (int64_t s = 0; s <= t; s += LANES) {
                float *weight = weights.row(t) + s, *dscore = dscores.row(t) + s;
                const vec decay = chunk.decay(t, s);
                store(weight, load(weight) * decay);
                store(dscore, (load(dscore) + drow_sum[t]) * decay);
            }
    }

    void differentiate_values(const Chunk& chunk) {
        product_of_upper(weights, dh, dv, chunk.rows, width, 0.f);
        if (!last(chunk)) {
            scale_rows(k, chunk.to_state, scaled, chunk.rows, key);
            add_product(plain(scaled), dmemory, dv, chunk.rows, width, key);
        }
        write_tile(dv, 1.f, task.values(dv_data), chunk.start, chunk.count);
    }

    void differentiate_queries(const Chunk& chunk) {
        const bool empty = this->empty(chunk.start);
        if (!empty) {
            set_product(plain(dh), memory(chunk.start), dq, chunk.rows, key, width);
            scale_rows(dq, chunk.from_state, dq, chunk.rows, key, drow_sum,
                       normalizer(chunk.start));
        }
        product_of_lower(dscores, k, dq, chunk.rows, key, empty ? 0.f : 1.f);
        for (int64_t t = 0; t < chunk.count; ++t)
            q_dq_data[gate(chunk) + t] = dot(q.row(t), dq.row(t), key);
        write_tile(dq, 1.f, task.keys(dq_data), chunk.start, chunk.count);
    }

    void differentiate_keys(const Chunk& chunk) {
        if (!last(chunk)) {
            const Tile dk_t = k_t;  // no longer needed
            set_product(plain(dmemory), v_t, dk_t, key, chunk.rows, width);
            transpose(dk_t, dk, key, chunk.rows);
            float ones[CHUNK];
            std::fill_n(ones, CHUNK, 1.f);
            scale_rows(dk, chunk.to_state, dk, chunk.rows, key, ones, dnormalizer);
        }
        product_of_upper(dscores, q, dk, chunk.rows, key, last(chunk) ? 0.f : 1.f);
        for (int64_t s = 0; s < chunk.count; ++s)
            k_dk_data[gate(chunk) + s] = dot(k.row(s), dk.row(s), key);
        write_tile(dk, root, task.keys(dk_data), chunk.start, chunk.count);
    }

    // From the gradient of the state behind the chunk to that of the state in front of it.
    void differentiate_state(const Chunk& chunk) {
        const float keep = last(chunk) ? 0.f : chunk.keep;
        if (last(chunk)) std::fill_n(dnormalizer, key, 0.f);
        scale_rows(q, chunk.from_state, scaled, chunk.rows, key);
        add_rows(dnormalizer, keep, drow_sum, scaled, chunk.rows, key);
        product(transposed(scaled), dh, dmemory, key, width, chunk.rows, keep, dmemory);
    }
};

// Runs with pointers of the types of q, k, v and of the gradients of q and k: those of several
// blocks of value columns are still to be added up, as floats.
template <typename Run>
static void with_types(bool is_bf16, bool whole, Run run) {
    if (!is_bf16) run((float*)nullptr, (float*)nullptr);
    else if (whole) run((bf16*)nullptr, (bf16*)nullptr);
    else run((bf16*)nullptr, (float*)nullptr);
}

EXPORT void forward(void* q, void* k, void* v, const double* a, const double* peak,
                    const double* before, const float* floor, const float* memory,
                    const float* normalizer, float* h, float* row_sum, float* last_memory,
                    float* last_normalizer, int64_t batch, int64_t time, int64_t heads,
                    int64_t key, int64_t value, int64_t blocks, int64_t is_bf16, int64_t threads) {
    const Sizes size = {batch, time, heads, key, value, blocks};
    with_types(is_bf16, true, [&](auto* type, auto*) {
        using T = std::remove_pointer_t<decltype(type)>;
        const Inputs<T> inputs = {(T*)q, (T*)k, (T*)v, a, peak, before, floor, memory, normalizer};
        PARALLEL_FOR(index, batch * heads * blocks) {
            const Task task(index, size);
            Forward<T>{task, inputs, h, row_sum, last_memory, last_normalizer}.run();
        }
    });
}

// dq, dk (blocks, B, T, H, K) and q_dq, k_dk (blocks, B, H, T) are to be summed over the blocks.
EXPORT void backward(void* q, void* k, void* v, const double* a, const double* peak,
                     const double* before, const float* floor, const float* memory,
                     const float* normalizer, const float* h, const float* row_sum,
                     const float* dh, void* dq, void* dk, void* dv, float* q_dq, float* k_dk,
                     float* dscale, int64_t batch, int64_t time, int64_t heads, int64_t key,
                     int64_t value, int64_t blocks, int64_t is_bf16, int64_t threads) {
    const Sizes size = {batch, time, heads, key, value, blocks};
    with_types(is_bf16, blocks == 1, [&](auto* type, auto* gradient) {
        using T = std::remove_pointer_t<decltype(type)>;
        using G = std::remove_pointer_t<decltype(gradient)>;
        const Inputs<T> inputs = {(T*)q, (T*)k, (T*)v, a, peak, before, floor, memory, normalizer};
        PARALLEL_FOR(index, batch * heads * blocks) {
            const Task task(index, size);
            const int64_t rows = task.block * batch * time * heads;
            Backward<T, G>{task, inputs, h, row_sum, dh, (G*)dq + rows * key, (G*)dk + rows * key,
                           (T*)dv, q_dq + rows, k_dk + rows, dscale}
                .run();
        }
    });
}
