// Causal depthwise convolution with or without SiLU: y_t = act(bias + sum_k taps_k x_{t-width+1+k}).
//
// x, y (batch, time, dim) of type T, float or bf16, the steps of x `stride` apart and its sequences
// without a gap between them; taps (width, dim) float, the oldest input first; dim % LANES == 0.
#include "vector.h"

constexpr int64_t BLOCK = 4 * LANES;  // channels of one task: their window stays in the registers
constexpr int64_t MAX_WIDTH = 8;

// Bias plus taps over the inputs up to step t; x points at the channels of step 0.
template <class T>
static inline vec convolve(const T* x, const float* taps, const float* bias, int64_t t,
                           int64_t stride, int64_t dim, int64_t width) {
    vec total = load(bias);
    for (int64_t k = std::max<int64_t>(0, width - 1 - t); k < width; ++k)
        total += load(taps + k * dim) * load(x + (t - width + 1 + k) * stride);
    return total;
}

template <class T>
static void forward_typed(const T* x, const float* taps, const float* bias, T* y, int64_t batch,
                          int64_t time, int64_t dim, int64_t width, int64_t silu, int64_t stride,
                          int64_t threads) {
    const int64_t blocks = (dim + BLOCK - 1) / BLOCK;
    PARALLEL_FOR(task, batch * blocks) {
        const int64_t first = task % blocks * BLOCK, last = std::min(dim, first + BLOCK);
        const T* inputs = x + task / blocks * time * stride;
        T* outputs = y + task / blocks * time * dim;
        for (int64_t t = 0; t < time; ++t)
            for (int64_t d = first; d < last; d += LANES) {
                vec total = convolve(inputs + d, taps + d, bias + d, t, stride, dim, width);
                store(outputs + t * dim + d, silu ? total * sigmoid(total) : total);
            }
    }
}

// Gradients of one vector of channels of one sequence; writes dx, and its part of dparams.
template <class T>
static void differentiate(const T* x, const float* taps, const float* bias, const T* dy, T* dx,
                          float* dparams, int64_t time, int64_t dim, int64_t width, int64_t silu,
                          int64_t stride) {
    vec later[MAX_WIDTH] = {};  // gradients of the sums at t, t + 1, ..., t + width - 1
    vec dtaps[MAX_WIDTH] = {}, dbias = {};
    for (int64_t t = time - 1; t >= 0; --t) {
        vec dsum = load(dy + t * dim);
        if (silu) {
            vec total = convolve(x, taps, bias, t, stride, dim, width);
            vec gate = sigmoid(total);
            dsum *= gate * (1.f + total * (1.f - gate));
        }
        for (int64_t k = width - 1; k > 0; --k) later[k] = later[k - 1];
        later[0] = dsum;
        dbias += dsum;
        vec dinput = {};
        for (int64_t k = 0; k < width; ++k) {
            dinput += load(taps + k * dim) * later[width - 1 - k];
            const int64_t source = t - width + 1 + k;
            if (source >= 0) dtaps[k] += dsum * load(x + source * stride);
        }
        store(dx + t * dim, dinput);
    }
    for (int64_t k = 0; k < width; ++k) store(dparams + k * dim, dtaps[k]);
    store(dparams + width * dim, dbias);
}

template <class T>
static void backward_typed(const T* x, const float* taps, const float* bias, const T* dy, T* dx,
                           float* dparams, int64_t batch, int64_t time, int64_t dim, int64_t width,
                           int64_t silu, int64_t stride, int64_t threads) {
    const int64_t blocks = (dim + BLOCK - 1) / BLOCK;
    PARALLEL_FOR(task, batch * blocks) {
        const int64_t first = task % blocks * BLOCK, last = std::min(dim, first + BLOCK);
        const int64_t row = task / blocks;
        for (int64_t d = first; d < last; d += LANES) {
            const int64_t at = row * time * dim + d;
            differentiate(x + row * time * stride + d, taps + d, bias + d, dy + at, dx + at,
                          dparams + row * (width + 1) * dim + d, time, dim, width, silu, stride);
        }
    }
}

EXPORT void forward(void* x, const float* taps, const float* bias, void* y, int64_t batch,
                    int64_t time, int64_t dim, int64_t width, int64_t silu, int64_t stride,
                    int64_t is_bf16, int64_t threads) {
    const auto run = [&](auto* x) {
        forward_typed(x, taps, bias, (decltype(x))y, batch, time, dim, width, silu, stride,
                      threads);
    };
    is_bf16 ? run((bf16*)x) : run((float*)x);
}

// dparams (batch, width + 1, dim): gradients of the taps, and of the bias in the last row.
EXPORT void backward(void* x, const float* taps, const float* bias, void* dy, void* dx,
                     float* dparams, int64_t batch, int64_t time, int64_t dim, int64_t width,
                     int64_t silu, int64_t stride, int64_t is_bf16, int64_t threads) {
    const auto run = [&](auto* x) {
        using Pointer = decltype(x);
        backward_typed(x, taps, bias, (Pointer)dy, (Pointer)dx, dparams, batch, time, dim, width, silu, stride,
                       threads);
    };
    is_bf16 ? run((bf16*)x) : run((float*)x);
}
