// Second derivatives of grids and networks: compiled once for each instruction set, FF_SET being its name.
#include "api.hpp"
#include "second.hpp"

namespace fieldforge::cpu::FF_SET {
namespace {

void grid_double_backward(const Grid& grid, const float* table, const float* x, int64_t n, const float* grad_out,
                          const float* cotangent, const float* gradient, float* out, float* grad_table, float* grad_x,
                          int n_threads) {
    constexpr int points = 128;
    Scratch scratch;
    const int n_out = grid.n_outputs();
    const int64_t n_tiles = pieces(n, points);
    const Tiles tiles = double_tiles(n, points, n_out, scratch);
    const GridAlong along = grid_along(grid, table, x, cotangent, n, points, scratch, n_threads);
    if (out) along.encode(tiles, n_threads);
    parallel_for(n_threads, n_tiles, [&](int64_t tile, int) {
        const int64_t start = tile * points, n_tile = smaller(points, n - start);
        float* second_half = tiles.at(tile, 0) + points;
        if (out) tile_to_rows(second_half, tiles.row, n_tile, n_out, out + start * n_out);
        rows_to_half(grad_out + start * n_out, n_tile, n_out, second_half, tiles.row, points);
        if (gradient) rows_to_half(gradient + start * n_out, n_tile, n_out, second_half - points, tiles.row, points);
    });
    along.backward(tiles, gradient != nullptr, grad_table, grad_x, scratch, n_threads);
}

}  // namespace

extern const SecondKernels second_kernels;
const SecondKernels second_kernels = {grid_double_backward, field_double_backward};

}  // namespace fieldforge::cpu::FF_SET
