// One instruction set by itself, without Python, against plain loops in float64: for processors that only an emulator
// has here. For Arm, say, with clang and QEMU (zig c++ is clang with every target's headers):
//
//     zig c++ -target aarch64-linux-musl -std=c++20 -O3 -ffp-contract=off -fno-math-errno -fno-trapping-math
//         -DFF_SET=baseline -I src/fieldforge/kernels/cpu tests/kernels/native_check.cpp
//         src/fieldforge/kernels/cpu/field.cpp src/fieldforge/kernels/cpu/pool.cpp -o native_check
//     qemu-aarch64 ./native_check
#include <cmath>
#include <cstdio>
#include <vector>

#include "api.hpp"

namespace fieldforge::cpu::FF_SET {
extern const FieldKernels field_kernels;
}
using namespace fieldforge::cpu;
constexpr const FieldKernels& kernels = FF_SET::field_kernels;

namespace {

uint32_t state = 1;
float number() {  // in [0, 1)
    state = state * 1664525u + 1013904223u;
    return static_cast<float>(state >> 8) * 0x1p-24f;
}
std::vector<float> numbers(int64_t n, float low, float high) {
    std::vector<float> v(static_cast<size_t>(n));
    for (float& x : v) x = low + (high - low) * number();
    return v;
}

bool all_well = true;
void compare(const char* what, const std::vector<float>& got, const std::vector<double>& expected, double tolerance) {
    double error = 0, length = 0;
    for (size_t i = 0; i < got.size(); ++i) {
        const double difference = static_cast<double>(got[i]) - expected[i];
        error += difference * difference;
        length += expected[i] * expected[i];
    }
    const double relative = std::sqrt(error / length);
    const bool is_well = got.size() == expected.size() && relative <= tolerance;
    std::printf("%-28s relative error %.1e%s\n", what, relative, is_well ? "" : "  WRONG");
    all_well &= is_well;
}

// A hash grid of three levels and two features, by the definition.
Grid make_grid(int n_dims) {
    Grid grid{};
    grid.n_dims = n_dims;
    grid.n_features = 2;
    grid.n_levels = 3;
    grid.interpolation = Interpolation::linear;
    const uint32_t primes[max_dims] = {1u, 2654435761u, 805459861u, 3674653429u};
    for (int l = 0; l < 3; ++l) {
        Level& level = grid.levels[l];
        level.scale = 7.5f * static_cast<float>(l + 1);
        level.size = l == 1 ? 100 : 128;  // the one in the middle takes the modulo
        level.offset = grid.n_entries;
        level.is_hashed = true;
        level.inside = level.outside = l == 1 ? Indexing::any_modulo : Indexing::hash;
        level.reciprocal = ~uint64_t{0} / level.size + 1;
        for (int d = 0; d < n_dims; ++d) {
            level.multiplier[d] = primes[d];
            level.step[d] = primes[d] * 2;
        }
        grid.n_entries += level.size;
    }
    return grid;
}

void encode(const Grid& grid, const std::vector<float>& table, const float* x, double* features,
            const double* gradient, double* grad_table) {
    for (int l = 0; l < grid.n_levels; ++l) {
        const Level& level = grid.levels[l];
        double& first = features[2 * l];
        double& second = features[2 * l + 1];
        first = second = 0;
        for (int corner = 0; corner < 1 << grid.n_dims; ++corner) {
            uint32_t index = 0;
            double weight = 1;
            for (int d = 0; d < grid.n_dims; ++d) {
                const float position = static_cast<float>(static_cast<double>(x[d]) * level.scale + 0.5);
                const double lower = std::floor(position), t = position - lower;
                const bool is_upper = corner >> d & 1;
                index ^= (static_cast<uint32_t>(lower) + is_upper) * level.multiplier[d];
                weight *= is_upper ? t : 1 - t;
            }
            const size_t row = 2 * static_cast<size_t>(level.offset + index % level.size);
            first += weight * table[row];
            second += weight * table[row + 1];
            if (gradient) {
                grad_table[row] += weight * gradient[2 * l];
                grad_table[row + 1] += weight * gradient[2 * l + 1];
            }
        }
    }
}

void check_field(int n_dims, int64_t n, int n_threads) {
    const Grid grid = make_grid(n_dims);
    Mlp mlp{};
    mlp.n_layers = 2;
    mlp.widths[0] = grid.n_outputs();
    mlp.widths[1] = 19;
    mlp.widths[2] = 5;
    mlp.activation = Activation::tanh;
    mlp.max_width = 19;
    mlp.has_bias = true;
    mlp.weight_offset[0] = 0;
    mlp.bias_offset[0] = 19 * 6;
    mlp.weight_offset[1] = 19 * 6 + 19;
    mlp.bias_offset[1] = 19 * 6 + 19 + 5 * 19;
    mlp.n_parameters = mlp.bias_offset[1] + 5;
    std::vector<float> table = numbers(grid.n_entries * 2, -1, 1), x = numbers(n * n_dims, 0, 1);
    std::vector<float> parameters = numbers(mlp.n_parameters, -0.5f, 0.5f), grad_out = numbers(n * 5, -1, 1);
    Field field{&grid, &mlp, table.data(), {}, {}};
    for (int l = 0; l < 2; ++l) {
        field.weights[l] = parameters.data() + mlp.weight_offset[l];
        field.biases[l] = parameters.data() + mlp.bias_offset[l];
    }
    std::vector<float> out(static_cast<size_t>(n * 5)), grad_parameters(parameters.size()), grad_table(table.size());
    kernels.field_forward(field, x.data(), n, out.data(), n_threads);
    FieldGradients wanted{nullptr, grad_table.data(), {}, {}};
    for (int l = 0; l < 2; ++l) {
        wanted.weights[l] = grad_parameters.data() + mlp.weight_offset[l];
        wanted.biases[l] = grad_parameters.data() + mlp.bias_offset[l];
    }
    kernels.field_backward(field, x.data(), n, grad_out.data(), wanted, n_threads);

    std::vector<double> expected(out.size()), expected_parameters(parameters.size()), expected_table(table.size());
    for (int64_t i = 0; i < n; ++i) {
        double features[6], hidden[19], grad_features[6] = {};
        const float* point = x.data() + i * n_dims;
        encode(grid, table, point, features, nullptr, nullptr);
        for (int h = 0; h < 19; ++h) {
            double sum = field.biases[0][h];
            for (int k = 0; k < 6; ++k) sum += field.weights[0][h * 6 + k] * features[k];
            hidden[h] = std::tanh(sum);
        }
        double grad_hidden[19] = {};
        for (int o = 0; o < 5; ++o) {
            const double g = grad_out[static_cast<size_t>(i * 5 + o)];
            double sum = field.biases[1][o];
            for (int h = 0; h < 19; ++h) {
                sum += field.weights[1][o * 19 + h] * hidden[h];
                expected_parameters[static_cast<size_t>(mlp.weight_offset[1] + o * 19 + h)] += g * hidden[h];
                grad_hidden[h] += g * field.weights[1][o * 19 + h];
            }
            expected_parameters[static_cast<size_t>(mlp.bias_offset[1] + o)] += g;
            expected[static_cast<size_t>(i * 5 + o)] = sum;
        }
        for (int h = 0; h < 19; ++h) {
            const double g = grad_hidden[h] * (1 - hidden[h] * hidden[h]);
            for (int k = 0; k < 6; ++k) {
                expected_parameters[static_cast<size_t>(h * 6 + k)] += g * features[k];
                grad_features[k] += g * field.weights[0][h * 6 + k];
            }
            expected_parameters[static_cast<size_t>(mlp.bias_offset[0] + h)] += g;
        }
        encode(grid, table, point, features, grad_features, expected_table.data());
    }
    std::printf("%d dimensions, %lld points, %d threads\n", n_dims, static_cast<long long>(n), n_threads);
    compare("value", out, expected, 1e-6);
    compare("gradient in the network", grad_parameters, expected_parameters, 3e-6);
    compare("gradient in the table", grad_table, expected_table, 3e-6);
}

void check_activation(const char* name, Activation activation, double (*exact)(double)) {
    const std::vector<float> z = numbers(1003, -6, 6);
    std::vector<float> value(z.size()), slope(z.size());
    kernels.activate(activation, 1.0f, static_cast<int64_t>(z.size()), z.data(), value.data(), slope.data());
    std::vector<double> expected;
    for (float x : z) expected.push_back(exact(x));
    compare(name, value, expected, 5e-7);
}

}  // namespace

int main() {
    std::printf("%d lanes\n", kernels.n_lanes);
    for (int n_dims = 1; n_dims <= 4; ++n_dims) check_field(n_dims, 1003, n_dims);
    check_field(3, 17, 1);
    check_activation("sine", Activation::sine, [](double x) { return std::sin(x); });
    check_activation("tanh", Activation::tanh, [](double x) { return std::tanh(x); });
    check_activation("GELU", Activation::gelu, [](double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); });
    check_activation("softplus", Activation::softplus, [](double x) { return std::log1p(std::exp(x)); });
    check_activation("exponential", Activation::exponential, [](double x) { return std::exp(x); });
    std::puts(all_well ? "native_check: well" : "native_check: WRONG");
    return all_well ? 0 : 1;
}
