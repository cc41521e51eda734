// Volume rendering of fields of radiance, as Python sees it.
#include "bind_training.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace fieldforge::cpu {
namespace {

constexpr int64_t most_samples_of_a_ray = 4096;

// A field, and what moves with it where it is trained.
struct PythonRadiance {
    Radiance radiance;
    Moves density_moves, color_moves;
    std::vector<Moved*> in_order;  // table, weights, biases of the density; weights, biases of the colour
};

void make_radiance(PythonRadiance* self, const Grid& grid, const PythonMlp& density, const Addresses& density_parameters,
                   const PythonMlp& color, const Addresses& color_parameters, const std::vector<float>& low,
                   const std::vector<float>& extent, const std::string& contraction, double per_length, bool is_softplus) {
    if (grid.n_dims != 3 && grid.n_dims != 4) refuse("grid: a field of radiance has three coordinates, or four with time");
    if (color.mlp.n_outputs() != 3) refuse("color: expected three channels");
    if (color.mlp.n_inputs() < density.mlp.n_outputs()) refuse("color: reads all numbers of the density network");
    if (low.size() != 3 || extent.size() != 3) refuse("low, extent: expected three numbers each");
    auto* made = new (self) PythonRadiance{};
    Radiance& radiance = made->radiance;
    radiance.density = make_field(&grid, density, density_parameters);
    radiance.color = make_field(nullptr, color, color_parameters);
    for (size_t d = 0; d < 3; ++d) radiance.low[d] = low[d], radiance.extent[d] = extent[d];
    radiance.contraction = contraction == "inf" ? 1 : contraction == "2" ? 2 : 0;
    radiance.per_length = static_cast<float>(per_length);
    radiance.is_softplus = is_softplus;
}

void keep_moves(PythonRadiance& self, const Grid& grid, const PythonMlp& density, const PythonMlp& color,
                const std::vector<Addresses>& of_density, const std::vector<Addresses>& of_color) {
    if (of_density.size() != 3 || of_color.size() != 3) refuse("moves: expected first and second moments and averages");
    self.in_order.clear();
    collect_moves(self.density_moves, self.in_order, &grid, density, of_density[0], of_density[1], of_density[2]);
    collect_moves(self.color_moves, self.in_order, nullptr, color, of_color[0], of_color[1], of_color[2]);
}

// Rays with their samples; as in bind_rendering.cpp, offsets are looked at in every call.
struct PythonSights {
    Address offsets, t0, t1, origins, directions, code, background, fourth;
    int64_t n_rays, n_samples;
    double least_light;

    Sights sights(const Radiance& radiance) const {
        if (radiance.density.grid->n_dims == 4 && !fourth && n_rays > 0) refuse("fourth: expected a place on that axis for each ray");
        const int64_t* row = at<const int64_t>(offsets);
        if (n_rays < 0 || row[0] != 0 || row[n_rays] != n_samples) refuse("offsets: expected to go from 0 to the samples");
        int64_t longest = 0;
        for (int64_t ray = 0; ray < n_rays; ++ray) {
            const int64_t count = row[ray + 1] - row[ray];
            if (count < 0) refuse("offsets: expected to never decrease");
            if (count > longest) longest = count;
        }
        if (longest > most_samples_of_a_ray) {
            refuse("samples: a ray has " + std::to_string(longest) + ", and the native renderer takes at most " +
                   std::to_string(most_samples_of_a_ray) + "; take a larger step");
        }
        return {{row, n_rays, longest}, at(t0), at(t1), at(origins), at(directions), at(code), at(background), at(fourth),
                static_cast<float>(least_light)};
    }
};

int64_t render(const PythonRadiance& self, const PythonSights& given, Address color, Address depth, Address opacity,
               int n_threads) {
    return kernels().radiance->render(self.radiance, given.sights(self.radiance), at(color), at(depth), at(opacity),
                                      expect_threads(n_threads));
}

nb::tuple train(PythonRadiance& self, const Numbers& rules, const PythonSights& given, Address target,
                const std::string& loss, double huber_delta, Address ray_loss, Address grad_background, Address grad_code, int n_learned,
                nb::handle may_move, int n_threads) {
    if (self.in_order.empty()) refuse("moves: keep_moves comes first");
    set_rules(self.in_order, rules);
    if (given.n_rays < 1) refuse("n_rays: a training step needs at least one");
    if (n_learned < 0 || n_learned > self.radiance.n_code() || (n_learned > 0 && !grad_code)) {
        refuse("n_learned: expected as many numbers as a code has, or fewer, and room for their gradient");
    }
    Question question{may_move, nullptr};
    const bool asks = !may_move.is_none();
    const SightLesson lesson{at(target), loss_called(loss), static_cast<float>(huber_delta), at(ray_loss), at(grad_background), at(grad_code), n_learned,
                             asks ? &Question::ask : nullptr, &question};
    const Sights sights = given.sights(self.radiance);
    StepResult result;
    int64_t n_evaluated;
    {
        nb::gil_scoped_release unlocked;
        n_evaluated = kernels().radiance->train_step(self.radiance, sights, lesson, self.density_moves, self.color_moves,
                                                     result, expect_threads(n_threads));
    }
    if (question.error) std::rethrow_exception(question.error);
    return nb::make_tuple(result.loss, result.squared_error, result.has_moved, n_evaluated);
}

}  // namespace

void bind_radiance(nb::module_& module) {
    nb::class_<PythonRadiance>(module, "Radiance", "A field of radiance; what the addresses point to has to outlive it.")
        .def("__init__", &make_radiance, "grid"_a, "density"_a, "density_parameters"_a, "color"_a, "color_parameters"_a,
             "low"_a, "extent"_a, "contraction"_a, "per_length"_a, "is_softplus"_a, nb::keep_alive<1, 2>(), nb::keep_alive<1, 3>(),
             nb::keep_alive<1, 5>())
        .def("keep_moves", &keep_moves, "grid"_a, "density"_a, "color"_a, "of_density"_a, "of_color"_a)
        .def("render", &render, "sights"_a, "color"_a, "depth"_a, "opacity"_a, "n_threads"_a, Unlocked())
        .def("train", &train, "rules"_a, "sights"_a, "target"_a, "loss"_a, "huber_delta"_a, "ray_loss"_a, "grad_background"_a,
             "grad_code"_a, "n_learned"_a, "may_move"_a.none(),
             "n_threads"_a);
    nb::class_<PythonSights>(module, "Sights", "Rays with their packed samples.")
        .def(nb::init<Address, Address, Address, Address, Address, Address, Address, Address, int64_t, int64_t, double>(),
             "offsets"_a, "t0"_a, "t1"_a, "origins"_a, "directions"_a, "code"_a, "background"_a, "fourth"_a, "n_rays"_a,
             "n_samples"_a, "least_light"_a);
}

}  // namespace fieldforge::cpu
