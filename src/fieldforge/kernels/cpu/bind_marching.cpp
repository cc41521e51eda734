// Occupancy grids and marching, as Python sees them.
#include "bind.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace fieldforge::cpu {
namespace {

void make_cascades(Cascades* self, const std::vector<int>& resolution, const std::vector<std::vector<float>>& low,
                   const std::vector<std::vector<float>>& cells_per_length) {
    if (low.empty() || low.size() > max_cascades || low.size() != cells_per_length.size()) {
        refuse("low: the native grid has 1 to 16 cascades");
    }
    if (resolution.size() != 3) refuse("resolution: expected three axes");
    auto* made = new (self) Cascades{};
    made->n_cascades = static_cast<int>(low.size());
    int64_t n_cells = made->n_cascades;
    for (size_t a = 0; a < 3; ++a) {
        if (resolution[a] < 1 || resolution[a] > 4096) refuse("resolution: the native grid has 1 to 4096 cells an axis");
        made->resolution[a] = resolution[a];
        n_cells *= resolution[a];
        for (size_t c = 0; c < low.size(); ++c) {
            made->low[c][a] = low[c].at(a);
            made->cells_per_length[c][a] = cells_per_length[c].at(a);
        }
    }
    if (n_cells > int64_t{1} << 30) refuse("resolution: the native grid has at most 2^30 cells");
}

Stride make_stride(float step, float cone_angle, float max_step, int64_t n_most) {
    if (!(step > 0) || !(cone_angle >= 0) || !(max_step >= step)) refuse("step: expected 0 < step <= max_step, cone_angle >= 0");
    if (n_most < 1 || n_most > int64_t{1} << 24) refuse("n_most: expected 1 to 2^24 samples a ray");
    return {step, cone_angle, max_step, n_most};
}

Rays make_rays(const std::vector<Address>& rays, int64_t n) {
    if (rays.size() != 4) refuse("rays: expected origins, directions, start and end");
    return {expect_count(n), at(rays[0]), at(rays[1]), at(rays[2]), at(rays[3])};
}

}  // namespace

void bind_marching(nb::module_& module) {
    nb::class_<Cascades>(module, "Cascades").def("__init__", &make_cascades);
    module.def("intersect_box", [](Address origins, Address directions, int64_t n, const std::vector<float>& low,
                                   const std::vector<float>& high, float near, float far, Address t_near, Address t_far,
                                   int n_threads) {
        if (low.size() != 3 || high.size() != 3) refuse("low: expected three axes");
        kernels().march->intersect_box(at(origins), at(directions), expect_count(n), low.data(), high.data(), near, far,
                                       at(t_near), at(t_far), expect_threads(n_threads));
    }, Unlocked());
    module.def("look_up", [](const Cascades& cascades, Address bricks, Address points, int64_t n, Address is_occupied,
                             int n_threads) {
        kernels().march->look_up(cascades, at<uint64_t>(bricks), at(points), expect_count(n), at<bool>(is_occupied),
                                 expect_threads(n_threads));
    }, Unlocked());
    module.def("mark", [](const Cascades& cascades, Address bricks, Address superbricks, const std::vector<Address>& rays,
                          int64_t n, float step, float cone_angle, float max_step, int64_t n_most, int64_t n_most_kept,
                          Address marks, Address counts, int n_threads) {
        const Occupancy grid{&cascades, at<uint64_t>(bricks), at<uint64_t>(superbricks)};
        kernels().march->mark(grid, make_rays(rays, n), make_stride(step, cone_angle, max_step, n_most), n_most_kept,
                              at<uint64_t>(marks), at<int64_t>(counts), expect_threads(n_threads));
    }, Unlocked());
    module.def("fill", [](const std::vector<Address>& rays, int64_t n, float step, float cone_angle, float max_step,
                          int64_t n_most, Address marks, Address offsets, int64_t first_ray, Address t0, Address t1,
                          Address ray_index, int n_threads) {
        kernels().march->fill(make_rays(rays, n), make_stride(step, cone_angle, max_step, n_most), at<uint64_t>(marks),
                              at<int64_t>(offsets), first_ray, at(t0), at(t1), at<int64_t>(ray_index),
                              expect_threads(n_threads));
    }, Unlocked());
    module.def("decay_max", [](Address density, Address cells, Address fresh, int64_t n, float decay, int n_threads) {
        kernels().march->decay_max(at(density), at<int64_t>(cells), at(fresh), expect_count(n), decay,
                                   expect_threads(n_threads));
    }, Unlocked());
    module.def("pack", [](const Cascades& cascades, Address density, float threshold, Address bricks,
                          Address superbricks, int n_threads) {
        kernels().march->pack(cascades, at(density), threshold, at<uint64_t>(bricks), at<uint64_t>(superbricks),
                              expect_threads(n_threads));
    }, Unlocked());
}

}  // namespace fieldforge::cpu
