// Batches of points through an encoding of several parts, tile by tile: to its features, and back from their gradient.
#pragma once
#include "encodings.hpp"

namespace fieldforge::cpu::FF_SET {

// What a thread needs beside the tile it works on.
struct EncodingRoom {
    float* axes;      // the coordinates of a tile
    float* features;  // where no grid keeps the features of all tiles
    float* gradient;  // in every row of a tile
    float* axes_gradient;
};

// A batch on its way through an encoding.
struct EncodedBatch {
    const Encoding* encoding = nullptr;
    float* const* tensors = nullptr;
    const float* x = nullptr;  // (n, n_inputs)
    int64_t n = 0;
    Tiles tiles{nullptr, 0, 0};  // the memory is there only behind a grid
    Points points[max_parts];    // of each grid
    EncodingRoom* rooms = nullptr;

    // Room for n points at a time, and for the way back `with_gradient`.
    void prepare(const Encoding& its_encoding, float* const* its_tensors, int tile_points, int64_t n_at_a_time,
                 bool with_gradient, Scratch& scratch, int n_threads) {
        encoding = &its_encoding;
        tensors = its_tensors;
        tiles = Tiles(nullptr, tile_points, padded_rows(encoding->n_rows));
        if (encoding->has_grids) tiles.data = scratch.floats(pieces(n_at_a_time, tile_points) * tiles.stride);
        rooms = reinterpret_cast<EncodingRoom*>(
            scratch.floats(static_cast<int64_t>(sizeof(EncodingRoom) / sizeof(float)) * n_threads));
        const int64_t axes = encoding->n_inputs * tiles.row;
        for (int t = 0; t < n_threads; ++t) {
            rooms[t] = {scratch.floats(axes), encoding->has_grids ? nullptr : scratch.floats(tiles.stride),
                        with_gradient ? scratch.floats(tiles.stride) : nullptr,
                        with_gradient ? scratch.floats(axes) : nullptr};
        }
    }

    // Rows of a part's features in all tiles.
    Tiles rows_of(const Part& part) const {
        Tiles rows = tiles;
        rows.data += part.first_row * tiles.row;
        return rows;
    }

    // Begin with n points: every grid looks up all of them.
    void begin(const float* its_x, int64_t its_n, Scratch& scratch, int n_threads) {
        x = its_x;
        n = its_n;
        const int64_t n_tiles = pieces(n, tiles.n_points);
        for (int k = 0; k < encoding->n_parts; ++k) {
            const Part& part = encoding->parts[k];
            if (!part.grid) continue;
            points[k] = split_axes(x + part.first_input, n, part.n_inputs, n_tiles, tiles.n_points, scratch, n_threads,
                                   encoding->n_inputs);
            encode(*part.grid, tensors[part.tensor], points[k], n_tiles, rows_of(part), n_threads);
        }
    }

    FF_INLINE float* features(int64_t tile, int thread) const {
        return encoding->has_grids ? tiles.at(tile, 0) : rooms[thread].features;
    }

    // The features of a tile, complete.
    float* finish_tile(int64_t tile, int thread) const {
        const int64_t start = tile * tiles.n_points, n_tile = smaller(tiles.n_points, n - start);
        const int64_t n_lanes = round_up(n_tile, lanes), row = tiles.row;
        float *axes = rooms[thread].axes, *to = features(tile, thread);
        rows_to_tile(x + start * encoding->n_inputs, n_tile, encoding->n_inputs, axes, row);
        for (int k = 0; k < encoding->n_parts; ++k) {
            const Part& part = encoding->parts[k];
            encode_part(part, part.tensor < 0 ? nullptr : tensors[part.tensor], axes + part.first_input * row, n_lanes,
                        to + part.first_row * row, row);
        }
        for (int k = 0; k < encoding->n_joins; ++k) join_rows(encoding->joins[k], to, n_lanes, row);
        return to;
    }

    // After finish_tile, with the gradient in the features at the head of the thread's `gradient`: write the gradient
    // in the coordinates to grad_x (n, n_inputs) unless null, and leave the one in a grid's features in their place.
    void back_tile(int64_t tile, int thread, float* grad_x) const {
        const EncodingRoom& room = rooms[thread];
        const int64_t start = tile * tiles.n_points, n_tile = smaller(tiles.n_points, n - start);
        const int64_t n_lanes = round_up(n_tile, lanes), row = tiles.row;
        float* value = features(tile, thread);
        for (int k = encoding->n_joins - 1; k >= 0; --k) back_join(encoding->joins[k], value, room.gradient, n_lanes, row);
        if (grad_x) {
            const int n_in = encoding->n_inputs;
            std::memset(room.axes_gradient, 0, sizeof(float) * static_cast<size_t>(n_in * row));
            for (int k = 0; k < encoding->n_parts; ++k) {
                const Part& part = encoding->parts[k];
                const PartTile of_part{room.axes + part.first_input * row, value + part.first_row * row, n_lanes, row};
                back_part(part, part.tensor < 0 ? nullptr : tensors[part.tensor], of_part,
                          room.gradient + part.first_row * row, room.axes_gradient + part.first_input * row);
            }
            tile_to_rows(room.axes_gradient, row, n_tile, n_in, grad_x + start * n_in);
        }
        for (int k = 0; k < encoding->n_parts; ++k) {
            const Part& part = encoding->parts[k];
            if (!part.grid) continue;
            std::memcpy(value + part.first_row * row, room.gradient + part.first_row * row,
                        sizeof(float) * static_cast<size_t>((part.n_rows - 1) * row + n_lanes));
        }
    }

    // After all tiles went back: add the gradient in the coordinates of the grids.
    void back_grids(float* grad_x, Scratch& scratch, int n_threads) const {
        const int n_in = encoding->n_inputs;
        for (int k = 0; k < encoding->n_parts; ++k) {
            const Part& part = encoding->parts[k];
            if (!part.grid) continue;
            float* slope = scratch.floats(n * part.n_inputs);
            differentiate_rows(*part.grid, tensors[part.tensor], points[k], n, rows_of(part), slope, scratch, n_threads);
            const int64_t piece = 4096;
            parallel_for(n_threads, pieces(n, piece), [&](int64_t task, int) {
                for (int64_t i = task * piece; i < smaller(n, (task + 1) * piece); ++i) {
                    for (int d = 0; d < part.n_inputs; ++d) {
                        grad_x[i * n_in + part.first_input + d] += slope[i * part.n_inputs + d];
                    }
                }
            });
        }
    }

    // And the gradient of a grid's table; `use` as for `scatter`.
    template <class Use>
    void scatter_part(int k, Scratch& scratch, int n_threads, Use&& use) const {
        const Part& part = encoding->parts[k];
        scatter(*part.grid, points[k], n, rows_of(part), scratch, n_threads, use);
    }
};

// Copy the gradients of the wanted tables.
inline void copy_table_gradients(const EncodedBatch& batch, float* const* wanted, Scratch& scratch, int n_threads) {
    for (int k = 0; k < batch.encoding->n_parts; ++k) {
        const Part& part = batch.encoding->parts[k];
        float* to = part.grid ? wanted[part.tensor] : nullptr;
        if (!to) continue;
        batch.scatter_part(k, scratch, n_threads, [to](int64_t first, int64_t count, const float* gradient) {
            std::memcpy(to + first, gradient, sizeof(float) * static_cast<size_t>(count));
        });
    }
}

}  // namespace fieldforge::cpu::FF_SET
