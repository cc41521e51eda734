"""Whole training steps go through the Triton kernels, and move parameters as the plain ones do: no loop over networks
is left where there is a grouped kernel."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from interpreted import DEVICE, as_on_cuda, needs_triton

from fieldforge.apps.fit.collection.encoded import look_up
from fieldforge.apps.fit.collection.steps import initial_row, make_steps, stackable
from fieldforge.apps.render.radiance import asked_along, new_grid
from fieldforge.backends import use_backend
from fieldforge.encodings.tri_plane import TriPlane
from fieldforge.fields.file import build_field
from fieldforge.registry import build
from fieldforge.renderers import volume

pytestmark = needs_triton
NETWORK = {"otype": "MLP", "n_neurons": 9, "n_hidden_layers": 2, "activation": "Sine", "has_bias": True}
ADAM = {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-6, "l2_reg": 1e-3}


def stack_of(encoding: Any) -> Any:
    described = {"otype": "ImageField", "width": 4, "height": 4, "encoding": encoding, "n_channels": 2}
    return build_field(described | {"network": NETWORK})


def lesson(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(3, 21, 2, generator=generator).to(DEVICE), torch.rand(3, 21, 2, generator=generator).to(DEVICE)


@pytest.mark.parametrize("loss", ["L2", "Huber"])
def test_steps_of_a_collection_are_the_plain_ones(loss: str, generator: torch.Generator) -> None:
    network = stackable(stack_of("Identity"))
    rows = torch.stack([initial_row(network, seed) for seed in range(3)]).to(DEVICE)
    x, target = lesson(generator)
    target[1, 5, 0] = math.nan
    with use_backend("reference"):
        plain = make_steps(rows, network.to(DEVICE), build("loss", loss), ADAM)
    with as_on_cuda() as ran:
        grouped = make_steps(rows, network, build("loss", loss), ADAM)
    assert ran == {"stacked_steps"}
    for _ in range(3):
        plain.step(x, target, 1e-3)
        grouped.step(x, target, 1e-3)
    for one, other in zip(
        [*grouped.parameters, grouped.predict(x)], [*plain.parameters, plain.predict(x)], strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5)
    assert torch.equal(grouped.parameters[0][1], rows[1, : 9 * 2].view(9, 2)), "of NaN nothing is learned"


def test_steps_of_planes_and_networks_are_the_plain_ones(generator: torch.Generator) -> None:
    field = stack_of({"otype": "TriPlane", "resolution": 4, "n_features": 3}).to(DEVICE)
    network, encoding = stackable(field), field.encoding
    rows = torch.stack([initial_row(network, seed, encoding) for seed in range(3)]).to(DEVICE)
    x, target = lesson(generator)
    with use_backend("reference"):
        plain = make_steps(rows, network, build("loss", "L2"), ADAM, encoding)
        for _ in range(2):
            plain.step(x, target, 1e-3)
        expected = plain.predict(x)
    with as_on_cuda() as ran:
        grouped = make_steps(rows, network, build("loss", "L2"), ADAM, encoding)
        for _ in range(2):
            grouped.step(x, target, 1e-3)
        found = grouped.predict(x)
    assert ran == {"stacked_outputs", "stacked_encoding"}
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    for one, other in zip(grouped.parameters, plain.parameters, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("n_dims", [2, 3])
def test_planes_of_a_stack_are_those_of_each_field(n_dims: int, generator: torch.Generator) -> None:
    encoding = TriPlane(n_dims, resolution=5, n_features=3, generator=generator).to(DEVICE)
    planes = torch.randn(4, *encoding.planes.shape, generator=generator).to(DEVICE)
    points = (torch.rand(4, 17, n_dims, generator=generator) * 1.2 - 0.1).to(DEVICE)  # some outside
    found = []
    for manner in (as_on_cuda(), use_backend("reference")):
        leaf = planes.clone().requires_grad_()
        with manner:
            features = look_up(encoding, points)([leaf])
        found.append((features, *torch.autograd.grad(features.square().sum(), [leaf])))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_field_in_cells_asks_all_networks_at_once(generator: torch.Generator) -> None:
    described = {
        "otype": "ImageField", "width": 8, "height": 8, "encoding": {"otype": "Frequency", "n_frequencies": 2},
        "network": NETWORK, "n_channels": 2, "partition": {"otype": "UniformGrid", "resolution": 2},
    }  # fmt: skip
    field = build_field(described).to(DEVICE)
    points = 8 * torch.rand(37, 2, generator=generator).to(DEVICE)
    found = []
    for manner in (as_on_cuda(), use_backend("reference")):
        with manner as ran:
            color = field.color(points)  # type: ignore[operator]
        found.append((ran, color, *torch.autograd.grad(color.square().sum(), list(field.parameters()))))
    (ran, *grouped), (_, *plain) = found
    assert ran == {"frequency", "stacked_mlp"}
    for one, other in zip(grouped, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


SCENE: dict[str, Any] = {
    "otype": "RadianceField", "occupancy": 4, "dir_encoding": {"otype": "SphericalHarmonics", "degree": 2},
    "network": {"otype": "MLP", "n_neurons": 16, "n_hidden_layers": 1},
    "rgb_network": {"otype": "MLP", "n_neurons": 16, "n_hidden_layers": 1, "output_activation": "Sigmoid"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("parts", "kernels"),
    [
        ({"encoding": {"otype": "HashGrid", "n_levels": 2, "log2_hashmap_size": 6, "base_resolution": 2}},
         {"grid", "field", "spherical_harmonics"}),
        ({"encoding": {"otype": "Frequency", "n_frequencies": 2}, "partition": {"otype": "UniformGrid",
          "resolution": 2}}, {"frequency", "stacked_mlp", "spherical_harmonics"}),
    ],
    ids=["grid", "cells"],
)  # fmt: skip
def test_rays_through_a_scene_go_through_kernels_all_the_way(
    parts: dict[str, Any], kernels: set[str], generator: torch.Generator
) -> None:
    """March, encode, networks, compositing, and back: what is one native call on the CPU."""
    field: Any = build("field", SCENE | parts, generator=generator).to(DEVICE)
    origins = torch.tensor([[0.0, 0.1, 3.0], [0.2, 0.0, 3.0], [9.0, 9.0, 3.0]], device=DEVICE)
    directions = torch.tensor([[0.0, 0.0, -1.0]] * 3, device=DEVICE)
    grid = new_grid(field, 4).to(DEVICE)
    found = []
    for manner in (as_on_cuda(), use_backend("reference")):
        with manner as ran:
            radiance, density = asked_along(field)
            seen = volume.render(origins, directions, radiance, grid, density=density, step=0.2, tell_rays=True)
        given = [one for one in field.parameters() if one.requires_grad]
        grads = torch.autograd.grad(seen.color.square().sum(), given, allow_unused=True)
        found.append((ran, seen.color, seen.opacity, *(one for one in grads if one is not None)))
    (ran, *ours), (_, *plain) = found
    assert kernels | {"march", "composite"} <= ran
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=1e-5)
