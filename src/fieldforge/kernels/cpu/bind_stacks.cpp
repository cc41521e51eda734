// Stacks of networks, as Python sees them.
#include "bind.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace fieldforge::cpu {

Stack make_stack(const PythonMlp& network, const Addresses& parameters, int64_t n_networks, Address offsets) {
    expect_all_layers(network.mlp, parameters);
    if (network.mlp.in_bf16) refuse("in_bf16: stacks are in float32 only");
    if (n_networks < 1) refuse("n_networks: a stack has at least one network");
    Stack stack{};
    stack.mlp = &network.mlp;
    stack.n_networks = n_networks;
    stack.offsets = at<int64_t>(offsets);
    fill(stack.weights, parameters.weights, network.mlp.n_layers, "weights");
    fill(stack.biases, parameters.biases, network.mlp.n_layers, "biases");
    return stack;
}

namespace {

Adam make_adam(const Mlp& mlp, const Addresses& first, const Addresses& second, double rate, double beta1, double beta2,
               double epsilon, double l2) {
    Adam adam{static_cast<float>(rate), static_cast<float>(beta1), static_cast<float>(beta2),
              static_cast<float>(epsilon), static_cast<float>(l2), {}, {}, {}, {}};
    fill(adam.weights_m, first.weights, mlp.n_layers, "weights");
    fill(adam.weights_v, second.weights, mlp.n_layers, "weights");
    fill(adam.biases_m, first.biases, mlp.n_layers, "biases");
    fill(adam.biases_v, second.biases, mlp.n_layers, "biases");
    return adam;
}

}  // namespace

void bind_stacks(nb::module_& module) {
    module.def("stack_forward", [](const PythonMlp& mlp, const Addresses& parameters, int64_t n_networks,
                                   Address offsets, Address x, Address out, int n_threads) {
        kernels().stack->forward(make_stack(mlp, parameters, n_networks, offsets), at(x), at(out),
                                 expect_threads(n_threads));
    }, "mlp"_a, "parameters"_a, "n_networks"_a, "offsets"_a, "x"_a, "out"_a, "n_threads"_a, Unlocked());
    module.def("stack_backward", [](const PythonMlp& mlp, const Addresses& parameters, int64_t n_networks,
                                    Address offsets, Address x, Address grad_out, const Addresses& gradients,
                                    Address grad_x, int n_threads) {
        FieldGradients wanted{at(grad_x), nullptr, {}, {}, {}};
        fill(wanted.weights, gradients.weights, mlp.mlp.n_layers, "weights");
        fill(wanted.biases, gradients.biases, mlp.mlp.n_layers, "biases");
        kernels().stack->backward(make_stack(mlp, parameters, n_networks, offsets), at(x), at(grad_out), wanted,
                                  expect_threads(n_threads));
    }, "mlp"_a, "parameters"_a, "n_networks"_a, "offsets"_a, "x"_a, "grad_out"_a, "gradients"_a, "grad_x"_a,
       "n_threads"_a, Unlocked());
    module.def("stack_train_step", [](const PythonMlp& mlp, const Addresses& parameters, const Addresses& first,
                                      const Addresses& second, int64_t n_networks, Address offsets, double rate,
                                      double beta1, double beta2, double epsilon, double l2, Address x, Address target,
                                      const std::string& loss, double huber_delta, bool of_each, Address squared_errors,
                                      int n_threads) {
        const Stack stack = make_stack(mlp, parameters, n_networks, offsets);
        const Adam adam = make_adam(mlp.mlp, first, second, rate, beta1, beta2, epsilon, l2);
        if (stack.n_points() == 0) refuse("n: a training step needs at least one sample");
        Batch batch{};
        batch.n = stack.n_points();
        batch.x = at(x);
        batch.target = at(target);
        batch.loss = loss_called(loss);
        if (batch.loss == Loss::relative_l2_luminance && mlp.mlp.n_outputs() < 3) {
            refuse("loss: RelativeL2Luminance needs red, green and blue");
        }
        batch.huber_delta = static_cast<float>(huber_delta);
        const StepResult result = kernels().stack->train_step(stack, batch, adam, of_each, at<double>(squared_errors),
                                                              expect_threads(n_threads));
        return std::pair<double, double>(result.loss, result.squared_error);
    }, "mlp"_a, "parameters"_a, "first_moments"_a, "second_moments"_a, "n_networks"_a, "offsets"_a, "rate"_a, "beta1"_a,
       "beta2"_a, "epsilon"_a, "l2"_a, "x"_a, "target"_a, "loss"_a, "huber_delta"_a, "of_each"_a,
       "squared_errors"_a, "n_threads"_a, Unlocked());
}

}  // namespace fieldforge::cpu
