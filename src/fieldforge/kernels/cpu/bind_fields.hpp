// A field as the bindings make it: networks, encodings, and where their parameters are.
#pragma once
#include "bind_encodings.hpp"

namespace fieldforge::cpu {

inline Field make_field(const Grid* grid, const PythonMlp& network, const Addresses& parameters,
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

}  // namespace fieldforge::cpu
