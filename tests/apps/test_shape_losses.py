"""Losses that look at slopes and levels: the papers' formulas, and fields they refuse."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fieldforge.apps.fit.fused import make_step
from fieldforge.apps.fit.losses.shape_base import DistanceSamples, ShapeLoss, SurfaceSamples
from fieldforge.apps.fit.losses.wrappers import level_outputs
from fieldforge.apps.fit.shape.job import fit_shape
from fieldforge.apps.shapes.read import Cloud
from fieldforge.fields.kinds.shape import SDFField
from fieldforge.registry import ConfigError, build


def _load_reference() -> ModuleType:
    path = Path(__file__).parents[1] / "reference" / "shape_losses.py"
    spec = importlib.util.spec_from_file_location("reference_shape_losses", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = _load_reference()


def smooth_field(activation: Any = "Softplus") -> SDFField:
    """A small network with all derivatives, in float64, over the unit cube."""
    return SDFField(
        encoding={"otype": "Identity", "scale": 2.0, "offset": -1.0},
        network={"otype": "MLP", "n_neurons": 16, "n_hidden_layers": 2, "activation": activation, "has_bias": True},
        low=[0, 0, 0], side=1.0, generator=torch.Generator().manual_seed(0),
    ).double()  # fmt: skip


def grid_field(interpolation: str = "Linear") -> SDFField:
    grid = {"otype": "HashGrid", "n_levels": 3, "log2_hashmap_size": 10, "base_resolution": 4}
    field = SDFField(
        encoding=grid | {"interpolation": interpolation},
        network={"otype": "MLP", "n_neurons": 16, "n_hidden_layers": 1},
        low=[0, 0, 0], side=1.0, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    with torch.no_grad():
        field.encoding.table.uniform_(-0.5, 0.5, generator=torch.Generator().manual_seed(1))
    return field


def surface_samples(n: int = 60, with_normals: bool = True) -> SurfaceSamples:
    random = torch.Generator().manual_seed(3)
    points = torch.rand(n, 3, dtype=torch.float64, generator=random)
    is_on = torch.arange(n) < n // 3
    normal = torch.nn.functional.normalize(torch.randn(n, 3, dtype=torch.float64, generator=random), dim=-1)
    normal[~is_on] = 0
    return SurfaceSamples(points, is_on, normal if with_normals else torch.zeros_like(normal))


@pytest.mark.parametrize("with_normals", [True, False])
@pytest.mark.parametrize("name", ["SIREN", "IGR"])
def test_losses_of_surfaces_are_those_of_the_papers(name: str, with_normals: bool) -> None:
    field, samples = smooth_field(), surface_samples(with_normals=with_normals)
    loss: ShapeLoss = build("loss", name)
    found = loss.per_sample(field, samples).mean()
    h = 1e-5
    gradient = torch.stack(
        [
            (field.outputs(samples.points + step) - field.outputs(samples.points - step))[:, 0] / (2 * h)
            for step in h * torch.eye(3, dtype=torch.float64)
        ],
        -1,
    )
    value = 2 * field.outputs(samples.points)[:, 0]  # in half sides, as in the papers' cube from -1 to 1
    parts = [part.detach().numpy() for part in (value, gradient, samples.normal, samples.is_on)]
    expected = getattr(reference, name.lower())(list(zip(*parts, strict=True)))
    assert float(found.detach()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["SIREN", "IGR"])
def test_the_parameters_gradient_goes_through_the_slope(name: str) -> None:
    field, samples = smooth_field({"otype": "Sine", "omega": 5.0}), surface_samples()
    loss: ShapeLoss = build("loss", name)
    loss.per_sample(field, samples).mean().backward()
    weight = next(field.network.parameters())
    assert weight.grad is not None
    gradient, h = float(weight.grad[3, 1]), 1e-6
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[3, 1] += sign * h
        values.append(float(loss.per_sample(field, samples).mean().detach()))
        with torch.no_grad():
            weight[3, 1] -= sign * h
    assert (values[0] - values[1]) / (2 * h) == pytest.approx(gradient, rel=1e-4, abs=1e-6)


def test_beyond_delta_only_the_sign_counts() -> None:
    loss = build("loss", {"otype": "ClampedL1", "delta": 0.1})
    p, t = torch.rand(2, 200, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
    expected = [reference.clamped_l1(float(a), float(b), 0.1) for a, b in zip(p, t, strict=True)]
    np.testing.assert_allclose(loss.per_sample(p, t).numpy(), expected, atol=1e-15)


@pytest.mark.parametrize("slope", ["taps4", "taps6", "autodiff"])
def test_a_distance_has_no_eikonal_loss(slope: str) -> None:
    """The exact distance to a plane costs nothing, twice the distance costs the weight."""

    class Plane(torch.nn.Module):
        n_input_dims, n_output_dims, smoothness = 3, 1, 2.0
        factor = 1.0

        def forward(self, features: Tensor) -> Tensor:
            return self.factor * (features @ torch.tensor([[0.6], [0.0], [0.8]]) - 0.7)

    field = SDFField(encoding="Identity", network=Plane(), low=[0, 0, 0], side=1.0)
    points = torch.rand(64, 3, generator=torch.Generator().manual_seed(0))
    samples = DistanceSamples(points, field.outputs(points).detach())
    loss = build("loss", {"otype": "Eikonal", "loss": "L1", "weight": 0.5, "slope": slope, "share": 0.25})
    assert float(loss.per_sample(field, samples).mean().detach()) == pytest.approx(0, abs=1e-5)
    field.network.factor = 2.0
    samples = DistanceSamples(points, field.outputs(points).detach())
    assert float(loss.per_sample(field, samples).mean().detach()) == pytest.approx(0.5, rel=1e-3)


def test_taps_give_a_grid_gradients_beyond_one_cell() -> None:
    field = grid_field()
    loss = build("loss", {"otype": "Eikonal", "slope": "taps6"})
    assert not loss.refuses(field)
    assert field.encoding.finest_cell == pytest.approx(1 / 16, rel=0.1)
    points = torch.full((1, 3), 0.5)
    counts = []
    for weight in (0.0, 1.0):
        loss.weight = weight
        field.zero_grad()
        loss.per_sample(field, DistanceSamples(points, torch.zeros(1, 1))).sum().backward()
        counts.append(int((field.encoding.table.grad != 0).any(-1).sum()))
    assert counts[1] > counts[0]


@pytest.mark.parametrize(
    ("loss", "field", "reason"),
    [
        ("SIREN", grid_field("Smoothstep"), "smoothness of the activation is 0"),
        ("IGR", grid_field("Linear"), "smoothness of the encoding is 0"),
        ({"otype": "Eikonal", "slope": "taps4"}, grid_field("Nearest"), "the values jump"),
        ("MultiLevel", smooth_field(), "Identity has none"),
    ],
)
def test_fields_that_cannot_be_trained_so_are_refused_with_the_reason(loss: Any, field: SDFField, reason: str) -> None:
    assert reason in build("loss", loss).refuses(field)
    assert not build("loss", "SIREN").refuses(smooth_field())


def test_levels_are_summed_and_the_last_is_the_field() -> None:
    field = grid_field()
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    outputs = level_outputs(field, points)
    assert len(outputs) == 3
    torch.testing.assert_close(outputs[-1], field.outputs(points), atol=1e-6, rtol=1e-5)
    samples = DistanceSamples(points, torch.rand(50, 1, generator=torch.Generator().manual_seed(1)))
    found = build("loss", "MultiLevel").per_sample(field, samples)
    expected = sum(((one - samples.distance) ** 2)[:, 0] for one in outputs)
    torch.testing.assert_close(found, expected)


def test_mistakes_are_named() -> None:
    points = np.random.default_rng(0).normal(size=(200, 3))
    cloud = Cloud(points / np.linalg.norm(points, axis=1, keepdims=True))
    with pytest.raises(ConfigError, match="slope=taps4"):
        fit_shape(cloud, overrides=["loss={otype='IGR'}", "fit.recipe='igr'"], progress="quiet")
    with pytest.raises(ConfigError, match=r"fit\.recipe: expected one of siren, igr"):
        fit_shape(cloud, preset="siren", overrides=["fit.recipe='layers'"], progress="quiet")
    with pytest.raises(ConfigError, match="of signed distances"):
        fit_shape(cloud, kind="udf", overrides=["loss={otype='Eikonal'}"], progress="quiet")
    field = smooth_field()
    config = {"loss": {"otype": "SIREN"}, "optimizer": {"otype": "Adam"}}
    with pytest.raises(ConfigError, match="slopes or levels"):
        make_step(field, field, field.outputs, config, lambda step: (torch.empty(0), torch.empty(0)))
    with pytest.raises(ValueError, match="goes around a loss of single answers"):
        build("loss", {"otype": "Eikonal", "loss": {"otype": "IGR"}})
