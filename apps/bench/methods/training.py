"""One field on one small signal for so many steps: what parts share whose arms are trained alike.

Pictures are crops, averaged down; shapes are signed distances at points near the surface and anywhere in the cube, in
its sides. Each step takes points at random out of those that are given; the rate is constant for a while and then falls
to 0. Steps are native calls where the field allows it, and rows say where not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fieldforge.apps.bench.methods.small import square
from fieldforge.apps.fit.fused import make_step
from fieldforge.apps.fit.recipe import Config
from fieldforge.apps.fit.stages import Stages
from fieldforge.apps.images import Picture, read_image
from fieldforge.apps.shapes.read import Mesh, read_shape
from fieldforge.apps.shapes.samples import Recipe, draw
from fieldforge.apps.shapes.surface import Surface
from fieldforge.apps.shapes.truth import Truth
from fieldforge.fields.kinds.base import Field
from fieldforge.registry import build

BATCH = 2048
NEAR = Recipe(0.0, ((0.5, "normal", 0.02),), 0.5)
"""Half of the points around the surface, half anywhere."""
DISTANCES = {"torus": (0.3, 0.12)}
"""Shapes that have a formula: the torus by its two radii, in sides of the cube."""


@dataclass(frozen=True)
class Signal:
    """What is fitted.

    Args:
        name: for rows.
        kind: configuration of the field without encoding and network.
        train: points in the field's world (n, d) and values (n, c).
        test: where it is measured.
        peak: mean square that is 0 decibels: 1 of pictures, the variance of distances.
        is_picture: values lie from 0 to 1, and what a field says is clipped to that.
    """

    name: str
    kind: Config
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    peak: float = 1.0
    is_picture: bool = True

    def make_field(self, config: Config, seed: int) -> Field:
        """The field of a configuration, drawn by a seed."""
        described = self.kind | {"encoding": config["encoding"], "network": config["network"]}
        made: Field = build("field", described, generator=torch.Generator().manual_seed(seed))
        return made

    @torch.no_grad()
    def answers(self, field: Field) -> Tensor:
        """What a field says where it is measured."""
        said = field.outputs(field.to_unit(self.test[0]))
        return said.clamp(0, 1) if self.is_picture else said

    def decibels(self, field: Field) -> float:
        """How far the error lies below the peak; -inf of a field that is not finite."""
        error = float((self.answers(field) - self.test[1]).double().square().mean()) / self.peak
        return -10 * math.log10(max(error, 1e-12)) if math.isfinite(error) else -math.inf


@dataclass(frozen=True)
class Trained:
    """A field at the end, CPU seconds in steps, and why these were not native ('' if they were)."""

    field: Field
    seconds: float
    why_plain: str


def picture(path: Path, side: int) -> Signal:
    """The middle of a picture, so many pixels a side."""
    return of_picture(path.stem, square(read_image(path), side))


def noise(side: int, name: str = "noise") -> Signal:
    """A picture of random numbers."""
    values = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
    return of_picture(name, Picture.from_array(values))


def of_picture(name: str, pixels: Picture) -> Signal:
    """All pixels of a picture, trained on and measured at."""
    index = torch.arange(pixels.width * pixels.height)
    places = torch.stack([index % pixels.width, index // pixels.width], -1) + 0.5
    kind = {"otype": "ImageField", "width": pixels.width, "height": pixels.height}
    both = places, pixels.values(index)
    return Signal(name, kind | {"n_channels": both[1].shape[-1]}, both, both)


def shape(source: Path | str, n: int) -> Signal:
    """Distances to a mesh of a file, or to one of `DISTANCES`; measured at as many points as are trained on, others."""
    if isinstance(source, Path):
        mesh = read_shape(source)
        assert isinstance(mesh, Mesh)
        surface = Surface.of(mesh)
        truth = Truth(surface.vertices, surface.faces, is_solid=surface.health.is_closed)
        name, drawn = source.stem, [draw(truth, NEAR, n, (0, number)) for number in range(2)]
    else:
        name, drawn = source, [_torus(n, number) for number in range(2)]
    train, test = ((torch.from_numpy(points), torch.from_numpy(distance)[:, None]) for points, distance in drawn)
    kind = {"otype": "SDFField", "low": [0.0, 0.0, 0.0], "side": 1.0}
    return Signal(name, kind, train, test, peak=float(test[1].var()), is_picture=False)


def _torus(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng((1, seed))
    large, small = DISTANCES["torus"]
    turn, tilt = random.random((2, n // 2)) * 2 * np.pi
    out = large + small * np.cos(tilt)
    on = np.stack([out * np.cos(turn), out * np.sin(turn), small * np.sin(tilt)], -1) + 0.5
    points = np.concatenate([on + random.normal(0, 0.02, on.shape), random.random((n - n // 2, 3))])
    points = points.clip(0, 1).astype(np.float32)
    x, y, z = (points.astype(np.float64) - 0.5).T
    return points, (np.hypot(np.hypot(x, y) - large, z) - small).astype(np.float32)


def train(
    signal: Signal, config: Config, n_steps: int, seed: int = 0, prepare: Callable[[Field], None] = lambda field: None
) -> Trained:
    """A fit from the beginning to the end.

    Args:
        signal: what is fitted.
        config: sections encoding, network and optimizer.
        n_steps: how long.
        seed: of the field and of the points.
        prepare: what is done to the field before.
    """
    field = signal.make_field(config, seed)
    prepare(field)
    points, values = signal.train
    generator = torch.Generator().manual_seed(seed)

    def drawn(step: int) -> tuple[Tensor, Tensor]:
        index = torch.randint(len(points), (BATCH,), generator=generator)
        return points[index], values[index]

    query: Callable[[Tensor], Tensor] = lambda places: field.outputs(field.to_unit(places))  # noqa: E731
    run = {"optimizer": config["optimizer"], "loss": {"otype": "L2"}, "fit": {"n_steps": n_steps}}
    advance, _, why = make_step(field, field, query, run, drawn)
    schedule = build("schedule", {"otype": "ConstantThenLinear"})
    stages, start = Stages(field), time.process_time()
    for step in range(n_steps):
        with stages.at(step, n_steps):
            advance(step, schedule(step, n_steps))
    return Trained(field, time.process_time() - start, why)


def best_of(
    score: Callable[[float], float], middle: float, *, factor: float = 3.0, most: int = 6
) -> dict[float, float]:
    """Scores by rate: three around the middle, and on beyond an end for as long as that one is the best.

    Example:
        >>> sorted(best_of(lambda rate: -abs(rate - 9.0), 1.0))
        [0.333333, 1.0, 3.0, 9.0, 27.0]
    """
    found: dict[float, float] = {}
    wanted = [middle * factor, middle, middle / factor]  # from the last: of equals the smallest is the best
    while wanted and len(found) < most:
        rate = float(f"{wanted.pop():.6g}")
        value = score(rate)
        found[rate] = value if math.isfinite(value) else -math.inf
        best = best_rate(found)
        if not wanted and (found[best] == -math.inf or best == min(found)):
            wanted = [min(found) / factor]
        elif not wanted and best == max(found):
            wanted = [best * factor]
    return found


def best_rate(scores: Mapping[float, float]) -> float:
    """The rate with the best score."""
    return max(scores, key=lambda rate: scores[rate])


def with_optimizer(config: Mapping[str, Any], optimizer: Config, rate: float) -> Config:
    """The configuration with an optimizer at a rate."""
    return {**config, "optimizer": optimizer | {"learning_rate": rate}}
