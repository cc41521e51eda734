"""VideoField: pixels and seconds outside, the unit cube inside; and the grid of what stands still and what moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fieldforge.contracts.field import FIELD_CHECKS
from fieldforge.encodings.grid import grid
from fieldforge.encodings.time_grid import TimeGrid
from fieldforge.fields.kinds.video import VideoField
from fieldforge.kernels import cpu_door, cpu_ops

LINEAR: dict[str, Any] = {"otype": "MLP", "n_hidden_layers": 0}
TIME_GRID = {
    "otype": "TimeGrid", "n_space_dims": 2, "n_levels": 2, "log2_hashmap_size": 6, "base_resolution": 4,
    "n_time_levels": 2, "time_resolution": 3, "log2_time_hashmap_size": 7,
}  # fmt: skip


def film(**changes: Any) -> VideoField:
    options = {"encoding": "Identity", "network": LINEAR, "width": 8, "height": 4, "duration": 2.0,
               "frames_per_second": 4.0} | changes  # fmt: skip
    return VideoField(**options, generator=torch.Generator().manual_seed(0))


FIELDS: dict[str, Callable[[], VideoField]] = {
    "identity": film,
    "time grid": lambda: film(
        encoding=TIME_GRID, network={"otype": "MLP", "n_neurons": 8, "n_hidden_layers": 1}, n_channels=1,
        output_scale=[2.0],
    ),
    "k-planes": lambda: film(
        encoding={"otype": "KPlanes", "resolution": 4, "n_features": 2, "multiscale": [1]},
        network={"otype": "MLP", "n_neurons": 8, "n_hidden_layers": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("check", FIELD_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", FIELDS)
def test_it_keeps_the_promises_of_a_field(name: str, check: Callable[[Callable[[], VideoField]], None]) -> None:
    check(FIELDS[name])


def test_each_axis_becomes_the_unit_interval_and_its_ends_go_on() -> None:
    field = film()
    field.network.layers[0].weight.data = torch.eye(3)  # the colour is the place in the unit cube
    points = torch.tensor([[0.0, 0.0, 0.0], [8.0, 4.0, 2.0], [4.0, 1.0, 0.5], [-1.0, 9.0, 3.0]])
    expected = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.5, 0.25, 0.25], [0.0, 1.0, 1.0]])
    assert torch.equal(field.color(points), expected)


@pytest.mark.skipif(cpu_door.missing() is not None, reason=f"no native kernels: {cpu_door.missing()}")
def test_a_grid_of_a_plane_and_time_is_native_and_the_references() -> None:
    generator = torch.Generator().manual_seed(1)
    keys = {key: value for key, value in TIME_GRID.items() if key != "otype"}
    encoding = TimeGrid(3, **keys)  # type: ignore[arg-type]
    with torch.no_grad():
        encoding.table.uniform_(-1, 1, generator=generator)
    x = torch.rand(301, 3, generator=generator, requires_grad=True)
    grad = torch.randn(301, 8, generator=generator)
    found = []
    for run in (lambda: grid(x, encoding.table, encoding.levels, "Linear"),
                lambda: cpu_ops.grid(x, encoding.table, encoding.levels, "Linear", reference=grid)):  # fmt: skip
        out = run()
        found.append((out, *torch.autograd.grad(out, (x, encoding.table), grad)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-5)
    still = encoding(x)[:, :4]
    assert torch.equal(still, encoding(torch.cat([x[:, :2], 0 * x[:, 2:]], -1))[:, :4])
    assert not torch.equal(encoding(x), encoding(torch.cat([x[:, :2], 0 * x[:, 2:]], -1)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "width: expected an integer from 1"),
        ({"duration": 0.0}, "duration: expected a finite number above 0"),
        ({"frames_per_second": float("inf")}, "frames_per_second: expected a finite number"),
        ({"n_channels": 5}, "n_channels: expected"),
        ({"encoding": TIME_GRID | {"n_space_dims": 4}}, "encoding.n_space_dims: expected an integer from 2 to 3"),
    ],
)
def test_a_wrong_option_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        film(**change)
