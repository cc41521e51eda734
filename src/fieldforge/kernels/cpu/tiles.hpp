// Batches cut into tiles: a tile holds some hundred points with one row per feature, so that a vector holds one
// feature of many points and a layer's inputs stay in the nearest cache.
#pragma once
#include "simd.hpp"

namespace fieldforge::cpu::FF_SET {

constexpr int row_padding = 16;  // floats; rows a power of two apart would all fall into the same cache sets

// Rows of a tile that a network reads: kernels may look at, and ignore, rows up to the next multiple of 16.
FF_INLINE int64_t padded_rows(int64_t n_features) { return round_up(n_features, 16); }

// Feature-major tiles, one after another.
struct Tiles {
    float* data;
    int n_points;     // of one tile, a multiple of 16
    int64_t row;      // floats from one feature to the next
    int64_t stride;   // floats from one tile to the next

    Tiles(float* data, int n_points, int64_t n_rows)
        : data(data), n_points(n_points), row(n_points + row_padding), stride(n_rows * row) {}

    FF_INLINE float* at(int64_t tile, int64_t feature) const { return data + tile * stride + feature * row; }
};

// (n_rows, n_columns) to (n_columns, n_rows); strides in floats. Blocks at the far edges overlap the ones before them.
__attribute__((noinline)) inline void transpose(const float* from, int64_t from_row, int64_t n_rows, int64_t n_columns,
                                                float* to, int64_t to_row) {
    if (n_rows < lanes || n_columns < lanes) {
        for (int64_t i = 0; i < n_rows; ++i) {
            for (int64_t k = 0; k < n_columns; ++k) to[k * to_row + i] = from[i * from_row + k];
        }
        return;
    }
    for (int64_t i = 0; i < n_rows; i += lanes) {
        const int64_t row = smaller(i, n_rows - lanes);
        for (int64_t k = 0; k < n_columns; k += lanes) {
            const int64_t column = smaller(k, n_columns - lanes);
            transpose_block(from + row * from_row + column, from_row, to + column * to_row + row, to_row);
        }
    }
}

// (n, n_columns) row-major to rows of points; points from n to the next multiple of `lanes` become zero.
inline void rows_to_tile(const float* x, int64_t n, int n_columns, float* tile, int64_t row) {
    transpose(x, n_columns, n, n_columns, tile, row);
    if (n % lanes == 0) return;
    for (int k = 0; k < n_columns; ++k) {
        for (int64_t i = n; i < round_up(n, lanes); ++i) tile[k * row + i] = 0.0f;
    }
}

// The way back, for the first n points.
inline void tile_to_rows(const float* tile, int64_t row, int64_t n, int n_columns, float* x) {
    transpose(tile, row, n_columns, n, x, n_columns);
}

// Coordinates axis by axis, padded to whole tiles with 0.5, and whether all of them lie in the unit cube.
struct Points {
    const float* axis[max_dims];
    bool are_inside;
};

}  // namespace fieldforge::cpu::FF_SET
