"""The fused network on a GPU is the plain one in float64, in value and in every derivative."""

from __future__ import annotations

import math

import pytest
import torch
from interpreted import DEVICE, needs_triton, on_device
from reference import activations as on_numbers
from reference import networks
from torch import Tensor
from torch.func import functional_call

from fieldforge.fields.networks.mlp import MLP
from fieldforge.fields.networks.stacked import StackedMLP, stacked_mlp
from fieldforge.kernels.triton import mlp as on_gpu

pytestmark = needs_triton


def parts(network: MLP) -> tuple[list[Tensor], list[Tensor]]:
    weights = [layer.weight for layer in network.layers]
    return weights, [layer.bias for layer in network.layers] if network.has_bias else []


def plain(network: MLP, x: Tensor, *parameters: Tensor) -> Tensor:
    n = len(network.layers)
    names = [f"layers.{i}.weight" for i in range(n)] + [f"layers.{i}.bias" for i in range(n)]
    out: Tensor = functional_call(network, dict(zip(names, parameters, strict=False)), (x,))
    return out


def run(network: MLP, x: Tensor) -> Tensor:
    shape = on_gpu.describe(network, (network.n_input_dims, *(layer.weight.shape[0] for layer in network.layers)))
    assert not isinstance(shape, str), shape
    weights, biases = parts(network)
    return on_gpu.mlp(x, weights, biases, shape, reference=lambda x, w, b: plain(network, x, *w, *b))


def make(n_in: int, n_out: int, generator: torch.Generator, **keys: object) -> MLP:
    return MLP(n_in, n_out, generator=generator, **keys).to(DEVICE)  # type: ignore[arg-type]


def relative_error(got: Tensor, expected: Tensor) -> float:
    got, expected = got.detach().double(), expected.detach().double()
    assert got.shape == expected.shape
    return float((got - expected).norm() / expected.norm().clamp_min(1e-30))


def assert_agree(network: MLP, n: int, generator: torch.Generator, tolerance: float) -> None:
    """Against the same network in float64, whatever the dtype of its parameters."""
    dtype = next(network.parameters()).dtype
    x = (2 * torch.rand(n, network.n_input_dims, generator=generator) - 1).to(DEVICE, dtype).requires_grad_()
    grad = torch.randn(n, network.n_output_dims, generator=generator).to(DEVICE, dtype)
    got = run(network, x)
    assert got.dtype == dtype
    weights, biases = parts(network)
    found = torch.autograd.grad(got, [x, *weights, *biases], grad)
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, *weights, *biases)]
    expected = plain(network, *exact)
    assert relative_error(got, expected) <= tolerance
    for one, other in zip(found, torch.autograd.grad(expected, exact, grad.double()), strict=True):
        assert relative_error(one, other) <= 2 * tolerance


@pytest.mark.parametrize("activation", on_numbers.NATIVE, ids=lambda a: "-".join(map(str, a.values())))
def test_every_activation(activation: dict[str, object], generator: torch.Generator) -> None:
    output = {"ReLU": "Sigmoid", "Sine": "Tanh"}.get(str(activation["otype"]), "None")
    keys = {"activation": activation, "output_activation": output, "has_bias": True}
    assert_agree(make(5, 3, generator, n_neurons=19, n_hidden_layers=2, **keys), 21, generator, 1e-5)


@pytest.mark.parametrize(
    ("n_in", "width", "n_hidden", "n_out", "n", "has_bias"),
    [
        (3, 16, 1, 1, 0, True),
        (1, 16, 1, 1, 1, False),
        (32, 64, 5, 3, 15, False),
        (70, 32, 2, 17, 257, True),
        (33, 128, 2, 100, 66, True),
    ],
)
def test_odd_sizes(
    n_in: int, width: int, n_hidden: int, n_out: int, n: int, has_bias: bool, generator: torch.Generator
) -> None:
    network = make(n_in, n_out, generator, n_neurons=width, n_hidden_layers=n_hidden, has_bias=has_bias)
    assert_agree(network, n, generator, 3e-6)


@pytest.mark.parametrize("dtype", [torch.float16, pytest.param(torch.bfloat16, marks=on_device)])
def test_half_precision_adds_in_full_precision(dtype: torch.dtype, generator: torch.Generator) -> None:
    network = make(20, 3, generator, n_neurons=64, n_hidden_layers=3, has_bias=True, activation="Softplus").to(dtype)
    assert_agree(network, 130, generator, 2 * torch.finfo(dtype).eps)


@on_device
def test_precision_bfloat16_is_the_references(generator: torch.Generator) -> None:
    network = make(20, 3, generator, n_neurons=64, n_hidden_layers=2, precision="bfloat16")
    x = torch.rand(300, 20, generator=generator).to(DEVICE).requires_grad_()
    grad = torch.randn(300, 3, generator=generator).to(DEVICE)
    weights, _ = parts(network)
    got, expected = (torch.autograd.grad(f(x), [x, *weights], grad) for f in (lambda x: run(network, x), network))
    for one, other in zip(got, expected, strict=True):
        assert relative_error(one, other) < 4e-3


def test_values_are_those_of_the_loops_in_float64(generator: torch.Generator) -> None:
    network = make(3, 2, generator, n_neurons=17, n_hidden_layers=2, has_bias=True, activation="Softplus")
    x = torch.rand(4, 3, generator=generator)
    weights, biases = ([tensor.tolist() for tensor in group] for group in parts(network))
    for point, out in zip(x.tolist(), run(network, x.to(DEVICE)).tolist(), strict=True):
        assert out == pytest.approx(networks.mlp(point, weights, biases, on_numbers.softplus), rel=1e-5)


def test_softplus_keeps_its_digits_far_on_the_left(generator: torch.Generator) -> None:
    """log(1 + 1e-9) as it stands is 0 in float32; a density of that size is not."""
    keys = {"has_bias": True, "output_activation": {"otype": "Softplus", "beta": 1.0}}
    network = make(1, 1, generator, n_neurons=16, n_hidden_layers=1, **keys)
    with torch.no_grad():
        network.layers[-1].weight.zero_()
    for bias in (-25.0, -16.2, -9.0, 0.5):
        with torch.no_grad():
            network.layers[-1].bias.fill_(bias)
        out = run(network, torch.zeros(1, 1, device=DEVICE))
        assert float(out.detach()) == pytest.approx(math.log1p(math.exp(bias)), rel=1e-6)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("activation", ["ReLU", "SPDER", "Softplus"])
def test_nan_in_nan_out_in_its_own_row(activation: str, generator: torch.Generator) -> None:
    network = make(4, 2, generator, n_neurons=16, n_hidden_layers=1, activation=activation)
    x = torch.rand(9, 4, generator=generator).to(DEVICE)
    x[3, 1] = math.nan
    assert run(network, x).isnan().any(1).nonzero().flatten().tolist() == [3]


def test_the_second_derivative_is_the_references(generator: torch.Generator) -> None:
    network = make(3, 1, generator, n_neurons=16, n_hidden_layers=2, has_bias=True, activation="Sine")
    x = torch.rand(7, 3, generator=generator).to(DEVICE).requires_grad_()
    found = []
    for out in (run(network, x), network(x)):
        (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        found.append(torch.autograd.grad((slope.norm(dim=-1) - 1).square().sum(), [x, *parts(network)[0]]))
    for one, other in zip(*found, strict=True):
        assert relative_error(one, other) < 1e-5


@pytest.mark.parametrize("has_bias", [False, True])
def test_a_stack_is_each_network_on_its_own_rows(has_bias: bool, generator: torch.Generator) -> None:
    stack = StackedMLP(4, 5, 3, n_neurons=10, n_hidden_layers=2, has_bias=has_bias, generator=generator).to(DEVICE)
    offsets = torch.tensor([0, 70, 70, 71, 90], device=DEVICE)
    x = torch.rand(90, 5, generator=generator).to(DEVICE).requires_grad_()
    shape = on_gpu.describe(stack, stack.widths)
    assert not isinstance(shape, str)
    weights, biases = list(stack.weights), list(stack.biases)
    got = on_gpu.mlp(
        x, weights, biases, shape, offsets=offsets, reference=lambda x, w, b: stacked_mlp(stack, x, offsets, w, b)
    )
    grad = torch.randn(90, 3, generator=generator).to(DEVICE)
    found = torch.autograd.grad(got, [x, *weights, *biases], grad)
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, *weights, *biases)]
    expected = stacked_mlp(stack, exact[0], offsets, exact[1:4], exact[4:])
    assert relative_error(got, expected) < 3e-6
    for one, other in zip(found, torch.autograd.grad(expected, exact, grad.double()), strict=True):
        assert relative_error(one, other) < 6e-6


def test_the_door_names_what_is_wrong(generator: torch.Generator) -> None:
    network = make(3, 1, generator, n_neurons=16, n_hidden_layers=1)
    with pytest.raises(TypeError, match="x: expected float32 or float16 or bfloat16 on a CUDA device"):
        run(network, torch.rand(3, 3, device=DEVICE).double())
    with pytest.raises(ValueError, match=r"x: expected shape \(2, 3\), got \(2, 4\)"):
        run(network, torch.rand(2, 4, device=DEVICE))
    assert "at most 128 units" in str(on_gpu.describe(network, (3, 256, 1)))
    assert "no activation WIRE" in str(on_gpu.describe(MLP(3, 1, activation="WIRE"), (3, 16, 1)))
