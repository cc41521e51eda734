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
constexpr int max_parts = 64;

enum class Interpolation : int { nearest, linear, smoothstep };

// How corner coordinates become a row of a level's table.
enum class Indexing : int {
    hash,        // xor of coordinate * prime, masked: size and n_features are powers of two
    dense,       // sum of coordinate * stride; at most one turn past the end for points of the unit cube
    any_modulo,  // either of them, any coordinate, any size: a full modulo
};

// One level of a multi-resolution grid.
struct Level {
    float scale[max_dims];          // x * scale + 0.5 is the position in cells
    int n_dims;                     // coordinates it depends on, the first ones of the grid's
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

enum class PartKind : int { grid, identity, frequency, triangle_wave, one_blob, spherical_harmonics, random_fourier };

// One part of an encoding: some coordinates in, some rows of features out.
struct Part {
    PartKind kind;
    int first_input, n_inputs;
    int first_row, n_rows;
    int number;           // octaves, bins, bands or frequencies
    float scale, offset;  // of an identity
    const Grid* grid;     // or null
    int tensor;           // which of the encoding's tensors is its table or its frequencies, or -1
};

// Rows [to, to + n_rows) are the sum or the product of those from `left` and from `right` on.
struct Join {
    bool is_product;
    int to, left, right, n_rows;
};

// Several encodings joined. The first n_outputs of its rows are its features; sums and products have their operands
// behind them. Every row is written once, by a part or by a join, and joins come in the order in which they can be
// computed.
struct Encoding {
    int n_inputs, n_outputs, n_rows, n_parts, n_joins, n_tensors;
    bool has_grids;
    Part parts[max_parts];
    Join joins[max_parts];
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
    bool in_bf16;  // whether the factors of all products are rounded to bfloat16
    int64_t weight_offset[max_layers], bias_offset[max_layers];  // in the flat vector of all parameters
    int64_t n_parameters;
    int max_width;

    int n_inputs() const { return widths[0]; }
    int n_outputs() const { return widths[n_layers]; }
};

// A network, with a grid or another encoding in front of it or without, and where its parameters are.
struct Field {
    const Grid* grid;  // null: the network reads `encoding`, or the coordinates themselves
    const Mlp* mlp;
    float* table;
    float* weights[max_layers];  // (widths[l + 1], widths[l]), row-major
    float* biases[max_layers];   // (widths[l + 1],)
    const Encoding* encoding;    // or null
    float* tensors[max_parts];   // of the encoding: tables and frequencies
    const uint32_t* rounded[max_layers];             // weights, and their transposes, in pairs of bfloat16 along each
    const uint32_t* rounded_transposes[max_layers];  // row; where the network is `in_bf16`, set by the kernels

    int n_inputs() const { return grid ? grid->n_dims : encoding ? encoding->n_inputs : mlp->n_inputs(); }
    bool has_tables() const { return grid || (encoding && encoding->has_grids); }
};

// Where gradients go; null where nobody asks.
struct FieldGradients {
    float* x;
    float* table;
    float* weights[max_layers];
    float* biases[max_layers];
    float* tensors[max_parts];  // of the encoding; only tables have gradients
};

enum class Loss : int {
    l2, l1, huber, relative_l2, relative_l1, mape, smape, log_l1, relative_l2_luminance, cross_entropy, variance,
    binary_cross_entropy
};

enum class Pixel : int { uint8, uint16, float32 };

// A picture, sound or volume on a regular grid: samples of `n_channels` numbers, axis 0 of the coordinates fastest.
struct Raster {
    const void* values;
    Pixel pixel;
    float one;  // the stored number that stands for 1
    int n_axes;
    int64_t sizes[max_dims];
    int n_channels;
    int64_t n_samples;
};

// The samples of a batch: those at the positions [first, first + n) of an endless shuffled order. The first `n_moved`
// lie between the centres of the cells (two axes only).
struct Draw {
    const Raster* raster;
    uint64_t seed, first;
    int64_t n_moved;
};

// What one training step learns from: given coordinates and targets, or a draw.
struct Batch {
    int64_t n;
    const float* x;       // (n, n_inputs)
    const float* target;  // (n, n_outputs)
    const Draw* draw;     // or null
    Loss loss;
    float huber_delta;    // where the parabola ends
    float* sample_loss;   // (n,) mean over the channels, or null
    bool (*may_move)(void* context);  // asked before the update, when the loss is known; null: yes
    void* context;
};

// Adam for a stack of networks, as tiny-cuda-nn writes it: p -= rate * m / (sqrt(v) + epsilon), the bias corrections
// folded into `rate`.
struct Adam {
    float rate, beta1, beta2, epsilon, l2;
    float *weights_m[max_layers], *weights_v[max_layers];
    float *biases_m[max_layers], *biases_v[max_layers];
};

enum class Mover : int { none, sgd, adam };

// How parameters move in one step; see update.hpp.
struct Rule {
    Mover mover;
    float rate;  // with Adam's bias corrections in it
    float beta1, beta2, epsilon, l2;
    float relative_decay, absolute_decay;
    float gradient_limit, limit;  // magnitudes that gradients and parameters are clipped to; infinity: not
    float low, high;              // bounds of rate / (sqrt(v) + epsilon): AdaBound
    float newest;                 // what the new parameter counts in its average
};

// What belongs to an array of parameters; null where the rule does not need it.
struct Moved {
    Rule rule;
    float *first, *second, *average;
};

struct Moves {
    Moved table, weights[max_layers], biases[max_layers];
    Moved tensors[max_parts];  // of the encoding; only tables move
};

// Means over points and channels, before the step. Nothing is changed when the loss is not finite.
struct StepResult {
    double loss, squared_error;
    bool has_moved;
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
    void (*draw)(const Draw&, int64_t n, float* x, float* target, int n_threads);
    StepResult (*train_step)(const Field&, const Batch&, const Moves&, int n_threads);
    void (*activate)(Activation, float slope, int64_t n, const float* z, float* value, float* derivative);
};

// The backward pass of a backward pass. The first gives grad_x from grad_out; from `cotangent`, the gradient in grad_x,
// these give the gradients in what the first one read: grad_out itself (`out`), and those of FieldGradients; null where
// nobody asks. To the latter they add what comes from `gradient`, the one in the outputs, unless that is null.
struct SecondKernels {
    void (*grid_double_backward)(const Grid&, const float* table, const float* x, int64_t n, const float* grad_out,
                                 const float* cotangent, const float* gradient, float* out, float* grad_table,
                                 float* grad_x, int n_threads);
    void (*field_double_backward)(const Field&, const float* x, int64_t n, const float* grad_out,
                                  const float* cotangent, const float* gradient, float* out, const FieldGradients&,
                                  int n_threads);
};

// Encodings on their own. `tensors` and `grad_tensors` have an entry for each tensor of the encoding; null where nobody
// asks for a gradient.
struct EncodingKernels {
    void (*forward)(const Encoding&, float* const* tensors, const float* x, int64_t n, float* out, int n_threads);
    void (*backward)(const Encoding&, float* const* tensors, const float* x, int64_t n, const float* grad_out,
                     float* const* grad_tensors, float* grad_x, int n_threads);
};

// Packed rows of rays: ray r has the rows offsets[r] to offsets[r + 1].
struct PackedRays {
    const int64_t* offsets;
    int64_t n, longest;  // rays, and the most rows one of them has
};

// Intervals [t0, t1] that absorb with `density` and emit `n_channels` numbers, one row of each for every sample.
struct Emission {
    const float *t0, *t1, *density, *color;
    int64_t n_channels;
};

// What is seen of them, or its gradient (null where there is none): (n_rays, n_channels), (n_rays,), (n_rays,),
// (n_samples,); and what passes each ray (n_rays,), which the backward pass reads again.
struct Rendered {
    float *color, *depth, *opacity, *weights, *left;
};

struct Scan {
    bool is_product, is_exclusive, is_reversed;
};

// Packed rays: compositing, scans and sums, distortion, search. Gradients are null where nobody asks.
struct RenderingKernels {
    void (*composite)(const PackedRays&, const Emission&, const Rendered&, int n_threads);
    void (*composite_backward)(const PackedRays&, const Emission&, const Rendered&, const Rendered& gradient,
                               float* grad_density, float* grad_color, int n_threads);
    void (*accumulate)(const PackedRays&, const float* weights, const float* values, int64_t n_channels, float* out,
                       int n_threads);
    void (*accumulate_backward)(const PackedRays&, const float* weights, const float* values, int64_t n_channels,
                                const float* grad, float* grad_weights, float* grad_values, int n_threads);
    void (*scan)(const PackedRays&, const Scan&, const float* values, float* out, int n_threads);
    void (*product_backward)(const PackedRays&, bool is_exclusive, const float* values, const float* grad,
                             float* grad_values, int n_threads);
    void (*distortion)(const PackedRays&, const float* weights, const float* t0, const float* t1, float* out, int n_threads);
    void (*distortion_backward)(const PackedRays&, const float* weights, const float* t0, const float* t1, const float* grad,
                                float* grad_weights, int n_threads);
    // `left` and `right` (n_values,): rows of the edges around each value; -1 on rays without edges
    void (*search)(const PackedRays& edges_of, const float* edges, const PackedRays& values_of, const float* values, int64_t* left,
                   int64_t* right, int n_threads);
    void (*inverse_cdf)(const PackedRays&, const float* edges, const float* cdf, const float* u, int64_t n_each, float* out,
                        int n_threads);
};

constexpr int max_cascades = 16;

// Boxes of cells around one centre, each twice as large as the one before. A point p lies in the cell
// floor((p - low) * cells_per_length) of the first cascade where that is in [0, resolution) on each axis.
//
// Whether cells are occupied stands in bricks of 4 x 4 x 4 cells, one bit each, bit 16 x + 4 y + z; cells beyond the
// resolution are empty. Bricks are rows (cascade, x, y, z), z fastest. Bricks that are not zero stand in superbricks in
// the same way.
struct Cascades {
    int n_cascades;
    int resolution[3];
    float low[max_cascades][3];
    float cells_per_length[max_cascades][3];
};

struct Occupancy {
    const Cascades* cascades;
    const uint64_t* bricks;
    const uint64_t* superbricks;
};

// Where samples can be on a ray: edge[0] = start, edge[k + 1] = edge[k] + clamp(edge[k] * cone_angle, step, max_step);
// edge[k] = start + k * step where cone_angle is 0. Sample k goes from edge[k] to edge[k + 1].
struct Stride {
    float step, cone_angle, max_step;
    int64_t n_most;  // no ray has more of them
};

// Rays (n, 3) with t in [start, end).
struct Rays {
    int64_t n;
    const float *origins, *directions, *start, *end;
};

// Occupancy grids and marching. Marks are rows of pieces(n_most, 64) words, bit k for sample k.
struct MarchKernels {
    void (*intersect_box)(const float* origins, const float* directions, int64_t n, const float* low, const float* high,
                          float near, float far, float* t_near, float* t_far, int n_threads);
    void (*look_up)(const Cascades&, const uint64_t* bricks, const float* points, int64_t n, bool* is_occupied,
                    int n_threads);
    void (*mark)(const Occupancy&, const Rays&, const Stride&, int64_t n_most_kept, uint64_t* marks, int64_t* counts,
                 int n_threads);
    void (*fill)(const Rays&, const Stride&, const uint64_t* marks, const int64_t* offsets, int64_t first_ray, float* t0,
                 float* t1, int64_t* ray_index, int n_threads);
    // density[cell] = max(density[cell] * decay, fresh) for cells that differ from each other
    void (*decay_max)(float* density, const int64_t* cells, const float* fresh, int64_t n, float decay, int n_threads);
    // which cells (cascade, x, y, z) exceed the threshold
    void (*pack)(const Cascades&, const float* density, float threshold, uint64_t* bricks, uint64_t* superbricks,
                 int n_threads);
};

// Networks of one shape side by side; network i takes the points offsets[i] up to offsets[i + 1].
struct Stack {
    const Mlp* mlp;
    int64_t n_networks;
    const int64_t* offsets;      // (n_networks + 1,), from 0, never falling
    float* weights[max_layers];  // (n_networks, widths[l + 1], widths[l])
    float* biases[max_layers];   // (n_networks, widths[l + 1])

    int64_t n_points() const { return offsets[n_networks]; }
};

// Stacks of networks in one instruction set. Gradients are those of `FieldGradients` with a leading axis of networks.
struct StackKernels {
    void (*forward)(const Stack&, const float* x, float* out, int n_threads);
    void (*backward)(const Stack&, const float* x, const float* grad_out, const FieldGradients&, int n_threads);
    // A network whose own loss is not finite stays as it was. What is minimised is the mean over all points; or, with
    // `of_each`, the sum over networks of the mean over each one's points, so that no network knows of the others.
    // `squared_errors` (n_networks,), unless null, gets the mean squared error of each; NaN where it has no points.
    StepResult (*train_step)(const Stack&, const Batch&, const Adam&, bool of_each, double* squared_errors,
                             int n_threads);
};

// A uniform grid of cells over the unit cube, numbered with the last axis fastest.
struct CellGrid {
    int n_dims;
    int32_t resolution[max_dims];
};

// A field of radiance whose cells have networks of their own. All cells share the encoding, which has no parameters and
// reads places in a cell; the colour network reads what the density network gives, and then a code.
struct CellRadiance {
    const Encoding* encoding;
    Stack density, color;  // of the same offsets
};

// Points in the caller's order: places in their cells, the order that sorts them, the row of `code` of each (null: the
// point's own number).
struct CellPoints {
    const float* local;
    const int64_t *order, *ray;
    const float* code;
};

// Sorting points by cell, and both networks at once. `out` is (n, 4) in the caller's order: the density network's first
// number, and the colour.
struct CellKernels {
    void (*sort)(const CellGrid&, const float* x, int64_t n, float* local, int64_t* offsets, int64_t* order, int n_threads);
    void (*radiance)(const CellRadiance&, const CellPoints&, float* out, int n_threads);
};

// A field of radiance. `density` gives numbers of a place, of which the first becomes the density; `color` turns all of
// them and the code of a direction into a colour.
struct Radiance {
    Field density, color;
    float low[3], extent[3];  // of the box
    int contraction;          // of what is beyond it: 0 none, 1 by the largest coordinate, 2 by the length
    float per_length;         // density = activation(first number) * per_length
    bool is_softplus;         // the activation; else exp(min(number, 15))

    int n_geometry() const { return density.mlp->n_outputs(); }
    int n_code() const { return color.mlp->n_inputs() - density.mlp->n_outputs(); }
};

// Rays with the samples that a march found on them.
struct Sights {
    PackedRays rays;
    const float *t0, *t1;
    const float *origins, *directions;  // (n, 3)
    const float* code;                  // (n, n_code), of the directions
    const float* background;            // (n, 3)
    const float* fourth;                // (n,) places on the grid's fourth axis, where it has one
    float least_light;                  // samples that less of it reaches are left out
};

// What they should show: (n, 3), and how the difference counts.
struct SightLesson {
    const float* target;
    Loss loss;
    float huber_delta;
    float* ray_loss;         // (n,) or null
    float* grad_background;  // (n, 3) or null: gradient of the mean loss in what is behind each ray,
    float* grad_code;        // (n, n_learned): and in the last numbers of its code
    int n_learned;
    bool (*may_move)(void* context);
    void* context;
};

// Volume rendering of such a field as a whole. Both return how many samples were evaluated in full.
struct RadianceKernels {
    int64_t (*render)(const Radiance&, const Sights&, float* color, float* depth, float* opacity, int n_threads);
    int64_t (*train_step)(const Radiance&, const Sights&, const SightLesson&, const Moves& density, const Moves& color,
                          StepResult&, int n_threads);
};

struct LimitKernels;  // limits.hpp

// All kernels of one instruction set; each table stands in the file that is named after it.
struct Kernels {
    const FieldKernels* field;
    const SecondKernels* second;
    const EncodingKernels* encoding;
    const RenderingKernels* rendering;
    const MarchKernels* march;
    const StackKernels* stack;
    const RadianceKernels* radiance;
    const LimitKernels* limit;
    const CellKernels* cell;
};

}  // namespace fieldforge::cpu
