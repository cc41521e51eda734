// The backward pass of a backward pass: what losses on spatial derivatives (an eikonal loss, a normal) go through.
//
// The first backward pass of y(x, parameters) gives v = J^T g. Given u, the gradient in v, the gradients asked for are
// those of s = u . v = g . J u, and J u is the derivative of y along u. So one pass forward carries every number together
// with its derivative along u, and one pass back carries the adjoints of both, and with them, where the loss looks at y
// too, the gradient in y. A tile holds half as many points as in the first pass: numbers in the first half of each row,
// what belongs to their derivatives along u in the second.
#pragma once
#include "field.hpp"
#include "second_grid.hpp"

namespace fieldforge::cpu::FF_SET {

// ---- network

// Pre-activations and their derivatives along u, in place, to those of the values; `derivative` and `bend` keep what
// the way back needs: a'(z), and a''(z) times the derivative of z along u.
__attribute__((noinline)) inline void activate_along(Activation activation, float number, int64_t n_rows,
                                                     int64_t n_points, float* value, float* along, float* derivative,
                                                     float* bend, int64_t row) {
    with_activation(activation, [&]<Activation A> {
        for (int64_t r = 0; r < n_rows; ++r) {
            for (int64_t p = r * row; p < r * row + n_points; p += lanes) {
                const Floats z = load(value + p), z_along = load(along + p);
                Floats slope;
                const Floats y = activation_at<A, true>(z, number, slope);
                store(value + p, y);
                store(along + p, slope * z_along);
                store(derivative + p, slope);
                store(bend + p, second_derivative_at<A>(z, number, y, slope) * z_along);
            }
        }
    });
}

// Values and derivatives along u of all layers, from those of the inputs. The values of linear outputs are left out, and
// neither they nor their derivatives are scaled.
inline const float* forward_along(const Field& field, const float* input, int64_t half, const Work& work) {
    const Mlp& mlp = *field.mlp;
    const int64_t row = work.row;
    const float* x = input;
    for (int l = 0; l < mlp.n_layers; ++l) {
        const Activation a = activation_after(mlp, l);
        const float* w = field.weights[l];
        const int n_in = mlp.widths[l], n_out = mlp.widths[l + 1];
        float* y = work.value[l + 1];
        float* derivative = work.derivative[l + 1];
        if (a == Activation::relu && !derivative) {
            multiply<Finish::relu>(w, n_out, n_in, field.biases[l], x, row, y, row, half);
            multiply<Finish::where_active>(w, n_out, n_in, nullptr, x + half, row, y + half, row, half, y, row);
        } else {
            if (l + 1 < mlp.n_layers || a != Activation::none) {
                multiply<Finish::plain>(w, n_out, n_in, field.biases[l], x, row, y, row, half);
            }
            multiply<Finish::plain>(w, n_out, n_in, nullptr, x + half, row, y + half, row, half);
            if (a != Activation::none) {
                activate_along(a, number_after(mlp, l), n_out, half, y, y + half, derivative, derivative + half, row);
            }
        }
        x = y;
    }
    return x;
}

// Whether gradients reach the values of layer l's inputs at all: a network of straight pieces has slopes that do not
// change with them.
FF_INLINE bool bends_after(const Mlp& mlp, int l) {
    return is_curved(mlp.output_activation) || (l + 1 < mlp.n_layers && is_curved(mlp.activation));
}

// From g in the second half of work.gradient[0], and the gradient in y in the first if there is one: the adjoints of the
// last pre-activations and of their derivatives.
inline void through_output_activation_along(const Mlp& mlp, int64_t half, const Work& work, bool has_value) {
    const float* derivative = work.derivative[mlp.n_layers];
    for (int64_t o = 0; o < mlp.n_outputs(); ++o) {
        const float scale = mlp.output_scale ? mlp.output_scale[o] : 1.0f;
        float* value = work.gradient[0] + o * work.row;
        float* along = value + half;
        for (int64_t p = 0; p < half; p += lanes) {
            const Floats g = load(along + p) * scale, g_value = has_value ? load(value + p) * scale : Floats{};
            const Floats slope = derivative ? load(derivative + o * work.row + p) : all(1.0f);
            const Floats bend = derivative ? load(derivative + o * work.row + half + p) : Floats{};
            store(value + p, fma(bend, g, slope * g_value));
            store(along + p, slope * g);
        }
    }
}

// The same through a hidden activation, in place, from the adjoints of the values and of their derivatives.
inline void through_activation_along(const float* derivative, int n_rows, int64_t half, int64_t row, bool has_value,
                                     float* gradient) {
    for (int64_t r = 0; r < n_rows; ++r) {
        float* value = gradient + r * row;
        float* along = value + half;
        for (int64_t p = 0; p < half; p += lanes) {
            const Floats slope = load(derivative + r * row + p), g = load(along + p);
            Floats sum = load(derivative + r * row + half + p) * g;
            if (has_value) sum = fma(slope, load(value + p), sum);
            store(value + p, sum);
            store(along + p, slope * g);
        }
    }
}

// After `forward_along`, from g in the second half of work.gradient[0] and the gradient in y in the first (if
// `has_gradient`), both zero beyond the last point: add the gradient of
// the parameters to the flat vector `grad` (unless null) and write the adjoints of the inputs and of their derivatives to
// `grad_input` (unless null; it may be the memory of the inputs). The first half of it is left as it is where
// neither `has_gradient` nor `bends_after(mlp, 0)`.
inline void backward_along(const Field& field, const float* input, int64_t half, const Work& work,
                           const float* const* transposes, bool has_gradient, float* grad, float* grad_input) {
    const Mlp& mlp = *field.mlp;
    const int64_t row = work.row;
    float* grad_y = work.gradient[0];
    float* grad_x = work.gradient[1];
    through_output_activation_along(mlp, half, work, has_gradient);
    for (int l = mlp.n_layers - 1; l >= 0; --l) {
        const int n_in = mlp.widths[l], n_out = mlp.widths[l + 1];
        const bool has_value = has_gradient || bends_after(mlp, l);
        const int64_t from = has_value ? 0 : half, count = has_value ? 2 * half : half;
        const float* x = l ? work.value[l] : input;
        if (grad) {
            add_weight_gradient(grad_y + from, row, n_out, x + from, row, n_in, count, grad + mlp.weight_offset[l],
                                work.transposed);
            if (mlp.has_bias && has_value) {
                add_bias_gradient(grad_y, row, n_out, half, grad + mlp.bias_offset[l]);
            }
        }
        if (l > 0 && mlp.activation == Activation::relu) {
            for (int64_t part = from; part < 2 * half; part += half) {
                multiply<Finish::where_active>(transposes[l], n_in, n_out, nullptr, grad_y + part, row, grad_x + part,
                                               row, half, x, row);
            }
        } else if (l > 0) {
            multiply<Finish::plain>(transposes[l], n_in, n_out, nullptr, grad_y + from, row, grad_x + from, row, count);
            if (work.derivative[l]) {
                through_activation_along(work.derivative[l], n_in, half, row, has_value, grad_x);
            }
        } else if (grad_input) {
            multiply<Finish::plain>(transposes[0], n_in, n_out, nullptr, grad_y + from, row, grad_input + from, row,
                                    count);
        }
        float* done = grad_y;
        grad_y = grad_x;
        grad_x = done;
    }
}

// ---- grid and network

// rows_to_tile for a half tile: zero from point n to its end.
inline void rows_to_half(const float* x, int64_t n, int n_columns, float* tile, int64_t row, int64_t half) {
    rows_to_tile(x, n, n_columns, tile, row);
    for (int k = 0; k < n_columns; ++k) {
        for (int64_t i = round_up(n, lanes); i < half; ++i) tile[k * row + i] = 0.0f;
    }
}

inline void field_double_backward(const Field& field, const float* x, int64_t n, const float* grad_out,
                                  const float* cotangent, const float* gradient, float* out,
                                  const FieldGradients& wanted, int n_threads) {
    const Mlp& mlp = *field.mlp;
    const int n_in = field.n_inputs(), n_out = mlp.n_outputs(), half = tile_points(mlp) / 2;
    const int64_t n_tiles = pieces(n, half);
    const bool wants_parameters = wants_network(mlp, wanted), wants_inputs = wanted.x || wanted.table;
    const bool has_value = gradient || bends_after(mlp, 0);
    Scratch scratch;
    Tiles encoded(nullptr, half, 0);
    GridAlong grid{};
    if (field.grid) {
        encoded = double_tiles(n, half, padded_rows(mlp.n_inputs()), scratch);
        grid = grid_along(*field.grid, field.table, x, cotangent, n, half, scratch, n_threads);
        grid.encode(encoded, n_threads);
    }
    const float* transposes[max_layers];
    transpose_weights(field, scratch, transposes);
    const Work* works = make_works(mlp, scratch, true, n_threads);
    const int64_t n_spans = count_spans(mlp, n_tiles), span_floats = round_up(mlp.n_parameters, 16) + 16;
    float* grads = wants_parameters ? scratch.floats(larger(1, n_spans) * span_floats) : nullptr;
    if (grads && n_spans == 0) std::memset(grads, 0, sizeof(float) * static_cast<size_t>(span_floats));

    parallel_for(n_threads, n_spans, [&](int64_t span, int thread) {
        const Work& work = works[thread];
        float* grad = grads ? grads + span * span_floats : nullptr;
        if (grad) std::memset(grad, 0, sizeof(float) * static_cast<size_t>(span_floats));
        for (int64_t tile = n_tiles * span / n_spans; tile < n_tiles * (span + 1) / n_spans; ++tile) {
            const int64_t start = tile * half, n_tile = smaller(half, n - start);
            float* input = field.grid ? encoded.at(tile, 0) : work.value[0];
            if (!field.grid) {
                rows_to_half(x + start * n_in, n_tile, n_in, input, work.row, half);
                rows_to_half(cotangent + start * n_in, n_tile, n_in, input + half, work.row, half);
            }
            const float* y = forward_along(field, input, half, work);
            if (out) {
                tile_to_rows(y + half, work.row, n_tile, n_out, out + start * n_out);
                if (mlp.output_scale) {
                    for (int64_t i = start * n_out; i < (start + n_tile) * n_out; ++i) out[i] *= mlp.output_scale[i % n_out];
                }
            }
            if (!grad && !wants_inputs) continue;
            rows_to_half(grad_out + start * n_out, n_tile, n_out, work.gradient[0] + half, work.row, half);
            if (gradient) rows_to_half(gradient + start * n_out, n_tile, n_out, work.gradient[0], work.row, half);
            backward_along(field, input, half, work, transposes, gradient != nullptr, grad,
                           wants_inputs ? input : nullptr);
            if (wanted.x && !field.grid) {
                if (has_value) {
                    tile_to_rows(input, work.row, n_tile, n_in, wanted.x + start * n_in);
                } else {
                    std::memset(wanted.x + start * n_in, 0, sizeof(float) * static_cast<size_t>(n_tile * n_in));
                }
            }
        }
    });
    if (grads) {
        add_spans(grads, mlp.n_parameters, n_spans, span_floats, n_threads);
        hand_out(mlp, grads, wanted);
    }
    if (field.grid) grid.backward(encoded, has_value, wanted.table, wanted.x, scratch, n_threads);
}

}  // namespace fieldforge::cpu::FF_SET
