// Marching through an occupancy grid: which samples of a ray lie in occupied cells.
//
// Every number that decides (the edges of the samples, their middles, the positions in cells) is rounded as in the
// plain version, product and sum apart. Each of these steps is monotone, also in floating point, so the cells of the
// samples of a ray only ever move one way along each axis: when two samples lie in one block of cells, so do all between
// them. A block that is empty is crossed by guessing its last sample and looking whether it is still in there; the
// guess may be off, the result is not.
#pragma once
#include "api.hpp"
#include "simd.hpp"

namespace fieldforge::cpu::FF_SET {

typedef float Float4 __attribute__((vector_size(16)));
typedef int32_t Int4 __attribute__((vector_size(16)));

FF_INLINE bool all(Int4 mask) {
#if defined(__x86_64__)
    return _mm_movemask_ps((__m128)mask) == 15;
#else
    return mask[0] & mask[1] & mask[2] & mask[3];
#endif
}

// A bit for each entry that is negative.
FF_INLINE uint32_t signs(Ints v) {
#if defined(__AVX512F__)
    return _mm512_cmplt_epi32_mask((__m512i)v, _mm512_setzero_si512());
#elif defined(__AVX2__)
    return static_cast<uint32_t>(_mm256_movemask_ps((__m256)v));
#elif defined(__x86_64__)
    return static_cast<uint32_t>(_mm_movemask_ps((__m128)v));
#else
    uint32_t bits = 0;
    for (int i = 0; i < lanes; ++i) bits |= static_cast<uint32_t>(v[i] < 0) << i;
    return bits;
#endif
}

// 32-bit integers from any of `from` on.
FF_INLINE Ints gather(const void* from, Ints index) {
#if defined(__AVX512F__)
    return (Ints)_mm512_i32gather_epi32((__m512i)index, from, 4);
#elif defined(__AVX2__)
    return (Ints)_mm256_i32gather_epi32(static_cast<const int*>(from), (__m256i)index, 4);
#else
    Ints found;
    for (int i = 0; i < lanes; ++i) {
        int32_t one;
        std::memcpy(&one, static_cast<const char*>(from) + 4 * static_cast<int64_t>(index[i]), 4);
        found[i] = one;
    }
    return found;
#endif
}

FF_INLINE Float4 as_float4(const float* p, float last = 0) { return Float4{p[0], p[1], p[2], last}; }
FF_INLINE Int4 floor_of(Float4 u) { return __builtin_convertvector(u, Int4); }  // of numbers that are not negative
FF_INLINE Float4 to_floats(Int4 i) { return __builtin_convertvector(i, Float4); }
FF_INLINE float clamp(float x, float low, float high) {
    x = x > low ? x : low;
    return x < high ? x : high;
}

constexpr int block_bits = 2;              // 4 x 4 x 4 cells in a brick, 4 x 4 x 4 bricks in a superbrick
constexpr int64_t chunk = 16;              // samples that are looked up together

// Blocks of 2^bits cells: how many along an axis, and which one holds a cell.
FF_INLINE int64_t n_blocks(int n, int bits) { return (n + (1 << bits) - 1) >> bits; }
FF_INLINE int bit_of(Int4 cell) { return (cell[0] & 3) << 4 | (cell[1] & 3) << 2 | (cell[2] & 3); }
FF_INLINE int64_t row_of(int cascade, Int4 block, const int* resolution, int bits) {
    return ((cascade * n_blocks(resolution[0], bits) + block[0]) * n_blocks(resolution[1], bits) + block[1]) *
               n_blocks(resolution[2], bits) + block[2];
}

// A ray as one cascade sees it. The fourth entry is a cell that every sample is in.
struct CascadeView {
    Float4 low, cells_per_length;
    Float4 start, inverse;  // about: u = start + t * direction, in cells
};

struct RayView {
    Float4 origin, direction, resolution;
    Int4 inner_low, inner_high;  // blocks of outer cascades beyond these cells have nothing of an inner cascade
    int n_cascades;
    CascadeView cascades[max_cascades];

    FF_INLINE Float4 cell(int c, float t) const {
        return ((origin + t * direction) - cascades[c].low) * cascades[c].cells_per_length;
    }
};

inline void view_cascades(const Cascades& cascades, RayView& ray) {
    const int* n = cascades.resolution;
    ray.resolution = Float4{static_cast<float>(n[0]), static_cast<float>(n[1]), static_cast<float>(n[2]), 1};
    // The next smaller cascade takes the middle half. A cell to spare: faces that coincide are rounded differently.
    ray.inner_low = Int4{n[0] / 4 - 1, n[1] / 4 - 1, n[2] / 4 - 1, -1};
    ray.inner_high = Int4{n[0] - n[0] / 4 + 1, n[1] - n[1] / 4 + 1, n[2] - n[2] / 4 + 1, INT32_MAX};
    ray.n_cascades = cascades.n_cascades;
    for (int c = 0; c < cascades.n_cascades; ++c) {
        ray.cascades[c].low = as_float4(cascades.low[c]);
        ray.cascades[c].cells_per_length = as_float4(cascades.cells_per_length[c]);
    }
}

inline void view_ray(const float* origin, const float* direction, RayView& ray) {
    ray.origin = as_float4(origin);
    ray.direction = as_float4(direction);
    for (int c = 0; c < ray.n_cascades; ++c) {
        CascadeView& view = ray.cascades[c];
        const Float4 slope = ray.direction * view.cells_per_length;
        view.start = (ray.origin - view.low) * view.cells_per_length;
        view.inverse = slope == 0 ? Float4{} + 1e30f : 1 / slope;
    }
}

FF_INLINE float middle(const float* edge) { return 0.5f * (edge[0] + edge[1]); }

// The edges of a ray's samples, and some more of no meaning; returns how many samples begin their second half before
// `end`.
inline int64_t fill_edges(const Stride& stride, float start, float end, float* edge) {
    edge[0] = start;
    if (!(end > start)) return 0;
    int64_t n = 0;
    if (stride.cone_angle == 0) {
        const float about = (end - start) / stride.step + 2;
        n = about < static_cast<float>(stride.n_most) ? static_cast<int64_t>(about) : stride.n_most;
        Ints k;
        for (int i = 0; i < lanes; ++i) k[i] = i;
        for (int64_t i = 0; i < n + chunk + 1; i += lanes) {
            store(edge + i, start + __builtin_convertvector(k, Floats) * stride.step);
            k += lanes;
        }
        while (n > 0 && !(middle(edge + n - 1) < end)) --n;
    } else {
        for (float t = start; n < stride.n_most; ++n) {
            const float next = t + clamp(t * stride.cone_angle, stride.step, stride.max_step);
            if (!(0.5f * (t + next) < end)) break;
            edge[n + 1] = t = next;
        }
        for (int64_t i = n + 1; i < n + chunk + 1; ++i) edge[i] = edge[n];
    }
    return n;
}

// Room for the edges of a ray.
constexpr int64_t edges_of(int64_t n_most) { return round_up(n_most + chunk + 1, 16) + 16; }

// Which of the 16 samples from `edge` on lie in occupied cells: a bit each. `is_inside_first`: they all lie in the
// smallest cascade.
template <bool is_inside_first>
FF_INLINE uint32_t look_up_chunk(const Occupancy& grid, const RayView& ray, const float* edge) {
    const int* n = grid.cascades->resolution;
    const int32_t rows[3] = {(n[0] + 3) / 4, (n[1] + 3) / 4, (n[2] + 3) / 4};
    uint32_t bits = 0;
    FF_UNROLL for (int first = 0; first < chunk; first += lanes) {
        const Floats t = 0.5f * (load(edge + first) + load(edge + first + 1));
        Ints is_left = ~Ints{}, half = {}, bit = {};  // the half of a brick that holds the cell, as 32-bit integers lie
        for (int c = 0; c < (is_inside_first ? 1 : ray.n_cascades); ++c) {
            const CascadeView& view = ray.cascades[c];
            Floats u[3];
            Ints is_inside = is_left;
            FF_UNROLL for (int a = 0; a < 3; ++a) {
                u[a] = ((ray.origin[a] + t * ray.direction[a]) - view.low[a]) * view.cells_per_length[a];
                if (!is_inside_first) is_inside &= (u[a] >= 0) & (u[a] < ray.resolution[a]);
            }
            Ints cell[3];
            FF_UNROLL for (int a = 0; a < 3; ++a) {
                if (!is_inside_first) u[a] = select(is_inside, u[a], Floats{});
                cell[a] = __builtin_convertvector(u[a], Ints);
            }
            const Ints row = ((c * rows[0] + (cell[0] >> 2)) * rows[1] + (cell[1] >> 2)) * rows[2] + (cell[2] >> 2);
            const Ints half_here = 2 * row + (cell[0] >> 1 & 1);
            const Ints bit_here = (cell[0] & 1) << 4 | (cell[1] & 3) << 2 | (cell[2] & 3);
            half = is_inside_first ? half_here : is_inside ? half_here : half;
            bit = is_inside_first ? bit_here : is_inside ? bit_here : bit;
            is_left &= ~is_inside;
            if (is_inside_first || !any(is_left)) break;
        }
        Ints is_occupied = gather(grid.bricks, half) << (31 - bit);
        if (!is_inside_first) is_occupied &= ~is_left;
        bits |= signs(is_occupied) << first;
    }
    return bits;
}

// The first sample after the empty block of cells [low, high) of cascade c that holds sample k.
FF_INLINE int64_t cross(const RayView& ray, const Stride& stride, float per_step, int c, Int4 low, Int4 high,
                        const float* edge, int64_t k, int64_t n) {
    const CascadeView& view = ray.cascades[c];
    const Float4 first = to_floats(low), last = to_floats(high);
    const Float4 leave = ((ray.direction > 0 ? last : first) - view.start) * view.inverse;
    float t_leave = leave[0] < leave[1] ? leave[0] : leave[1];
    t_leave = leave[2] < t_leave ? leave[2] : t_leave;
    // at most: further on samples are longer
    const float n_ahead = (t_leave - middle(edge + k)) *
        (stride.cone_angle == 0 ? per_step : 1 / clamp(t_leave * stride.cone_angle, stride.step, stride.max_step));
    if (!(n_ahead >= 1)) return k + 1;
    const int64_t n_left = n - 1 - k;
    int64_t guess = k + (n_ahead < static_cast<float>(n_left) ? static_cast<int64_t>(n_ahead) : n_left);
    for (int tries = 0; tries < 2 && guess > k; ++tries, --guess) {
        const Float4 u = ray.cell(c, middle(edge + guess));
        if (all((u >= first) & (u < last))) return guess + 1;
    }
    return k + 1;
}

// Sets the bits of samples in occupied cells, at most `n_most_kept` of them; returns how many.
inline int64_t mark_ray(const Occupancy& grid, const RayView& ray, const Stride& stride, const float* edge, int64_t n,
                        int64_t n_most_kept, uint64_t* marks) {
    const int* resolution = grid.cascades->resolution;
    const Int4 sizes = floor_of(ray.resolution);
    const float per_step = 1 / stride.step;
    int64_t count = 0;
    for (int64_t k = 0; k < n;) {
        int c = 0;
        Float4 u{};
        for (; c < ray.n_cascades; ++c) {
            u = ray.cell(c, middle(edge + k));
            if (all((u >= 0) & (u < ray.resolution))) break;
        }
        if (c == ray.n_cascades) {  // by a rounding at the face of the box
            ++k;
            continue;
        }
        const Int4 cell = floor_of(u), brick = cell >> block_bits;
        const uint64_t superbrick = grid.superbricks[row_of(c, cell >> (2 * block_bits), resolution, 2 * block_bits)];
        if ((superbrick >> bit_of(brick) & 1) == 0) {
            const uint64_t eighth = superbrick >> bit_of(brick & 2) & 0x330033;  // 2 x 2 x 2 bricks
            const int bits = superbrick == 0 ? 2 * block_bits : eighth == 0 ? block_bits + 1 : block_bits;
            const Int4 low = (cell >> bits) << bits;
            const Int4 beyond = low + (1 << bits), high = beyond < sizes ? beyond : sizes;
            if (c == 0 || !all((high > ray.inner_low) & (low < ray.inner_high))) {
                k = cross(ray, stride, per_step, c, low, high, edge, k, n);
                continue;
            }
        }
        const Float4 last = ray.cell(0, middle(edge + k + chunk - 1));
        uint64_t bits = c == 0 && all((last >= 0) & (last < ray.resolution)) ? look_up_chunk<true>(grid, ray, edge + k)
                                                                              : look_up_chunk<false>(grid, ray, edge + k);
        if (n - k < chunk) bits &= (uint64_t{1} << (n - k)) - 1;
        const int64_t word = k / 64, shift = k % 64;
        marks[word] |= bits << shift;
        if (shift > 64 - chunk && bits >> (64 - shift)) marks[word + 1] |= bits >> (64 - shift);
        count += __builtin_popcountll(bits);
        k += chunk;
        if (count >= n_most_kept) break;
    }
    if (count > n_most_kept) {
        int64_t word = pieces(n, 64) - 1;
        for (; count > n_most_kept; --count) {
            while (marks[word] == 0) --word;
            marks[word] &= ~(uint64_t{1} << (63 - __builtin_clzll(marks[word])));
        }
    }
    return count;
}

}  // namespace fieldforge::cpu::FF_SET
