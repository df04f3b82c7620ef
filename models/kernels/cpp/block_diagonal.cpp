// Products with a block-diagonal matrix of 4 x 4 blocks.
//
// x, y, dy (tokens, dim) of type T, float or bf16, the rows of x `stride` apart; dim % LANES == 0.
// The matrix lies as factors (4, dim): y_c = sum_j factors_jc x_(first channel of c's block + j).
#include "vector.h"

constexpr int64_t TOKENS = 64;  // of one task: their part of x stays in the cache

// Every entry becomes entry J of its group of four.
template <int J>
static inline vec spread(vec x) {
    return __builtin_shufflevector(x, x, J, J, J, J, J + 4, J + 4, J + 4, J + 4, J + 8, J + 8,
                                   J + 8, J + 8, J + 12, J + 12, J + 12, J + 12);
}

template <class T>
static void multiply_typed(const T* x, const float* factors, T* y, int64_t tokens, int64_t dim,
                           int64_t stride, int64_t threads) {
    PARALLEL_FOR(task, (tokens + TOKENS - 1) / TOKENS) {
        const int64_t last = std::min(tokens, (task + 1) * TOKENS);
        for (int64_t d = 0; d < dim; d += LANES) {
            vec f[4];
            for (int j = 0; j < 4; ++j) f[j] = load(factors + j * dim + d);
            for (int64_t t = task * TOKENS; t < last; ++t) {
                const vec entry = load(x + t * stride + d);
                store(y + t * dim + d, (f[0] * spread<0>(entry) + f[1] * spread<1>(entry)) +
                                           (f[2] * spread<2>(entry) + f[3] * spread<3>(entry)));
            }
        }
    }
}

// dfactors (tasks, 4, dim), one part for each task, to be added up.
template <class T>
static void gradient_typed(const T* x, const T* dy, float* dfactors, int64_t tokens, int64_t dim,
                           int64_t stride, int64_t threads) {
    PARALLEL_FOR(task, (tokens + TOKENS - 1) / TOKENS) {
        const int64_t last = std::min(tokens, (task + 1) * TOKENS);
        for (int64_t d = 0; d < dim; d += LANES) {
            vec df[4] = {};
            for (int64_t t = task * TOKENS; t < last; ++t) {
                const vec entry = load(x + t * stride + d), gradient = load(dy + t * dim + d);
                df[0] += gradient * spread<0>(entry);
                df[1] += gradient * spread<1>(entry);
                df[2] += gradient * spread<2>(entry);
                df[3] += gradient * spread<3>(entry);
            }
            for (int j = 0; j < 4; ++j) store(dfactors + (task * 4 + j) * dim + d, df[j]);
        }
    }
}

EXPORT void multiply(void* x, const float* factors, void* y, int64_t tokens, int64_t dim,
                     int64_t stride, int64_t is_bf16, int64_t threads) {
    const auto run = [&](auto* x) {
        multiply_typed(x, factors, (decltype(x))y, tokens, dim, stride, threads);
    };
    is_bf16 ? run((bf16*)x) : run((float*)x);
}

EXPORT void gradient(void* x, void* dy, float* dfactors, int64_t tokens, int64_t dim,
                     int64_t stride, int64_t is_bf16, int64_t threads) {
    const auto run = [&](auto* x) {
        gradient_typed(x, (decltype(x))dy, dfactors, tokens, dim, stride, threads);
    };
    is_bf16 ? run((bf16*)x) : run((float*)x);
}
