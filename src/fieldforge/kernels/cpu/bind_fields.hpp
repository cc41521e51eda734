// What bindings of fields share: networks and where their parameters are.
#pragma once
#include "bind.hpp"

namespace fieldforge::cpu {

struct PythonMlp {
    Mlp mlp;
    std::vector<float> scale, offset;
};

// Addresses of a field's parameters, or of anything of the same shapes: gradients, moments.
struct Addresses {
    Address table;
    std::vector<Address> weights, biases;
};

template <class Target>
void fill(Target (&to)[max_layers], const std::vector<Address>& from, int n_layers, const char* what) {
    if (!from.empty() && static_cast<int>(from.size()) != n_layers) refuse(std::string(what) + ": one address a layer");
    for (size_t l = 0; l < from.size(); ++l) to[l] = at(from[l]);
}

inline Field make_field(const Grid* grid, const PythonMlp& network, const Addresses& parameters) {
    const Mlp& mlp = network.mlp;
    if (grid && grid->n_outputs() != mlp.n_inputs()) refuse("widths: the network must read as many features as the grid has");
    Field field{};
    field.grid = grid;
    field.mlp = &mlp;
    field.table = at(parameters.table);
    if (static_cast<int>(parameters.weights.size()) != mlp.n_layers) refuse("weights: one address a layer");
    if (static_cast<int>(parameters.biases.size()) != (mlp.has_bias ? mlp.n_layers : 0)) refuse("biases: one address a layer");
    fill(field.weights, parameters.weights, mlp.n_layers, "weights");
    fill(field.biases, parameters.biases, mlp.n_layers, "biases");
    return field;
}

}  // namespace fieldforge::cpu
