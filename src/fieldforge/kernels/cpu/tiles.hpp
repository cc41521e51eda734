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

// (n, n_columns) row-major to rows of points; points from n to the next multiple of `lanes` become zero.
inline void rows_to_tile(const float* x, int64_t n, int n_columns, float* tile, int64_t row) {
    int64_t p = 0;
    if (n_columns >= lanes) {
        for (; p + lanes <= n; p += lanes) {
            int k = 0;
            for (; k + lanes <= n_columns; k += lanes) {
                transpose_block(x + p * n_columns + k, n_columns, tile + k * row + p, row);
            }
            for (; k < n_columns; ++k) {
                for (int i = 0; i < lanes; ++i) tile[k * row + p + i] = x[(p + i) * n_columns + k];
            }
        }
    }
    for (int k = 0; k < n_columns; ++k) {
        for (int64_t i = p; i < n; ++i) tile[k * row + i] = x[i * n_columns + k];
        for (int64_t i = n; i < round_up(n, lanes); ++i) tile[k * row + i] = 0.0f;
    }
}

// The way back, for the first n points.
inline void tile_to_rows(const float* tile, int64_t row, int64_t n, int n_columns, float* x) {
    int64_t p = 0;
    if (n_columns >= lanes) {
        for (; p + lanes <= n; p += lanes) {
            int k = 0;
            for (; k + lanes <= n_columns; k += lanes) {
                transpose_block(tile + k * row + p, row, x + p * n_columns + k, n_columns);
            }
            for (; k < n_columns; ++k) {
                for (int i = 0; i < lanes; ++i) x[(p + i) * n_columns + k] = tile[k * row + p + i];
            }
        }
    }
    for (int64_t i = p; i < n; ++i) {
        for (int k = 0; k < n_columns; ++k) x[i * n_columns + k] = tile[k * row + i];
    }
}

// Coordinates axis by axis, padded to whole tiles with 0.5, and whether all of them lie in the unit cube.
struct Points {
    const float* axis[max_dims];
    bool are_inside;
};

}  // namespace fieldforge::cpu::FF_SET
