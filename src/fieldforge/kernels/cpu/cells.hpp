// Points in cells that have networks of their own: sorted by cell, and run through both networks of a field of radiance.
#pragma once
#include "encoded.hpp"
#include "stacked.hpp"

namespace fieldforge::cpu::FF_SET {

constexpr int64_t points_of_a_block = 1 << 14;
constexpr int64_t most_blocks = 32;

// Cell and place in it of one coordinate; what is no number is in the first cell, and stays what it is.
FF_INLINE int64_t cell_along(float x, int32_t n, float& local) {
    const float scaled = x * static_cast<float>(n), last = static_cast<float>(n - 1);
    const float index = scaled >= last ? last : scaled > 0.0f ? floorf(scaled) : 0.0f;
    local = scaled - index;
    return static_cast<int64_t>(index);
}

// A counting sort. Blocks depend on the number of points alone, and within a cell the order is kept.
inline void sort_by_cell(const CellGrid& grid, const float* x, int64_t n, float* local, int64_t* offsets, int64_t* order,
                         int n_threads) {
    const int d = grid.n_dims;
    int64_t n_cells = 1;
    for (int a = 0; a < d; ++a) n_cells *= grid.resolution[a];
    const int64_t n_blocks = smaller(most_blocks, pieces(n, points_of_a_block));
    Scratch scratch;
    int32_t* cell = scratch.array<int32_t>(n);
    int64_t* counts = scratch.array<int64_t>(n_blocks * n_cells);
    parallel_for(n_threads, n_blocks, [&](int64_t block, int) {
        int64_t* own = counts + block * n_cells;
        std::memset(own, 0, sizeof(int64_t) * static_cast<size_t>(n_cells));
        for (int64_t i = n * block / n_blocks; i < n * (block + 1) / n_blocks; ++i) {
            int64_t c = 0;
            for (int a = 0; a < d; ++a) {
                c = c * grid.resolution[a] + cell_along(x[i * d + a], grid.resolution[a], local[i * d + a]);
            }
            cell[i] = static_cast<int32_t>(c);
            ++own[c];
        }
    });
    int64_t total = 0;
    for (int64_t c = 0; c < n_cells; ++c) {
        offsets[c] = total;
        for (int64_t block = 0; block < n_blocks; ++block) {
            const int64_t here = counts[block * n_cells + c];
            counts[block * n_cells + c] = total;
            total += here;
        }
    }
    offsets[n_cells] = total;
    parallel_for(n_threads, n_blocks, [&](int64_t block, int) {
        int64_t* next = counts + block * n_cells;
        for (int64_t i = n * block / n_blocks; i < n * (block + 1) / n_blocks; ++i) order[next[cell[i]]++] = i;
    });
}

// Rows of `n_columns` that `row_of` names, as columns of a tile.
template <class RowOf>
FF_INLINE void gather_rows(const float* from, int n_columns, int64_t count, float* room, float* tile, int64_t row,
                           RowOf&& row_of) {
    for (int64_t i = 0; i < count; ++i) {
        std::memcpy(room + i * n_columns, from + row_of(i) * n_columns, sizeof(float) * static_cast<size_t>(n_columns));
    }
    rows_to_tile(room, count, n_columns, tile, row);
}

// What a thread needs for a tile, beside the two networks' own.
struct CellRoom {
    float *axes, *features, *input, *gathered;
};

inline void cells_radiance(const CellRadiance& field, const CellPoints& points, float* out, int n_threads) {
    const Mlp &density = *field.density.mlp, &color = *field.color.mlp;
    const Encoding& encoding = *field.encoding;
    const int tile = static_cast<int>(smaller(tile_points(density), tile_points(color)));
    const int n_dims = encoding.n_inputs, n_geometry = density.n_outputs(), n_code = color.n_inputs() - n_geometry;
    const int64_t widest = tile + row_padding;
    Scratch scratch;
    Work* of_density = make_works(density, scratch, false, n_threads, tile);
    Work* of_color = make_works(color, scratch, false, n_threads, tile);
    CellRoom* rooms = scratch.array<CellRoom>(n_threads);
    for (int t = 0; t < n_threads; ++t) {
        rooms[t] = {scratch.floats(n_dims * widest), scratch.floats(padded_rows(encoding.n_rows) * widest),
                    scratch.floats(padded_rows(color.n_inputs()) * widest),
                    scratch.floats(larger(n_dims, n_code) * static_cast<int64_t>(tile))};
        of_density[t].value[density.n_layers] = rooms[t].input;  // where the colour network reads it
    }
    const StackTasks tasks(field.density, run_points, scratch);
    parallel_for(n_threads, tasks.n, [&](int64_t t, int thread) {
        const CellRoom& room = rooms[thread];
        Work &first = of_density[thread], &second = of_color[thread];
        for (int64_t g = tasks.task[t].first; g < tasks.task[t].last; ++g) {
            if (field.density.offsets[g] == field.density.offsets[g + 1]) continue;
            const Field network = network_of(field.density, g), shade = network_of(field.color, g);
            fetch_network(field.density, g + 1);
            for_tiles(field.density, tasks.task[t], g, tile, [&](int64_t begin, int64_t count) {
                const int64_t row = round_up(count, lanes) + row_padding, n_lanes = round_up(count, lanes);
                const int64_t* at = points.order + begin;
                first.row = second.row = row;
                gather_rows(points.local, n_dims, count, room.gathered, room.axes, row, [at](int64_t i) { return at[i]; });
                for (int k = 0; k < encoding.n_parts; ++k) {
                    const Part& part = encoding.parts[k];
                    encode_part(part, nullptr, room.axes + part.first_input * row, n_lanes,
                                room.features + part.first_row * row, row);
                }
                for (int k = 0; k < encoding.n_joins; ++k) join_rows(encoding.joins[k], room.features, n_lanes, row);
                const float* z = forward(network, room.features, n_lanes, first);
                if (n_code) {
                    const int64_t* ray = points.ray;
                    gather_rows(points.code, n_code, count, room.gathered, room.input + n_geometry * row, row,
                                [at, ray](int64_t i) { return ray ? ray[at[i]] : at[i]; });
                }
                const float* rgb = forward(shade, room.input, n_lanes, second);
                for (int64_t i = 0; i < count; ++i) {
                    float* to = out + 4 * at[i];
                    to[0] = z[i];
                    for (int c = 0; c < 3; ++c) to[c + 1] = rgb[c * row + i];
                }
            });
        }
    });
}

}  // namespace fieldforge::cpu::FF_SET
