// Grids and networks, as Python sees them.
#include <algorithm>
#include <cmath>

#include "bind_fields.hpp"

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
    double last_scale;  // of the last coordinate
};

Level make_level(const PythonLevel& given, int n_dims, int n_features) {
    if (given.size < 1 || given.size >= (int64_t{1} << 32) / n_features) refuse("levels: sizes must be in [1, 2^32 / n_features)");
    if (given.offset < 0 || given.offset > int64_t{1} << 40) refuse("levels: offsets must be in [0, 2^40]");
    if (static_cast<int>(given.multipliers.size()) != n_dims) refuse("levels: one multiplier a dimension");
    for (const double scale : {given.scale, given.last_scale}) {
        if (!(scale >= 0 && scale < 2147483648.0)) refuse("levels: scales must be in [0, 2^31)");
    }
    Level level{};
    level.size = static_cast<uint32_t>(given.size);
    level.offset = given.offset;
    level.is_hashed = given.is_hashed;
    level.reciprocal = ~uint64_t{0} / level.size + 1;  // 0 for size 1, which gives the right modulo too
    // the largest index of a corner of the unit cube; one lattice point too far is possible (x = 1)
    double largest = 0;
    level.n_dims = n_dims > 1 && given.last_scale == 0 && given.multipliers.back() == 0 ? n_dims - 1 : n_dims;
    for (int d = 0; d < n_dims; ++d) {
        level.multiplier[d] = given.multipliers[static_cast<size_t>(d)];
        level.step[d] = level.multiplier[d] * static_cast<uint32_t>(n_features);
        level.scale[d] = static_cast<float>(d + 1 < n_dims ? given.scale : given.last_scale);
        largest += level.multiplier[d] * (std::floor(static_cast<double>(level.scale[d] + 0.5f)) + 1);
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
        if (levels[l].size() != 6) refuse("levels: each is (scale, size, offset, is_hashed, multipliers, last_scale)");
        const PythonLevel given{nb::cast<double>(levels[l][0]), nb::cast<int64_t>(levels[l][1]),
                                nb::cast<int64_t>(levels[l][2]), nb::cast<bool>(levels[l][3]),
                                nb::cast<std::vector<uint32_t>>(levels[l][4]), nb::cast<double>(levels[l][5])};
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

}  // namespace

void bind_fields(nb::module_& module) {
    nb::class_<Grid>(module, "Grid", "A multi-resolution grid without its table.")
        .def("__init__", &make_grid, "n_dims"_a, "n_features"_a, "interpolation"_a, "levels"_a,
             "levels: (scale, size, offset, is_hashed, multipliers, scale of the last coordinate) of each.")
        .def_ro("n_entries", &Grid::n_entries);
    nb::class_<PythonMlp>(module, "Mlp", "A multilayer perceptron without its parameters.")
        .def("__init__", &make_mlp, "widths"_a, "activation"_a, "number"_a, "first_number"_a, "output_activation"_a,
             "output_number"_a, "output_scale"_a, "output_offset"_a, "has_bias"_a, "in_bf16"_a = false);
    nb::class_<Addresses>(module, "Addresses", "Where a field's parameters, their gradients or their moments lie.")
        .def(nb::init<Address, std::vector<Address>, std::vector<Address>, std::vector<Address>>(), "table"_a, "weights"_a,
             "biases"_a, "tensors"_a = std::vector<Address>{});

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
}

}  // namespace fieldforge::cpu
