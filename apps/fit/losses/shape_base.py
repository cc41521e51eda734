"""What a loss of a signed distance is that looks at more than single answers: at slopes, normals, or levels.

It is given the field itself, in the unit cube, and asks it what it needs. To write one, subclass `ShapeLoss`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from fieldforge.checks import expect_choice, expect_float
from fieldforge.fields import operators
from fieldforge.fields.kinds.base import Field
from fieldforge.registry import config_of

HALF = 0.5
"""The papers' coordinates are in [-1, 1]³, a field's in the unit cube: their unit of length is half a side."""

SLOPES = ("autodiff", "taps4", "taps6")


@dataclass(frozen=True)
class DistanceSamples:
    """Places whose distance is known.

    Attributes:
        points: (n, 3) in the unit cube, in random order.
        distance: (n, 1) signed, in sides of the cube.
    """

    points: Tensor
    distance: Tensor


@dataclass(frozen=True)
class SurfaceSamples:
    """Places on a surface, and others.

    Attributes:
        points: (n, 3) in the unit cube.
        is_on: (n,) bool, whether a point is on the surface.
        normal: (n, 3) unit vectors out of the shape; 0 where there is none, and off the surface.
    """

    points: Tensor
    is_on: Tensor
    normal: Tensor


class ShapeLoss(ABC):
    """Class attribute ``reads``: "distance", if it is given `DistanceSamples`, or "surface", if `SurfaceSamples`."""

    otype: ClassVar[str]
    reads: ClassVar[Literal["distance", "surface"]]

    @abstractmethod
    def refuses(self, field: Field) -> str:
        """Why a field cannot be trained with this loss; '' if it can."""

    @abstractmethod
    def per_sample(self, field: Field, samples: Any) -> Tensor:
        """(n,): what each sample adds to the mean. `field.outputs` are distances in sides of the cube."""

    def config(self) -> dict[str, Any]:
        """The configuration that rebuilds this loss."""
        return config_of(self)


class SlopeLoss(ShapeLoss):
    """One that looks at the gradient.

    Args:
        slope: "autodiff", the derivative itself; or "taps4" (a tetrahedron) or "taps6" (along the axes), differences
            of values, which a grid wants: its derivative says something of one cell only (Li et al. 2023).
        step: how far the taps are, in sides of the cube; None: a cell of the encoding's finest grid, or
            1/256 where it has none.
    """

    def __init__(self, *, slope: str = "autodiff", step: float | None = None) -> None:
        self.slope = expect_choice("slope", slope, SLOPES)
        self.step = None if step is None else expect_float("step", step, 0.0, 0.5, open_low=True)

    def refuses(self, field: Field) -> str:
        if self.slope == "autodiff" and field.smoothness < 1:
            rough = "the encoding" if field.encoding.smoothness < 1 else "the activation"
            return (
                f"the loss {self.otype} asks for a continuous gradient, and the smoothness of {rough} is "
                f"{min(field.smoothness, field.encoding.smoothness):g}: its slope jumps where the loss should pass it "
                "on; loss.slope=taps4, encoding.interpolation=Smoothstep or a smooth activation will do"
            )
        if getattr(field.network, "mixes_points", False):
            return (
                f"the loss {self.otype} asks for slopes of each point, and a {field.network.otype} with network.norm = "
                "batch normalises over all points of a step; network.norm=layer or none will do"
            )
        if field.smoothness < 0:
            return (
                f"the loss {self.otype} asks for slopes, and the values jump (smoothness {field.smoothness:g}); "
                "encoding.interpolation=Linear or Smoothstep will do"
            )
        return ""

    def value_and_slope(self, field: Field, points: Tensor) -> tuple[Tensor, Tensor]:
        """Distance in half sides (n,), and its gradient (n, 3), which the parameters' gradient goes through."""
        if self.slope == "autodiff":
            x = points.detach().requires_grad_()
            value = field.outputs(x)[:, 0]
            (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
            return value / HALF, slope
        step = (field.encoding.finest_cell or 1 / 256) if self.step is None else self.step
        inner = points.clamp(step, 1 - step)  # a tap outside the cube would read what is not trained
        slope = operators.gradient(lambda x: field.outputs(x)[:, 0], inner, self.slope, step=step)
        return field.outputs(points)[:, 0] / HALF, slope


def length(vectors: Tensor) -> Tensor:
    """(n, 3) -> (n,), with gradient 0 at 0."""
    return (vectors.square().sum(-1) + 1e-20).sqrt()
