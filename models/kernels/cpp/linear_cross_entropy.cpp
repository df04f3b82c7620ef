// Softmax cross-entropy of rows of logits, and its gradient in the place of the logits.
//
// logits (rows, vocab) float or bf16, overwritten; targets (rows,), `ignore` where nothing is to
// predict; losses (rows,) in nats. Any vocab.
#include "rows.h"

constexpr int64_t ROWS = 4;  // of one task

// One row: loss = log(sum e^x) - x_target; x becomes softmax(x) - one_hot(target). The row is
// read once and written once; `row` (vocab, padded to LANES) holds it in between.
template <class E>
static float differentiate(E* logits, int64_t target, float* row, int64_t vocab) {
    vec tops = splat(-INFINITY);
    for (int64_t i = 0; i < vocab; i += LANES) {
        const vec x = load_first(logits + i, vocab - i);
        store(row + i, x);
        tops = max(x, tops);
    }
    float lanes[LANES];
    store(lanes, tops);
    const float top = *std::max_element(lanes, lanes + LANES), at_target = row[target];
    vec sums = {};
    for (int64_t i = 0; i < vocab; i += LANES) {
        const vec power = exp2_or_zero((load(row + i) - top) * LOG2_E);
        store(row + i, power);
        sums += power;
    }
    const float total = sum(sums);
    for (int64_t i = 0; i < vocab; i += LANES) {
        vec probability = load(row + i) * (1.f / total);
        if (target >= i && target < i + LANES) probability[target - i] -= 1.f;
        store_first(logits + i, probability, vocab - i);
    }
    return (top - at_target) + std::log(total);  // the difference first: it keeps small losses
}

template <class E>
static void differentiate_rows(E* logits, const int64_t* targets, float* losses, int64_t rows,
                               int64_t vocab, int64_t ignore, int64_t threads) {
    PARALLEL_FOR(task, (rows + ROWS - 1) / ROWS) {
        Buffer row(vocab + LANES);
        for (int64_t r = task * ROWS; r < std::min(rows, (task + 1) * ROWS); ++r) {
            E* own = logits + r * vocab;
            if (targets[r] == ignore) {
                std::memset(own, 0, vocab * sizeof(E));
                losses[r] = 0;
            } else {
                losses[r] = differentiate(own, targets[r], row.data, vocab);
            }
        }
    }
}

EXPORT void differentiate_in_place(void* logits, const int64_t* targets, float* losses,
                                   int64_t rows, int64_t vocab, int64_t ignore, int64_t is_bf16,
                                   int64_t threads) {
    if (is_bf16)
        differentiate_rows((bf16*)logits, targets, losses, rows, vocab, ignore, threads);
    else
        differentiate_rows((float*)logits, targets, losses, rows, vocab, ignore, threads);
}
