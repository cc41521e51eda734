// Cells with networks of their own, as Python sees them.
#include "bind_encodings.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace fieldforge::cpu {

void bind_cells(nb::module_& module) {
    module.def("sort_by_cell", [](const std::vector<int>& resolution, Address x, int64_t n, Address local, Address offsets,
                                  Address order, int n_threads) {
        CellGrid grid{};
        grid.n_dims = static_cast<int>(resolution.size());
        if (resolution.empty() || resolution.size() > max_dims) refuse("resolution: expected 1 to 4 axes");
        int64_t n_cells = 1;
        for (int a = 0; a < grid.n_dims; ++a) {
            const int size = resolution[static_cast<size_t>(a)];
            if (size < 1 || size > 1 << 20) refuse("resolution: expected 1 to 2^20 cells an axis");
            grid.resolution[a] = size;
            n_cells *= size;
            if (n_cells > 1 << 20) refuse("resolution: at most 2^20 cells");
        }
        kernels().cell->sort(grid, at(x), expect_count(n), at(local), at<int64_t>(offsets), at<int64_t>(order),
                             expect_threads(n_threads));
    }, "resolution"_a, "x"_a, "n"_a, "local"_a, "offsets"_a, "order"_a, "n_threads"_a, Unlocked());
    module.def("cells_radiance", [](const PythonEncoding& encoding, const PythonMlp& density,
                                    const Addresses& density_parameters, const PythonMlp& color,
                                    const Addresses& color_parameters, int64_t n_cells, Address offsets, Address local,
                                    Address order, Address ray, Address code, Address out, int n_threads) {
        if (encoding.encoding.n_tensors) refuse("encoding: expected one without parameters");
        if (encoding.encoding.n_outputs != density.mlp.n_inputs()) refuse("widths: the network must read as many features as the encoding has");
        if (color.mlp.n_outputs() != 3) refuse("color: expected three channels");
        if (color.mlp.n_inputs() < density.mlp.n_outputs()) refuse("color: reads all numbers of the density network");
        CellRadiance field{};
        field.encoding = &encoding.encoding;
        field.density = make_stack(density, density_parameters, n_cells, offsets);
        field.color = make_stack(color, color_parameters, n_cells, offsets);
        const CellPoints points{at(local), at<int64_t>(order), at<int64_t>(ray), at(code)};
        kernels().cell->radiance(field, points, at(out), expect_threads(n_threads));
    }, "encoding"_a, "density"_a, "density_parameters"_a, "color"_a, "color_parameters"_a, "n_cells"_a, "offsets"_a,
       "local"_a, "order"_a, "ray"_a, "code"_a, "out"_a, "n_threads"_a, Unlocked());
}

}  // namespace fieldforge::cpu
