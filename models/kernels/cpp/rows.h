// Rows whose length is no multiple of a vector.
#pragma once
#include "vector.h"

// The first `count` of LANES entries; -inf, which no maximum or sum notices, for the others.
template <class E>
static inline vec load_first(const E* p, int64_t count) {
    if (count >= LANES) return load(p);
    E lanes[LANES];
    store(lanes, splat(-INFINITY));
    std::memcpy(lanes, p, count * sizeof(E));
    return load(lanes);
}

template <class E>
static inline void store_first(E* p, vec x, int64_t count) {
    if (count >= LANES) return store(p, x);
    E lanes[LANES];
    store(lanes, x);
    std::memcpy(p, lanes, count * sizeof(E));
}
