// RMS norm: y_i = x_i * scale * weight_i with scale = 1 / sqrt(mean(x^2) + eps), row by row.
//
// x, dx (rows, dim) of type X; y, dy (rows, dim) of type Y, each float or bf16; weight (dim,) and
// scale (rows,) float; dim % LANES == 0.
#include "vector.h"

constexpr int64_t ROWS = 32;  // of one task: enough to pay for its weight gradient

template <class X, class Y>
static void normalise(const X* x, const float* weight, float eps, Y* y, float* scale, int64_t dim) {
    vec squares[2] = {};  // two chains of additions hide each other's latency
    for (int64_t d = 0; d < dim; d += LANES) {
        const vec entry = load(x + d);
        squares[d / LANES % 2] += entry * entry;
    }
    *scale = 1.f / std::sqrt(sum(squares[0] + squares[1]) / dim + eps);
    for (int64_t d = 0; d < dim; d += LANES)
        store(y + d, load(x + d) * *scale * load(weight + d));
}

// dx = scale * (weight dy - x * scale^2 * mean(x weight dy)); adds to dweight.
template <class X, class Y>
static void differentiate(const X* x, const float* weight, const Y* dy, float scale, X* dx,
                          float* dweight, int64_t dim) {
    vec dots[2] = {};
    for (int64_t d = 0; d < dim; d += LANES) {
        const vec product = load(x + d) * load(dy + d);
        dots[d / LANES % 2] += product * load(weight + d);
        store(dweight + d, load(dweight + d) + product * scale);
    }
    const float along = sum(dots[0] + dots[1]) / dim * scale * scale;
    for (int64_t d = 0; d < dim; d += LANES)
        store(dx + d, (load(weight + d) * load(dy + d) - load(x + d) * along) * scale);
}

template <class X, class Y>
static void forward_rows(const X* x, const float* weight, Y* y, float* scale, int64_t rows,
                         int64_t dim, float eps, int64_t threads) {
    PARALLEL_FOR(task, (rows + ROWS - 1) / ROWS) {
        for (int64_t row = task * ROWS; row < std::min(rows, (task + 1) * ROWS); ++row)
            normalise(x + row * dim, weight, eps, y + row * dim, scale + row, dim);
    }
}

template <class X, class Y>
static void backward_rows(const X* x, const float* weight, const float* scale, const Y* dy, X* dx,
                          float* dweight, int64_t rows, int64_t dim, int64_t threads) {
    const int64_t tasks = (rows + ROWS - 1) / ROWS;
    Buffer partial(tasks * dim);  // each task's part, added up in a fixed order
    std::fill(partial.data, partial.data + tasks * dim, 0.f);
    PARALLEL_FOR(task, tasks) {
        for (int64_t row = task * ROWS; row < std::min(rows, (task + 1) * ROWS); ++row)
            differentiate(x + row * dim, weight, dy + row * dim, scale[row], dx + row * dim,
                          partial.data + task * dim, dim);
    }
    for (int64_t d = 0; d < dim; d += LANES) {
        vec total = {};
        for (int64_t task = 0; task < tasks; ++task) total += load(partial.data + task * dim + d);
        store(dweight + d, total);
    }
}

// Calls `run` with the pointers as float* or bf16*.
template <class Run>
static void with_types(void* x, bool x_is_bf16, void* y, bool y_is_bf16, Run run) {
    if (x_is_bf16)
        y_is_bf16 ? run((bf16*)x, (bf16*)y) : run((bf16*)x, (float*)y);
    else
        y_is_bf16 ? run((float*)x, (bf16*)y) : run((float*)x, (float*)y);
}

EXPORT void forward(void* x, const float* weight, void* y, float* scale, int64_t rows, int64_t dim,
                    int64_t x_is_bf16, int64_t y_is_bf16, float eps, int64_t threads) {
    with_types(x, x_is_bf16, y, y_is_bf16, [&](auto* x, auto* y) {
        forward_rows(x, weight, y, scale, rows, dim, eps, threads);
    });
}

EXPORT void backward(void* x, const float* weight, const float* scale, void* dy, void* dx,
                     float* dweight, int64_t rows, int64_t dim, int64_t x_is_bf16,
                     int64_t y_is_bf16, int64_t threads) {
    with_types(x, x_is_bf16, dy, y_is_bf16, [&](auto* x, auto* dy) {
        backward_rows(x, weight, scale, dy, (decltype(x))dx, dweight, rows, dim, threads);
    });
}
