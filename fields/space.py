"""Spaces: how much of the world a field's box stands for.

    {"otype": "Box"}                              the box holds all there is
    {"otype": "Contraction", "norm": "inf"}       what lies beyond the box is drawn into a shell around it

An encoding reads the unit cube. A space takes coordinates that are 0 to 1 inside a field's box, whatever they are
outside, to that cube. A contraction (Barron et al. 2022, mip-NeRF 360, eq. 10) keeps what is in the box as it is, in
the inner half of the cube, and gives the outer half to the rest of the world, up to infinity: with x = -1 to 1 in the
box and m its norm,

    f(x) = x                      where m <= 1
    f(x) = (2 - 1/m) x/m          elsewhere,        and then (f + 2) / 4.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from fieldforge.checks import expect_choice, expect_points
from fieldforge.registry import config_of, register

Norm = Literal["inf", "2"]
NORMS: tuple[Norm, ...] = ("inf", "2")


class Space(ABC):
    """From coordinates of the box to those of the cube that an encoding reads, and back.

    Class attributes: ``otype``; ``is_bounded``, whether the box holds all there is.
    """

    otype: ClassVar[str]
    is_bounded: ClassVar[bool]

    @abstractmethod
    def to_cube(self, unit: Tensor) -> Tensor:
        """(*batch, n) coordinates, 0 to 1 in the box -> (*batch, n) in the cube; what is not held may fall outside.

        Raises:
            TypeError: not floating-point coordinates.
        """

    @abstractmethod
    def from_cube(self, cube: Tensor) -> Tensor:
        """The inverse, (*batch, n) -> (*batch, n)."""

    @abstractmethod
    def holds(self, unit: Tensor) -> Tensor:
        """(*batch,) bool: whether the field says anything there. NaN is nowhere."""

    def config(self) -> dict[str, Any]:
        """What rebuilds it."""
        return config_of(self)


@register("space", "Box")
class Box(Space):
    """The box and nothing else.

    Example:
        >>> Box().to_cube(torch.tensor([0.25, 0.5, 3.0]))
        tensor([0.2500, 0.5000, 3.0000])
    """

    otype = "Box"
    is_bounded = True

    def to_cube(self, unit: Tensor) -> Tensor:
        return unit

    def from_cube(self, cube: Tensor) -> Tensor:
        return cube

    def holds(self, unit: Tensor) -> Tensor:
        return ((unit >= 0) & (unit <= 1)).all(-1)


@register("space", "Contraction")
class Contraction(Space):
    """The box, and around it the rest of the world.

    Args:
        norm: "inf", the largest coordinate (nerfacto): cubes become cubes, and no corner of the cube is empty; or "2",
            the length (the paper): balls become balls, the same in every direction, and a box's corners are contracted
            too.

    Example:
        >>> Contraction().to_cube(torch.tensor([[0.0, 1.0, 0.5], [0.5, 4.5, 0.5]]))  # a corner; eight halves away
        tensor([[0.2500, 0.7500, 0.5000],
                [0.5000, 0.9688, 0.5000]])
    """

    otype = "Contraction"
    is_bounded = False

    def __init__(self, *, norm: Norm = "inf") -> None:
        self.norm: Norm = expect_choice("norm", norm, NORMS)

    def to_cube(self, unit: Tensor) -> Tensor:
        x = 2 * _expect_floating("unit", unit) - 1
        m = self._length(x).clamp(min=1)
        # (2 - 1/m) x/m, in an order in which nothing overflows; the clamp is for the last bit
        return ((x / m * (2 - 1 / m)).clamp(-2, 2) + 2) / 4

    def from_cube(self, cube: Tensor) -> Tensor:
        """The inverse; infinite on the border of what is reached (of the cube for "inf", of its ball for "2")."""
        f = 4 * _expect_floating("cube", cube) - 2
        m = self._length(f).clamp(min=1)
        # as m = 2 - 1/|x| for what was contracted, |x| = 1 / (2 - m)
        return (f / m / (2 - m).clamp(min=0) + 1) / 2

    def holds(self, unit: Tensor) -> Tensor:
        return unit.isfinite().all(-1)

    def _length(self, x: Tensor) -> Tensor:
        """(*batch, 1)"""
        largest = x.abs().amax(-1, keepdim=True)
        if self.norm == "inf":
            return largest
        scale = largest.clamp(min=1)  # squares of large numbers are infinite
        return scale * torch.linalg.vector_norm(x / scale, dim=-1, keepdim=True)


def _expect_floating(name: str, x: Tensor) -> Tensor:
    return expect_points(x, x.shape[-1] if isinstance(x, Tensor) and x.ndim else 0, name=name)
