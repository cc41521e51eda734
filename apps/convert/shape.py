"""A shape into another field of the same shape, at points alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fieldforge.apps.convert.job import ConversionJob
from fieldforge.apps.convert.students import Student
from fieldforge.apps.convert.teacher import Teacher
from fieldforge.apps.fit.job import Fit, Training
from fieldforge.apps.fit.loop import LOSS, Figure, Hook
from fieldforge.apps.fit.losses.shape_base import ShapeLoss
from fieldforge.apps.fit.options import ShapeOptions
from fieldforge.apps.fit.recipe import SECTIONS, Config
from fieldforge.apps.fit.shape.job import ERROR, in_unit_cube, step_of
from fieldforge.apps.fit.shape.presets import KINDS, preset
from fieldforge.devices import arrived, here, move, seeded
from fieldforge.fields.kinds.shape import DistanceField, OccupancyField, ShapeField
from fieldforge.registry import ConfigError, build

SIDE = 64
"""Cells along each axis of the lattice on which the surface is looked for."""
NEAR = 0.75
"""Share of a batch in cells near the surface."""
N_MEASURED = 2**18


class SurfacePoints:
    """The samples of a step: three quarters of them in cells at the teacher's surface, the others anywhere.

    Calling it gives points (batch, 3) in the unit cube and what the teacher says there, (batch, 1).
    """

    def __init__(self, teacher: ShapeField, cells: Tensor, options: ShapeOptions, seed: int) -> None:
        self.teacher, self.cells, self.seed, self.batch_size = teacher, cells, seed, options.batch_size

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        generator = seeded(self.seed * 1_000_003 + step)
        points = torch.rand(self.batch_size, 3, generator=generator)
        n = round(NEAR * self.batch_size)
        corner = self.cells[torch.randint(len(self.cells), (n,), generator=generator)]
        points[:n] = (corner + points[:n]) / SIDE
        return points, said(self.teacher, points)


@torch.no_grad()
def said(teacher: ShapeField, unit: Tensor) -> Tensor:
    """(n, 1) what students should say at points of the unit cube: distances in its sides, or occupancies."""
    level = teacher.level_in_cube(unit)
    return (0.5 - level if isinstance(teacher, OccupancyField) else level)[:, None]


@torch.no_grad()
def surface_cells(teacher: ShapeField, side: int = SIDE) -> Tensor:
    """(n, 3) the cells of a lattice over the cube at its surface: where the sign changes, and their neighbours; of a
    distance also those that it says are so near."""
    axis = torch.linspace(0, 1, side + 1)
    corners = torch.cartesian_prod(axis, axis, axis)
    level = torch.cat([teacher.level_in_cube(part) for part in corners.split(2**17)]).view(1, 1, *[side + 1] * 3)
    pool = torch.nn.functional.max_pool3d
    low, high = -pool(-level, 2, 1), pool(level, 2, 1)
    is_near = (low <= 0) & (high >= 0)
    if isinstance(teacher, DistanceField):
        is_near |= pool(-level.abs(), 2, 1) > -1.5 / side
    wide = pool(is_near.float(), 3, 1, 1)[0, 0] > 0
    return wide.nonzero().float()


class ShapeConversion(ConversionJob[ShapeField]):
    """A shape to convert.

    Args:
        teacher, to, chosen, command: as for `ConversionJob`.

    Raises:
        ValueError: the teacher has no surface in its cube.
    """

    signal = "shape"
    target = "teacher_iou"
    options = ShapeOptions
    sections = (*SECTIONS, "partition")

    def __init__(self, teacher: Teacher, to: str, chosen: Student, *, command: str = "") -> None:
        super().__init__(teacher, to, chosen, command=command)
        assert isinstance(teacher.field, ShapeField)
        self.field = in_unit_cube(teacher.field)
        self.kind = next(kind for kind, otype in KINDS.items() if otype == teacher.field.otype)
        self.cells = surface_cells(self.field)
        if not len(self.cells):
            raise ValueError(f"{teacher.name}: is empty: its level is 0 nowhere in its cube")

    def ground(self, preset_name: str) -> Config:
        return preset(preset_name, self.kind)

    def notices(self) -> list[str]:
        return [f"{self.teacher.name} becomes {self.to}; {len(self.cells):,} of {SIDE**3:,} cells are at its surface"]

    def settle(self, config: Config) -> list[str]:
        if isinstance(build("loss", config["loss"], path="loss"), ShapeLoss):
            raise ConfigError("loss.otype: such losses look at surfaces; a conversion compares values, with L1 or MAPE")
        if ShapeOptions.of(config["fit"]).sphere:
            raise ConfigError("fit.sphere: a student learns its teacher's distances from the start; leave it out")
        return []

    def expect_target(self, value: float) -> None:
        if self.kind == "udf" or not 0 < value < 1:
            raise ValueError("target: expected a number between 0 and 1, of a field that has an inside")

    def make_field(self, config: Config, seed: int) -> ShapeField:
        described = self.teacher.field.config() | {"encoding": config["encoding"], "network": config["network"]}
        described["partition"] = config.get("partition")
        described.pop("sphere", None)
        made: ShapeField = build("field", described, generator=torch.Generator().manual_seed(seed))
        return made

    @contextmanager
    def training(self, fitted: ShapeField, config: Config, seed: int, hooks: Sequence[Hook]) -> Iterator[Training]:
        draw = SurfacePoints(self.field, self.cells, ShapeOptions.of(config["fit"]), seed)
        yield step_of(fitted, self.kind, config, draw, hooks)

    def _run(self, *arguments: Any) -> Fit[ShapeField]:
        self.field, self.cells = move(self.field, here()), arrived(self.cells)  # where the student learns
        return super()._run(*arguments)

    def shown(self, config: Config) -> Figure:
        return LOSS if self.kind == "occupancy" else ERROR

    def quality(self, fitted: ShapeField, target: float) -> float:
        return self._iou(fitted)

    def measure(self, fitted: ShapeField, tell: Callable[[str], None]) -> dict[str, float | None]:
        points = self._near_surface
        error = (said(in_unit_cube(fitted), points) - said(self.field, points)).square().mean().sqrt()
        figures: dict[str, float | None] = {"teacher_error": round(float(error), 7)}
        return figures | {"teacher_iou": round(self._iou(fitted), 6) if fitted.is_signed else None}

    @cached_property
    def _near_surface(self) -> Tensor:
        return SurfacePoints(self.field, self.cells, ShapeOptions(batch_size=2**15), 1)(0)[0]

    @torch.no_grad()
    def _iou(self, fitted: ShapeField) -> float:
        """Volume IoU with the teacher over points of the whole cube."""
        points = torch.rand(N_MEASURED, 3, generator=seeded(0))
        ours, its = (one.level_in_cube(points) < 0 for one in (in_unit_cube(fitted), self.field))
        either = int((ours | its).sum())
        return int((ours & its).sum()) / either if either else 1.0
