"""Training steps of losses that look at slopes, normals or levels: samples of a surface, and one step in PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fieldforge.apps.fit.loop import Hook, allowed
from fieldforge.apps.fit.losses.shape_base import DistanceSamples, ShapeLoss, SurfaceSamples
from fieldforge.apps.fit.optimizers.base import Optimizer
from fieldforge.apps.shapes.samples import SURFACE_RECIPES
from fieldforge.devices import seeded
from fieldforge.fields.kinds.base import Field


@dataclass
class ShapeStep:
    """Draw, ask the field, differentiate, update; as `PlainStep` for a loss that is given the field itself.

    Args:
        field: reads the unit cube.
        draw: step number -> `DistanceSamples` or `SurfaceSamples`, as the loss reads them.
        loss: what is minimised.
        optimizer: moves the field's parameters.
        hooks: called with the per-sample loss before the update.
    """

    field: Field
    draw: Callable[[int], Any]
    loss: ShapeLoss
    optimizer: Optimizer
    hooks: Sequence[Hook] = ()

    def __call__(self, step: int, factor: float) -> tuple[float, float]:
        samples = self.draw(step)
        self.optimizer.zero_grad()
        per_sample = self.loss.per_sample(self.field, samples)
        loss = per_sample.mean()
        value = float(loss.detach())
        if math.isfinite(value):
            loss.backward()
            if allowed(self.hooks, step, per_sample.detach()):
                self.optimizer.set_learning_rate_factor(factor)
                self.optimizer.step()
        return value, value  # there is no one error to square

    def figures(self, step: int, factor: float) -> Tensor:
        """The same without a look at its numbers, for a device."""
        samples = self.draw(step)
        self.optimizer.zero_grad()
        per_sample = self.loss.per_sample(self.field, samples)
        loss = per_sample.mean()
        loss.backward()
        if allowed(self.hooks, step, per_sample.detach()):
            self.optimizer.set_learning_rate_factor(factor)
            self.optimizer.step()
        return loss.detach().expand(2)


@dataclass
class WithDistances:
    """A draw of points and targets as `DistanceSamples`."""

    draw: Callable[[int], tuple[Tensor, Tensor]]

    def __call__(self, step: int) -> DistanceSamples:
        return DistanceSamples(*self.draw(step))


@dataclass
class SurfaceDraw:
    """Points of a surface, some near them, and some anywhere in the cube, new ones each step.

    Calling it gives `SurfaceSamples`; the same seed and step give the same.

    Args:
        points, normals: (n, 3) of the surface, in the unit cube.
        recipe: one of `SURFACE_RECIPES`.
        batch_size: samples a step.
        seed: same seed, same samples.
    """

    points: np.ndarray
    normals: np.ndarray
    recipe: str
    batch_size: int
    seed: int

    def __call__(self, step: int) -> SurfaceSamples:
        random = np.random.default_rng((self.seed, step))
        on_share, near_share, _ = SURFACE_RECIPES[self.recipe]
        n_on, n_near = round(on_share * self.batch_size), round(near_share * self.batch_size)
        chosen = random.integers(0, len(self.points), n_on)
        near = chosen[random.integers(0, n_on, n_near)] if n_near else chosen[:0]
        noise = random.normal(size=(n_near, 3)) * (self._reach[near, None] if n_near else 1.0)
        anywhere = random.random((self.batch_size - n_on - n_near, 3))
        points = np.concatenate([self.points[chosen], np.clip(self.points[near] + noise, 0, 1), anywhere])
        normal = np.zeros((self.batch_size, 3), np.float32)
        normal[:n_on] = self.normals[chosen]
        return SurfaceSamples(
            torch.from_numpy(points.astype(np.float32)),
            torch.arange(self.batch_size) < n_on,
            torch.from_numpy(normal),
        )

    @cached_property
    def _reach(self) -> np.ndarray:
        """(n,) distance to the 50th neighbour, the width of the samples near each point (Gropp et al. 2020)."""
        from scipy.spatial import cKDTree

        found: np.ndarray = cKDTree(self.points).query(self.points, k=[min(51, len(self.points))])[0][:, 0]
        return found


@torch.no_grad()
def turn_outward(field: Field) -> bool:
    """Negate an MLP's signed field whose border is inside on average, in place; says whether it did.

    Without normals a loss may find the shape inside out; the border of the cube is outside.
    """
    face = torch.rand(2048, 3, generator=seeded(0))
    axis = torch.arange(2048) % 3
    face[torch.arange(2048), axis] = (torch.arange(2048) // 3 % 2).float()
    if float(field.outputs(face).mean()) >= 0:
        return False
    layers = getattr(field.network, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        return False
    for parameter in layers[-1].parameters():
        parameter.neg_()
    return True
