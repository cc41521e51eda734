"""Cells with networks of their own: the native sort and the native scene are the plain ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from fieldforge.backends import use_backend
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.fields.partitions.base import sort_plain
from fieldforge.fields.partitions.radiance import describe_cells
from fieldforge.fields.partitions.uniform_grid import UniformGrid
from fieldforge.kernels import cpu_cells, cpu_door

pytestmark = pytest.mark.skipif(cpu_door.missing() is not None, reason=f"no native kernels: {cpu_door.missing()}")

NETWORK = {"otype": "MLP", "n_neurons": 20, "n_hidden_layers": 2, "has_bias": True}
COLORS = NETWORK | {"n_hidden_layers": 1, "output_activation": "Sigmoid"}
PLACE = {"otype": "Frequency", "n_frequencies": 3}


def scene(**keywords: Any) -> RadianceField:
    """Every cell of its own numbers."""
    given: dict[str, Any] = {
        "encoding": PLACE, "network": NETWORK, "rgb_network": COLORS, "n_geometry": 9,
        "partition": {"otype": "UniformGrid", "resolution": [3, 2, 4]},
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    made = RadianceField(**given | keywords, generator=generator)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return made.requires_grad_(False)


def rays(n: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Most points in few cells, some in many, some outside."""
    generator = torch.Generator().manual_seed(seed)
    points = 2.2 * torch.rand(n, 3, generator=generator) - 1.1
    points[: n // 2] *= 0.2
    return points, torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=-1)


@pytest.mark.parametrize("resolution", [[7], [3, 5], [4, 4, 2], [2, 3, 2, 5], [250, 200]])
@pytest.mark.parametrize("n", [0, 1, 17, 5003])
def test_the_native_sort_is_the_plain_one(resolution: Sequence[int], n: int) -> None:
    grid, d = UniformGrid(len(resolution), resolution=resolution), len(resolution)
    x = 1.5 * torch.rand(n, d, generator=torch.Generator().manual_seed(n)) - 0.25
    x[::3] = (x[::3] * 20).round() / 20  # on faces
    for i, wild in enumerate((math.nan, math.inf, -math.inf, 1e30, -0.0)):
        x[i::41, i % d] = wild
    for mine, other in zip(cpu_cells.sort_by_cell(x, resolution), sort_plain(grid, x), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0, equal_nan=True)


def test_sorting_and_scenes_are_the_same_bits_for_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    field, (points, along) = scene(), rays(70_001)
    found = []
    for n_threads in ("1", "2", "5"):
        monkeypatch.setenv("FIELDFORGE_NUM_THREADS", n_threads)
        found.append([*cpu_cells.sort_by_cell(points, [9, 16, 10]), *field.radiance(points, along)])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


WAVES = COLORS | {"activation": {"otype": "Sine", "omega": 1.0}, "n_hidden_layers": 3}
TREE = {"otype": "KDTree", "resolution": 2, "splits": [[0, 0], [8, 1], [3, 2]]}
SCENES: list[dict[str, Any]] = [
    {},
    {"n_geometry": 1, "network": NETWORK | {"n_hidden_layers": 0}},
    {"network": NETWORK | {"activation": "Softplus", "has_bias": False}, "n_geometry": 33},
    {"rgb_network": WAVES, "space": "Contraction"},
    {"encoding": {"otype": "Identity", "scale": 2.0, "offset": -1.0}, "dir_encoding": {"otype": "Frequency"}},
    {"encoding": {"otype": "OneBlob", "n_bins": 8}},
    {"partition": TREE, "appearance": 2, "n_photos": 3},
]  # fmt: skip


@pytest.mark.parametrize("keywords", SCENES)
@pytest.mark.parametrize("n", [0, 1, 15, 2003])
def test_the_native_scene_is_the_plain_one(keywords: dict[str, Any], n: int) -> None:
    field, (points, along) = scene(**keywords), rays(n)
    with use_backend("reference"):
        expected = field.radiance(points, along)
    for mine, other in zip(field.radiance(points, along), expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=2e-5, atol=1e-5)


def test_rays_share_their_codes() -> None:
    field, (points, _) = scene(), rays(400)
    directions = rays(7, seed=2)[1]
    ray = torch.randint(0, 7, (400,), generator=torch.Generator().manual_seed(3))
    expected = field.radiance(points, directions[ray])
    for backend in ("auto", "reference"):
        with use_backend(backend):
            found = field.radiance_along(points, field.code(directions), ray)
        for mine, other in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, other, rtol=2e-5, atol=1e-5)
    with pytest.raises(ValueError, match="partition: this field has none"):
        scene(partition=None).radiance_along(points, field.code(directions), ray)


def test_a_point_that_is_no_number_harms_no_other() -> None:
    field, (points, along) = scene(space="Contraction"), rays(100)
    whole = field.radiance(points, along)
    points[17], along[30] = math.nan, math.nan
    density, color = field.radiance(points, along)
    assert color[30].isnan().all()
    others = torch.ones(100, dtype=torch.bool)
    others[[17, 30]] = False
    assert torch.equal(density[others], whole[0][others])
    assert torch.equal(color[others], whole[1][others])


def test_derivatives_come_from_the_stacks() -> None:
    field, (points, along) = scene().requires_grad_(), rays(50)
    density, color = field.radiance(points, along)
    (density.sum() + color.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in field.network.parameters())
    with torch.no_grad():
        for mine, other in zip(field.radiance(points, along), (density, color), strict=True):
            torch.testing.assert_close(mine, other, rtol=2e-5, atol=1e-5)


def test_bad_calls_are_named() -> None:
    for resolution in ([], [0, 2], [2**9, 2**9], [1] * 5):
        with pytest.raises(ValueError, match="resolution: expected 1 to 4 axes"):
            cpu_cells.sort_by_cell(torch.zeros(3, len(resolution)), resolution)
    with pytest.raises(ValueError, match=r"x: expected shape \(3, 2\)"):
        cpu_cells.sort_by_cell(torch.zeros(3, 3), [2, 2])
    with pytest.raises(TypeError, match="x: expected float32"):
        cpu_cells.sort_by_cell(torch.zeros(3, 2, dtype=torch.float64), [2, 2])
    field = scene(dir_encoding={"otype": "Frequency", "n_frequencies": 2})
    local, offsets, order = cpu_cells.sort_by_cell(torch.rand(6, 3), [3, 2, 4])
    described = describe_cells(field)
    assert not isinstance(described, str)
    code, ray = torch.zeros(2, 12), torch.zeros(6, dtype=torch.int64)
    good: dict[str, Any] = {"local": local, "offsets": offsets, "order": order, "code": code, "rays": ray}
    assert cpu_cells.cells_radiance(*good.values(), *described).shape == (6, 4)
    for name, wrong, said in (
        ("local", local[:, :2], "local: expected shape"),
        ("offsets", offsets[1:], "offsets: expected shape"),
        ("offsets", offsets + 1, "offsets: expected to go from 0"),
        ("order", order + 1, "order: expected rows from 0 to 5"),
        ("code", code[:, :5], "code: expected shape"),
        ("rays", ray + 2, "rays: expected rows from 0 to 1"),
        ("rays", None, "code: expected a row for each of 6 points"),
    ):
        with pytest.raises(ValueError, match=said):
            cpu_cells.cells_radiance(*(good | {name: wrong}).values(), *described)
    with pytest.raises(ValueError, match="density: expected 6 tensors, got 5"):
        cpu_cells.cells_radiance(
            *good.values(), described[0], described[1]._replace(biases=described[1].biases[1:]), described[2]
        )
