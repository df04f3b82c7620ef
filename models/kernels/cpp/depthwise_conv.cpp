// Causal depthwise convolution: y_t = bias + sum_k taps_k x_{t-width+1+k}, with or without SiLU.
//
// x, y (batch, time, dim) of type T, float or bf16, the steps of x `stride` apart and its sequences
// without a gap between them; taps (width, dim) float, the oldest input first; dim % LANES == 0.
#include "vector.h"

constexpr int64_t BLOCK = 4 * LANES;  // channels of one task

struct Shape {
    int64_t batch, time, dim, stride;
    bool silu;
};

// The taps of LANES channels and the inputs below them; WIDTH is known to the compiler, so that all
// of it stays in registers.
template <int WIDTH>
struct Window {
    vec taps[WIDTH], inputs[WIDTH] = {}, bias;

    Window(const float* tap, const float* bias, int64_t dim) : bias(load(bias)) {
        for (int k = 0; k < WIDTH; ++k) taps[k] = load(tap + k * dim);
    }

    vec sum() const {
        vec total = bias;
        for (int k = 0; k < WIDTH; ++k) total += taps[k] * inputs[k];
        return total;
    }
};

// LANES channels of one sequence, at which all pointers are.
template <int WIDTH, class T>
static void convolve(const Shape& shape, const T* x, const float* taps, const float* bias, T* y) {
    Window<WIDTH> window(taps, bias, shape.dim);
    for (int64_t t = 0; t < shape.time; ++t) {
        for (int k = 1; k < WIDTH; ++k) window.inputs[k - 1] = window.inputs[k];
        window.inputs[WIDTH - 1] = load(x + t * shape.stride);
        const vec sum = window.sum();
        store(y + t * shape.dim, shape.silu ? sum * sigmoid(sum) : sum);
    }
}

// The same for the gradients, from the last step to the first. dparams (WIDTH + 1, dim): those of
// the taps, and of the bias in the last row.
template <int WIDTH, class T>
static void differentiate(const Shape& shape, const T* x, const float* taps, const float* bias,
                          const T* dy, T* dx, float* dparams) {
    Window<WIDTH> window(taps, bias, shape.dim);
    vec dsums[WIDTH] = {};  // gradients of the sums at t, t + 1, ..., t + WIDTH - 1
    vec dtaps[WIDTH] = {}, dbias = {};
    const auto input = [&](int64_t t) { return t < 0 ? vec{} : load(x + t * shape.stride); };
    for (int k = 1; k < WIDTH; ++k) window.inputs[k - 1] = input(shape.time - WIDTH + k);
    for (int64_t t = shape.time - 1; t >= 0; --t) {
        for (int k = WIDTH - 1; k > 0; --k) {
            window.inputs[k] = window.inputs[k - 1];
            dsums[k] = dsums[k - 1];
        }
        window.inputs[0] = input(t - WIDTH + 1);
        dsums[0] = load(dy + t * shape.dim);
        if (shape.silu) {
            const vec sum = window.sum(), gate = sigmoid(sum);
            dsums[0] *= gate * (1.f + sum * (1.f - gate));
        }
        vec dinput = {};
        for (int k = 0; k < WIDTH; ++k) {
            dinput += window.taps[k] * dsums[WIDTH - 1 - k];
            dtaps[k] += dsums[0] * window.inputs[k];
        }
        dbias += dsums[0];
        store(dx + t * shape.dim, dinput);
    }
    for (int k = 0; k < WIDTH; ++k) store(dparams + k * shape.dim, dtaps[k]);
    store(dparams + WIDTH * shape.dim, dbias);
}

// Calls run(item, channel) for every vector of channels of every sequence.
template <class Run>
static void for_channels(const Shape& shape, int64_t threads, Run run) {
    const int64_t blocks = (shape.dim + BLOCK - 1) / BLOCK;
    PARALLEL_FOR(task, shape.batch * blocks) {
        const int64_t first = task % blocks * BLOCK;
        for (int64_t d = first; d < std::min(shape.dim, first + BLOCK); d += LANES)
            run(task / blocks, d);
    }
}

template <int WIDTH, class T>
static void run_forward(const Shape& shape, const T* x, const float* taps, const float* bias, T* y,
                        int64_t threads) {
    for_channels(shape, threads, [&](int64_t item, int64_t d) {
        const int64_t row = item * shape.time;
        convolve<WIDTH>(shape, x + row * shape.stride + d, taps + d, bias + d,
                        y + row * shape.dim + d);
    });
}

template <int WIDTH, class T>
static void run_backward(const Shape& shape, const T* x, const float* taps, const float* bias,
                         const T* dy, T* dx, float* dparams, int64_t threads) {
    for_channels(shape, threads, [&](int64_t item, int64_t d) {
        const int64_t row = item * shape.time, at = row * shape.dim + d;
        differentiate<WIDTH>(shape, x + row * shape.stride + d, taps + d, bias + d, dy + at,
                             dx + at, dparams + item * (WIDTH + 1) * shape.dim + d);
    });
}

// 2, 3 or 4 taps
EXPORT void forward(const void* x, const float* taps, const float* bias, void* y, int64_t batch,
                    int64_t time, int64_t dim, int64_t width, int64_t silu, int64_t stride,
                    int64_t is_bf16, int64_t threads) {
    const Shape shape{batch, time, dim, stride, silu != 0};
    const auto run = [&](auto* x, auto* y) {
        const auto typed = width == 2   ? run_forward<2, std::decay_t<decltype(*y)>>
                           : width == 3 ? run_forward<3, std::decay_t<decltype(*y)>>
                                        : run_forward<4, std::decay_t<decltype(*y)>>;
        typed(shape, x, taps, bias, y, threads);
    };
    is_bf16 ? run((const bf16*)x, (bf16*)y) : run((const float*)x, (float*)y);
}

// dparams (batch, width + 1, dim)
EXPORT void backward(const void* x, const float* taps, const float* bias, const void* dy, void* dx,
                     float* dparams, int64_t batch, int64_t time, int64_t dim, int64_t width,
                     int64_t silu, int64_t stride, int64_t is_bf16, int64_t threads) {
    const Shape shape{batch, time, dim, stride, silu != 0};
    const auto run = [&](auto* x, auto* dy, auto* dx) {
        const auto typed = width == 2   ? run_backward<2, std::decay_t<decltype(*dx)>>
                           : width == 3 ? run_backward<3, std::decay_t<decltype(*dx)>>
                                        : run_backward<4, std::decay_t<decltype(*dx)>>;
        typed(shape, x, taps, bias, dy, dx, dparams, threads);
    };
    if (is_bf16)
        run((const bf16*)x, (const bf16*)dy, (bf16*)dx);
    else
        run((const float*)x, (const float*)dy, (float*)dx);
}
