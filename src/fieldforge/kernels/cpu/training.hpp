// A whole training step of a field: draw, encode, run, compare, go back, update.
#pragma once
#include "adam.hpp"
#include "field.hpp"
#include "loss.hpp"

namespace fieldforge::cpu::FF_SET {

// Coordinates, the centre of sample i being (i + 1/2) / size along each axis, and values of drawn samples. False when an
// index lies outside the raster.
template <class Stored>
bool draw_samples(const Raster& raster, const int64_t* index, int64_t first, int64_t last, float* x, float* target) {
    const auto* values = static_cast<const Stored*>(raster.values);
    uint64_t n_samples = 1;
    for (int d = 0; d < raster.n_axes; ++d) n_samples *= static_cast<uint64_t>(raster.sizes[d]);
    const bool is_small = n_samples >> 32 == 0;  // 32-bit divisions are several times quicker
    for (int64_t i = first; i < last; ++i) {
        uint64_t rest = static_cast<uint64_t>(index[i]);
        if (rest >= n_samples) return false;
        const Stored* from = values + rest * static_cast<uint64_t>(raster.n_channels);
        for (int c = 0; c < raster.n_channels; ++c) {
            target[i * raster.n_channels + c] = static_cast<float>(from[c]) * raster.scale[c] + raster.offset[c];
        }
        for (int d = 0; d < raster.n_axes; ++d) {
            const uint64_t size = static_cast<uint64_t>(raster.sizes[d]);
            const uint64_t quotient =
                is_small ? static_cast<uint32_t>(rest) / static_cast<uint32_t>(size) : rest / size;
            x[i * raster.n_axes + d] =
                (static_cast<float>(rest - quotient * size) + 0.5f) / static_cast<float>(raster.sizes[d]);
            rest = quotient;
        }
    }
    return true;
}

inline StepResult train_step(const Field& field, const Batch& batch, const Adam& adam, int n_threads) {
    const Mlp& mlp = *field.mlp;
    const int n_out = mlp.n_outputs();
    Scratch scratch;
    const float* x = batch.x;
    const float* target = batch.target;
    if (batch.raster) {
        const Raster& raster = *batch.raster;
        float* drawn_x = scratch.floats(batch.n * raster.n_axes);
        float* drawn_target = scratch.floats(batch.n * n_out);
        const int64_t piece = 4096, n_pieces = pieces(batch.n, piece);
        float* is_bad = scratch.floats(n_pieces);
        parallel_for(n_threads, n_pieces, [&](int64_t k, int) {
            const int64_t first = k * piece, last = smaller(batch.n, first + piece);
            const auto draw = raster.pixel == Pixel::uint8    ? draw_samples<uint8_t>
                              : raster.pixel == Pixel::uint16 ? draw_samples<uint16_t>
                                                              : draw_samples<float>;
            is_bad[k] = draw(raster, batch.index, first, last, drawn_x, drawn_target) ? 0.0f : 1.0f;
        });
        for (int64_t k = 0; k < n_pieces; ++k) {
            if (is_bad[k] != 0.0f) return {0.0, 0.0, true};
        }
        x = drawn_x;
        target = drawn_target;
    }

    // forward, loss, backward
    const double n_numbers = static_cast<double>(batch.n) * n_out;
    const float scale = static_cast<float>(1.0 / n_numbers);
    const int64_t n_spans = count_spans(mlp, pieces(batch.n, tile_points(mlp)));
    auto* sums = reinterpret_cast<LossSums*>(scratch.doubles(8 * n_spans));  // of each span, a cache line apart
    for (int64_t s = 0; s < n_spans; ++s) sums[4 * s] = {0.0, 0.0};
    const Pass pass = learn(field, x, batch.n, true, field.has_tables(), nullptr, scratch, n_threads,
                            [&](int64_t first, int64_t n_tile, int64_t span, const float* y, const Work& work) {
        rows_to_tile(target + first * n_out, n_tile, n_out, work.gradient[0], work.row);
        const LossSums tile =
            loss_of_tile(batch.loss, y, work.gradient[0], work.row, n_out, n_tile, batch.huber_delta, scale,
                         work.gradient[0], batch.sample_loss ? batch.sample_loss + first : nullptr);
        sums[4 * span].loss += tile.loss;
        sums[4 * span].squared_error += tile.squared_error;
    });
    StepResult result{0.0, 0.0, false};
    for (int64_t s = 0; s < n_spans; ++s) {
        result.loss += sums[4 * s].loss / n_numbers;
        result.squared_error += sums[4 * s].squared_error / n_numbers;
    }
    if (!std::isfinite(result.loss)) return result;

    // update
    parallel_for(n_threads, mlp.n_layers, [&](int64_t l, int) {
        const int64_t n_weights = static_cast<int64_t>(mlp.widths[l]) * mlp.widths[l + 1];
        adam_step(adam, adam.l2, n_weights, pass.grad + mlp.weight_offset[l], field.weights[l], adam.weights_m[l],
                  adam.weights_v[l]);
        if (mlp.has_bias) {
            adam_step(adam, adam.l2, mlp.widths[l + 1], pass.grad + mlp.bias_offset[l], field.biases[l],
                      adam.biases_m[l], adam.biases_v[l]);
        }
    });
    if (field.grid) {
        // each part of the table is updated while its gradient is still in the cache; it never exists as a whole
        scatter(*field.grid, pass.points, batch.n, pass.encoded, scratch, n_threads,
                [&](int64_t first, int64_t count, const float* gradient) {
            adam_step(adam, 0.0f, count, gradient, field.table + first, adam.table_m + first, adam.table_v + first);
        });
    }
    for (int k = 0; field.encoding && k < field.encoding->n_parts; ++k) {
        const Part& part = field.encoding->parts[k];
        if (!part.grid) continue;
        pass.batch.scatter_part(k, scratch, n_threads, [&](int64_t first, int64_t count, const float* gradient) {
            adam_step(adam, 0.0f, count, gradient, field.tensors[part.tensor] + first,
                      adam.tensors_m[part.tensor] + first, adam.tensors_v[part.tensor] + first);
        });
    }
    return result;
}

}  // namespace fieldforge::cpu::FF_SET
