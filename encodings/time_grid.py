"""TimeGrid: a hash grid of what stands still beside a coarser one of what moves, in one table.

    {"otype": "TimeGrid", "n_levels": 8, "log2_hashmap_size": 16, "base_resolution": 16, "per_level_scale": 1.64,
     "n_time_levels": 4, "time_base_resolution": 8, "time_per_level_scale": 1.6, "time_resolution": 16}

A grid over (x, y, z, t) alone has to learn a floor that never moves once for each moment, from the few photos of that
moment. Most of most scenes stands still, so the fine levels here read the place alone, and are learned from all photos;
a few coarse levels read place and time (the split of Park et al. 2023, "Temporal Interpolation is all You Need for
Dynamic Neural Radiance Fields", section 3.2, and of Wang et al. 2023, MSTH, without its mask). With n_space_dims = 2 it
is the same of a film: a place is (x, y), and much of the picture stands still.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from fieldforge.checks import expect_float, expect_int
from fieldforge.encodings.grid import HASH_PRIMES, Grid, Level, grid_levels
from fieldforge.registry import register


@register("encoding", "TimeGrid")
class TimeGrid(Grid):
    """Levels of a hash grid over all coordinates but the last, then levels over all of them.

    With as many coordinates as space has, nothing moves: it is the `Grid` of the first keys.

    Args:
        n_input_dims: `n_space_dims`, or one more, which is time.
        n_levels, n_features_per_level, log2_hashmap_size, base_resolution, per_level_scale, interpolation: of the
            levels that read the place alone, as of `Grid`.
        n_time_levels: number of levels that read time too, 1 to 32.
        time_base_resolution, time_per_level_scale: their lattice points along an axis of space, and its growth.
        time_resolution: their lattice points along time.
        log2_time_hashmap_size: their largest tables.
        n_space_dims: 3 (x, y, z), or 2 (x, y).
        generator: draws the table uniformly from (-1e-4, 1e-4).

    Returns:
        (*batch, (n_levels + n_time_levels) * F), levels of space first.

    Example:
        >>> encoding = TimeGrid(4, n_levels=2, n_time_levels=1, log2_hashmap_size=8)
        >>> still, moving = encoding(torch.tensor([[0.3, 0.2, 0.1, 0.0], [0.3, 0.2, 0.1, 1.0]])).split([4, 2], -1)
        >>> torch.equal(still[0], still[1]), torch.equal(moving[0], moving[1])
        (True, False)
    """

    otype = "TimeGrid"

    def __init__(
        self,
        n_input_dims: int,
        *,
        n_levels: int = 8,
        n_features_per_level: int = 2,
        log2_hashmap_size: int = 16,
        base_resolution: int = 16,
        per_level_scale: float = 1.64,
        interpolation: str = "Linear",
        n_time_levels: int = 4,
        time_base_resolution: int = 8,
        time_per_level_scale: float = 1.6,
        time_resolution: int = 16,
        log2_time_hashmap_size: int = 18,
        n_space_dims: int = 3,
        generator: torch.Generator | None = None,
    ) -> None:
        self.n_space_dims = expect_int("n_space_dims", n_space_dims, 2, 3)
        expect_int("n_input_dims", n_input_dims, n_space_dims, n_space_dims + 1)
        self.n_time_levels = expect_int("n_time_levels", n_time_levels, 1, 32)
        self.time_base_resolution = expect_int("time_base_resolution", time_base_resolution, 2, 2**12)
        self.time_per_level_scale = expect_float("time_per_level_scale", time_per_level_scale, 1.0, 16.0)
        self.time_resolution = expect_int("time_resolution", time_resolution, 2, 2**14)
        self.log2_time_hashmap_size = expect_int("log2_time_hashmap_size", log2_time_hashmap_size, 1, 30)
        super().__init__(
            n_input_dims,
            n_levels=n_levels,
            n_features_per_level=n_features_per_level,
            log2_hashmap_size=log2_hashmap_size,
            base_resolution=base_resolution,
            per_level_scale=per_level_scale,
            interpolation=interpolation,
            generator=generator,
        )

    def channel_order(self) -> torch.Tensor:
        """(n_output_dims,) rank of each channel's resolution in space, coarsest first."""
        ranks = torch.tensor([level.resolution for level in self.levels]).argsort(stable=True).argsort()
        return ranks.repeat_interleave(self.n_features_per_level)

    def _make_levels(self) -> list[Level]:
        d = self.n_space_dims
        levels = grid_levels(
            d,
            n_levels=self.n_levels,
            log2_hashmap_size=self.log2_hashmap_size,
            base_resolution=self.base_resolution,
            per_level_scale=self.per_level_scale,
        )
        if self.n_input_dims == d:
            return levels
        levels = [replace(level, multipliers=(*level.multipliers, 0), last_scale=0.0) for level in levels]
        in_space = grid_levels(
            d,
            n_levels=self.n_time_levels,
            log2_hashmap_size=self.log2_time_hashmap_size,
            base_resolution=self.time_base_resolution,
            per_level_scale=self.time_per_level_scale,
        )
        for level in in_space:
            n_points = level.resolution**d * self.time_resolution
            size = min(-(-n_points // 8) * 8, 2**self.log2_time_hashmap_size)
            is_hashed = size < n_points
            strides = tuple(level.resolution**axis for axis in range(d + 1))
            levels.append(
                replace(
                    level,
                    offset=levels[-1].offset + levels[-1].size,
                    size=size,
                    is_hashed=is_hashed,
                    multipliers=HASH_PRIMES[: d + 1] if is_hashed else strides,
                    last_scale=self.time_resolution - 1.0,
                )
            )
        return levels
