// What the kernels of every instruction set share: plain descriptions, and the table of functions each set offers.
//
// field.cpp and its like are compiled once per instruction set. They may use these plain structs, the C library and nothing that
// the linker could merge with the same template compiled for another set (no std:: containers or algorithms).
#pragma once
#include <cstdint>

namespace fieldforge::cpu {

constexpr int max_dims = 4;
constexpr int max_levels = 128;
constexpr int max_layers = 64;

enum class Interpolation : int { nearest, linear, smoothstep };

// How corner coordinates become a row of a level's table.
enum class Indexing : int {
    hash,        // xor of coordinate * prime, masked: size and n_features are powers of two
    dense,       // sum of coordinate * stride; at most one turn past the end for points of the unit cube
    any_modulo,  // either of them, any coordinate, any size: a full modulo
};

// One level of a multi-resolution grid.
struct Level {
    float scale;                    // x * scale + 0.5 is the position in cells
    uint32_t size;                  // entries in its table
    int64_t offset;                 // entries before it
    bool is_hashed;
    Indexing inside, outside;       // for batches inside the unit cube, and for all others
    uint32_t multiplier[max_dims];  // primes of a hash, strides of a dense level
    uint32_t step[max_dims];        // multiplier * n_features: the same in floats, for `hash` and `dense`
    uint64_t reciprocal;            // ceil(2^64 / size), for the modulo
};

// A multi-resolution grid; its table is (n_entries, n_features), level after level.
struct Grid {
    int n_dims, n_features, n_levels;
    Interpolation interpolation;
    int64_t n_entries;
    Level levels[max_levels];

    int n_outputs() const { return n_levels * n_features; }
};

enum class Activation : int {
    none, relu, leaky_relu, sine, silu, sigmoid, tanh, gelu, softplus, squareplus, exponential, gaussian, finer,
    finer_true_slope, spder
};

// A multilayer perceptron: layer l maps widths[l] inputs to widths[l + 1] outputs.
struct Mlp {
    int n_layers;
    int widths[max_layers + 1];
    Activation activation, output_activation;
    float number, first_number;  // of the activation: omega, slope, beta or scale; the first layer may have its own
    float output_number;         // of the output activation
    const float* output_scale;   // (n_outputs,) factors and summands after the output activation; null: 1 and 0
    const float* output_offset;
    bool has_bias;
    int64_t weight_offset[max_layers], bias_offset[max_layers];  // in the flat vector of all parameters
    int64_t n_parameters;
    int max_width;

    int n_inputs() const { return widths[0]; }
    int n_outputs() const { return widths[n_layers]; }
};

// A network, with a grid in front of it or without, and where its parameters are.
struct Field {
    const Grid* grid;  // null: the network reads the coordinates themselves
    const Mlp* mlp;
    float* table;
    float* weights[max_layers];  // (widths[l + 1], widths[l]), row-major
    float* biases[max_layers];   // (widths[l + 1],)

    int n_inputs() const { return grid ? grid->n_dims : mlp->n_inputs(); }
};

// Where gradients go; null where nobody asks.
struct FieldGradients {
    float* x;
    float* table;
    float* weights[max_layers];
    float* biases[max_layers];
};

enum class Loss : int { l2, l1, huber, relative_l2 };

enum class Pixel : int { uint8, uint16, float32 };

// A picture, sound or volume on a regular grid: samples of `n_channels` numbers, axis 0 of the coordinates fastest.
struct Raster {
    const void* values;
    Pixel pixel;
    int n_axes;
    int64_t sizes[max_dims];
    int n_channels;
    const float* scale;   // (n_channels,) value = stored * scale + offset
    const float* offset;  // (n_channels,)
};

// What one training step learns from: coordinates and targets, or samples of a raster by their index.
struct Batch {
    int64_t n;
    const float* x;        // (n, n_inputs) or null
    const float* target;   // (n, n_outputs) or null
    const Raster* raster;  // or null
    const int64_t* index;  // (n,) into the raster
    Loss loss;
    float huber_delta;             // where the parabola ends
    float* sample_loss;    // (n,) mean over the channels, or null
};

// Adam as tiny-cuda-nn writes it: p -= rate * m / (sqrt(v) + epsilon), the bias corrections folded into `rate`; `l2`
// pulls on the network's parameters alone.
struct Adam {
    float rate, beta1, beta2, epsilon, l2;
    float *table_m, *table_v;
    float *weights_m[max_layers], *weights_v[max_layers];
    float *biases_m[max_layers], *biases_v[max_layers];
};

// Means over points and channels, before the step. Nothing is changed when the loss is not finite, or when an index
// lies outside the raster.
struct StepResult {
    double loss, squared_error;
    bool has_bad_index;
};

// Grids, networks and training steps of one instruction set. x is (n, n_dims) row-major, features and outputs are
// (n, channels) row-major.
struct FieldKernels {
    int n_lanes;
    void (*grid_forward)(const Grid&, const float* table, const float* x, int64_t n, float* out, int n_threads);
    void (*grid_backward)(const Grid&, const float* table, const float* x, int64_t n, const float* grad_out,
                          float* grad_table, float* grad_x, int n_threads);
    void (*field_forward)(const Field&, const float* x, int64_t n, float* out, int n_threads);
    void (*field_backward)(const Field&, const float* x, int64_t n, const float* grad_out, const FieldGradients&,
                           int n_threads);
    StepResult (*train_step)(const Field&, const Batch&, const Adam&, int n_threads);
    void (*activate)(Activation, float slope, int64_t n, const float* z, float* value, float* derivative);
};

struct LimitKernels;  // limits.hpp

// All kernels of one instruction set; each table stands in the file that is named after it.
struct Kernels {
    const FieldKernels* field;
    const LimitKernels* limits;
};

}  // namespace fieldforge::cpu
