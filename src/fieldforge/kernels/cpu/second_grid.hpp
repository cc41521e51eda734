// The grid's part in second derivatives: features with their derivatives along a direction, and the way back from the
// adjoints of both; see second.hpp.
#pragma once
#include "grid.hpp"

namespace fieldforge::cpu::FF_SET {

// A number and its derivative along u.
struct Dual {
    Floats value, along;

    FF_INLINE Dual operator*(const Dual& b) const { return {value * b.value, fma(along, b.value, value * b.along)}; }
};

// The cells that `lanes` points fall into. Unlike Cells it knows its indexing at run time and is filled by a call: one
// copy of the loops below for all indexings keeps the library small.
template <int D>
struct DualCells {
    UInts place[1 << D];  // where the features of each corner begin
    Floats weight[D][2], slope[D];
    Floats weight_along[D];  // derivatives along u of weight[d][1] and of its slope
    Floats slope_along[D];

    __attribute__((noinline)) void fill(const Points& x, const Points& u, int64_t i, const Level& level,
                                        const Grid& grid) {
        switch (x.are_inside ? level.inside : level.outside) {
            case Indexing::hash: fill<Indexing::hash>(x, i, level, grid); break;
            case Indexing::dense: fill<Indexing::dense>(x, i, level, grid); break;
            default: fill<Indexing::any_modulo>(x, i, level, grid);
        }
        FF_UNROLL for (int d = 0; d < D; ++d) {
            const Floats speed = load(u.axis[d] + i) * level.scale[d];  // in cells
            slope_along[d] = Floats{};
            if (grid.interpolation == Interpolation::smoothstep) {
                const Floats position = fma_rounded_once(load(x.axis[d] + i), all(level.scale[d]), all(0.5f));
                slope_along[d] = (6.0f - 12.0f * (position - floor(position))) * speed;
            } else if (grid.interpolation == Interpolation::nearest) {
                slope[d] = Floats{};
            }
            weight_along[d] = slope[d] * speed;
        }
    }

    template <Indexing I>
    FF_INLINE void fill(const Points& x, int64_t i, const Level& level, const Grid& grid) {
        const Cells<D, I> cells(x, i, level, grid.interpolation, true);
        FF_UNROLL for (int d = 0; d < D; ++d) {
            weight[d][0] = cells.weight[d][0];
            weight[d][1] = cells.weight[d][1];
            slope[d] = cells.slope[d];
        }
        for_each_corner<D>([&](int c) __attribute__((always_inline)) {
            place[c] = cells.place(c, level, static_cast<uint32_t>(grid.n_features));
        });
    }

    FF_INLINE Dual factor(int c, int d) const {
        const bool is_upper = (c >> d) & 1;
        return {weight[d][is_upper], is_upper ? weight_along[d] : -weight_along[d]};
    }

    FF_INLINE Dual dual_product(int c) const {
        Dual w = factor(c, 0);
        FF_UNROLL for (int d = 1; d < D; ++d) w = w * factor(c, d);
        return w;
    }

    // d dual_product(c) / d position along one axis.
    FF_INLINE Dual dual_slope(int c, int axis) const {
        Dual w = (c >> axis) & 1 ? Dual{slope[axis], slope_along[axis]}
                                 : Dual{-slope[axis], -slope_along[axis]};
        FF_UNROLL for (int d = 0; d < D; ++d) {
            if (d != axis) w = w * factor(c, d);
        }
        return w;
    }
};

// Features of one level and their derivatives along u.
template <int D, bool by_pairs>
void encode_level_along(const Grid& grid, const Level& level, const float* table, const Points& x, const Points& u,
                        int64_t begin, int64_t end, const Tiles& out, int feature) {
    const int F = grid.n_features, half = out.n_points;
    DualCells<D> cells;
    table += level.offset * F;
    for (int64_t tile = begin; tile < end; ++tile) {
        for (int p = 0; p < half; p += lanes) {
            cells.fill(x, u, tile * half + p, level, grid);
            float* to = out.at(tile, feature) + p;
            for (int f = 0; f < F; f += by_pairs ? 2 : 1) {
                Floats sum[2] = {}, along[2] = {};
                for_each_corner<D>([&](int c) __attribute__((always_inline)) {
                    const UInts at = cells.place[c];
                    const Dual w = cells.dual_product(c);
                    Floats entry[2];
                    if constexpr (by_pairs) {
                        gather_pairs(table + f, at, entry[0], entry[1]);
                    } else {
                        entry[0] = gather(table + f, at);
                    }
                    FF_UNROLL for (int k = 0; k <= by_pairs; ++k) {
                        sum[k] = fma(w.value, entry[k], sum[k]);
                        along[k] = fma(w.along, entry[k], along[k]);
                    }
                });
                FF_UNROLL for (int k = 0; k <= by_pairs; ++k) {
                    store(to + (f + k) * out.row, sum[k]);
                    store(to + (f + k) * out.row + half, along[k]);
                }
            }
        }
    }
}

// The adjoints of features (if `has_value`) and of their derivatives along u, added to the gradient of one level's
// table; see scatter_level.
template <int D, bool by_pairs>
void scatter_level_along(const Grid& grid, const Level& level, float* gradient, const Window& window, const Points& x,
                         const Points& u, int64_t n, const Tiles& adjoint, bool has_value, int feature) {
    const int F = grid.n_features, half = adjoint.n_points;
    DualCells<D> cells;
    for (int64_t tile = 0; tile * half < n; ++tile) {
        const int64_t n_here = smaller(half, n - tile * half);
        for (int p = 0; p < n_here; p += lanes) {
            cells.fill(x, u, tile * half + p, level, grid);
            for (int f = 0; f < F; f += by_pairs ? 2 : 1) {
                Floats value[2] = {}, along[2] = {};
                FF_UNROLL for (int k = 0; k <= by_pairs; ++k) {
                    const float* from = adjoint.at(tile, feature + f + k) + p;
                    along[k] = load(from + half);
                    if (has_value) value[k] = load(from);
                }
                for_each_corner<D>([&](int c) __attribute__((always_inline)) {
                    const UInts at = cells.place[c] + static_cast<uint32_t>(f);
                    const Dual w = cells.dual_product(c);
                    const Floats first = fma(w.along, along[0], w.value * value[0]);
                    if constexpr (by_pairs) {
                        scatter_add_pairs(gradient, at, first, fma(w.along, along[1], w.value * value[1]), window);
                    } else {
                        scatter_add(gradient, at, first, window);
                    }
                });
            }
        }
    }
}

// The same adjoints, added to the gradient in the coordinates; see differentiate_level.
template <int D, bool by_pairs>
void differentiate_level_along(const Grid& grid, const Level& level, const float* table, const Points& x,
                               const Points& u, int64_t begin, int64_t end, const Tiles& adjoint, bool has_value,
                               int feature, const Tiles& grad_x) {
    const int F = grid.n_features, half = adjoint.n_points;
    DualCells<D> cells;
    table += level.offset * F;
    for (int64_t tile = begin; tile < end; ++tile) {
        for (int p = 0; p < half; p += lanes) {
            cells.fill(x, u, tile * half + p, level, grid);
            const float* from = adjoint.at(tile, feature) + p;
            Floats slope[D] = {};
            for_each_corner<D>([&](int c) __attribute__((always_inline)) {
                const UInts at = cells.place[c];
                Floats value{}, along{};  // adjoints . table[corner]
                for (int f = 0; f < F; f += by_pairs ? 2 : 1) {
                    Floats entry[2];
                    if constexpr (by_pairs) {
                        gather_pairs(table + f, at, entry[0], entry[1]);
                    } else {
                        entry[0] = gather(table + f, at);
                    }
                    FF_UNROLL for (int k = 0; k <= by_pairs; ++k) {
                        along = fma(load(from + (f + k) * adjoint.row + half), entry[k], along);
                        if (has_value) value = fma(load(from + (f + k) * adjoint.row), entry[k], value);
                    }
                }
                FF_UNROLL for (int d = 0; d < D; ++d) {
                    const Dual s = cells.dual_slope(c, d);
                    slope[d] = fma(s.along, along, fma(s.value, value, slope[d]));
                }
            });
            FF_UNROLL for (int d = 0; d < D; ++d) {
                float* to = grad_x.at(tile, d) + p;
                store(to, fma(slope[d], all(level.scale[d]), load(to)));
            }
        }
    }
}

// Call f<n_dims, by_pairs>(); an even number of features is read two at a time.
FF_INLINE void with_dims(const Grid& grid, auto&& f) {
    const bool by_pairs = grid.n_features % 2 == 0;
    switch (grid.n_dims) {
        case 1: return by_pairs ? f.template operator()<1, true>() : f.template operator()<1, false>();
        case 2: return by_pairs ? f.template operator()<2, true>() : f.template operator()<2, false>();
        case 3: return by_pairs ? f.template operator()<3, true>() : f.template operator()<3, false>();
        default: return by_pairs ? f.template operator()<4, true>() : f.template operator()<4, false>();
    }
}

// A grid (null: none), the points and their directions u.
struct GridAlong {
    const Grid* grid;
    const float* table;
    Points x, u;
    int64_t n;

    void encode(const Tiles& out, int n_threads) const {
        for_each_level(*grid, pieces(n, out.n_points), n_threads, [&](int l, int64_t begin, int64_t end) {
            const Level& level = grid->levels[l];
            fetch_level(*grid, level, table, x, begin, end, out.n_points);
            with_dims(*grid, [&]<int D, bool by_pairs> {
                encode_level_along<D, by_pairs>(*grid, level, table, x, u, begin, end, out, l * grid->n_features);
            });
        });
    }

    // From the adjoints of features (if `has_value`) and of their derivatives, both null where nobody asks.
    void backward(const Tiles& adjoint, bool has_value, float* grad_table, float* grad_x, Scratch& scratch,
                  int n_threads) const {
        if (grad_x) {
            add_rows_of_levels(*grid, n, adjoint.n_points, grad_x, scratch, n_threads,
                               [&](int l, int64_t begin, int64_t end, const Tiles& by_axis) {
                const Level& level = grid->levels[l];
                fetch_level(*grid, level, table, x, begin, end, adjoint.n_points);
                with_dims(*grid, [&]<int D, bool by_pairs> {
                    differentiate_level_along<D, by_pairs>(*grid, level, table, x, u, begin, end, adjoint, has_value,
                                                              l * grid->n_features, by_axis);
                });
            });
        }
        if (!grad_table) return;
        const auto add = [&](int l, float* gradient, const Window& window) {
            const Level& level = grid->levels[l];
            with_dims(*grid, [&]<int D, bool by_pairs> {
                scatter_level_along<D, by_pairs>(*grid, level, gradient, window, x, u, n, adjoint, has_value,
                                                    l * grid->n_features);
            });
        };
        scatter_levels(*grid, scratch, n_threads, add, [&](int64_t first, int64_t count, const float* gradient) {
            std::memcpy(grad_table + first, gradient, sizeof(float) * static_cast<size_t>(count));
        });
    }
};

// Tiles of n points with room for two numbers a feature.
inline Tiles double_tiles(int64_t n, int half, int64_t n_rows, Scratch& scratch) {
    Tiles tiles(nullptr, 2 * half, n_rows);
    tiles.n_points = half;
    tiles.data = scratch.floats(pieces(n, half) * tiles.stride);
    return tiles;
}

inline GridAlong grid_along(const Grid& grid, const float* table, const float* x, const float* u, int64_t n, int half,
                            Scratch& scratch, int n_threads) {
    const int64_t n_tiles = pieces(n, half);
    return {&grid, table, split_axes(x, n, grid.n_dims, n_tiles, half, scratch, n_threads),
            split_axes(u, n, grid.n_dims, n_tiles, half, scratch, n_threads), n};
}

}  // namespace fieldforge::cpu::FF_SET
