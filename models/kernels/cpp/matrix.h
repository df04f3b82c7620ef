// Products and transposes of small matrices that lie in the caches: tiles.
//
// Tiles are row-major floats, padded by zeros to multiples of LANES in both directions when they
// are read from a tensor: the functions on them see no odd sizes.
#pragma once
#include <type_traits>
#include <vector>

#include "vector.h"

static inline int64_t padded(int64_t size) { return (size + LANES - 1) / LANES * LANES; }

struct Tile {
    float* data;
    int64_t stride;

    float* row(int64_t i) const { return data + i * stride; }
    Tile from(int64_t i) const { return {row(i), stride}; }
};

// A matrix with any strides: the distances between neighbours in a column and in a row.
struct View {
    const float* data;
    int64_t down, across;
};

static inline View plain(Tile tile) { return {tile.data, tile.stride, 1}; }
static inline View transposed(Tile tile) { return {tile.data, 1, tile.stride}; }

// Vectors of `width` numbers in a tensor, `stride` numbers apart.
template <typename T>
struct Rows {
    T* data;
    int64_t stride, width;

    T* row(int64_t i) const { return data + i * stride; }
};

// Memory for tiles. A thread keeps it from task to task, because fresh memory costs a page fault
// per 4 KiB: the n-th piece taken is that of the Scratch before, if it is long enough.
struct Scratch {
    size_t taken = 0;

    float* take(int64_t size) {
        struct Piece {
            int64_t size = 0;
            Buffer buffer = Buffer(0);
        };
        static thread_local std::vector<Piece> pieces;
        if (taken == pieces.size()) pieces.emplace_back();
        Piece& piece = pieces[taken++];
        if (piece.size < size) piece = {size, Buffer(size)};
        return piece.buffer.data;
    }
    Tile tile(int64_t height, int64_t width) {
        return {take(tile_size(height, width)), stride_of(width)};
    }
    // An odd number of vectors: rows whose distance is a power of two share few sets of the cache.
    static int64_t stride_of(int64_t width) { return (padded(width) / LANES | 1) * LANES; }
    static int64_t tile_size(int64_t height, int64_t width) {
        return padded(height) * stride_of(width);
    }
};

// A vector, times a factor, into a row of a tile.
template <typename T>
static void read_row(const T* source, int64_t width, float factor, float* row) {
    const int64_t whole = width / LANES * LANES;
    for (int64_t i = 0; i < whole; i += LANES) store(row + i, load(source + i) * factor);
    if (whole < width) {
        T rest[LANES] = {};
        std::copy(source + whole, source + width, rest);
        store(row + whole, load(rest) * factor);
    }
}

template <typename T>
static void write_row(const float* row, float factor, T* target, int64_t width) {
    const int64_t whole = width / LANES * LANES;
    for (int64_t i = 0; i < whole; i += LANES) store(target + i, load(row + i) * factor);
    if (whole < width) {
        T rest[LANES];
        store(rest, load(row + whole) * factor);
        std::copy(rest, rest + width - whole, target + whole);
    }
}

// Vectors `start` to `start + count`, times a factor, into a tile.
template <typename T>
static void read_tile(Rows<T> source, int64_t start, int64_t count, float factor, Tile tile) {
    for (int64_t i = 0; i < count; ++i)
        read_row(source.row(start + i), source.width, factor, tile.row(i));
    for (int64_t i = count; i < padded(count); ++i)
        std::fill_n(tile.row(i), padded(source.width), 0.f);
}

// The first `count` rows of a tile, times a factor, to the vectors from `start` on.
template <typename T>
static void write_tile(Tile tile, float factor, Rows<T> target, int64_t start, int64_t count) {
    for (int64_t i = 0; i < count; ++i)
        write_row(tile.row(i), factor, target.row(start + i), target.width);
}

// For any width.
static float dot(const float* x, const float* y, int64_t width) {
    vec total = {};
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) total += load(x + i) * load(y + i);
    float rest = 0.f;
    for (; i < width; ++i) rest += x[i] * y[i];
    return sum(total) + rest;
}

// row = factor row + sum_t weights_t tile_t
static void add_rows(float* row, float factor, const float* weights, Tile tile, int64_t count,
                     int64_t width) {
    for (int64_t i = 0; i < width; i += LANES) {
        vec total = factor * load(row + i);
        for (int64_t t = 0; t < count; ++t) total += weights[t] * load(tile.row(t) + i);
        store(row + i, total);
    }
}

// out_t = factors_t (tile_t + weights_t row); out may be the tile itself.
static void scale_rows(Tile tile, const float* factors, Tile out, int64_t count, int64_t width,
                       const float* weights, const float* row) {
    for (int64_t t = 0; t < count; ++t)
        for (int64_t i = 0; i < width; i += LANES) {
            const vec shifted = load(tile.row(t) + i) + weights[t] * load(row + i);
            store(out.row(t) + i, factors[t] * shifted);
        }
}

static void scale_rows(Tile tile, const float* factors, Tile out, int64_t count, int64_t width) {
    for (int64_t t = 0; t < count; ++t)
        for (int64_t i = 0; i < width; i += LANES)
            store(out.row(t) + i, factors[t] * load(tile.row(t) + i));
}

// As many sums as fit into the registers, so that a loaded number is used several times.
#ifdef __AVX512F__
constexpr int TILE_ROWS = 8, TILE_VECTORS = 3;
#else
constexpr int TILE_ROWS = 4, TILE_VECTORS = 1;
#endif

// TILE_ROWS x (N * LANES) entries of c = beta d + a b.
template <int N>
static inline void product_block(View a, Tile b, Tile c, int64_t depth, float beta, Tile d) {
    vec total[TILE_ROWS][N];
    for (int r = 0; r < TILE_ROWS; ++r)
        for (int n = 0; n < N; ++n)
            total[r][n] = beta == 0.f ? vec{} : beta * load(d.row(r) + n * LANES);
    for (int64_t p = 0; p < depth; ++p) {
        vec right[N];
        for (int n = 0; n < N; ++n) right[n] = load(b.row(p) + n * LANES);
        for (int r = 0; r < TILE_ROWS; ++r) {
            const vec left = splat(a.data[r * a.down + p * a.across]);
            for (int n = 0; n < N; ++n) total[r][n] += left * right[n];
        }
    }
    for (int r = 0; r < TILE_ROWS; ++r)
        for (int n = 0; n < N; ++n) store(c.row(r) + n * LANES, total[r][n]);
}

template <int N>
static inline void product_panel(View a, Tile b, Tile c, int64_t height, int64_t depth, float beta,
                                 Tile d) {
    for (int64_t r = 0; r < height; r += TILE_ROWS)
        product_block<N>({a.data + r * a.down, a.down, a.across}, b, c.from(r), depth, beta,
                         d.from(r));
}

// c (height, width) = beta d + a (height, depth) b (depth, width). d may be c; where beta is 0, it
// is not read.
static void product(View a, Tile b, Tile c, int64_t height, int64_t width, int64_t depth,
                    float beta, Tile d) {
    for (int64_t done = 0; done < width;) {
        const int64_t left = (width - done) / LANES;
        // 4 = 2 + 2 keeps more sums going than 3 + 1.
        const int64_t vectors = std::min<int64_t>(left == 4 ? 2 : left, TILE_VECTORS);
        const auto panel = vectors == 1   ? product_panel<1>
                           : vectors == 2 ? product_panel<2>
                                          : product_panel<TILE_VECTORS>;
        panel(a, {b.data + done, b.stride}, {c.data + done, c.stride}, height, depth, beta,
              {d.data + done, d.stride});
        done += vectors * LANES;
    }
}

// c = a b
static inline void set_product(View a, Tile b, Tile c, int64_t height, int64_t width,
                               int64_t depth) {
    product(a, b, c, height, width, depth, 0.f, c);
}

// c += a b
static inline void add_product(View a, Tile b, Tile c, int64_t height, int64_t width,
                               int64_t depth) {
    product(a, b, c, height, width, depth, 1.f, c);
}

// out (width, height) = in (height, width) transposed.
static void transpose(Tile in, Tile out, int64_t height, int64_t width) {
    for (int64_t r = 0; r < height; r += LANES)
        for (int64_t c = 0; c < width; c += LANES) {
            vec block[LANES];
            for (int i = 0; i < LANES; ++i) block[i] = load(in.row(r + i) + c);
            transpose(block);
            for (int i = 0; i < LANES; ++i) store(out.row(c + i) + r, block[i]);
        }
}
