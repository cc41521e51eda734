"""The native network is the plain one, in value and in every derivative, alone and behind a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from reference.activations import NATIVE as ACTIVATIONS
from torch import Tensor

from fieldforge.encodings.grid import Grid, grid
from fieldforge.fields.networks.mlp import MLP
from fieldforge.kernels import cpu_door, cpu_ops
from fieldforge.kernels.cpu_ops import GridShape, MlpShape
from fieldforge.registry import build

pytestmark = pytest.mark.skipif(cpu_door.missing() is not None, reason=f"no native kernels: {cpu_door.missing()}")


def shape_of(network: MLP) -> MlpShape:
    described = cpu_ops.describe_activation(network.activation)
    described_output = cpu_ops.describe_activation(network.output_activation)
    assert described is not None
    assert described_output is not None
    widths = (network.n_input_dims, *(layer.weight.shape[0] for layer in network.layers))
    return MlpShape(widths, *described, *described_output[:2], has_bias=network.has_bias)


def parameters_of(network: MLP) -> tuple[list[Tensor], list[Tensor]]:
    weights = [layer.weight for layer in network.layers]
    return weights, [layer.bias for layer in network.layers] if network.has_bias else []


def plain(network: MLP, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """The network with other parameters in the place of its own."""
    names = [f"layers.{i}.weight" for i in range(len(weights))] + [f"layers.{i}.bias" for i in range(len(biases))]
    values = dict(zip(names, (*weights, *biases), strict=True))
    out: Tensor = torch.func.functional_call(network, values, (x,))
    return out


def native(network: MLP, x: Tensor) -> Tensor:
    return cpu_ops.mlp(x, *parameters_of(network), shape_of(network), reference=lambda x, w, b: plain(network, x, w, b))


def make(n_in: int, n_out: int, generator: torch.Generator, **keys: object) -> MLP:
    return MLP(n_in, n_out, generator=generator, **keys)  # type: ignore[arg-type]


def relative_error(got: Tensor, expected: Tensor) -> float:
    got, expected = got.detach().double(), expected.detach().double()
    return float((got - expected).norm() / expected.norm().clamp_min(1e-30))


def gradients(out: Tensor, grad: Tensor, x: Tensor, network: MLP) -> list[Tensor]:
    weights, biases = parameters_of(network)
    return list(torch.autograd.grad(out, [x, *weights, *biases], grad.to(out.dtype)))


def assert_agree(network: MLP, n_points: int, generator: torch.Generator, tolerance: float) -> None:
    x = (2 * torch.rand(n_points, network.n_input_dims, generator=generator) - 1).requires_grad_()
    grad = torch.randn(n_points, network.n_output_dims, generator=generator)
    got = native(network, x)
    got_gradients = gradients(got, grad, x, network)
    exact = MLP(
        network.n_input_dims,
        network.n_output_dims,
        **{key: value for key, value in network.config().items() if key != "otype"},
    ).double()
    exact.load_state_dict(network.state_dict())
    x64 = x.detach().double().requires_grad_()
    expected = exact(x64)
    assert got.shape == expected.shape
    assert relative_error(got, expected) <= tolerance
    for one, other in zip(got_gradients, gradients(expected, grad, x64, exact), strict=True):
        assert one.shape == other.shape
        assert relative_error(one, other) <= tolerance
        if other.numel() and other.abs().max() > 0:
            worst = (one - other).abs().max() / other.abs().max()
            assert worst <= 3 * tolerance
            cosine = float((one.double() * other).sum() / (one.double().norm() * other.norm()))
            assert cosine == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("output", ["None", "ReLU", "Sigmoid"])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: "-".join(map(str, a.values())))
def test_value_and_gradients_for_every_activation(
    activation: dict[str, object], output: str, generator: torch.Generator
) -> None:
    network = make(
        5, 3, generator, n_neurons=33, n_hidden_layers=2, has_bias=True, activation=activation, output_activation=output
    )
    assert_agree(network, 150, generator, 1e-5)


@pytest.mark.parametrize("n_points", [0, 1, 15, 17, 256, 1003])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(
    ("n_in", "width", "n_hidden", "n_out"),
    [(1, 1, 1, 1), (32, 64, 2, 3), (63, 32, 3, 4), (2, 257, 1, 17), (7, 5, 0, 3), (20, 13, 2, 5)],
)
def test_value_and_gradients_for_odd_sizes(
    n_in: int, width: int, n_hidden: int, n_out: int, has_bias: bool, n_points: int, generator: torch.Generator
) -> None:
    network = make(n_in, n_out, generator, n_neurons=width, n_hidden_layers=n_hidden, has_bias=has_bias)
    assert_agree(network, n_points, generator, 4e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: "-".join(map(str, a.values())))
def test_activations_are_accurate_everywhere(activation: dict[str, object]) -> None:
    part = build("activation", activation)
    name, number, _ = cpu_ops.describe_activation(part) or ("", 0.0, 0.0)
    z = torch.cat([torch.linspace(-20, 20, 4001), torch.linspace(-1e-3, 1e-3, 101), torch.logspace(-30, 1.9, 300)])
    if "omega" in activation:
        z = z[z.abs() < 5]
    value, slope = torch.empty_like(z), torch.empty_like(z)
    cpu_door.native().activate(name, number, len(z), z.data_ptr(), value.data_ptr(), slope.data_ptr())  # type: ignore[union-attr]
    expected, expected_slope = part(z.double()), part.derivative(z.double())
    # a few units in the last place of the result or of what is subtracted to get it
    step = {"GELU": 1.0, "Tanh": 1.0, "Sigmoid": 1.0, "SiLU": 20.0, "Sine": 15.0, "FINER": 60.0, "SPDER": 60.0}
    slack = 4e-7 * step.get(str(activation["otype"]), 0.0)
    relative = 1e-5 if activation["otype"] in ("Gaussian", "Exponential", "Softplus") else 2e-6
    visible = expected.abs() < 3e38
    assert ((value - expected).abs() <= relative * expected.abs() + slack + 1e-37)[visible].all()
    assert ((slope - expected_slope).abs() <= relative * expected_slope.abs() + 4 * slack + 1e-36)[visible].all()
    assert torch.isinf(value[~visible]).all()


def test_sine_of_large_arguments() -> None:
    z = torch.tensor([1e4, -3e4, 1e6, 3e7, math.inf, math.nan])
    value, slope = torch.empty_like(z), torch.empty_like(z)
    cpu_door.native().activate("Sine", 1.0, len(z), z.data_ptr(), value.data_ptr(), slope.data_ptr())  # type: ignore[union-attr]
    assert torch.allclose(value[:4], z[:4].double().sin().float(), atol=1e-6)
    assert torch.allclose(slope[:4], z[:4].double().cos().float(), atol=1e-6)
    assert value[4:].isnan().all()


@pytest.mark.parametrize("name", [a["otype"] for a in ACTIVATIONS])
def test_nan_in_nan_out(name: str, generator: torch.Generator) -> None:
    network = make(2, 1, generator, n_neurons=8, n_hidden_layers=2, activation=name)
    x = torch.rand(40, 2, generator=generator)
    x[5, 1] = math.nan
    assert native(network, x).isnan().squeeze(1).nonzero().tolist() == [[5]]


def test_only_wanted_gradients_are_computed(generator: torch.Generator) -> None:
    network = make(2, 1, generator, n_neurons=8, n_hidden_layers=1)
    x = torch.rand(10, 2, generator=generator)
    network.layers[0].weight.requires_grad_(False)
    native(network, x).sum().backward()
    assert x.grad is None
    assert network.layers[0].weight.grad is None
    assert network.layers[1].weight.grad is not None


def test_the_second_derivative_is_the_references(generator: torch.Generator) -> None:
    network = make(
        3, 1, generator, n_neurons=16, n_hidden_layers=2, has_bias=True, activation={"otype": "Sine", "omega": 4.0}
    )
    x = torch.rand(20, 3, generator=generator, requires_grad=True)
    results = []
    for run in (lambda x: native(network, x), network):
        (slope,) = torch.autograd.grad(run(x).sum(), x, create_graph=True)
        loss = (slope.norm(dim=-1) - 1).square().mean()
        results.append(torch.autograd.grad(loss, [x, *network.parameters()], materialize_grads=True))
    for got, expected in zip(*results, strict=True):
        assert relative_error(got, expected) < 1e-5


# ---- behind a grid


def fields(generator: torch.Generator, n_dims: int = 2) -> tuple[Grid, MLP]:
    encoding = Grid(n_dims, n_levels=5, log2_hashmap_size=10, base_resolution=4, per_level_scale=1.7)
    with torch.no_grad():
        encoding.table.uniform_(-1, 1, generator=generator)
    return encoding, make(encoding.n_output_dims, 3, generator, n_neurons=24, n_hidden_layers=2, has_bias=True)


def native_field(encoding: Grid, network: MLP, x: Tensor, mlp_shape: MlpShape | None = None) -> Tensor:
    shape = GridShape(tuple(encoding.levels), encoding.n_input_dims, encoding.n_features_per_level)
    return cpu_ops.field(
        x, encoding.table, shape, *parameters_of(network), mlp_shape or shape_of(network),
        reference=lambda x, table, w, b: plain(network, grid(x, table, encoding.levels, "Linear"), w, b),
    )  # fmt: skip


@pytest.mark.parametrize("n_points", [0, 1, 255, 1003])
@pytest.mark.parametrize("n_dims", [2, 3])
def test_a_field_is_its_grid_and_its_network(n_dims: int, n_points: int, generator: torch.Generator) -> None:
    encoding, network = fields(generator, n_dims)
    x = torch.rand(n_points, n_dims, generator=generator, requires_grad=True)
    got, expected = native_field(encoding, network, x), network(grid(x, encoding.table, encoding.levels, "Linear"))
    assert relative_error(got, expected) < 2e-6
    wanted = [x, encoding.table, *network.parameters()]
    grad = torch.randn(got.shape, generator=generator)
    for one, other in zip(
        torch.autograd.grad(got, wanted, grad), torch.autograd.grad(expected, wanted, grad), strict=True
    ):
        assert relative_error(one, other) < 5e-6


def test_outputs_may_be_scaled_and_shifted(generator: torch.Generator) -> None:
    encoding, network = fields(generator)
    scale, offset = (2.0, -3.0, 0.5), (0.25, 1.0, -4.0)
    described = cpu_ops.describe_activation(network.activation)
    assert described is not None
    shape = MlpShape(shape_of(network).widths, *described, output_scale=scale, output_offset=offset, has_bias=True)
    x = torch.rand(70, 2, generator=generator, requires_grad=True)
    plain_out = native_field(encoding, network, x)
    got = native_field(encoding, network, x, shape)
    assert torch.allclose(got, plain_out * torch.tensor(scale) + torch.tensor(offset), rtol=1e-6, atol=1e-6)
    grad = torch.randn(got.shape, generator=generator)
    (one,) = torch.autograd.grad(got, x, grad)
    (other,) = torch.autograd.grad(plain_out, x, grad * torch.tensor(scale))
    assert relative_error(one, other) < 1e-6


def test_bad_calls_are_errors_before_the_kernel(generator: torch.Generator) -> None:
    network = make(2, 1, generator, n_neurons=8, n_hidden_layers=1)
    with pytest.raises(ValueError, match=r"x: expected shape \(3, 2\), got \(3, 4\)"):
        native(network, torch.rand(3, 4))
    weights, _ = parameters_of(network)
    with pytest.raises(ValueError, match=r"weights\[1\]: expected shape \(1, 8\)"):
        cpu_ops.mlp(torch.rand(3, 2), [weights[0], weights[0]], [], shape_of(network), reference=lambda x, w, b: x)
    with pytest.raises(ValueError, match=r"have no 'Swish'"):
        cpu_ops.mlp(torch.rand(3, 2), weights, [], MlpShape((2, 8, 1), "Swish"), reference=lambda x, w, b: x)
