// The way out of an mLSTM: y = (n weight + skip x) silu(gate) with n = (h - mean) / deviation, mean
// and deviation = sqrt(variance + eps) over the entries of one head of one token.
//
// h, dh (tokens, heads, dim) float; x, gate, y and their gradients (tokens, heads, dim) of type T,
// float or bf16, the rows of gate `gate_stride` apart; weight, skip (heads, dim); dim % LANES == 0.
// Nothing is kept for the backward but the inputs: a head is so short that computing n again reads
// no more memory than h itself.
#include "vector.h"

constexpr int64_t TOKENS = 32;  // of one task: enough to pay for its gradients of the weights

struct Moments {
    float mean, scale;  // scale = 1 / sqrt(variance + eps)
};

static Moments moments(const float* h, float eps, int64_t dim) {
    vec total[2] = {};  // two chains of additions hide each other's latency
    for (int64_t d = 0; d < dim; d += LANES) total[d / LANES % 2] += load(h + d);
    const float mean = sum(total[0] + total[1]) / dim;
    vec squares[2] = {};
    for (int64_t d = 0; d < dim; d += LANES) {
        const vec centred = load(h + d) - mean;
        squares[d / LANES % 2] += centred * centred;
    }
    return {mean, 1.f / std::sqrt(sum(squares[0] + squares[1]) / dim + eps)};
}

template <class T>
static void merge(const float* h, const T* x, const T* gate, const float* weight, const float* skip,
                  float eps, T* y, int64_t dim) {
    const Moments m = moments(h, eps, dim);
    for (int64_t d = 0; d < dim; d += LANES) {
        const vec n = (load(h + d) - m.mean) * m.scale;
        const vec z = load(gate + d);
        const vec merged = n * load(weight + d) + load(skip + d) * load(x + d);
        store(y + d, merged * z * sigmoid(z));
    }
}

// Writes dh, dx and dgate; adds to dweight and dskip.
template <class T>
static void differentiate(const float* h, const T* x, const T* gate, const float* weight,
                          const float* skip, float eps, const T* dy, float* dh, T* dx, T* dgate,
                          float* dweight, float* dskip, int64_t dim) {
    const Moments m = moments(h, eps, dim);
    vec sums[2] = {};  // of dn and of dn n
    for (int64_t d = 0; d < dim; d += LANES) {
        const vec n = (load(h + d) - m.mean) * m.scale;
        const vec z = load(gate + d), entry = load(x + d), open = sigmoid(z);
        const vec merged = n * load(weight + d) + load(skip + d) * entry;
        const vec direct = load(dy + d) * open;
        store(dgate + d, direct * merged * (1.f + z * (1.f - open)));
        const vec dmerged = direct * z, dn = dmerged * load(weight + d);
        store(dx + d, dmerged * load(skip + d));
        store(dskip + d, load(dskip + d) + dmerged * entry);
        store(dweight + d, load(dweight + d) + dmerged * n);
        store(dh + d, dn);
        sums[0] += dn;
        sums[1] += dn * n;
    }
    const float mean = sum(sums[0]) / dim, along = sum(sums[1]) / dim;
    for (int64_t d = 0; d < dim; d += LANES) {
        const vec n = (load(h + d) - m.mean) * m.scale;
        store(dh + d, (load(dh + d) - mean - n * along) * m.scale);
    }
}

template <class T>
static void forward_tokens(const float* h, const T* x, const T* gate, const float* weight,
                           const float* skip, T* y, int64_t tokens, int64_t heads, int64_t dim,
                           int64_t gate_stride, float eps, int64_t threads) {
    const int64_t width = heads * dim;
    PARALLEL_FOR(task, (tokens + TOKENS - 1) / TOKENS) {
        for (int64_t t = task * TOKENS; t < std::min(tokens, (task + 1) * TOKENS); ++t)
            for (int64_t d = 0; d < width; d += dim) {
                const int64_t at = t * width + d;
                merge(h + at, x + at, gate + t * gate_stride + d, weight + d, skip + d, eps, y + at,
                      dim);
            }
    }
}

// dparams (2, heads * dim): dweight, dskip.
template <class T>
static void backward_tokens(const float* h, const T* x, const T* gate, const float* weight,
                            const float* skip, const T* dy, float* dh, T* dx, T* dgate,
                            float* dparams, int64_t tokens, int64_t heads, int64_t dim,
                            int64_t gate_stride, float eps, int64_t threads) {
    const int64_t width = heads * dim, tasks = (tokens + TOKENS - 1) / TOKENS;
    Buffer partial(tasks * 2 * width);  // each task's part, added up in a fixed order
    std::fill(partial.data, partial.data + tasks * 2 * width, 0.f);
    PARALLEL_FOR(task, tasks) {
        float* mine = partial.data + task * 2 * width;
        for (int64_t t = task * TOKENS; t < std::min(tokens, (task + 1) * TOKENS); ++t)
            for (int64_t d = 0; d < width; d += dim) {
                const int64_t at = t * width + d;
                differentiate(h + at, x + at, gate + t * gate_stride + d, weight + d, skip + d, eps,
                              dy + at, dh + at, dx + at, dgate + at, mine + d, mine + width + d,
                              dim);
            }
    }
    for (int64_t d = 0; d < 2 * width; d += LANES) {
        vec total = {};
        for (int64_t task = 0; task < tasks; ++task)
            total += load(partial.data + task * 2 * width + d);
        store(dparams + d, total);
    }
}

EXPORT void forward(const float* h, void* x, void* gate, const float* weight, const float* skip,
                    void* y, int64_t tokens, int64_t heads, int64_t dim, int64_t gate_stride,
                    int64_t is_bf16, float eps, int64_t threads) {
    const auto run = [&](auto* x) {
        using T = std::remove_pointer_t<decltype(x)>;
        forward_tokens<T>(h, x, (T*)gate, weight, skip, (T*)y, tokens, heads, dim, gate_stride, eps,
                          threads);
    };
    is_bf16 ? run((bf16*)x) : run((float*)x);
}

EXPORT void backward(const float* h, void* x, void* gate, const float* weight, const float* skip,
                     void* dy, float* dh, void* dx, void* dgate, float* dparams, int64_t tokens,
                     int64_t heads, int64_t dim, int64_t gate_stride, int64_t is_bf16, float eps,
                     int64_t threads) {
    const auto run = [&](auto* x) {
        using T = std::remove_pointer_t<decltype(x)>;
        backward_tokens<T>(h, x, (T*)gate, weight, skip, (T*)dy, dh, (T*)dx, (T*)dgate, dparams,
                           tokens, heads, dim, gate_stride, eps, threads);
    };
    is_bf16 ? run((bf16*)x) : run((float*)x);
}
