"""Native ray-box intersection, occupancy grids and marching, as functions of tensors.

Same rounding as the plain versions in `fieldforge.renderers`, so the same samples exist and lie at the same places, for
any number of threads and on every instruction set. Not differentiable.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fieldforge.kernels.cpu_door import expect_contiguous, expect_rows, expect_tensor, n_threads, native

Vector = tuple[float, float, float]
MAX_WORDS = 2**23
"""Words of 64 marks that rays marched together may take: 64 MiB."""


class CascadesLike(Protocol):
    """What `fieldforge.renderers.occupancy.Cascades` says about the cells."""

    @property
    def resolution(self) -> tuple[int, int, int]: ...
    @property
    def low(self) -> tuple[Vector, ...]: ...
    @property
    def high(self) -> tuple[Vector, ...]: ...
    @property
    def cells_per_length(self) -> tuple[Vector, ...]: ...


class StrideLike(Protocol):
    """What `fieldforge.renderers.marching.Stride` says about the samples."""

    @property
    def step(self) -> float: ...
    @property
    def cone_angle(self) -> float: ...
    @property
    def max_step(self) -> float: ...
    @property
    def n_most(self) -> int: ...


class Walk(NamedTuple):
    """What marching is told, on every device: rays on their way through an occupancy grid."""

    origins: Tensor
    """(R, 3) float32."""
    directions: Tensor
    """(R, 3) float32."""
    start: Tensor
    """(R,) where the samples of each ray begin."""
    end: Tensor
    """(R,) what the last middle has to be before."""
    cascades: CascadesLike
    bricks: Tensor
    superbricks: Tensor
    """What lets a version jump over empty cells."""
    stride: StrideLike
    n_most_kept: int
    """Samples of a ray."""
    max_samples: int
    """Of all rays; where there are more, marching answers with their number."""


Marched = tuple[Tensor, Tensor, Tensor, Tensor]
"""t0, t1, ray_index and offsets, as in `fieldforge.renderers.samples.Samples`."""


def intersect_box(
    origins: Tensor, directions: Tensor, low: Vector, high: Vector, near: float, far: float
) -> tuple[Tensor, Tensor]:
    """(N, 3) float32 rays -> (t_near, t_far), each (N,)."""
    origins, directions = _expect_rays(origins, directions)
    t_near, t_far = origins.new_empty(2, origins.shape[0])
    native().intersect_box(
        origins.data_ptr(), directions.data_ptr(), origins.shape[0], list(low), list(high), near, far,
        t_near.data_ptr(), t_far.data_ptr(), n_threads(),
    )  # fmt: skip
    return t_near, t_far


def look_up(points: Tensor, cascades: CascadesLike, bricks: Tensor) -> Tensor:
    """(N, 3) float32 points -> (N,) bool: whether their cells are occupied."""
    points, bricks = expect_rows("points", points, 3), _expect_blocks("bricks", bricks, cascades, 4)
    is_occupied = torch.empty(points.shape[0], dtype=torch.bool)
    native().look_up(
        _native_cascades(cascades), bricks.data_ptr(), points.data_ptr(), points.shape[0], is_occupied.data_ptr(),
        n_threads(),
    )  # fmt: skip
    return is_occupied


def decay_max(density: Tensor, cells: Tensor, fresh: Tensor, decay: float) -> None:
    """density[cells] = max(density[cells] * decay, fresh), in place.

    Args:
        density: float32, contiguous, any shape.
        cells: (M,) int64 in [0, density.numel()), ascending: checked here.
        fresh: (M,) float32.
    """
    expect_contiguous("density", expect_tensor("density", density, tuple(density.shape)))
    cells = expect_tensor("cells", cells, (cells.numel(),), torch.int64).contiguous()
    fresh = expect_tensor("fresh", fresh, (cells.numel(),)).contiguous()
    expect_cells(cells, density.numel())
    native().decay_max(
        density.data_ptr(), cells.data_ptr(), fresh.data_ptr(), cells.numel(), decay, n_threads()
    )  # fmt: skip


def pack(density: Tensor, threshold: float, cascades: CascadesLike) -> tuple[Tensor, Tensor]:
    """(C, X, Y, Z) float32 -> bricks and superbricks of the cells above the threshold."""
    density = expect_tensor("density", density, (len(cascades.low), *cascades.resolution)).contiguous()
    bricks = torch.empty(_blocks_shape(cascades, 4), dtype=torch.int64)
    superbricks = torch.empty(_blocks_shape(cascades, 16), dtype=torch.int64)
    native().pack(
        _native_cascades(cascades), density.data_ptr(), threshold, bricks.data_ptr(), superbricks.data_ptr(),
        n_threads(),
    )  # fmt: skip
    return bricks, superbricks


def march(walk: Walk) -> Marched | int:
    """As the plain `fieldforge.renderers.marching.march_rays`."""
    cascades, stride = walk.cascades, walk.stride
    origins, directions = _expect_rays(walk.origins, walk.directions)
    n_rays = origins.shape[0]
    start, end = (
        expect_tensor(name, t, (n_rays,)).contiguous() for name, t in (("start", walk.start), ("end", walk.end))
    )  # fmt: skip
    bricks = _expect_blocks("bricks", walk.bricks, cascades, 4)
    superbricks = _expect_blocks("superbricks", walk.superbricks, cascades, 16)
    native_cascades = _native_cascades(cascades)
    strides = (stride.step, stride.cone_angle, stride.max_step, stride.n_most)
    n_words = -(-stride.n_most // 64)
    n_together = max(1, MAX_WORDS // n_words)
    offsets = torch.zeros(n_rays + 1, dtype=torch.int64)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    n_samples = 0
    for first in range(0, n_rays, n_together):
        n_here = min(n_together, n_rays - first)
        rays = [
            tensor.data_ptr() + 4 * first * width
            for tensor, width in ((origins, 3), (directions, 3), (start, 1), (end, 1))
        ]
        marks = torch.empty(n_here * n_words, dtype=torch.int64)
        counts = torch.empty(n_here, dtype=torch.int64)
        native().mark(
            native_cascades, bricks.data_ptr(), superbricks.data_ptr(), rays, n_here, *strides, walk.n_most_kept,
            marks.data_ptr(), counts.data_ptr(), n_threads(),
        )  # fmt: skip
        here = torch.zeros(n_here + 1, dtype=torch.int64)
        torch.cumsum(counts, 0, out=here[1:])
        n = int(here[-1])
        offsets[first + 1 : first + n_here + 1] = here[1:] + n_samples
        n_samples += n
        if n_samples > walk.max_samples:
            return n_samples  # nothing is allocated for them
        t0, t1 = torch.empty(n), torch.empty(n)
        ray_index = torch.empty(n, dtype=torch.int64)
        native().fill(
            rays, n_here, *strides, marks.data_ptr(), here.data_ptr(), first, t0.data_ptr(), t1.data_ptr(),
            ray_index.data_ptr(), n_threads(),
        )  # fmt: skip
        parts.append((t0, t1, ray_index))
    if len(parts) == 1:
        return *parts[0], offsets
    if not parts:
        return torch.empty(0), torch.empty(0), torch.empty(0, dtype=torch.int64), offsets
    t0, t1, ray_index = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return t0, t1, ray_index, offsets


def expect_cells(cells: Tensor, n_cells: int) -> Tensor:
    """Require (M,) numbers in [0, n_cells), ascending, so that each is there once."""
    if len(cells) and (int(cells[0]) < 0 or int(cells[-1]) >= n_cells or not bool((cells[1:] > cells[:-1]).all())):
        raise ValueError(f"cells: expected ascending numbers from 0 to {n_cells - 1}, each once")
    return cells


def _expect_rays(origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    origins = expect_rows("origins", origins, 3)
    return origins, expect_tensor("directions", directions, tuple(origins.shape)).contiguous()


def _blocks_shape(cascades: CascadesLike, size: int) -> tuple[int, ...]:
    return (len(cascades.low), *(-(-n // size) for n in cascades.resolution))


def _expect_blocks(name: str, blocks: Tensor, cascades: CascadesLike, size: int) -> Tensor:
    return expect_tensor(name, blocks, _blocks_shape(cascades, size), torch.int64).contiguous()


@lru_cache(maxsize=64)
def _make_cascades(resolution: tuple[int, ...], low: tuple[Vector, ...], cells_per_length: tuple[Vector, ...]) -> Any:
    return native().Cascades(list(resolution), [list(v) for v in low], [list(v) for v in cells_per_length])


def _native_cascades(cascades: CascadesLike) -> Any:
    return _make_cascades(cascades.resolution, cascades.low, cascades.cells_per_length)
