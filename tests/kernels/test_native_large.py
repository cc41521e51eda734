"""A million points and three: sizes past every block of the kernels, agreeing with plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fieldforge.encodings.grid import Grid, grid
from fieldforge.fields.networks.mlp import MLP
from fieldforge.kernels import cpu_door, cpu_ops
from fieldforge.kernels.cpu_ops import GridShape, MlpShape

pytestmark = [
    pytest.mark.skipif(cpu_door.missing() is not None, reason=f"no native kernels: {cpu_door.missing()}"),
    pytest.mark.slow,
]
N = 1_000_003


def assert_agree(got: Tensor, expected: Tensor, wanted: list[Tensor], generator: torch.Generator) -> None:
    """Value, then gradients; the reference adds float32 numbers in another order, hence a part in 20,000."""
    assert got.shape == expected.shape
    assert (got - expected).norm() <= 5e-6 * expected.norm()
    assert (got - expected).abs().max() <= 5e-5 * expected.abs().max()
    grad = torch.randn(got.shape, generator=generator)
    found, plain = (torch.autograd.grad(out, wanted, grad) for out in (got, expected))
    for one, other in zip(found, plain, strict=True):
        assert (one - other).norm() <= 5e-5 * other.norm()


def parts(generator: torch.Generator) -> tuple[Tensor, Grid, MLP, MlpShape]:
    encoding = Grid(2, n_levels=4, log2_hashmap_size=12, base_resolution=8, per_level_scale=1.7)
    with torch.no_grad():
        encoding.table.uniform_(-1, 1, generator=generator)
    network = MLP(8, 3, n_neurons=16, n_hidden_layers=2, has_bias=True, activation="SiLU", generator=generator)
    shape = cpu_ops.describe_mlp(network)
    assert isinstance(shape, MlpShape)
    return torch.rand(N, 2, generator=generator, requires_grad=True), encoding, network, shape


def test_a_grid(generator: torch.Generator) -> None:
    x, encoding, _, _ = parts(generator)
    got = cpu_ops.grid(x, encoding.table, encoding.levels, "Linear", reference=grid)
    assert_agree(got, grid(x, encoding.table, encoding.levels, "Linear"), [x, encoding.table], generator)


def test_a_network(generator: torch.Generator) -> None:
    _, _, network, shape = parts(generator)
    x = (torch.rand(N, 8, generator=generator) - 0.5).requires_grad_()
    got = cpu_ops.mlp(x, *cpu_ops.parameters_of(network), shape, reference=lambda x, w, b: x)
    assert_agree(got, network(x), [x, *network.parameters()], generator)


def test_a_field(generator: torch.Generator) -> None:
    x, encoding, network, shape = parts(generator)
    weights, biases = cpu_ops.parameters_of(network)
    grid_shape = GridShape(tuple(encoding.levels), 2, 2)
    got = cpu_ops.field(x, encoding.table, grid_shape, weights, biases, shape, reference=lambda x, *_: x)
    expected = network(grid(x, encoding.table, encoding.levels, "Linear"))
    assert_agree(got, expected, [x, encoding.table, *network.parameters()], generator)
