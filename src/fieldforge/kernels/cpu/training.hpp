// A whole training step of a field: draw, encode, run, compare, go back, update.
#pragma once
#include "draw.hpp"
#include "field.hpp"
#include "loss.hpp"
#include "update.hpp"

namespace fieldforge::cpu::FF_SET {

// Move a network's parameters by their flat gradient.
inline void move_network(const Field& field, const Moves& moves, const float* grad, int n_threads) {
    const Mlp& mlp = *field.mlp;
    parallel_for(n_threads, mlp.n_layers, [&](int64_t l, int) {
        const int64_t n_weights = static_cast<int64_t>(mlp.widths[l]) * mlp.widths[l + 1];
        update(moves.weights[l], 0, n_weights, grad + mlp.weight_offset[l], field.weights[l]);
        if (mlp.has_bias) update(moves.biases[l], 0, mlp.widths[l + 1], grad + mlp.bias_offset[l], field.biases[l]);
    });
}

inline StepResult train_step(const Field& field, const Batch& batch, const Moves& moves, int n_threads) {
    const Mlp& mlp = *field.mlp;
    const int n_out = mlp.n_outputs();
    Scratch scratch;
    const float* x = batch.x;
    const float* target = batch.target;
    if (batch.draw) {
        float* drawn_x = scratch.floats(batch.n * batch.draw->raster->n_axes);
        float* drawn_target = scratch.floats(batch.n * n_out);
        draw_batch(*batch.draw, batch.n, drawn_x, drawn_target, n_threads);
        x = drawn_x;
        target = drawn_target;
    }
    const bool moves_table = field.grid && moves.table.rule.mover != Mover::none;
    bool moves_tables = moves_table;
    for (int k = 0; field.encoding && k < field.encoding->n_parts; ++k) {
        const Part& part = field.encoding->parts[k];
        moves_tables |= part.grid && moves.tensors[part.tensor].rule.mover != Mover::none;
    }

    // forward, loss, backward
    const double n_numbers = static_cast<double>(batch.n) * n_out;
    const float scale = static_cast<float>(1.0 / n_numbers);
    const int64_t n_spans = count_spans(mlp, pieces(batch.n, tile_points(mlp)));
    auto* sums = reinterpret_cast<LossSums*>(scratch.doubles(8 * n_spans));  // of each span, a cache line apart
    for (int64_t s = 0; s < n_spans; ++s) sums[4 * s] = {0.0, 0.0};
    const Pass pass = learn(field, x, batch.n, true, moves_tables, nullptr, scratch, n_threads,
                            [&](int64_t first, int64_t n_tile, int64_t span, const float* y, const Work& work) {
        rows_to_tile(target + first * n_out, n_tile, n_out, work.gradient[0], work.row);
        const LossSums tile =
            loss_of_tile(batch.loss, y, work.gradient[0], work.row, n_out, n_tile, batch.huber_delta, scale,
                         work.gradient[0], batch.sample_loss ? batch.sample_loss + first : nullptr);
        sums[4 * span].loss += tile.loss;
        sums[4 * span].squared_error += tile.squared_error;
    });
    StepResult result{};
    for (int64_t s = 0; s < n_spans; ++s) {
        result.loss += sums[4 * s].loss / n_numbers;
        result.squared_error += sums[4 * s].squared_error / n_numbers;
    }
    if (!std::isfinite(result.loss) || (batch.may_move && !batch.may_move(batch.context))) return result;
    result.has_moved = true;

    // update
    move_network(field, moves, pass.grad, n_threads);
    if (moves_table) {
        // each part of the table is updated while its gradient is still in the cache; it never exists as a whole
        scatter(*field.grid, pass.points, batch.n, pass.encoded, scratch, n_threads,
                [&](int64_t first, int64_t count, const float* gradient) {
            update(moves.table, first, count, gradient, field.table + first);
        });
    } else if (field.grid) {
        update(moves.table, 0, field.grid->n_entries * field.grid->n_features, nullptr, field.table);
    }
    for (int k = 0; field.encoding && k < field.encoding->n_parts; ++k) {
        const Part& part = field.encoding->parts[k];
        if (!part.grid) continue;
        const Moved& moved = moves.tensors[part.tensor];
        float* table = field.tensors[part.tensor];
        if (moved.rule.mover == Mover::none) {
            update(moved, 0, part.grid->n_entries * part.grid->n_features, nullptr, table);
            continue;
        }
        pass.batch.scatter_part(k, scratch, n_threads, [&](int64_t first, int64_t count, const float* gradient) {
            update(moved, first, count, gradient, table + first);
        });
    }
    return result;
}

}  // namespace fieldforge::cpu::FF_SET
