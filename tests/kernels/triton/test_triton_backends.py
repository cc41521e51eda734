"""Fields, stacks and optimizers reach the Triton kernels by the backend "cuda", and only what the kernels have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from interpreted import DEVICE, needs_triton, on_device
from torch import nn

from fieldforge.apps.fit.half import Half
from fieldforge.apps.fit.loop import PlainStep
from fieldforge.apps.fit.losses.squared import L2
from fieldforge.apps.fit.optimizers.adam import Adam
from fieldforge.apps.fit.optimizers.base import Parameters
from fieldforge.backends import choose, offer, use_backend
from fieldforge.encodings.frequency import Frequency
from fieldforge.encodings.grid import Grid
from fieldforge.encodings.one_blob import OneBlob
from fieldforge.encodings.spherical_harmonics import SphericalHarmonics
from fieldforge.fields import fused
from fieldforge.fields.networks import stacked
from fieldforge.fields.networks.mlp import MLP
from fieldforge.kernels.triton import door, grid, mlp

pytestmark = needs_triton


def make(generator: torch.Generator, **keys: Any) -> tuple[Grid, MLP]:
    encoding = Grid(2, n_levels=2, log2_hashmap_size=6, base_resolution=4, generator=generator)
    return encoding.to(DEVICE), MLP(4, 3, n_neurons=16, n_hidden_layers=2, generator=generator, **keys).to(DEVICE)


def test_a_field_is_the_encoding_and_then_the_fused_network(generator: torch.Generator) -> None:
    encoding, network = make(generator, has_bias=True)
    x = torch.rand(40, 2, generator=generator).to(DEVICE)
    parameters = [*encoding.parameters(), *network.parameters()]
    with use_backend("reference"):
        expected = network(encoding(x))
    got = fused._on_cuda(encoding, network, x)
    assert (got - expected).abs().max() < 1e-6
    for one, other in zip(
        *(torch.autograd.grad(out.square().sum(), parameters) for out in (got, expected)), strict=True
    ):
        assert (one - other).norm() <= 1e-5 * other.norm()


def test_a_stack_is_the_plain_one(generator: torch.Generator) -> None:
    stack = stacked.StackedMLP(3, 4, 2, n_neurons=8, n_hidden_layers=1, generator=generator).to(DEVICE)
    x, offsets = torch.rand(9, 4, generator=generator).to(DEVICE), torch.tensor([0, 4, 4, 9], device=DEVICE)
    assert (stacked._on_cuda(stack, x, offsets) - stacked._one_by_one(stack, x, offsets)).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"n_neurons": 256}, "at most 128 units"),
        ({"n_hidden_layers": 0}, "1 to 63 hidden layers"),
        ({"n_hidden_layers": 2, "input_injection": "all"}, "not plain"),
        ({"activation": "WIRE"}, "no activation WIRE"),
    ],
)
def test_what_the_kernels_lack_is_refused_with_the_reason(keys: dict[str, Any], why: str) -> None:
    refused = fused._refuses_on_cuda(encoding=Grid(2, n_levels=2), network=MLP(4, 3, **keys), x_dtype=torch.float32)
    assert why in str(refused)


def test_what_they_have_is_not_refused(generator: torch.Generator) -> None:
    encoding, network = make(generator)
    assert fused._refuses_on_cuda(encoding=encoding, network=network, x_dtype=torch.float32) is None
    assert "float64" in str(fused._refuses_on_cuda(encoding=encoding, network=network, x_dtype=torch.float64))
    call = {"x_dtype": torch.float32, "dtype": torch.float16, "n_input_dims": 3, "n_features": 2}
    assert grid.refuses(**call) is None
    assert "float64" in str(grid.refuses(**call | {"x_dtype": torch.float64}))
    inside: list[str | None] = []
    torch.func.vmap(lambda x: (inside.append(mlp.refuses(x.dtype, [])), x)[1])(torch.zeros(2))
    assert "torch.func" in str(inside[0])


@on_device
def test_auto_chooses_them_on_the_device(generator: torch.Generator) -> None:
    encoding, network = make(generator)
    assert door.missing() is None
    assert offer("field", DEVICE, encoding=encoding, network=network, x_dtype=torch.float32) is fused._on_cuda
    for name in ("frequency", "one_blob", "spherical_harmonics"):
        assert choose(name, DEVICE, dtype=torch.float32, n_outputs=4).__name__ == f"_{name}_on_cuda"


@on_device
@pytest.mark.parametrize(
    "build", [lambda: Grid(3, n_levels=4), lambda: Frequency(3), lambda: OneBlob(3), SphericalHarmonics]
)
def test_encodings_of_many_points_are_the_references(
    build: Callable[[], nn.Module], generator: torch.Generator
) -> None:
    encoding = build().to(DEVICE)
    x = torch.rand(100_003, 3, generator=generator).to(DEVICE)
    with use_backend("reference"):
        expected = encoding(x)
    assert (encoding(x) - expected).abs().max() <= 2e-6 * expected.abs().max()


@on_device
def test_a_field_in_half_precision_learns(generator: torch.Generator) -> None:
    encoding, network = make(generator, has_bias=True)
    parameters = Parameters(matrix=list(network.parameters()), other=[encoding.table])

    def draw(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.rand(4096, 2, generator=generator).to(DEVICE)
        return x, (6 * x).sin().sum(-1, keepdim=True).expand(-1, 3)

    half = Half("float16", DEVICE)
    step = PlainStep(
        half.query(lambda x: fused.apply(encoding, network, x)), draw, L2(),
        half.guarded(Adam(parameters, learning_rate=1e-2)),
    )  # fmt: skip
    losses = [step(i, 1.0)[0] for i in range(200)]
    assert losses[-1] < 0.1 * losses[0]
