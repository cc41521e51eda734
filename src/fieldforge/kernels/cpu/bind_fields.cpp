// Grids, networks and training steps, as Python sees them.
#include <algorithm>
#include <cmath>

#include "bind.hpp"
#include "bind_encodings.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace fieldforge::cpu {
namespace {

const std::vector<std::pair<const char*, Activation>> activations = {
    {"None", Activation::none}, {"ReLU", Activation::relu}, {"LeakyReLU", Activation::leaky_relu},
    {"Sine", Activation::sine}, {"SiLU", Activation::silu}, {"Sigmoid", Activation::sigmoid},
    {"Tanh", Activation::tanh}, {"GELU", Activation::gelu}, {"Softplus", Activation::softplus},
    {"Squareplus", Activation::squareplus}, {"Exponential", Activation::exponential},
    {"Gaussian", Activation::gaussian}, {"FINER", Activation::finer},
    {"FINER with the true slope", Activation::finer_true_slope}, {"SPDER", Activation::spder},
};

struct PythonLevel {
    double scale;
    int64_t size, offset;
    bool is_hashed;
    std::vector<uint32_t> multipliers;
};

Level make_level(const PythonLevel& given, int n_dims, int n_features) {
    if (given.size < 1 || given.size >= (int64_t{1} << 32) / n_features) refuse("levels: sizes must be in [1, 2^32 / n_features)");
    if (given.offset < 0 || given.offset > int64_t{1} << 40) refuse("levels: offsets must be in [0, 2^40]");
    if (static_cast<int>(given.multipliers.size()) != n_dims) refuse("levels: one multiplier a dimension");
    if (!(given.scale >= 0 && given.scale < 2147483648.0)) refuse("levels: scales must be in [0, 2^31)");
    Level level{};
    level.scale = static_cast<float>(given.scale);
    level.size = static_cast<uint32_t>(given.size);
    level.offset = given.offset;
    level.is_hashed = given.is_hashed;
    level.reciprocal = ~uint64_t{0} / level.size + 1;  // 0 for size 1, which gives the right modulo too
    // the largest index of a corner of the unit cube; one lattice point too far is possible (x = 1)
    double largest = 0;
    for (int d = 0; d < n_dims; ++d) {
        level.multiplier[d] = given.multipliers[static_cast<size_t>(d)];
        level.step[d] = level.multiplier[d] * static_cast<uint32_t>(n_features);
        largest += level.multiplier[d] * (std::floor(static_cast<double>(level.scale + 0.5f)) + 1);
    }
    const bool is_power_of_two = (level.size & (level.size - 1)) == 0 && (n_features & (n_features - 1)) == 0;
    level.inside = level.outside = Indexing::any_modulo;
    if (level.is_hashed && is_power_of_two) {
        level.inside = level.outside = Indexing::hash;
    } else if (!level.is_hashed && largest < std::min(2.0 * level.size, 4294967296.0 / n_features)) {
        level.inside = Indexing::dense;
    }
    return level;
}

void make_grid(Grid* self, int n_dims, int n_features, const std::string& interpolation,
               const std::vector<nb::tuple>& levels) {
    if (n_dims < 1 || n_dims > max_dims) refuse("n_dims: the native grid has 1 to 4 dimensions");
    if (n_features < 1 || n_features > 64) refuse("n_features: the native grid has 1 to 64 features a level");
    if (levels.empty() || levels.size() > max_levels) refuse("levels: the native grid has 1 to 128 levels");
    auto* grid = new (self) Grid{};
    grid->n_dims = n_dims;
    grid->n_features = n_features;
    grid->n_levels = static_cast<int>(levels.size());
    grid->interpolation = look_up<Interpolation>(
        "interpolation", interpolation,
        {{"Nearest", Interpolation::nearest}, {"Linear", Interpolation::linear}, {"Smoothstep", Interpolation::smoothstep}});
    for (size_t l = 0; l < levels.size(); ++l) {
        if (levels[l].size() != 5) refuse("levels: each is (scale, size, offset, is_hashed, multipliers)");
        const PythonLevel given{nb::cast<double>(levels[l][0]), nb::cast<int64_t>(levels[l][1]),
                                nb::cast<int64_t>(levels[l][2]), nb::cast<bool>(levels[l][3]),
                                nb::cast<std::vector<uint32_t>>(levels[l][4])};
        grid->levels[l] = make_level(given, n_dims, n_features);
        grid->n_entries = std::max(grid->n_entries, given.offset + given.size);
    }
}

void make_mlp(PythonMlp* self, const std::vector<int>& widths, const std::string& activation, double number,
              double first_number, const std::string& output_activation, double output_number,
              const std::vector<float>& output_scale, const std::vector<float>& output_offset, bool has_bias, bool in_bf16) {
    if (widths.size() < 2 || widths.size() > max_layers + 1) refuse("widths: the native network has 1 to 64 layers");
    if (output_scale.size() != output_offset.size() ||
        (!output_scale.empty() && static_cast<int>(output_scale.size()) != widths.back())) {
        refuse("output_scale: one scale and one offset an output, or none");
    }
    if (in_bf16 && !has_bf16()) refuse("in_bf16: this processor has no products of bfloat16");
    auto* made = new (self) PythonMlp{{}, output_scale, output_offset};
    Mlp* mlp = &made->mlp;
    if (!output_scale.empty()) {
        mlp->output_scale = made->scale.data();
        mlp->output_offset = made->offset.data();
    }
    mlp->n_layers = static_cast<int>(widths.size()) - 1;
    mlp->activation = look_up("activation", activation, activations);
    mlp->output_activation = look_up("output_activation", output_activation, activations);
    mlp->number = static_cast<float>(number);
    mlp->first_number = static_cast<float>(first_number);
    mlp->output_number = static_cast<float>(output_number);
    mlp->has_bias = has_bias;
    mlp->in_bf16 = in_bf16;
    for (int l = 0; l <= mlp->n_layers; ++l) {
        const int width = widths[static_cast<size_t>(l)];
        if (width < 1 || width > (1 << 16)) refuse("widths: layers of the native network are 1 to 65536 wide");
        mlp->widths[l] = width;
        mlp->max_width = std::max(mlp->max_width, width);
    }
    for (int l = 0; l < mlp->n_layers; ++l) {
        mlp->weight_offset[l] = mlp->n_parameters;
        mlp->n_parameters += int64_t{mlp->widths[l]} * mlp->widths[l + 1];
        mlp->bias_offset[l] = mlp->n_parameters;
        if (has_bias) mlp->n_parameters += mlp->widths[l + 1];
    }
}

Field make_field(const Grid* grid, const PythonMlp& network, const Addresses& parameters,
                 const PythonEncoding* encoding = nullptr) {
    const Mlp& mlp = network.mlp;
    if (encoding && (grid || encoding->encoding.n_outputs != mlp.n_inputs())) {
        refuse("widths: the network must read as many features as the encoding has");
    }
    if (grid && grid->n_outputs() != mlp.n_inputs()) refuse("widths: the network must read as many features as the grid has");
    Field field{};
    field.grid = grid;
    field.mlp = &mlp;
    field.table = at(parameters.table);
    expect_all_layers(mlp, parameters);
    fill(field.weights, parameters.weights, mlp.n_layers, "weights");
    fill(field.biases, parameters.biases, mlp.n_layers, "biases");
    if (encoding) {
        field.encoding = &encoding->encoding;
        fill_tensors(field.tensors, parameters.tensors, encoding->encoding);
    }
    return field;
}

struct PythonRaster {
    Raster raster;
    std::vector<float> scale, offset;
};

void make_raster(PythonRaster* self, Address values, const std::string& pixel, const std::vector<int64_t>& sizes,
                 const std::vector<float>& scale, const std::vector<float>& offset) {
    if (sizes.empty() || sizes.size() > max_dims) refuse("sizes: a raster has 1 to 4 axes");
    if (scale.empty() || scale.size() != offset.size()) refuse("scale: one scale and one offset a channel");
    const Pixel kind = look_up<Pixel>("pixel", pixel, {{"uint8", Pixel::uint8}, {"uint16", Pixel::uint16}, {"float32", Pixel::float32}});
    auto* made = new (self) PythonRaster{{}, scale, offset};
    made->raster.values = at<void>(values);
    made->raster.pixel = kind;
    made->raster.n_axes = static_cast<int>(sizes.size());
    std::copy(sizes.begin(), sizes.end(), made->raster.sizes);
    made->raster.n_channels = static_cast<int>(scale.size());
    made->raster.scale = made->scale.data();
    made->raster.offset = made->offset.data();
}

std::pair<double, double> python_train_step(
                         const Grid* grid, const PythonMlp& network, const Addresses& parameters, const Addresses& first,
                         const Addresses& second, double rate, double beta1, double beta2, double epsilon, double l2,
                         int64_t n, Address x, Address target, const PythonRaster* raster, Address index,
                         const std::string& loss, double huber_delta, Address sample_loss, int n_threads,
                         const PythonEncoding* encoding) {
    const Field field = make_field(grid, network, parameters, encoding);
    const Mlp& mlp = network.mlp;
    Adam adam = make_adam(mlp, first, second, rate, beta1, beta2, epsilon, l2);
    if (encoding) {
        fill_tensors(adam.tensors_m, first.tensors, encoding->encoding);
        fill_tensors(adam.tensors_v, second.tensors, encoding->encoding);
    }
    if (raster && (raster->raster.n_axes != field.n_inputs() || raster->raster.n_channels != mlp.n_outputs())) {
        refuse("raster: its axes and channels are the field's inputs and outputs");
    }
    const Batch batch{expect_count(n), at(x), at(target), raster ? &raster->raster : nullptr, at<int64_t>(index),
                      loss_called(loss), static_cast<float>(huber_delta), at(sample_loss)};
    if (n == 0) refuse("n: a training step needs at least one sample");
    const StepResult result = kernels().field->train_step(field, batch, adam, expect_threads(n_threads));
    if (result.has_bad_index) throw std::out_of_range("index: a sample lies outside the raster");
    return {result.loss, result.squared_error};
}

}  // namespace

Adam make_adam(const Mlp& mlp, const Addresses& first, const Addresses& second, double rate, double beta1, double beta2,
               double epsilon, double l2) {
    Adam adam{static_cast<float>(rate), static_cast<float>(beta1), static_cast<float>(beta2),
              static_cast<float>(epsilon), static_cast<float>(l2), at(first.table), at(second.table), {}, {}, {}, {}};
    fill(adam.weights_m, first.weights, mlp.n_layers, "weights");
    fill(adam.weights_v, second.weights, mlp.n_layers, "weights");
    fill(adam.biases_m, first.biases, mlp.n_layers, "biases");
    fill(adam.biases_v, second.biases, mlp.n_layers, "biases");
    return adam;
}

Loss loss_called(const std::string& name) {
    return look_up<Loss>("loss", name, {{"L2", Loss::l2}, {"L1", Loss::l1}, {"Huber", Loss::huber},
                                        {"RelativeL2", Loss::relative_l2}});
}

void bind_fields(nb::module_& module) {
    nb::class_<Grid>(module, "Grid", "A multi-resolution grid without its table.")
        .def("__init__", &make_grid, "n_dims"_a, "n_features"_a, "interpolation"_a, "levels"_a,
             "levels: (scale, size, offset, is_hashed, multipliers) of each.")
        .def_ro("n_entries", &Grid::n_entries);
    nb::class_<PythonMlp>(module, "Mlp", "A multilayer perceptron without its parameters.")
        .def("__init__", &make_mlp, "widths"_a, "activation"_a, "number"_a, "first_number"_a, "output_activation"_a,
             "output_number"_a, "output_scale"_a, "output_offset"_a, "has_bias"_a, "in_bf16"_a = false);
    nb::class_<Addresses>(module, "Addresses", "Where a field's parameters, their gradients or their moments lie.")
        .def(nb::init<Address, std::vector<Address>, std::vector<Address>, std::vector<Address>>(), "table"_a, "weights"_a,
             "biases"_a, "tensors"_a = std::vector<Address>{});
    nb::class_<PythonRaster>(module, "Raster", "Samples on a regular grid, axis 0 of the coordinates fastest.")
        .def("__init__", &make_raster, "values"_a, "pixel"_a, "sizes"_a, "scale"_a, "offset"_a);

    module.def("activate", [](const std::string& name, double number, int64_t n, Address z, Address value, Address derivative) {
        kernels().field->activate(look_up("activation", name, activations), static_cast<float>(number), expect_count(n), at(z),
                           at(value), at(derivative));
    }, Unlocked());
    module.def("grid_forward", [](const Grid& grid, Address table, Address x, int64_t n, Address out, int n_threads) {
        kernels().field->grid_forward(grid, at(table), at(x), expect_count(n), at(out), expect_threads(n_threads));
    }, Unlocked());
    module.def("grid_backward", [](const Grid& grid, Address table, Address x, int64_t n, Address grad_out,
                                   Address grad_table, Address grad_x, int n_threads) {
        kernels().field->grid_backward(grid, at(table), at(x), expect_count(n), at(grad_out), at(grad_table), at(grad_x),
                                expect_threads(n_threads));
    }, Unlocked());
    module.def("field_forward", [](const Grid* grid, const PythonMlp& mlp, const Addresses& parameters, Address x,
                                   int64_t n, Address out, int n_threads, const PythonEncoding* encoding) {
        kernels().field->field_forward(make_field(grid, mlp, parameters, encoding), at(x), expect_count(n), at(out),
                                expect_threads(n_threads));
    }, "grid"_a.none(), "mlp"_a, "parameters"_a, "x"_a, "n"_a, "out"_a, "n_threads"_a,
       "encoding"_a.none() = nb::none(), Unlocked());
    module.def("field_backward", [](const Grid* grid, const PythonMlp& mlp, const Addresses& parameters, Address x,
                                    int64_t n, Address grad_out, const Addresses& gradients, Address grad_x, int n_threads,
                                    const PythonEncoding* encoding) {
        FieldGradients wanted{at(grad_x), at(gradients.table), {}, {}, {}};
        if (encoding) fill_tensors(wanted.tensors, gradients.tensors, encoding->encoding);
        fill(wanted.weights, gradients.weights, mlp.mlp.n_layers, "weights");
        fill(wanted.biases, gradients.biases, mlp.mlp.n_layers, "biases");
        kernels().field->field_backward(make_field(grid, mlp, parameters, encoding), at(x), expect_count(n), at(grad_out), wanted,
                                 expect_threads(n_threads));
    }, "grid"_a.none(), "mlp"_a, "parameters"_a, "x"_a, "n"_a, "grad_out"_a, "gradients"_a, "grad_x"_a, "n_threads"_a,
       "encoding"_a.none() = nb::none(), Unlocked());
    module.def("grid_double_backward", [](const Grid& grid, Address table, Address x, int64_t n, Address grad_out,
                                          Address cotangent, Address gradient, Address out, Address grad_table,
                                          Address grad_x, int n_threads) {
        kernels().second->grid_double_backward(grid, at(table), at(x), expect_count(n), at(grad_out), at(cotangent),
                                               at(gradient), at(out), at(grad_table), at(grad_x), expect_threads(n_threads));
    }, Unlocked());
    module.def("field_double_backward", [](const Grid* grid, const PythonMlp& mlp, const Addresses& parameters, Address x,
                                           int64_t n, Address grad_out, Address cotangent, Address gradient, Address out,
                                           const Addresses& gradients, Address grad_x, int n_threads) {
        FieldGradients wanted{at(grad_x), at(gradients.table), {}, {}, {}};
        fill(wanted.weights, gradients.weights, mlp.mlp.n_layers, "weights");
        fill(wanted.biases, gradients.biases, mlp.mlp.n_layers, "biases");
        kernels().second->field_double_backward(make_field(grid, mlp, parameters), at(x), expect_count(n), at(grad_out),
                                                at(cotangent), at(gradient), at(out), wanted, expect_threads(n_threads));
    }, "grid"_a.none(), "mlp"_a, "parameters"_a, "x"_a, "n"_a, "grad_out"_a, "cotangent"_a, "gradient"_a, "out"_a,
       "gradients"_a, "grad_x"_a, "n_threads"_a, Unlocked());
    module.def("train_step", &python_train_step, "grid"_a.none(), "mlp"_a, "parameters"_a, "first_moments"_a,
               "second_moments"_a, "rate"_a, "beta1"_a, "beta2"_a, "epsilon"_a, "l2"_a, "n"_a, "x"_a, "target"_a,
               "raster"_a.none(), "index"_a, "loss"_a, "huber_delta"_a, "sample_loss"_a, "n_threads"_a,
               "encoding"_a.none() = nb::none(), Unlocked());
}

}  // namespace fieldforge::cpu
