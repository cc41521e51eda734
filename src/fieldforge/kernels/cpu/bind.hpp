// What the bindings share.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "dispatch.hpp"

namespace fieldforge::cpu {

using Address = uintptr_t;

template <class T = float>
inline T* at(Address address) {
    return reinterpret_cast<T*>(address);
}

[[noreturn]] inline void refuse(const std::string& message) { throw std::invalid_argument(message); }

template <class T>
T look_up(const char* what, const std::string& name, const std::vector<std::pair<const char*, T>>& table) {
    for (const auto& [known, value] : table) {
        if (name == known) return value;
    }
    refuse(std::string(what) + ": the native kernels have no '" + name + "'");
}

inline int expect_threads(int n_threads) {
    if (n_threads < 1 || n_threads > 1024) refuse("n_threads: expected 1 to 1024");
    return n_threads;
}

inline int64_t expect_count(int64_t n) {
    if (n < 0 || n > int64_t{1} << 40) refuse("n: expected 0 to 2^40 points");
    return n;
}

// Every call lets other Python threads run.
using Unlocked = nanobind::call_guard<nanobind::gil_scoped_release>;

// A network's description, and the numbers that it points to.
struct PythonMlp {
    Mlp mlp;
    std::vector<float> scale, offset;
};

// Addresses of a field's parameters, or of anything of the same shapes: gradients, moments.
struct Addresses {
    Address table;
    std::vector<Address> weights, biases;
    std::vector<Address> tensors;  // of an encoding of several parts
};

template <class Target>
void fill(Target (&to)[max_layers], const std::vector<Address>& from, int n_layers, const char* what) {
    if (!from.empty() && static_cast<int>(from.size()) != n_layers) refuse(std::string(what) + ": one address a layer");
    for (size_t l = 0; l < from.size(); ++l) to[l] = at(from[l]);
}

inline void expect_all_layers(const Mlp& mlp, const Addresses& parameters) {
    if (static_cast<int>(parameters.weights.size()) != mlp.n_layers) refuse("weights: one address a layer");
    if (static_cast<int>(parameters.biases.size()) != (mlp.has_bias ? mlp.n_layers : 0)) refuse("biases: one address a layer");
}

Loss loss_called(const std::string& name);
Stack make_stack(const PythonMlp& network, const Addresses& parameters, int64_t n_networks, Address offsets);

void bind_fields(nanobind::module_& module);
void bind_encodings(nanobind::module_& module);
void bind_radiance(nanobind::module_& module);
void bind_rendering(nanobind::module_& module);
void bind_marching(nanobind::module_& module);
void bind_stacks(nanobind::module_& module);
void bind_training(nanobind::module_& module);
void bind_limits(nanobind::module_& module);
void bind_cells(nanobind::module_& module);

}  // namespace fieldforge::cpu
