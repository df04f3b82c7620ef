// Distillation of rows of logits, and its gradient in the place of the student's logits.
//
//   loss = (1 - alpha) (-log q_target) + alpha T^2 sum_i p_i (log p_i - log q_i)
//
// with q = softmax(logits) in the first term, q = softmax(logits / T) and p = softmax(guides / T) in
// the second. logits (rows, vocab) float or bf16, overwritten; guides (rows, vocab) of their type;
// targets (rows,), `ignore` where nothing counts; losses (rows,) in nats. Any vocab.
#include "rows.h"

constexpr int64_t ROWS = 4;  // of one task

struct Weights {
    float alpha, temperature;
};

// Shifts a row so that its largest entry is 0, and returns that entry.
static float shift(float* row, vec tops, int64_t vocab) {
    float lanes[LANES];
    store(lanes, tops);
    const float top = *std::max_element(lanes, lanes + LANES);
    for (int64_t i = 0; i < vocab; i += LANES) store(row + i, load(row + i) - top);
    return top;
}

template <class E>
static float distil_row(E* logits, const E* guides, int64_t target, float* student, float* teacher,
                        int64_t vocab, Weights w) {
    vec tops = splat(-INFINITY), guide_tops = splat(-INFINITY);
    for (int64_t i = 0; i < vocab; i += LANES) {
        const vec x = load_first(logits + i, vocab - i), g = load_first(guides + i, vocab - i);
        store(student + i, x);
        store(teacher + i, g);
        tops = max(x, tops);
        guide_tops = max(g, guide_tops);
    }
    shift(student, tops, vocab);
    shift(teacher, guide_tops, vocab);
    const float at_target = student[target], soft = LOG2_E / w.temperature;
    vec sums = {}, soft_sums = {}, guide_sums = {}, gaps = {};
    for (int64_t i = 0; i < vocab; i += LANES) {
        const vec x = load(student + i), g = load(teacher + i);
        const vec power = exp2_or_zero(g * soft);
        sums += exp2_or_zero(x * LOG2_E);
        soft_sums += exp2_or_zero(x * soft);
        guide_sums += power;
        // Where the teacher gives nothing, 0 * -inf must not become NaN; a NaN must stay one.
        gaps += power == 0.f ? vec{} : power * (g - x);
    }
    const float total = sum(sums), soft_total = sum(soft_sums), guide_total = sum(guide_sums);
    const float hard = (1.f - w.alpha) / total, pull = w.alpha * w.temperature;
    for (int64_t i = 0; i < vocab; i += LANES) {
        const vec x = load(student + i), g = load(teacher + i);
        vec d = exp2_or_zero(x * LOG2_E) * hard +
                (exp2_or_zero(x * soft) / soft_total - exp2_or_zero(g * soft) / guide_total) * pull;
        if (target >= i && target < i + LANES) d[target - i] -= 1.f - w.alpha;
        store_first(logits + i, d, vocab - i);
    }
    const float divergence = sum(gaps) / guide_total / w.temperature +
                             (std::log(soft_total) - std::log(guide_total));
    const float cross_entropy = std::log(total) - at_target;
    const float weighted = w.alpha * w.temperature * w.temperature * divergence;
    return w.alpha == 1.f ? weighted : (1.f - w.alpha) * cross_entropy + weighted;
}

template <class E>
static void distil_rows(E* logits, const E* guides, const int64_t* targets, float* losses,
                        Weights w, int64_t rows, int64_t vocab, int64_t ignore, int64_t threads) {
    PARALLEL_FOR(task, (rows + ROWS - 1) / ROWS) {
        Buffer student(vocab + LANES), teacher(vocab + LANES);
        for (int64_t r = task * ROWS; r < std::min(rows, (task + 1) * ROWS); ++r) {
            E* own = logits + r * vocab;
            if (targets[r] == ignore) {
                std::memset(own, 0, vocab * sizeof(E));
                losses[r] = 0;
            } else {
                losses[r] = distil_row(own, guides + r * vocab, targets[r], student.data,
                                       teacher.data, vocab, w);
            }
        }
    }
}

EXPORT void distil(void* logits, const void* guides, const int64_t* targets, float* losses,
                   float alpha, float temperature, int64_t rows, int64_t vocab, int64_t ignore,
                   int64_t is_bf16, int64_t threads) {
    const Weights w = {alpha, temperature};
    if (is_bf16)
        distil_rows((bf16*)logits, (const bf16*)guides, targets, losses, w, rows, vocab, ignore,
                    threads);
    else
        distil_rows((float*)logits, (const float*)guides, targets, losses, w, rows, vocab, ignore,
                    threads);
}
