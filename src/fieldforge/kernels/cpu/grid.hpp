// Multi-resolution grids, level by level: the function of tiny-cuda-nn (grid.h), one level over all points at a time,
// so that its table stays in the cache.
//
// A position is x * scale + 0.5, rounded once (fmaf): a second rounding moves fine levels by up to 3e-4.
#pragma once
#include "pool.hpp"
#include "simd.hpp"
#include "tiles.hpp"

namespace fieldforge::cpu::FF_SET {

// 64-bit arithmetic modulo a constant: Lemire, Kaser, Kurz, "Faster remainder by direct computation" (2019).
FF_INLINE uint32_t modulo(uint32_t a, uint32_t size, uint64_t reciprocal) {
    uint64_t fraction = reciprocal * a;
    return static_cast<uint32_t>((static_cast<unsigned __int128>(fraction) * size) >> 64);
}

__attribute__((noinline)) inline UInts modulo(UInts a, const Level& level) {
    for (int i = 0; i < lanes; ++i) a[i] = modulo(a[i], level.size, level.reciprocal);
    return a;
}

// To int32, NaN to 0: a GPU's conversion, where C leaves it undefined.
FF_INLINE Ints saturate(Floats v) {
    const Ints too_large = v >= 2147483648.0f;
    const Ints representable = (v >= -2147483648.0f) & ~too_large;
    const Ints converted = __builtin_convertvector(select(representable, v, Floats{}), Ints);
    const Ints low = (v < -2147483648.0f) & INT32_MIN;
    return converted | (too_large & INT32_MAX) | low;
}

// The corners of the cells that `lanes` points fall into.
template <int D, Indexing I>
struct Cells {
    UInts corner[D][2];   // coordinate times multiplier (or step), of the lower and the upper corner
    Floats weight[D][2];  // 1 - t and t
    Floats slope[D];      // d weight[d][1] / d position

    FF_INLINE Cells(const Points& x, int64_t i, const Level& level, Interpolation interpolation, bool with_slope) {
        FF_UNROLL for (int d = 0; d < D; ++d) {
            Floats position = fma_rounded_once(load(x.axis[d] + i), all(level.scale[d]), all(0.5f));
            Floats lower = floor(position);
            Floats t = position - lower;
            const uint32_t factor = I == Indexing::any_modulo ? level.multiplier[d] : level.step[d];
            corner[d][0] = (UInts)(x.are_inside ? __builtin_convertvector(lower, Ints) : saturate(lower)) * factor;
            corner[d][1] = corner[d][0] + factor;
            if (with_slope) slope[d] = all(1.0f);
            if (interpolation != Interpolation::linear) {
                if (interpolation == Interpolation::smoothstep) {
                    if (with_slope) slope[d] = 6.0f * t * (1.0f - t);
                    t = t * t * (3.0f - 2.0f * t);
                } else {
                    t = Floats{};  // nearest: the lower corner alone, whatever the position and its neighbours
                    corner[d][1] = corner[d][0];
                }
            }
            weight[d][0] = 1.0f - t;
            weight[d][1] = t;
        }
    }

    // Where the features of a corner begin, in floats; bit d of c chooses the upper corner along axis d.
    FF_INLINE UInts place(int c, const Level& level, uint32_t n_features) const {
        UInts sum = corner[0][c & 1];
        if constexpr (I == Indexing::hash) {
            FF_UNROLL for (int d = 1; d < D; ++d) sum ^= corner[d][(c >> d) & 1];
            return sum & all((level.size - 1) * n_features);
        } else if constexpr (I == Indexing::dense) {
            FF_UNROLL for (int d = 1; d < D; ++d) sum += corner[d][(c >> d) & 1];
            return min(sum, sum - level.size * n_features);  // subtracts once where it does not wrap below zero
        } else {
            if (level.is_hashed) {
                FF_UNROLL for (int d = 1; d < D; ++d) sum ^= corner[d][(c >> d) & 1];
            } else {
                FF_UNROLL for (int d = 1; d < D; ++d) sum += corner[d][(c >> d) & 1];
            }
            return modulo(sum, level) * n_features;
        }
    }

    FF_INLINE Floats product(int c) const {
        Floats w = weight[0][c & 1];
        FF_UNROLL for (int d = 1; d < D; ++d) w *= weight[d][(c >> d) & 1];
        return w;
    }

    // d product(c) / d position along axis `along`.
    FF_INLINE Floats product_slope(int c, int along) const {
        Floats w = (c >> along) & 1 ? slope[along] : -slope[along];
        FF_UNROLL for (int d = 0; d < D; ++d) {
            if (d != along) w *= weight[d][(c >> d) & 1];
        }
        return w;
    }
};

// f(c) for every corner c; straight-line code as long as that stays small and is what the time goes to.
template <int D, Indexing I = Indexing::hash>
FF_INLINE void for_each_corner(auto&& f) {
    if constexpr (D <= 3 && I != Indexing::any_modulo) {
        FF_UNROLL for (int c = 0; c < 1 << D; ++c) f(c);
    } else {
        FF_NO_UNROLL for (int c = 0; c < 1 << D; ++c) f(c);
    }
}

// Two neighbouring floats of each entry. Pairs are loaded one by one: faster than the gather instructions.
typedef double Pair __attribute__((vector_size(16)));
typedef double PairInMemory __attribute__((aligned(4), may_alias));
typedef uint64_t Twins __attribute__((vector_size(4 * lanes)));  // UInts two by two: half as many leave the vector

#if defined(__AVX2__)
FF_INLINE __m256d join(Pair a, Pair b) { return _mm256_insertf128_pd(_mm256_castpd128_pd256((__m128d)a), (__m128d)b, 1); }
#endif
#if defined(__AVX512F__)
FF_INLINE __m512d join(__m256d a, __m256d b) { return _mm512_insertf64x4(_mm512_castpd256_pd512(a), b, 1); }
#endif

template <int n>
FF_INLINE auto load_pairs(const float* table, UInts index, int first) {
    if constexpr (n == 2) {
        const uint64_t twin = ((Twins)index)[first / 2];
        return Pair{*reinterpret_cast<const PairInMemory*>(table + static_cast<uint32_t>(twin)),
                    *reinterpret_cast<const PairInMemory*>(table + (twin >> 32))};
    } else {
        return join(load_pairs<n / 2>(table, index, first), load_pairs<n / 2>(table, index, first + n / 2));
    }
}

FF_INLINE void gather_pairs(const float* table, UInts at, Floats& first, Floats& second) {
    deinterleave((Floats)load_pairs<lanes / 2>(table, at, 0), (Floats)load_pairs<lanes / 2>(table, at, lanes / 2), first,
                 second);
}

FF_INLINE Floats gather(const float* table, UInts at) {
    Floats v;
    FF_UNROLL for (int i = 0; i < lanes; ++i) v[i] = table[at[i]];
    return v;
}

// The rows of a table that a scatter may touch.
struct Window {
    uint32_t first, count;  // floats
    bool is_whole;
};

FF_INLINE void add_pair(float* p, const float* g) {
#if defined(__x86_64__)
    auto* q = reinterpret_cast<double*>(p);
    __m128 sum = _mm_add_ps(_mm_castpd_ps(_mm_load_sd(q)),
                            _mm_castpd_ps(_mm_load_sd(reinterpret_cast<const double*>(g))));
    _mm_store_sd(q, _mm_castps_pd(sum));
#else
    p[0] += g[0];
    p[1] += g[1];
#endif
}

FF_INLINE void scatter_add_pairs(float* table, UInts at, Floats first, Floats second, const Window& window) {
    uint32_t index[lanes];
    std::memcpy(index, &at, sizeof index);
    alignas(64) float pair[2 * lanes];
    Floats low, high;
    interleave(first, second, low, high);
    store(pair, low);
    store(pair + lanes, high);
    if (window.is_whole) {
        FF_UNROLL for (int i = 0; i < lanes; ++i) add_pair(table + index[i], pair + 2 * i);
    } else {
        for (int i = 0; i < lanes; ++i) {
            if (index[i] - window.first < window.count) add_pair(table + (index[i] - window.first), pair + 2 * i);
        }
    }
}

FF_INLINE void scatter_add(float* table, UInts at, Floats g, const Window& window) {
    uint32_t index[lanes];
    std::memcpy(index, &at, sizeof index);
    float one[lanes];
    store(one, g);
    for (int i = 0; i < lanes; ++i) {
        if (index[i] - window.first < window.count) table[index[i] - window.first] += one[i];
    }
}

// Features of one level for the tiles [begin, end) into rows from `feature` on.
template <int D, bool by_pairs, Indexing I>
void encode_level(const Grid& grid, const Level& level, const float* table, const Points& x, int64_t begin,
                  int64_t end, const Tiles& out, int feature) {
    const int F = grid.n_features;
    table += level.offset * F;
    for (int64_t tile = begin; tile < end; ++tile) {
        for (int p = 0; p < out.n_points; p += lanes) {
            const Cells<D, I> cells(x, tile * out.n_points + p, level, grid.interpolation, false);
            float* to = out.at(tile, feature) + p;
            for (int f = 0; f < F; f += by_pairs ? 2 : 1) {
                Floats first{}, second{};
                for_each_corner<D, I>([&](int c) __attribute__((always_inline)) {
                    const UInts at = cells.place(c, level, static_cast<uint32_t>(F));
                    const Floats w = cells.product(c);
                    if constexpr (by_pairs) {
                        Floats a, b;
                        gather_pairs(table + f, at, a, b);
                        first = fma(w, a, first);
                        second = fma(w, b, second);
                    } else {
                        first = fma(w, gather(table + f, at), first);
                    }
                });
                store(to + f * out.row, first);
                if constexpr (by_pairs) store(to + (f + 1) * out.row, second);
            }
        }
    }
}

// Add the gradient of one level's table, for the entries of a window, in the order of the points. `gradient` is the
// memory of the window's first float. grad_out is zero from point n to the next multiple of `lanes`.
template <int D, bool by_pairs, Indexing I>
void scatter_level(const Grid& grid, const Level& level, float* gradient, const Window& window, const Points& x,
                   int64_t n, const Tiles& grad_out, int feature) {
    const int F = grid.n_features;
    for (int64_t tile = 0; tile * grad_out.n_points < n; ++tile) {
        const int64_t n_here = smaller(grad_out.n_points, n - tile * grad_out.n_points);
        for (int p = 0; p < n_here; p += lanes) {
            const Cells<D, I> cells(x, tile * grad_out.n_points + p, level, grid.interpolation, false);
            const float* from = grad_out.at(tile, feature) + p;
            for (int f = 0; f < F; f += by_pairs ? 2 : 1) {
                Floats first = load(from + f * grad_out.row), second{};
                if constexpr (by_pairs) second = load(from + (f + 1) * grad_out.row);
                for_each_corner<D>([&](int c) __attribute__((always_inline)) {
                    const UInts at = cells.place(c, level, static_cast<uint32_t>(F)) + static_cast<uint32_t>(f);
                    const Floats w = cells.product(c);
                    if constexpr (by_pairs) {
                        scatter_add_pairs(gradient, at, w * first, w * second, window);
                    } else {
                        scatter_add(gradient, at, w * first, window);
                    }
                });
            }
        }
    }
}

// Add the gradient in the coordinates through one level, for the tiles [begin, end).
template <int D, bool by_pairs, Indexing I>
void differentiate_level(const Grid& grid, const Level& level, const float* table, const Points& x, int64_t begin,
                         int64_t end, const Tiles& grad_out, int feature, const Tiles& grad_x) {
    const int F = grid.n_features;
    table += level.offset * F;
    for (int64_t tile = begin; tile < end; ++tile) {
        for (int p = 0; p < grad_out.n_points; p += lanes) {
            const Cells<D, I> cells(x, tile * grad_out.n_points + p, level, grid.interpolation, true);
            const float* from = grad_out.at(tile, feature) + p;
            Floats slope[D] = {};
            for_each_corner<D, I>([&](int c) __attribute__((always_inline)) {
                const UInts at = cells.place(c, level, static_cast<uint32_t>(F));
                Floats value{};  // grad_out . table[corner]
                for (int f = 0; f < F; f += by_pairs ? 2 : 1) {
                    if constexpr (by_pairs) {
                        Floats a, b;
                        gather_pairs(table + f, at, a, b);
                        value = fma(load(from + f * grad_out.row), a, value);
                        value = fma(load(from + (f + 1) * grad_out.row), b, value);
                    } else {
                        value = fma(load(from + f * grad_out.row), gather(table + f, at), value);
                    }
                }
                FF_UNROLL for (int d = 0; d < D; ++d) slope[d] = fma(cells.product_slope(c, d), value, slope[d]);
            });
            FF_UNROLL for (int d = 0; d < D; ++d) {
                float* to = grad_x.at(tile, d) + p;
                store(to, fma(slope[d], all(level.scale[d]), load(to)));
            }
        }
    }
}

// Call f<n_dims, by_pairs, indexing>() with the constants that suit a level; an even number of features is read two at
// a time.
template <int D, bool by_pairs>
FF_INLINE void with_indexing(Indexing indexing, auto&& f) {
    switch (indexing) {
        case Indexing::hash: return f.template operator()<D, by_pairs, Indexing::hash>();
        case Indexing::dense: return f.template operator()<D, by_pairs, Indexing::dense>();
        default: return f.template operator()<D, by_pairs, Indexing::any_modulo>();
    }
}

FF_INLINE void with_constants(const Grid& grid, const Level& level, bool are_inside, auto&& f) {
    const Indexing indexing = are_inside ? level.inside : level.outside;
    const bool by_pairs = grid.n_features % 2 == 0;
    switch (level.n_dims) {
        case 1: return by_pairs ? with_indexing<1, true>(indexing, f) : with_indexing<1, false>(indexing, f);
        case 2: return by_pairs ? with_indexing<2, true>(indexing, f) : with_indexing<2, false>(indexing, f);
        case 3: return by_pairs ? with_indexing<3, true>(indexing, f) : with_indexing<3, false>(indexing, f);
        default: return by_pairs ? with_indexing<4, true>(indexing, f) : with_indexing<4, false>(indexing, f);
    }
}

// x (n, n_dims) row-major to axes, padded to n_tiles whole tiles. Rows of x are n_columns long, if not 0.
inline Points split_axes(const float* x, int64_t n, int n_dims, int64_t n_tiles, int tile_points, Scratch& scratch,
                         int n_threads, int n_columns = 0) {
    if (n_columns == 0) n_columns = n_dims;
    Points points{};
    const int64_t n_padded = n_tiles * tile_points;
    float* axis[max_dims] = {};
    for (int d = 0; d < n_dims; ++d) points.axis[d] = axis[d] = scratch.floats(n_padded);
    const int64_t piece = 4096;
    const int64_t n_pieces = pieces(n_padded, piece);
    float* is_outside = scratch.floats(n_pieces);
    parallel_for(n_threads, n_pieces, [&](int64_t k, int) {
        const int64_t last = smaller(n_padded, (k + 1) * piece);
        bool inside = true;
        for (int d = 0; d < n_dims; ++d) {
            for (int64_t i = k * piece; i < last; ++i) {
                const float v = i < n ? x[i * n_columns + d] : 0.5f;
                inside &= v >= 0.0f && v <= 1.0f;  // false for NaN
                axis[d][i] = v;
            }
        }
        is_outside[k] = inside ? 0.0f : 1.0f;
    });
    points.are_inside = true;
    for (int64_t k = 0; k < n_pieces; ++k) points.are_inside &= is_outside[k] == 0.0f;
    return points;
}

// f(l, begin, end) for every level, for all tiles. A task is one level over a part of the tiles: with few threads each
// keeps to one table.
template <class F>
void for_each_level(const Grid& grid, int64_t n_tiles, int n_threads, F&& f) {
    const int64_t n_parts = smaller(n_tiles, (3 * n_threads - 1) / grid.n_levels + 1);
    parallel_for(n_threads, grid.n_levels * n_parts, [&](int64_t task, int) {
        const int64_t part = task / grid.n_levels;
        f(static_cast<int>(task % grid.n_levels), n_tiles * part / n_parts, n_tiles * (part + 1) / n_parts);
    });
}

// Read a level's table into the cache, if the points of the tiles [begin, end) will look most of it up: reading it in a
// row takes a fraction of the time that lookups lose by missing its lines one after another.
__attribute__((noinline)) inline void fetch_level(const Grid& grid, const Level& level, const float* table,
                                                  const Points& x, int64_t begin, int64_t end, int tile_points) {
    const int64_t first = begin * tile_points, n = (end - begin) * tile_points;
    const int64_t line = 16, n_floats = static_cast<int64_t>(level.size) * grid.n_features;
    if ((n << level.n_dims) * line < 4 * n_floats) return;  // fewer than four lookups a line
    float n_cells = 1.0f;  // of the box around some of the points
    for (int d = 0; d < level.n_dims; ++d) {
        float low = x.axis[d][first], high = low;
        for (int64_t i = first; i < first + n; i += n / 64 | 1) {
            low = x.axis[d][i] < low ? x.axis[d][i] : low;
            high = x.axis[d][i] > high ? x.axis[d][i] : high;
        }
        n_cells *= (high - low) * level.scale[d] + 2.0f;
    }
    if (!(n_cells >= 0.5f * static_cast<float>(level.size))) return;  // nor where it is NaN
    table += level.offset * grid.n_features;
    for (int64_t i = 0; i < n_floats; i += line) {  // volatile: a compiler drops a call that only prefetches
        static_cast<void>(*static_cast<const volatile float*>(table + i));
    }
}

inline void encode(const Grid& grid, const float* table, const Points& x, int64_t n_tiles, const Tiles& out,
                   int n_threads) {
    for_each_level(grid, n_tiles, n_threads, [&](int l, int64_t begin, int64_t end) {
        const Level& level = grid.levels[l];
        fetch_level(grid, level, table, x, begin, end, out.n_points);
        with_constants(grid, level, x.are_inside, [&]<int D, bool by_pairs, Indexing I> {
            encode_level<D, by_pairs, I>(grid, level, table, x, begin, end, out, l * grid.n_features);
        });
    });
}

// `add(l, gradient, window)` adds the gradient of a level's entries within a window to memory that is zero. `use(first,
// count, gradient)` says what to do with the gradient of the entries [first, first + count) of the table (in floats from
// its start): it is called once for every part of the table; `gradient` is the caller's to overwrite.
template <class Add, class Use>
void scatter_levels(const Grid& grid, Scratch& scratch, int n_threads, Add&& add, Use&& use) {
    // One thread owns a part of a level: no atomics, and each entry adds its points in their order. Several parts a
    // level only when the levels do not suffice to keep the threads busy: each part looks at all points.
    const int64_t n_parts = n_threads == 1 ? 1 : (2 * n_threads - 1) / grid.n_levels + 1;
    int64_t largest = 0;
    for (int l = 0; l < grid.n_levels; ++l) largest = larger(largest, grid.levels[l].size);
    const int64_t part_floats = (largest + n_parts - 1) / n_parts * grid.n_features;
    const int64_t buffer_floats = round_up(part_floats, 16) + 16;
    float* buffers = scratch.floats(buffer_floats * n_threads);
    parallel_for(n_threads, grid.n_levels * n_parts, [&](int64_t task, int thread) {
        // the finest levels first: the last tasks are then the small ones
        const int64_t l = grid.n_levels - 1 - task % grid.n_levels, part = task / grid.n_levels;
        const Level& level = grid.levels[l];
        const int64_t F = grid.n_features, size = level.size;
        const int64_t first = size * part / n_parts * F, last = size * (part + 1) / n_parts * F;
        if (first == last) return;
        float* gradient = buffers + thread * buffer_floats;
        std::memset(gradient, 0, sizeof(float) * static_cast<size_t>(last - first));
        const Window window{static_cast<uint32_t>(first), static_cast<uint32_t>(last - first), n_parts == 1};
        add(static_cast<int>(l), gradient, window);
        use(level.offset * F + first, last - first, gradient);
    });
}

template <class Use>
void scatter(const Grid& grid, const Points& x, int64_t n, const Tiles& grad_out, Scratch& scratch, int n_threads,
             Use&& use) {
    const auto add = [&](int l, float* gradient, const Window& window) {
        const Level& level = grid.levels[l];
        with_constants(grid, level, x.are_inside, [&]<int D, bool by_pairs, Indexing I> {
            scatter_level<D, by_pairs, I>(grid, level, gradient, window, x, n, grad_out, l * grid.n_features);
        });
    };
    scatter_levels(grid, scratch, n_threads, add, use);
}

// The gradient in the coordinates, (n, n_dims) row-major: `add(l, begin, end, by_axis)` adds that through one level, for
// the tiles [begin, end).
template <class Add>
void add_rows_of_levels(const Grid& grid, int64_t n, int tile_points, float* grad_x, Scratch& scratch, int n_threads,
                        Add&& add) {
    const int64_t n_tiles = pieces(n, tile_points);
    const int64_t piece = larger(1, smaller(128, n_tiles / n_threads));  // each passes through all tables
    Tiles by_axis(nullptr, tile_points, grid.n_dims);
    by_axis.data = scratch.floats(n_tiles * by_axis.stride);
    parallel_for(n_threads, pieces(n_tiles, piece), [&](int64_t task, int) {
        const int64_t begin = task * piece, end = smaller(n_tiles, begin + piece);
        for (int64_t tile = begin; tile < end; ++tile) {
            for (int d = 0; d < grid.n_dims; ++d) {
                std::memset(by_axis.at(tile, d), 0, sizeof(float) * static_cast<size_t>(by_axis.n_points));
            }
        }
        // Nearest is constant in each cell
        for (int l = 0; l < grid.n_levels && grid.interpolation != Interpolation::nearest; ++l) {
            add(l, begin, end, by_axis);
        }
        for (int64_t tile = begin; tile < end; ++tile) {
            const int64_t start = tile * tile_points;
            tile_to_rows(by_axis.at(tile, 0), by_axis.row, smaller(tile_points, n - start), grid.n_dims,
                         grad_x + start * grid.n_dims);
        }
    });
}

inline void differentiate_rows(const Grid& grid, const float* table, const Points& x, int64_t n,
                               const Tiles& grad_out, float* grad_x, Scratch& scratch, int n_threads) {
    add_rows_of_levels(grid, n, grad_out.n_points, grad_x, scratch, n_threads,
                       [&](int l, int64_t begin, int64_t end, const Tiles& by_axis) {
        const Level& level = grid.levels[l];
        fetch_level(grid, level, table, x, begin, end, grad_out.n_points);
        with_constants(grid, level, x.are_inside, [&]<int D, bool by_pairs, Indexing I> {
            differentiate_level<D, by_pairs, I>(grid, level, table, x, begin, end, grad_out, l * grid.n_features,
                                                by_axis);
        });
    });
}

}  // namespace fieldforge::cpu::FF_SET
