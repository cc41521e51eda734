// Training steps, as Python sees them.
#include "bind_training.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace fieldforge::cpu {
namespace {

const std::vector<std::pair<const char*, Loss>> losses = {
    {"L2", Loss::l2}, {"L1", Loss::l1}, {"Huber", Loss::huber}, {"RelativeL2", Loss::relative_l2},
    {"RelativeL1", Loss::relative_l1}, {"MAPE", Loss::mape}, {"SMAPE", Loss::smape}, {"LogL1", Loss::log_l1},
    {"RelativeL2Luminance", Loss::relative_l2_luminance}, {"CrossEntropy", Loss::cross_entropy},
    {"Variance", Loss::variance}, {"BinaryCrossEntropy", Loss::binary_cross_entropy},
};

struct PythonDraw {
    Raster raster;
    Draw draw;
    int64_t n;

    Draw at_step(int64_t step) const {
        Draw here = draw;
        here.raster = &raster;
        here.first = static_cast<uint64_t>(step) * static_cast<uint64_t>(n);
        return here;
    }
};

void make_draw(PythonDraw* self, Address values, const std::string& pixel, double one,
               const std::vector<int64_t>& sizes, int n_channels, int64_t seed, int64_t n, int64_t n_moved) {
    if (sizes.empty() || sizes.size() > max_dims) refuse("sizes: a raster has 1 to 4 axes");
    if (n_channels < 1) refuse("n_channels: expected at least 1");
    if (n_moved && sizes.size() != 2) refuse("n_moved: samples lie between those of a raster with 2 axes only");
    auto* made = new (self) PythonDraw{};
    Raster& raster = made->raster;
    raster.values = at<void>(values);
    raster.pixel = look_up<Pixel>(
        "pixel", pixel, {{"uint8", Pixel::uint8}, {"uint16", Pixel::uint16}, {"float32", Pixel::float32}});
    raster.one = static_cast<float>(one);
    raster.n_axes = static_cast<int>(sizes.size());
    raster.n_channels = n_channels;
    raster.n_samples = 1;
    for (size_t d = 0; d < sizes.size(); ++d) {
        if (sizes[d] < 1) refuse("sizes: expected at least one sample along each axis");
        raster.sizes[d] = sizes[d];
        raster.n_samples *= sizes[d];
    }
    made->n = expect_count(n);
    made->draw.seed = static_cast<uint64_t>(seed);
    made->draw.n_moved = n_moved;
}

// A field and what moves with it; only the rules change from step to step.
struct PythonTraining {
    Field field;
    Moves moves;
    std::vector<Moved*> in_order;  // tables, weights, biases
    Loss loss;
    float huber_delta;
};

void make_training(PythonTraining* self, const Grid* grid, const PythonMlp& network, const Addresses& parameters,
                   const Addresses& first, const Addresses& second, const Addresses& average, const std::string& loss,
                   double huber_delta, const PythonEncoding* encoding) {
    const Field field = make_field(grid, network, parameters, encoding);
    const Loss known = loss_called(loss);
    if (known == Loss::relative_l2_luminance && network.mlp.n_outputs() < 3) {
        refuse("loss: RelativeL2Luminance needs red, green and blue");
    }
    auto* made = new (self) PythonTraining{field, {}, {}, known, static_cast<float>(huber_delta)};
    collect_moves(made->moves, made->in_order, grid, network, first, second, average, encoding);
}

nb::tuple train(PythonTraining& self, const Numbers& rules, int64_t n, Address x, Address target,
                const PythonDraw* draw, int64_t step, Address sample_loss, nb::handle may_move, int n_threads) {
    set_rules(self.in_order, rules);
    if (expect_count(n) == 0) refuse("n: a training step needs at least one sample");
    if (draw && (draw->raster.n_axes != self.field.n_inputs() ||
                 draw->raster.n_channels != self.field.mlp->n_outputs())) {
        refuse("raster: its axes and channels are the field's inputs and outputs");
    }
    const Draw here = draw ? draw->at_step(step) : Draw{};
    Question question{may_move, nullptr};
    const bool asks = !may_move.is_none();
    const Batch batch{n, at(x), at(target), draw ? &here : nullptr, self.loss, self.huber_delta, at(sample_loss),
                      asks ? &Question::ask : nullptr, &question};
    StepResult result;
    {
        nb::gil_scoped_release unlocked;
        result = kernels().field->train_step(self.field, batch, self.moves, expect_threads(n_threads));
    }
    if (question.error) std::rethrow_exception(question.error);
    return nb::make_tuple(result.loss, result.squared_error, result.has_moved);
}

}  // namespace

void collect_moves(Moves& moves, std::vector<Moved*>& in_order, const Grid* grid, const PythonMlp& network,
                   const Addresses& first, const Addresses& second, const Addresses& average,
                   const PythonEncoding* encoding) {
    const Mlp& mlp = network.mlp;
    const auto take = [&](Moved& moved, Address m, Address v, Address mean) {
        moved.first = at(m), moved.second = at(v), moved.average = at(mean);
        in_order.push_back(&moved);
    };
    if (grid) take(moves.table, first.table, second.table, average.table);
    for (int k = 0; encoding && k < encoding->encoding.n_parts; ++k) {
        const Part& part = encoding->encoding.parts[k];
        if (!part.grid) continue;  // only tables move
        const auto own = [&](const Addresses& addresses) { return addresses.tensors.at(static_cast<size_t>(part.tensor)); };
        take(moves.tensors[part.tensor], own(first), own(second), own(average));
    }
    const auto of_layer = [](const std::vector<Address>& addresses, int l) {
        return static_cast<size_t>(l) < addresses.size() ? addresses[static_cast<size_t>(l)] : 0;
    };
    for (int l = 0; l < mlp.n_layers; ++l) {
        take(moves.weights[l], of_layer(first.weights, l), of_layer(second.weights, l), of_layer(average.weights, l));
    }
    for (int l = 0; l < (mlp.has_bias ? mlp.n_layers : 0); ++l) {
        take(moves.biases[l], of_layer(first.biases, l), of_layer(second.biases, l), of_layer(average.biases, l));
    }
}

void set_rules(const std::vector<Moved*>& in_order, const Numbers& rules) {
    if (rules.size() != in_order.size()) refuse("rules: expected one for each parameter");
    for (size_t i = 0; i < rules.size(); ++i) {
        if (rules[i].size() != 13) refuse("rules: expected 13 numbers");
        float f[13];
        for (size_t k = 0; k < 13; ++k) f[k] = static_cast<float>(rules[i][k]);
        Moved& moved = *in_order[i];
        const Mover mover = rules[i][0] == 0 ? Mover::none : rules[i][0] == 1 ? Mover::sgd : Mover::adam;
        if (mover == Mover::adam && !(moved.first && moved.second)) refuse("rules: Adam needs two moments");
        moved.rule = {mover, f[1], f[2], f[3], f[4], f[5], f[6], f[7], f[8], f[9], f[10], f[11], f[12]};
    }
}

Loss loss_called(const std::string& name) { return look_up("loss", name, losses); }

void bind_training(nb::module_& module) {
    nb::class_<PythonDraw>(module, "Draw", "Batches of samples on a regular grid, axis 0 of the coordinates fastest.")
        .def("__init__", &make_draw, "values"_a, "pixel"_a, "one"_a, "sizes"_a, "n_channels"_a, "seed"_a, "n"_a,
             "n_moved"_a);
    module.def("draw", [](const PythonDraw& draw, int64_t step, Address x, Address target, int n_threads) {
        kernels().field->draw(draw.at_step(step), draw.n, at(x), at(target), expect_threads(n_threads));
    }, Unlocked());
    nb::class_<PythonTraining>(module, "Training", "Steps of one field; what the addresses point to has to outlive it.")
        .def("__init__", &make_training, "grid"_a.none(), "mlp"_a, "parameters"_a, "first_moments"_a,
             "second_moments"_a, "averages"_a, "loss"_a, "huber_delta"_a, "encoding"_a.none(), nb::keep_alive<1, 2>(),
             nb::keep_alive<1, 3>(), nb::keep_alive<1, 10>())
        .def("step", &train, "rules"_a, "n"_a, "x"_a, "target"_a, "draw"_a.none(), "step"_a, "sample_loss"_a,
             "may_move"_a.none(), "n_threads"_a);
}

}  // namespace fieldforge::cpu
