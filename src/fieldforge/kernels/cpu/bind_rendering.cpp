// Packed rays, as Python sees them.
#include "bind.hpp"

namespace nb = nanobind;

namespace fieldforge::cpu {
namespace {

// The kernels go wherever the offsets send them, so these are looked at in every call; R steps cost next to nothing.
PackedRays expect_rays(Address offsets, int64_t n_rays, int64_t n_rows) {
    const int64_t* row = at<const int64_t>(offsets);
    if (n_rays < 0) refuse("offsets: expected (n_rays + 1,), got (0,)");
    if (row[0] != 0 || row[n_rays] != n_rows) {
        refuse("offsets: expected to go from 0 to the " + std::to_string(n_rows) + " rows, got " +
               std::to_string(row[0]) + " to " + std::to_string(row[n_rays]));
    }
    int64_t longest = 0;
    for (int64_t ray = 0; ray < n_rays; ++ray) {
        const int64_t count = row[ray + 1] - row[ray];
        if (count < 0) {
            refuse("offsets: expected to never decrease, got " + std::to_string(row[ray]) + " before " +
                   std::to_string(row[ray + 1]));
        }
        if (count > longest) longest = count;
    }
    return {row, n_rays, longest};
}

}  // namespace

void bind_rendering(nb::module_& module) {
    module.def("composite", [](Address offsets, int64_t n_rays, int64_t n, Address t0, Address t1, Address density,
                               Address color, int64_t n_channels, Address out_color, Address out_depth,
                               Address out_opacity, Address out_weights, Address out_left, int n_threads) {
        kernels().rendering->composite(
            expect_rays(offsets, n_rays, n), {at(t0), at(t1), at(density), at(color), expect_count(n_channels)},
            {at(out_color), at(out_depth), at(out_opacity), at(out_weights), at(out_left)}, expect_threads(n_threads));
    }, Unlocked());
    module.def("composite_backward", [](Address offsets, int64_t n_rays, int64_t n, Address t0, Address t1,
                                        Address density, Address color, int64_t n_channels, Address weights,
                                        Address left, Address of_color, Address of_depth, Address of_opacity,
                                        Address of_weights, Address grad_density, Address grad_color, int n_threads) {
        kernels().rendering->composite_backward(
            expect_rays(offsets, n_rays, n), {at(t0), at(t1), at(density), at(color), expect_count(n_channels)},
            {nullptr, nullptr, nullptr, at(weights), at(left)},
            {at(of_color), at(of_depth), at(of_opacity), at(of_weights), nullptr}, at(grad_density), at(grad_color),
            expect_threads(n_threads));
    }, Unlocked());
    module.def("accumulate", [](Address offsets, int64_t n_rays, int64_t n, Address weights, Address values,
                                int64_t n_channels, Address out, int n_threads) {
        kernels().rendering->accumulate(expect_rays(offsets, n_rays, n), at(weights), at(values),
                                        expect_count(n_channels), at(out), expect_threads(n_threads));
    }, Unlocked());
    module.def("accumulate_backward", [](Address offsets, int64_t n_rays, int64_t n, Address weights, Address values,
                                         int64_t n_channels, Address grad, Address grad_weights, Address grad_values,
                                         int n_threads) {
        kernels().rendering->accumulate_backward(expect_rays(offsets, n_rays, n), at(weights), at(values),
                                                 expect_count(n_channels), at(grad), at(grad_weights), at(grad_values),
                                                 expect_threads(n_threads));
    }, Unlocked());
    module.def("scan", [](Address offsets, int64_t n_rays, int64_t n, Address values, bool is_product,
                          bool is_exclusive, bool is_reversed, Address out, int n_threads) {
        kernels().rendering->scan(expect_rays(offsets, n_rays, n), {is_product, is_exclusive, is_reversed}, at(values),
                                  at(out), expect_threads(n_threads));
    }, Unlocked());
    module.def("product_backward", [](Address offsets, int64_t n_rays, int64_t n, Address values, bool is_exclusive,
                                      Address grad, Address grad_values, int n_threads) {
        kernels().rendering->product_backward(expect_rays(offsets, n_rays, n), is_exclusive, at(values), at(grad),
                                              at(grad_values), expect_threads(n_threads));
    }, Unlocked());
    module.def("distortion", [](Address offsets, int64_t n_rays, int64_t n, Address weights, Address t0, Address t1,
                                Address out, int n_threads) {
        kernels().rendering->distortion(expect_rays(offsets, n_rays, n), at(weights), at(t0), at(t1), at(out),
                                        expect_threads(n_threads));
    }, Unlocked());
    module.def("distortion_backward", [](Address offsets, int64_t n_rays, int64_t n, Address weights, Address t0,
                                         Address t1, Address grad, Address grad_weights, int n_threads) {
        kernels().rendering->distortion_backward(expect_rays(offsets, n_rays, n), at(weights), at(t0), at(t1),
                                                 at(grad), at(grad_weights), expect_threads(n_threads));
    }, Unlocked());
    module.def("searchsorted", [](Address offsets, int64_t n_rays, int64_t n, Address edges, Address value_offsets,
                                  int64_t n_values, Address values, Address left, Address right, int n_threads) {
        kernels().rendering->search(expect_rays(offsets, n_rays, n), at(edges),
                                    expect_rays(value_offsets, n_rays, n_values), at(values), at<int64_t>(left),
                                    at<int64_t>(right), expect_threads(n_threads));
    }, Unlocked());
    module.def("inverse_cdf", [](Address offsets, int64_t n_rays, int64_t n, Address edges, Address cdf, Address u,
                                 int64_t n_each, Address out, int n_threads) {
        kernels().rendering->inverse_cdf(expect_rays(offsets, n_rays, n), at(edges), at(cdf), at(u),
                                         expect_count(n_each), at(out), expect_threads(n_threads));
    }, Unlocked());
}

}  // namespace fieldforge::cpu
