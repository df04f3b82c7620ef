// Causal depthwise convolution with or without SiLU: y_t = act(bias + sum_k taps_k x_{t-width+1+k}).
//
// x, y (batch, time, dim); taps (width, dim), the oldest input first; dim % LANES == 0.
#include "vector.h"

constexpr int64_t BLOCK = 4 * LANES;  // channels of one task: their window stays in the registers
constexpr int64_t MAX_WIDTH = 8;

// Bias plus taps over the inputs up to step t; x points at the channels of step 0.
static inline vec convolve(const float* x, const float* taps, const float* bias, int64_t t,
                           int64_t dim, int64_t width) {
    vec total = load(bias);
    for (int64_t k = std::max<int64_t>(0, width - 1 - t); k < width; ++k)
        total += load(taps + k * dim) * load(x + (t - width + 1 + k) * dim);
    return total;
}

EXPORT void forward(const float* x, const float* taps, const float* bias, float* y, int64_t batch,
                    int64_t time, int64_t dim, int64_t width, int64_t silu, int64_t threads) {
    const int64_t blocks = (dim + BLOCK - 1) / BLOCK;
    PARALLEL_FOR(task, batch * blocks) {
        const int64_t first = task % blocks * BLOCK, last = std::min(dim, first + BLOCK);
        const int64_t offset = task / blocks * time * dim;
        for (int64_t t = 0; t < time; ++t)
            for (int64_t d = first; d < last; d += LANES) {
                vec total = convolve(x + offset + d, taps + d, bias + d, t, dim, width);
                store(y + offset + t * dim + d, silu ? total * sigmoid(total) : total);
            }
    }
}

// dparams (batch, width + 1, dim): gradients of the taps, and of the bias in the last row.
EXPORT void backward(const float* x, const float* taps, const float* bias, const float* dy,
                     float* dx, float* dparams, int64_t batch, int64_t time, int64_t dim,
                     int64_t width, int64_t silu, int64_t threads) {
    const int64_t blocks = (dim + BLOCK - 1) / BLOCK;
    PARALLEL_FOR(task, batch * blocks) {
        const int64_t first = task % blocks * BLOCK, last = std::min(dim, first + BLOCK);
        const int64_t offset = task / blocks * time * dim;
        for (int64_t d = first; d < last; d += LANES) {
            const float* inputs = x + offset + d;
            vec later[MAX_WIDTH] = {};  // gradients of the sums at t, t + 1, ..., t + width - 1
            vec dtaps[MAX_WIDTH] = {}, dbias = {};
            for (int64_t t = time - 1; t >= 0; --t) {
                vec dsum = load(dy + offset + t * dim + d);
                if (silu) {
                    vec total = convolve(inputs, taps + d, bias + d, t, dim, width);
                    vec gate = sigmoid(total);
                    dsum *= gate * (1.f + total * (1.f - gate));
                }
                for (int64_t k = width - 1; k > 0; --k) later[k] = later[k - 1];
                later[0] = dsum;
                dbias += dsum;
                vec dinput = {};
                for (int64_t k = 0; k < width; ++k) {
                    dinput += load(taps + k * dim + d) * later[width - 1 - k];
                    const int64_t source = t - width + 1 + k;
                    if (source >= 0) dtaps[k] += dsum * load(inputs + source * dim);
                }
                store(dx + offset + t * dim + d, dinput);
            }
            float* gradients = dparams + task / blocks * (width + 1) * dim + d;
            for (int64_t k = 0; k < width; ++k) store(gradients + k * dim, dtaps[k]);
            store(gradients + width * dim, dbias);
        }
    }
}
