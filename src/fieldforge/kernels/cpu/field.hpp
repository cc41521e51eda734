// Encoding and network together: values and gradients of a field.
#pragma once
#include "encoded.hpp"
#include "mlp.hpp"

namespace fieldforge::cpu::FF_SET {

constexpr int64_t block_points = 1 << 16;  // of inference: its encoding stays in the shared cache

inline void field_forward(const Field& given, const float* x, int64_t n, float* out, int n_threads) {
    const Mlp& mlp = *given.mlp;
    const int n_in = given.n_inputs(), n_out = mlp.n_outputs(), points = tile_points(mlp);
    Scratch scratch;
    const Field field = with_rounded(given, nullptr, scratch);
    const Work* works = make_works(mlp, scratch, false, n_threads);
    const int64_t block = smaller(round_up(n, points), block_points);
    Tiles encoded(nullptr, points, padded_rows(mlp.n_inputs()));
    if (field.grid) encoded.data = scratch.floats(pieces(block, points) * encoded.stride);
    EncodedBatch batch;
    if (field.encoding) batch.prepare(*field.encoding, field.tensors, points, block, false, scratch, n_threads);
    for (int64_t first = 0; first < n; first += block) {
        const int64_t n_here = smaller(block, n - first), n_tiles = pieces(n_here, points);
        if (field.grid) {
            Scratch axes;
            const Points where = split_axes(x + first * n_in, n_here, n_in, n_tiles, points, axes, n_threads);
            encode(*field.grid, field.table, where, n_tiles, encoded, n_threads);
        }
        Scratch axes;
        if (field.encoding) batch.begin(x + first * n_in, n_here, axes, n_threads);
        parallel_for(n_threads, n_tiles, [&](int64_t tile, int thread) {
            const Work& work = works[thread];
            const int64_t start = first + tile * points, n_tile = smaller(points, n - start);
            const float* input = encoded.at(tile, 0);
            if (field.encoding) {
                input = batch.finish_tile(tile, thread);
            } else if (!field.grid) {
                rows_to_tile(x + start * n_in, n_tile, n_in, work.value[0], work.row);
                input = work.value[0];
            }
            const float* y = forward(field, input, round_up(n_tile, lanes), work);
            tile_to_rows(y, work.row, n_tile, n_out, out + start * n_out);
        });
    }
}

// What a pass through the network leaves behind.
struct Pass {
    Points points;     // of the grid
    Tiles encoded;     // behind a grid: the gradient in its features
    const float* grad; // of the network's parameters, flat
    EncodedBatch batch; // behind another encoding
};

// Forward and backward for all points. `output_gradient(tile, first point, n points, span, outputs, work)` writes the
// gradient in the outputs of a tile to work.gradient[0], zero beyond the last point.
//
// Gradients of parameters are added up in spans of tiles, and the spans in their order. How many spans there are
// depends on the sizes alone, never on the number of threads: the sums are the same for any.
FF_INLINE int64_t count_spans(const Mlp& mlp, int64_t n_tiles) {
    const int64_t fitting = (int64_t{1} << 22) / mlp.n_parameters;  // 16 MiB of sums, but 8 spans at least
    return smaller((n_tiles + 1) / 2, larger(8, smaller(32, fitting)));
}

// All spans onto the first, in their order.
inline void add_spans(float* grads, int64_t n_parameters, int64_t n_spans, int64_t span_floats, int n_threads) {
    const int64_t piece = 4096;
    parallel_for(n_threads, pieces(n_parameters, piece), [&](int64_t k, int) {
        for (int64_t span = 1; span < n_spans; ++span) {
            const float* from = grads + span * span_floats;
            for (int64_t i = k * piece; i < smaller(n_parameters, (k + 1) * piece); ++i) grads[i] += from[i];
        }
    });
}

// transposes[l] becomes (widths[l], widths[l + 1]).
inline void transpose_weights(const Field& field, Scratch& scratch, const float** transposes) {
    for (int l = 0; l < field.mlp->n_layers; ++l) {
        const int64_t in = field.mlp->widths[l], out = field.mlp->widths[l + 1];
        float* t = scratch.floats(in * out);
        transpose(field.weights[l], in, out, in, t, out);
        transposes[l] = t;
    }
}

template <class OutputGradient>
Pass learn(const Field& given, const float* x, int64_t n, bool wants_parameters, bool wants_inputs, float* grad_x,
           Scratch& scratch, int n_threads, OutputGradient&& output_gradient) {
    const Mlp& mlp = *given.mlp;
    const int n_in = given.n_inputs(), points = tile_points(mlp);
    const int64_t n_tiles = pieces(n, points);
    Pass pass{{}, Tiles(nullptr, points, padded_rows(mlp.n_inputs())), nullptr, {}};
    if (given.grid) {
        pass.encoded.data = scratch.floats(n_tiles * pass.encoded.stride);
        pass.points = split_axes(x, n, n_in, n_tiles, points, scratch, n_threads);
        encode(*given.grid, given.table, pass.points, n_tiles, pass.encoded, n_threads);
    }
    if (given.encoding) {
        pass.batch.prepare(*given.encoding, given.tensors, points, n, wants_inputs, scratch, n_threads);
        pass.batch.begin(x, n, scratch, n_threads);
    }
    const float* transposes[max_layers];
    transpose_weights(given, scratch, transposes);
    const Field field = with_rounded(given, transposes, scratch);
    const Work* works = make_works(mlp, scratch, true, n_threads);
    const int64_t n_spans = count_spans(mlp, n_tiles), span_floats = round_up(mlp.n_parameters, 16) + 16;
    float* grads = wants_parameters ? scratch.floats(larger(1, n_spans) * span_floats) : nullptr;
    if (wants_parameters && n_spans == 0) std::memset(grads, 0, sizeof(float) * static_cast<size_t>(span_floats));

    parallel_for(n_threads, n_spans, [&](int64_t span, int thread) {
        const Work& work = works[thread];
        float* grad = wants_parameters ? grads + span * span_floats : nullptr;
        if (grad) std::memset(grad, 0, sizeof(float) * static_cast<size_t>(span_floats));
        for (int64_t tile = n_tiles * span / n_spans; tile < n_tiles * (span + 1) / n_spans; ++tile) {
            const int64_t start = tile * points, n_tile = smaller(points, n - start);
            float* input = field.grid       ? pass.encoded.at(tile, 0)
                           : field.encoding ? pass.batch.finish_tile(tile, thread)
                                            : work.value[0];
            if (!field.grid && !field.encoding) rows_to_tile(x + start * n_in, n_tile, n_in, input, work.row);
            const int64_t n_lanes = round_up(n_tile, lanes);
            const float* y = forward(field, input, n_lanes, work);
            output_gradient(start, n_tile, span, y, work);
            float* grad_input = field.encoding && wants_inputs ? pass.batch.rooms[thread].gradient : input;
            backward(field, input, n_lanes, work, transposes, grad, wants_inputs ? grad_input : nullptr);
            if (wants_inputs && field.encoding) {
                pass.batch.back_tile(tile, thread, grad_x);
            } else if (wants_inputs && !field.grid) {
                tile_to_rows(input, work.row, n_tile, n_in, grad_x + start * n_in);
            }
        }
    });
    if (wants_parameters) add_spans(grads, mlp.n_parameters, n_spans, span_floats, n_threads);
    pass.grad = grads;
    return pass;
}

// The flat gradient of a network's parameters to where they are wanted.
inline void hand_out(const Mlp& mlp, const float* grad, const FieldGradients& wanted) {
    for (int l = 0; l < mlp.n_layers; ++l) {
        const auto copy = [&](float* to, int64_t offset, int64_t count) {
            if (to) std::memcpy(to, grad + offset, sizeof(float) * static_cast<size_t>(count));
        };
        copy(wanted.weights[l], mlp.weight_offset[l], static_cast<int64_t>(mlp.widths[l]) * mlp.widths[l + 1]);
        copy(wanted.biases[l], mlp.bias_offset[l], mlp.widths[l + 1]);
    }
}

FF_INLINE bool wants_network(const Mlp& mlp, const FieldGradients& wanted) {
    bool wants = false;
    for (int l = 0; l < mlp.n_layers; ++l) wants |= wanted.weights[l] || wanted.biases[l];
    return wants;
}

inline void field_backward(const Field& field, const float* x, int64_t n, const float* grad_out,
                           const FieldGradients& wanted, int n_threads) {
    const Mlp& mlp = *field.mlp;
    const int n_out = mlp.n_outputs();
    const bool wants_parameters = wants_network(mlp, wanted);
    bool wants_inputs = wanted.x || wanted.table;
    for (int k = 0; k < max_parts; ++k) wants_inputs |= wanted.tensors[k] != nullptr;
    Scratch scratch;
    const Pass pass = learn(field, x, n, wants_parameters, wants_inputs, wanted.x, scratch, n_threads,
                            [&](int64_t first, int64_t n_tile, int64_t, const float*, const Work& work) {
        rows_to_tile(grad_out + first * n_out, n_tile, n_out, work.gradient[0], work.row);
    });
    hand_out(mlp, pass.grad, wanted);
    if (field.encoding) {
        if (wanted.x) pass.batch.back_grids(wanted.x, scratch, n_threads);
        copy_table_gradients(pass.batch, wanted.tensors, scratch, n_threads);
    }
    if (!field.grid) return;
    if (wanted.x) {
        differentiate_rows(*field.grid, field.table, pass.points, n, pass.encoded, wanted.x, scratch, n_threads);
    }
    if (wanted.table) {
        scatter(*field.grid, pass.points, n, pass.encoded, scratch, n_threads,
                [&](int64_t first, int64_t count, const float* gradient) {
            std::memcpy(wanted.table + first, gradient, sizeof(float) * static_cast<size_t>(count));
        });
    }
}

}  // namespace fieldforge::cpu::FF_SET
