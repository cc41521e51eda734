// Occupancy grids and marching: compiled once for each instruction set, FF_SET being its name (v2, v3, v4, baseline).
#include "march.hpp"

#include "pool.hpp"

namespace fieldforge::cpu::FF_SET {
namespace {

constexpr int64_t rays_of_a_task = 64, points_of_a_task = 4096;

bool is_finite(const float* p) { return __builtin_isfinite(p[0]) && __builtin_isfinite(p[1]) && __builtin_isfinite(p[2]); }

void intersect_ray(const float* o, const float* d, const float* low, const float* high, float near, float far,
                   float& t_near, float& t_far) {
    float first = near, last = far;
    bool is_hit = is_finite(o) && is_finite(d) && (d[0] != 0 || d[1] != 0 || d[2] != 0);
    for (int a = 0; a < 3; ++a) {
        if (d[a] == 0) {
            is_hit &= low[a] <= o[a] && o[a] <= high[a];
            continue;
        }
        const float t_low = (low[a] - o[a]) / d[a], t_high = (high[a] - o[a]) / d[a];
        const float enter = t_low < t_high ? t_low : t_high, leave = t_low < t_high ? t_high : t_low;
        first = enter > first ? enter : first;
        last = leave < last ? leave : last;
    }
    is_hit &= last > first;
    t_near = is_hit ? first : near;
    t_far = is_hit ? last : near;
}

void intersect_box(const float* origins, const float* directions, int64_t n, const float* low, const float* high,
                   float near, float far, float* t_near, float* t_far, int n_threads) {
    parallel_for(n_threads, pieces(n, points_of_a_task), [&](int64_t task, int) {
        const int64_t end = smaller(n, (task + 1) * points_of_a_task);
        for (int64_t i = task * points_of_a_task; i < end; ++i) {
            intersect_ray(origins + 3 * i, directions + 3 * i, low, high, near, far, t_near[i], t_far[i]);
        }
    });
}

void look_up(const Cascades& cascades, const uint64_t* bricks, const float* points, int64_t n, bool* is_occupied,
             int n_threads) {
    RayView view;
    view_cascades(cascades, view);
    parallel_for(n_threads, pieces(n, points_of_a_task), [&](int64_t task, int) {
        const int64_t end = smaller(n, (task + 1) * points_of_a_task);
        for (int64_t i = task * points_of_a_task; i < end; ++i) {
            const Float4 p = as_float4(points + 3 * i);
            is_occupied[i] = false;
            for (int c = 0; c < cascades.n_cascades; ++c) {
                const Float4 u = (p - view.cascades[c].low) * view.cascades[c].cells_per_length;
                if (!all((u >= 0) & (u < view.resolution))) continue;
                const Int4 cell = floor_of(u);
                const int64_t row = row_of(c, cell >> block_bits, cascades.resolution, block_bits);
                is_occupied[i] = bricks[row] >> bit_of(cell) & 1;
                break;
            }
        }
    });
}

void mark(const Occupancy& grid, const Rays& rays, const Stride& stride, int64_t n_most_kept, uint64_t* marks,
          int64_t* counts, int n_threads) {
    Scratch scratch;
    const int64_t n_words = pieces(stride.n_most, 64), n_edges = edges_of(stride.n_most);
    float* edges = scratch.floats(n_threads * n_edges);
    parallel_for(n_threads, pieces(rays.n, rays_of_a_task), [&](int64_t task, int thread) {
        float* edge = edges + thread * n_edges;
        RayView view;
        view_cascades(*grid.cascades, view);
        const int64_t end = smaller(rays.n, (task + 1) * rays_of_a_task);
        for (int64_t i = task * rays_of_a_task; i < end; ++i) {
            uint64_t* row = marks + i * n_words;
            std::memset(row, 0, sizeof(uint64_t) * static_cast<size_t>(n_words));
            counts[i] = 0;
            const int64_t n = fill_edges(stride, rays.start[i], rays.end[i], edge);
            if (n == 0) continue;
            view_ray(rays.origins + 3 * i, rays.directions + 3 * i, view);
            counts[i] = mark_ray(grid, view, stride, edge, n, n_most_kept, row);
        }
    });
}

// `length` samples from edge `k` on, which is start + k * step where there are no edges.
void write_run(const float* edge, float start, float step, int64_t k, int64_t length, int64_t ray, float* __restrict t0,
               float* __restrict t1, int64_t* __restrict ray_index) {
    for (int64_t j = 0; j < length; ++j) ray_index[j] = ray;
    if (edge) {
        std::memcpy(t0, edge + k, sizeof(float) * static_cast<size_t>(length));
        std::memcpy(t1, edge + k + 1, sizeof(float) * static_cast<size_t>(length));
        return;
    }
    const int32_t first = static_cast<int32_t>(k), n = static_cast<int32_t>(length);
    for (int32_t j = 0; j < n; ++j) t0[j] = start + static_cast<float>(first + j) * step;
    for (int32_t j = 0; j < n; ++j) t1[j] = start + static_cast<float>(first + j + 1) * step;
}

void fill(const Rays& rays, const Stride& stride, const uint64_t* marks, const int64_t* offsets, int64_t first_ray,
          float* t0, float* t1, int64_t* ray_index, int n_threads) {
    Scratch scratch;
    const bool has_edges = stride.cone_angle != 0;
    const int64_t n_words = pieces(stride.n_most, 64), n_edges = edges_of(stride.n_most);
    float* edges = has_edges ? scratch.floats(n_threads * n_edges) : nullptr;
    parallel_for(n_threads, pieces(rays.n, rays_of_a_task), [&](int64_t task, int thread) {
        float* edge = has_edges ? edges + thread * n_edges : nullptr;
        const int64_t end = smaller(rays.n, (task + 1) * rays_of_a_task);
        for (int64_t i = task * rays_of_a_task; i < end; ++i) {
            int64_t out = offsets[i];
            if (offsets[i + 1] == out) continue;
            if (has_edges) fill_edges(stride, rays.start[i], rays.end[i], edge);
            for (int64_t w = 0; out < offsets[i + 1]; ++w) {
                for (uint64_t word = marks[i * n_words + w]; word;) {
                    const int from = __builtin_ctzll(word);
                    const uint64_t after = ~(word >> from);
                    const int length = after ? __builtin_ctzll(after) : 64;
                    write_run(edge, rays.start[i], stride.step, 64 * w + from, length, first_ray + i, t0 + out, t1 + out,
                              ray_index + out);
                    out += length;
                    word = from + length == 64 ? 0 : word >> (from + length) << (from + length);
                }
            }
        }
    });
}

void decay_max(float* density, const int64_t* cells, const float* fresh, int64_t n, float decay, int n_threads) {
    parallel_for(n_threads, pieces(n, points_of_a_task), [&](int64_t task, int) {
        const int64_t end = smaller(n, (task + 1) * points_of_a_task);
        for (int64_t i = task * points_of_a_task; i < end; ++i) {
            const float faded = density[cells[i]] * decay;
            density[cells[i]] = fresh[i] > faded || fresh[i] != fresh[i] ? fresh[i] : faded;  // NaN in, NaN out
        }
    });
}

// One layer of blocks (x) of 4 x 4 x 4 entries, a bit for each entry that `is_set`.
template <class IsSet>
FF_INLINE void pack_layer(const int64_t* size, int64_t block_x, uint64_t* blocks, const IsSet& is_set) {
    const int64_t n_y = pieces(size[1], 4), n_z = pieces(size[2], 4);
    std::memset(blocks, 0, sizeof(uint64_t) * static_cast<size_t>(n_y * n_z));
    for (int64_t x = 4 * block_x; x < smaller(size[0], 4 * block_x + 4); ++x) {
        for (int64_t y = 0; y < size[1]; ++y) {
            const int64_t row = (x * size[1] + y) * size[2];
            uint64_t* out = blocks + y / 4 * n_z;
            const int64_t shift = (x & 3) << 4 | (y & 3) << 2;
            for (int64_t z = 0; z < size[2]; z += 4) {
                uint64_t bits = 0;
                const int64_t n = smaller(4, size[2] - z);
                for (int64_t j = 0; j < n; ++j) bits |= static_cast<uint64_t>(is_set(row + z + j)) << j;
                out[z / 4] |= bits << shift;
            }
        }
    }
}

void pack(const Cascades& cascades, const float* density, float threshold, uint64_t* bricks, uint64_t* superbricks,
          int n_threads) {
    const int* n = cascades.resolution;
    const int64_t cells[3] = {n[0], n[1], n[2]};
    const int64_t blocks[3] = {pieces(n[0], 4), pieces(n[1], 4), pieces(n[2], 4)};
    const int64_t upper[3] = {pieces(blocks[0], 4), pieces(blocks[1], 4), pieces(blocks[2], 4)};
    parallel_for(n_threads, cascades.n_cascades * blocks[0], [&](int64_t task, int) {
        const int64_t c = task / blocks[0];
        const float* from = density + c * cells[0] * cells[1] * cells[2];
        pack_layer(cells, task % blocks[0], bricks + task * blocks[1] * blocks[2],
                   [&](int64_t i) { return from[i] > threshold; });
    });
    parallel_for(n_threads, cascades.n_cascades * upper[0], [&](int64_t task, int) {
        const int64_t c = task / upper[0];
        const uint64_t* from = bricks + c * blocks[0] * blocks[1] * blocks[2];
        pack_layer(blocks, task % upper[0], superbricks + task * upper[1] * upper[2],
                   [&](int64_t i) { return from[i] != 0; });
    });
}

}  // namespace

extern const MarchKernels march_kernels;
const MarchKernels march_kernels = {intersect_box, look_up, mark, fill, decay_max, pack};

}  // namespace fieldforge::cpu::FF_SET
