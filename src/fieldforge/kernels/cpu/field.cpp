// Grids, networks and training steps: compiled once for each instruction set, FF_SET being its name (v2, v3, v4,
// baseline).
#include "api.hpp"
#include "training.hpp"

namespace fieldforge::cpu::FF_SET {
namespace {

constexpr int grid_tile_points = 256;

void grid_forward(const Grid& grid, const float* table, const float* x, int64_t n, float* out, int n_threads) {
    Scratch scratch;
    const int n_out = grid.n_outputs();
    Tiles encoded(nullptr, grid_tile_points, n_out);
    const int64_t block = smaller(round_up(n, grid_tile_points), block_points);
    encoded.data = scratch.floats(pieces(block, grid_tile_points) * encoded.stride);
    for (int64_t first = 0; first < n; first += block) {
        Scratch axes;
        const int64_t n_here = smaller(block, n - first), n_tiles = pieces(n_here, grid_tile_points);
        const Points points =
            split_axes(x + first * grid.n_dims, n_here, grid.n_dims, n_tiles, grid_tile_points, axes, n_threads);
        encode(grid, table, points, n_tiles, encoded, n_threads);
        parallel_for(n_threads, n_tiles, [&](int64_t tile, int) {
            const int64_t start = tile * grid_tile_points;
            tile_to_rows(encoded.at(tile, 0), encoded.row, smaller(grid_tile_points, n_here - start), n_out,
                         out + (first + start) * n_out);
        });
    }
}

void grid_backward(const Grid& grid, const float* table, const float* x, int64_t n, const float* grad_out,
                   float* grad_table, float* grad_x, int n_threads) {
    Scratch scratch;
    const int n_out = grid.n_outputs();
    const int64_t n_tiles = pieces(n, grid_tile_points);
    Tiles grad_features(nullptr, grid_tile_points, n_out);
    grad_features.data = scratch.floats(n_tiles * grad_features.stride);
    const Points points = split_axes(x, n, grid.n_dims, n_tiles, grid_tile_points, scratch, n_threads);
    parallel_for(n_threads, n_tiles, [&](int64_t tile, int) {
        const int64_t start = tile * grid_tile_points;
        rows_to_tile(grad_out + start * n_out, smaller(grid_tile_points, n - start), n_out, grad_features.at(tile, 0),
                     grad_features.row);
    });
    if (grad_x) differentiate_rows(grid, table, points, n, grad_features, grad_x, scratch, n_threads);
    if (grad_table) {
        scatter(grid, points, n, grad_features, scratch, n_threads,
                [&](int64_t first, int64_t count, const float* gradient) {
            std::memcpy(grad_table + first, gradient, sizeof(float) * static_cast<size_t>(count));
        });
    }
}

// Many features take narrow tiles: a tile stays in the cache.
int encoding_tile_points(const Encoding& encoding) {
    int points = 256;
    while (points > 16 && int64_t{encoding.n_rows} * points > (1 << 15)) points /= 2;
    return points;
}

void encoding_forward(const Encoding& encoding, float* const* tensors, const float* x, int64_t n, float* out,
                      int n_threads) {
    Scratch scratch;
    EncodedBatch batch;
    const int points = encoding_tile_points(encoding), n_out = encoding.n_outputs;
    const int64_t block = smaller(round_up(n, points), block_points);
    batch.prepare(encoding, tensors, points, block, false, scratch, n_threads);
    for (int64_t first = 0; first < n; first += block) {
        Scratch axes;
        const int64_t n_here = smaller(block, n - first);
        batch.begin(x + first * encoding.n_inputs, n_here, axes, n_threads);
        parallel_for(n_threads, pieces(n_here, points), [&](int64_t tile, int thread) {
            const int64_t start = tile * points;
            tile_to_rows(batch.finish_tile(tile, thread), batch.tiles.row, smaller(points, n_here - start), n_out,
                         out + (first + start) * n_out);
        });
    }
}

void encoding_backward(const Encoding& encoding, float* const* tensors, const float* x, int64_t n,
                       const float* grad_out, float* const* grad_tensors, float* grad_x, int n_threads) {
    Scratch scratch;
    EncodedBatch batch;
    const int points = encoding_tile_points(encoding), n_out = encoding.n_outputs;
    batch.prepare(encoding, tensors, points, n, true, scratch, n_threads);
    batch.begin(x, n, scratch, n_threads);
    parallel_for(n_threads, pieces(n, points), [&](int64_t tile, int thread) {
        const int64_t start = tile * points;
        batch.finish_tile(tile, thread);
        rows_to_tile(grad_out + start * n_out, smaller(points, n - start), n_out, batch.rooms[thread].gradient,
                     batch.tiles.row);
        batch.back_tile(tile, thread, grad_x);
    });
    if (grad_x) batch.back_grids(grad_x, scratch, n_threads);
    copy_table_gradients(batch, grad_tensors, scratch, n_threads);
}

void activate_numbers(Activation activation, float number, int64_t n, const float* z, float* value,
                      float* derivative) {
    const int64_t whole = n / lanes * lanes;
    activate(activation, number, 1, whole, z, value, derivative, whole);
    float rest[3][lanes] = {};
    for (int64_t i = whole; i < n; ++i) rest[0][i - whole] = z[i];
    activate(activation, number, 1, lanes, rest[0], rest[1], rest[2], lanes);
    for (int64_t i = whole; i < n; ++i) {
        value[i] = rest[1][i - whole];
        derivative[i] = rest[2][i - whole];
    }
}

}  // namespace

extern const FieldKernels field_kernels;
const FieldKernels field_kernels = {lanes,         grid_forward, grid_backward,   field_forward,
                                    field_backward, draw_batch,   train_step,      activate_numbers};

extern const EncodingKernels encoding_kernels;
const EncodingKernels encoding_kernels = {encoding_forward, encoding_backward};

}  // namespace fieldforge::cpu::FF_SET
