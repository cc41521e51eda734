// A multilayer perceptron on one tile of points: forward, and backward from the gradient in its outputs.
#pragma once
#include "activations.hpp"
#include "bf16.hpp"
#include "dense.hpp"
#include "pool.hpp"
#include "tiles.hpp"

namespace fieldforge::cpu::FF_SET {

// Narrow layers take wide tiles: their activations still fit the nearest caches, and calls are fewer.
FF_INLINE int tile_points(const Mlp& mlp) { return mlp.max_width <= 128 ? 256 : 128; }

// Memory for one tile. Every array has one row per feature, `row` floats apart, and rows up to a multiple of 16.
struct Work {
    int64_t row;
    float* value[max_layers + 1];       // outputs of each layer; [0] is room for the network's inputs
    float* derivative[max_layers + 1];  // of the activation after each layer, where a ReLU's sign does not do
    float* gradient[2];                 // in the outputs of a layer, and in its inputs
    float* transposed;
    uint32_t* room;  // for factors rounded to bfloat16

    // For inference two arrays take turns.
    Work(const Mlp& mlp, Scratch& scratch, bool with_gradient, int points) : row(points + row_padding) {
        const int64_t largest = padded_rows(mlp.max_width) * row;
        value[0] = scratch.floats(padded_rows(mlp.n_inputs()) * row);
        room = mlp.in_bf16 ? scratch.array<uint32_t>(2 * largest) : nullptr;
        if (!with_gradient) {
            float* turn[2] = {scratch.floats(largest), scratch.floats(largest)};
            for (int l = 1; l <= mlp.n_layers; ++l) value[l] = turn[l % 2], derivative[l] = nullptr;
            return;
        }
        for (int l = 1; l <= mlp.n_layers; ++l) {
            const bool is_output = l == mlp.n_layers;
            const Activation a = is_output ? mlp.output_activation : mlp.activation;
            const bool needs_none = a == Activation::none || (a == Activation::relu && !is_output);
            value[l] = scratch.floats(padded_rows(mlp.widths[l]) * row);
            derivative[l] = needs_none ? nullptr : scratch.floats(padded_rows(mlp.widths[l]) * row);
        }
        gradient[0] = scratch.floats(largest);
        gradient[1] = scratch.floats(largest);
        transposed = scratch.floats(points * transposed_row(mlp.max_width));
    }
    Work() = default;
};

// One for each thread, for tiles of `points`; 0: those that suit the network.
inline Work* make_works(const Mlp& mlp, Scratch& scratch, bool with_gradient, int n_threads, int points = 0) {
    auto* works = reinterpret_cast<Work*>(scratch.floats(static_cast<int64_t>(sizeof(Work) / sizeof(float) + 1) * n_threads));
    for (int t = 0; t < n_threads; ++t) works[t] = Work(mlp, scratch, with_gradient, points ? points : tile_points(mlp));
    return works;
}

FF_INLINE Activation activation_after(const Mlp& mlp, int layer) {
    return layer + 1 < mlp.n_layers ? mlp.activation : mlp.output_activation;
}
FF_INLINE float number_after(const Mlp& mlp, int layer) {
    return layer + 1 == mlp.n_layers ? mlp.output_number : layer == 0 ? mlp.first_number : mlp.number;
}

// y = finish(bias + w x) for one layer, or for the way back through it.
template <Finish finish>
FF_INLINE void product(const Mlp& mlp, const float* w, const uint32_t* rounded, int n_outputs, int n_inputs,
                       const float* bias, const float* x, float* y, int64_t n_points, const Work& work,
                       const float* factor = nullptr) {
    if (mlp.in_bf16) {
        multiply_rounded<finish>(rounded, n_outputs, n_inputs, bias, x, work.row, y, work.row, n_points, factor,
                                 work.row, work.room);
    } else {
        multiply<finish>(w, n_outputs, n_inputs, bias, x, work.row, y, work.row, n_points, factor, work.row);
    }
}

// The field with its weights, and their transposes unless null, rounded if it wants them so.
inline Field with_rounded(Field field, const float* const* transposes, Scratch& scratch) {
    const Mlp& mlp = *field.mlp;
    for (int l = 0; mlp.in_bf16 && l < mlp.n_layers; ++l) {
        const int64_t in = mlp.widths[l], out = mlp.widths[l + 1], in_pairs = (in + 1) / 2, out_pairs = (out + 1) / 2;
        auto* weights = scratch.array<uint32_t>(out * in_pairs);
        pair_columns(field.weights[l], in, out, in, weights, in_pairs);
        field.rounded[l] = weights;
        if (!transposes) continue;
        auto* turned = scratch.array<uint32_t>(in * out_pairs);
        pair_columns(transposes[l], out, in, out, turned, out_pairs);
        field.rounded_transposes[l] = turned;
    }
    return field;
}

// The outputs, one row each, of n_points (a multiple of `lanes`) points.
inline const float* forward(const Field& field, const float* input, int64_t n_points, const Work& work) {
    const Mlp& mlp = *field.mlp;
    const float* x = input;
    for (int l = 0; l < mlp.n_layers; ++l) {
        const Activation a = activation_after(mlp, l);
        float* y = work.value[l + 1];
        if (a == Activation::relu && !work.derivative[l + 1]) {
            product<Finish::relu>(mlp, field.weights[l], field.rounded[l], mlp.widths[l + 1], mlp.widths[l],
                                  field.biases[l], x, y, n_points, work);
        } else {
            product<Finish::plain>(mlp, field.weights[l], field.rounded[l], mlp.widths[l + 1], mlp.widths[l],
                                   field.biases[l], x, y, n_points, work);
            if (a != Activation::none) {
                activate(a, number_after(mlp, l), mlp.widths[l + 1], n_points, y, y, work.derivative[l + 1], work.row);
            }
        }
        x = y;
    }
    if (mlp.output_scale) {
        float* y = work.value[mlp.n_layers];
        for (int64_t o = 0; o < mlp.n_outputs(); ++o) {
            for (int64_t p = o * work.row; p < o * work.row + n_points; p += lanes) {
                store(y + p, load(y + p) * mlp.output_scale[o] + mlp.output_offset[o]);
            }
        }
    }
    return x;
}

// gradient in values -> gradient in pre-activations, for the output layer; hidden ones are fused into `multiply`.
inline void through_output_activation(const Mlp& mlp, const Work& work, int64_t n_points, float* gradient) {
    const float* derivative = work.derivative[mlp.n_layers];
    if (!derivative && !mlp.output_scale) return;
    for (int64_t o = 0; o < mlp.n_outputs(); ++o) {
        const float scale = mlp.output_scale ? mlp.output_scale[o] : 1.0f;
        for (int64_t p = o * work.row; p < o * work.row + n_points; p += lanes) {
            const Floats g = load(gradient + p) * scale;
            store(gradient + p, derivative ? g * load(derivative + p) : g);
        }
    }
}

// After `forward`: from the gradient in the outputs, in work.gradient[0] and zero beyond the last point, add the
// gradient of the parameters to the flat vector `grad` (unless null) and write the one in the inputs to `grad_input`
// (unless null; it may be the memory of the inputs). `transposes[l]` is (widths[l], widths[l + 1]).
inline void backward(const Field& field, const float* input, int64_t n_points, const Work& work,
                     const float* const* transposes, float* grad, float* grad_input) {
    const Mlp& mlp = *field.mlp;
    float* grad_y = work.gradient[0];
    float* grad_x = work.gradient[1];
    through_output_activation(mlp, work, n_points, grad_y);
    for (int l = mlp.n_layers - 1; l >= 0; --l) {
        const int n_in = mlp.widths[l], n_out = mlp.widths[l + 1];
        const float* x = l ? work.value[l] : input;
        const uint32_t* rounded = field.rounded_transposes[l];
        if (grad) {
            float* grad_w = grad + mlp.weight_offset[l];
            if (mlp.in_bf16) {
                add_rounded_weight_gradient(grad_y, work.row, n_out, x, work.row, n_in, n_points, grad_w,
                                            work.transposed, work.room);
            } else {
                add_weight_gradient(grad_y, work.row, n_out, x, work.row, n_in, n_points, grad_w, work.transposed);
            }
            if (mlp.has_bias) add_bias_gradient(grad_y, work.row, n_out, n_points, grad + mlp.bias_offset[l]);
        }
        if (l > 0) {
            if (mlp.activation == Activation::relu) {
                product<Finish::where_active>(mlp, transposes[l], rounded, n_in, n_out, nullptr, grad_y, grad_x,
                                              n_points, work, x);
            } else if (mlp.activation == Activation::none) {
                product<Finish::plain>(mlp, transposes[l], rounded, n_in, n_out, nullptr, grad_y, grad_x, n_points,
                                       work);
            } else {
                product<Finish::times_factor>(mlp, transposes[l], rounded, n_in, n_out, nullptr, grad_y, grad_x,
                                              n_points, work, work.derivative[l]);
            }
            float* done = grad_y;
            grad_y = grad_x;
            grad_x = done;
        } else if (grad_input) {
            product<Finish::plain>(mlp, transposes[0], rounded, n_in, n_out, nullptr, grad_y, grad_input, n_points,
                                   work);
        }
    }
}

}  // namespace fieldforge::cpu::FF_SET
