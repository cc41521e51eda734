"""Ray-box intersection, occupancy grids and marching on a GPU, as functions of tensors.

Same rounding as the plain versions in `fieldforge.renderers`, so the same samples exist. Not differentiable.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fieldforge.kernels.cpu_door import expect_contiguous
from fieldforge.kernels.cpu_marching import CascadesLike, Marched, Vector, Walk
from fieldforge.kernels.triton.door import blocks, expect_rows, expect_tensor, launch

BLOCK = 64


def look_up(points: Tensor, cascades: CascadesLike, bricks: Tensor) -> Tensor:
    """(N, 3) float32 points on a CUDA device -> (N,) bool: whether their cells are occupied."""
    points = expect_rows("points", points, 3)
    bricks = _expect_bricks(bricks, cascades, points.device)
    is_occupied = torch.empty(points.shape[0], dtype=torch.bool, device=points.device)
    launch(
        _kernels().look_up, (blocks(points.shape[0], 256),), points, _boxes(cascades.low, cascades.cells_per_length,
        points.device), bricks, is_occupied, points.shape[0], len(cascades.low), *cascades.resolution, BLOCK=256,
        enable_fp_fusion=False,
    )  # fmt: skip
    return is_occupied


def intersect_box(
    origins: Tensor, directions: Tensor, low: Vector, high: Vector, near: float, far: float
) -> tuple[Tensor, Tensor]:
    """(N, 3) float32 rays on a CUDA device -> (t_near, t_far), each (N,)."""
    origins = expect_rows("origins", origins, 3)
    n = origins.shape[0]
    directions = expect_tensor("directions", directions, (n, 3), device=origins.device)
    t_near, t_far = origins.new_empty(n), origins.new_empty(n)  # each aligned, whatever n: no kernel is compiled anew
    launch(
        _kernels().intersect_box, (blocks(n, 256),), origins, directions, t_near, t_far, n, *map(float, (*low, *high)),
        float(near), float(far), BLOCK=256, enable_fp_fusion=False,
    )  # fmt: skip
    return t_near, t_far


def pack(density: Tensor, threshold: float, cascades: CascadesLike) -> tuple[Tensor, Tensor]:
    """(C, X, Y, Z) float32 on a CUDA device -> bricks and superbricks of the cells above the threshold."""
    density = expect_tensor("density", density, (len(cascades.low), *cascades.resolution))
    packed = []
    cells = density
    for is_of_bricks in (False, True):
        n_cascades, *sizes = cells.shape
        bricks = torch.empty(n_cascades, *(blocks(n, 4) for n in sizes), dtype=torch.int64, device=density.device)
        launch(
            _kernels().pack, (blocks(bricks.numel(), 32),), cells, bricks, bricks.numel(), *sizes, float(threshold),
            IS_OF_BRICKS=is_of_bricks, BLOCK=32,
        )  # fmt: skip
        packed.append(bricks)
        cells = bricks
    return packed[0], packed[1]


def decay_max(density: Tensor, cells: Tensor, fresh: Tensor, decay: float) -> None:
    """density[cells] = max(density[cells] * decay, fresh), in place.

    Args:
        density: float32 on a CUDA device, contiguous, any shape.
        cells: (M,) int64 in [0, density.numel()), ascending. Looking at them would make the processor wait, so whoever
            has them from elsewhere looks (`fieldforge.renderers.occupancy.OccupancyGrid.insert` does); numbers of no
            cell are passed over.
        fresh: (M,) float32.
    """
    expect_contiguous("density", density)
    flat = expect_tensor("density", density, tuple(density.shape)).view(-1)
    cells = expect_tensor("cells", cells, (cells.numel(),), (torch.int64,), flat.device)
    fresh = expect_tensor("fresh", fresh, (cells.numel(),), device=flat.device)
    n = cells.numel()
    launch(
        _kernels().decay_max, (blocks(n, 1024),), flat, cells, fresh, n, flat.numel(), float(decay), BLOCK=1024
    )  # fmt: skip


def march(walk: Walk) -> Marched | int:
    """As the plain `fieldforge.renderers.marching.march_rays`, on a CUDA device.

    Rays are walked twice, to count and to write; the processor waits for the counts in between.
    """
    cascades, stride, origins = walk.cascades, walk.stride, expect_rows("origins", walk.origins, 3)
    n_rays, device = origins.shape[0], origins.device
    directions = expect_tensor("directions", walk.directions, (n_rays, 3), device=device)
    start = expect_tensor("start", walk.start, (n_rays,), device=device)
    end = expect_tensor("end", walk.end, (n_rays,), device=device)
    bricks = _expect_bricks(walk.bricks, cascades, device)
    boxes = _boxes(cascades.low, cascades.cells_per_length, device)
    numbers = (n_rays, len(cascades.low), *cascades.resolution, stride.n_most, walk.n_most_kept)

    def go(counts: Tensor | None, *filled: Tensor | None) -> None:
        launch(
            _kernels().march, (blocks(n_rays, BLOCK),), origins, directions, start, end, boxes, bricks, counts, *filled,
            *numbers, stride.step, stride.cone_angle, stride.max_step, GROWS=stride.cone_angle != 0,
            FILLS=counts is None, BLOCK=BLOCK, num_warps=BLOCK // 32, enable_fp_fusion=False,
        )  # fmt: skip

    offsets = torch.zeros(n_rays + 1, dtype=torch.int64, device=device)
    counts = torch.empty(n_rays, dtype=torch.int64, device=device)
    go(counts, None, None, None, None)
    torch.cumsum(counts, 0, out=offsets[1:])
    n_samples = int(offsets[-1])
    if n_samples > walk.max_samples:
        return n_samples  # nothing is allocated for them
    t0, t1 = torch.empty(n_samples, device=device), torch.empty(n_samples, device=device)
    ray_index = torch.empty(n_samples, dtype=torch.int64, device=device)
    go(None, offsets, t0, t1, ray_index)
    return t0, t1, ray_index, offsets


def _expect_bricks(bricks: Tensor, cascades: CascadesLike, device: torch.device) -> Tensor:
    shape = (len(cascades.low), *(-(-n // 4) for n in cascades.resolution))
    return expect_tensor("bricks", bricks, shape, (torch.int64,), device)


@lru_cache(maxsize=64)
def _boxes(low: tuple[Vector, ...], cells_per_length: tuple[Vector, ...], device: torch.device) -> Tensor:
    return torch.tensor([[*a, *b] for a, b in zip(low, cells_per_length, strict=True)], device=device)


def _kernels() -> Any:
    from fieldforge.kernels.triton import marching_kernels

    return marching_kernels
