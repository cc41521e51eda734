"""Marching on a GPU finds the very samples of the plain version."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from interpreted import DEVICE, needs_triton
from torch.utils._python_dispatch import TorchDispatchMode

from fieldforge.kernels.cpu_marching import Walk
from fieldforge.kernels.triton import marching as on_gpu
from fieldforge.renderers import occupancy
from fieldforge.renderers.marching import count_steps, make_stride, march_rays
from fieldforge.renderers.occupancy import make_cascades, pack_reference
from fieldforge.renderers.rays import intersect_slabs

pytestmark = needs_triton


def make(n_cascades: int, generator: torch.Generator) -> tuple[occupancy.Cascades, torch.Tensor, torch.Tensor]:
    cascades = make_cascades((-1, -1, -0.5), (1, 1, 0.5), (7, 9, 5), n_cascades)
    cells = torch.rand(n_cascades, 7, 9, 5, generator=generator) < 0.4
    bricks, superbricks = pack_reference(cells.float(), 0.5, cascades)
    return cascades, bricks.to(DEVICE), superbricks.to(DEVICE)


@pytest.mark.parametrize("n_cascades", [1, 3])
def test_points_are_looked_up_as_in_the_plain_version(n_cascades: int, generator: torch.Generator) -> None:
    cascades, bricks, _ = make(n_cascades, generator)
    points = (6 * torch.rand(301, 3, generator=generator) - 3).to(DEVICE)
    points[0], points[1, 2] = math.nan, math.inf
    assert torch.equal(on_gpu.look_up(points, cascades, bricks), occupancy.look_up(points, cascades, bricks))
    assert len(on_gpu.look_up(points[:0], cascades, bricks)) == 0


@pytest.mark.parametrize(
    ("n_cascades", "cone_angle", "n_rays", "n_kept"), [(1, 0.0, 33, 10**6), (2, 0.2, 65, 10**6), (2, 0.0, 15, 5)]
)
def test_the_same_samples(
    n_cascades: int, cone_angle: float, n_rays: int, n_kept: int, generator: torch.Generator
) -> None:
    cascades, bricks, superbricks = make(n_cascades, generator)
    origins = 3 * torch.nn.functional.normalize(torch.randn(n_rays, 3, generator=generator), dim=-1)
    directions = torch.nn.functional.normalize(0.3 * torch.randn(n_rays, 3, generator=generator) - origins, dim=-1)
    origins, directions = origins.to(DEVICE), directions.to(DEVICE)
    start, end = intersect_slabs(origins, directions, cascades.low[-1], cascades.high[-1], 0.0, math.inf)
    stride = make_stride(0.23, cone_angle, 0.4)
    stride = replace(stride, n_most=count_steps(start, end, stride))
    walk = Walk(origins, directions, start, end, cascades, bricks, superbricks, stride, n_kept, 10**6)
    got, expected = on_gpu.march(walk), march_rays(walk)
    assert not isinstance(got, int)
    assert not isinstance(expected, int)
    assert len(got[0]) > 20
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one, other)
    assert on_gpu.march(walk._replace(max_samples=3)) == len(got[0])


@pytest.mark.parametrize("n_cascades", [1, 3])
@pytest.mark.parametrize("resolution", [(7, 9, 5), (1, 4, 8), (1, 1, 1), (2, 33, 3)])
def test_cells_are_packed_into_the_same_bits(
    n_cascades: int, resolution: tuple[int, int, int], generator: torch.Generator
) -> None:
    cascades = make_cascades((-1, -1, -0.5), (1, 1, 0.5), resolution, n_cascades)
    density = torch.rand(n_cascades, *resolution, generator=generator).to(DEVICE)
    density[0, 0, 0, 0] = math.nan  # is above nothing
    density[density > 0.9] = 0.5  # the threshold is not above itself
    for threshold in (-1.0, 0.5, 1.0):
        for one, other in zip(
            on_gpu.pack(density, threshold, cascades), pack_reference(density, threshold, cascades), strict=True
        ):
            assert torch.equal(one, other)
    whole = torch.ones(n_cascades, *resolution, device=DEVICE)
    assert int(on_gpu.pack(whole, 0.0, cascades)[0].flatten()[0]) == int(
        pack_reference(whole, 0.0, cascades)[0].flatten()[0]
    )


@pytest.mark.parametrize("n_drawn", [0, 1, 63, 105])
def test_densities_decay_and_grow_by_the_same_bits(n_drawn: int, generator: torch.Generator) -> None:
    density = torch.rand(1, 7, 5, 3, generator=generator).to(DEVICE)
    cells = torch.randperm(105, generator=generator)[:n_drawn].sort()[0].to(DEVICE)
    fresh = torch.rand(n_drawn, generator=generator).to(DEVICE)
    fresh[1:2] = math.nan
    expected = density.clone()
    occupancy.decay_max(expected, cells, fresh, 0.95)
    on_gpu.decay_max(density, cells, fresh, 0.95)
    assert torch.equal(density.nan_to_num(-1.0), expected.nan_to_num(-1.0))


class NoNumbers(TorchDispatchMode):
    """Inside, no tensor gives its numbers to Python, for which a processor waits."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert function not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return function(*args, **(kwargs or {}))


def test_densities_decay_and_grow_without_a_look_at_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_gpu, "launch", lambda kernel, grid, *arguments, **constants: None)
    density, cells = torch.rand(1, 7, 5, 3, device=DEVICE), torch.tensor([3, 8], device=DEVICE)
    with NoNumbers():
        on_gpu.decay_max(density, cells, cells.float(), 0.5)
        with pytest.raises(AssertionError):  # as the plain version does
            occupancy.decay_max(density, cells, cells.float(), 0.5)


def test_numbers_of_no_cell_are_passed_over(generator: torch.Generator) -> None:
    """Nobody looks at them beforehand, for which the processor would wait; nothing is written elsewhere."""
    whole = torch.rand(40, generator=generator).to(DEVICE)
    density, before = whole[10:30], whole.clone()
    cells = torch.tensor([-3, -1, 4, 20, 25], device=DEVICE)
    on_gpu.decay_max(density, cells, torch.full((5,), 2.0, device=DEVICE), 0.5)
    before[14] = 2.0
    assert torch.equal(whole, before)


def test_rays_meet_boxes_at_the_same_places(generator: torch.Generator) -> None:
    """Also parallel to faces, from inside, without direction, and with numbers that are not finite."""
    origins = (4 * torch.rand(300, 3, generator=generator) - 2).to(DEVICE)
    directions = (0.5 - 0.4 * torch.rand(300, 3, generator=generator)).to(DEVICE) - origins
    directions[::7, 1] = 0.0
    directions[::11] = 0.0
    directions[::13] = -directions[::13]
    origins[5] = torch.tensor([0.5, 1.0, 0.5])
    directions[5] = torch.tensor([1.0, 0.0, 0.0])  # in a face
    origins[1, 0], origins[2, 1], directions[3, 2], directions[4, 0] = math.nan, math.inf, -math.inf, math.nan
    for near, far in ((0.0, math.inf), (0.3, 1.1)):
        ends = (0.0, 0.1, 0.2), (1.0, 1.0, 0.7), near, far
        found, expected = on_gpu.intersect_box(origins, directions, *ends), intersect_slabs(origins, directions, *ends)
        assert torch.equal(torch.stack(found), torch.stack(expected))
        assert (found[1] > found[0]).sum() > 60
    assert [len(t) for t in on_gpu.intersect_box(origins[:0], origins[:0], *ends)] == [0, 0]


def test_no_rays(generator: torch.Generator) -> None:
    cascades, bricks, superbricks = make(1, generator)
    none = torch.empty(0, 3, device=DEVICE)
    stride = replace(make_stride(0.1, 0.0, 1.0), n_most=5)
    found = on_gpu.march(Walk(none, none, none[:, 0], none[:, 0], cascades, bricks, superbricks, stride, 10, 10))
    assert not isinstance(found, int)
    assert [len(tensor) for tensor in found] == [0, 0, 0, 1]


def test_the_door_names_what_is_wrong(generator: torch.Generator) -> None:
    cascades, bricks, _ = make(1, generator)
    with pytest.raises(ValueError, match="bricks: expected shape"):
        on_gpu.look_up(torch.rand(3, 3, device=DEVICE), cascades, bricks[:, :1])
    with pytest.raises(TypeError, match="points: expected float32 on a CUDA device"):
        on_gpu.look_up(torch.rand(3, 3, device=DEVICE).double(), cascades, bricks)
    density = torch.zeros(1, 7, 9, 5, device=DEVICE)
    with pytest.raises(ValueError, match="density: expected shape"):
        on_gpu.pack(density[:, 1:], 0.5, cascades)
    two = torch.tensor([3, 3], device=DEVICE)
    with pytest.raises(TypeError, match="cells: expected int64 on a CUDA device"):
        on_gpu.decay_max(density, two.int(), two.float(), 0.5)
    with pytest.raises(ValueError, match="density: expected a contiguous tensor"):
        on_gpu.decay_max(density.transpose(1, 2), two[:1], two[:1].float(), 0.5)
    with pytest.raises(TypeError, match="origins: expected float32 on a CUDA device"):
        on_gpu.intersect_box(density[0, 0, :, :3].double(), density[0, 0, :, :3], (0, 0, 0), (1, 1, 1), 0.0, 1.0)
