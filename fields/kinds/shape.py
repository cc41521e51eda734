"""Shapes as functions of the place: signed distance, occupancy, unsigned distance.

    {"otype": "SDFField", "low": [-1, -1, -1], "side": 2,
     "encoding": {"otype": "HashGrid"}, "network": {"otype": "MLP"}}

Coordinates and distances are in the units of the mesh. The box is a cube, so that a distance means the same along each
axis; inside, the network speaks in sides of the cube.

All three answer one question alike: `level(points)` is negative inside, positive outside, and 0 on the surface, which
is what isosurfaces and sphere tracing ask.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fieldforge.checks import expect_float
from fieldforge.encodings.base import Encoding
from fieldforge.fields import operators
from fieldforge.fields.geometric import draw_sphere
from fieldforge.fields.kinds.base import Field
from fieldforge.fields.partitions.base import Partition
from fieldforge.registry import register


class ShapeField(Field):
    """What the three have in common.

    Class attributes: ``is_distance``, whether |level| bounds the distance to the surface from below where the fit is
    exact; ``is_signed``, whether inside and outside differ.

    Args:
        encoding: configuration of the encoding (3 coordinates), or an `Encoding`.
        network: configuration of the network, or a module.
        low: lowest corner of the cube, in world units.
        side: its side, in world units.
        partition: cells with networks of their own, as for `Field`.
        generator: source of the initial parameters; None is torch's own.
    """

    is_distance: ClassVar[bool]
    is_signed: ClassVar[bool]

    def __init__(
        self,
        *,
        encoding: str | Mapping[str, Any] | Encoding,
        network: str | Mapping[str, Any] | nn.Module,
        low: Sequence[float] = (-1.0, -1.0, -1.0),
        side: float = 2.0,
        partition: str | Mapping[str, Any] | Partition | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if isinstance(low, str) or not isinstance(low, Sequence) or len(low) != 3:
            raise ValueError(f"low: expected three numbers, got {low!r}")
        self_low = [expect_float(f"low[{axis}]", value) for axis, value in enumerate(low)]
        self_side = expect_float("side", side, 0.0, open_low=True)
        high = tuple(value + self_side for value in self_low)
        if not all(a < b and math.isfinite(b) for a, b in zip(self_low, high, strict=True)):
            raise ValueError(f"side: {side:g} is lost beside coordinates of {max(map(abs, self_low)):g}")
        super().__init__(
            box=(tuple(self_low), high), encoding=encoding, network=network, n_output_dims=1, partition=partition,
            generator=generator,
        )  # fmt: skip
        self.low, self.side = self_low, self_side

    @abstractmethod
    def level(self, points: Tensor) -> Tensor:
        """(*batch, 3) world points to (*batch,): negative inside, positive outside, 0 on the surface."""

    def forward(self, points: Tensor) -> Tensor:
        """The same as `level`."""
        return self.level(points)

    def raw(self, unit: Tensor) -> Tensor:
        """What the network says at points of the unit cube: (*batch, 3) -> (*batch,)."""
        return self.outputs(unit).squeeze(-1)

    @abstractmethod
    def level_in_cube(self, unit: Tensor) -> Tensor:
        """`level` at points of the unit cube (*batch, 3), distances in its sides: for work far from the origin."""

    @property
    def finest_cell(self) -> float:
        """Side of the encoding's finest cells in world units; of one without cells, 1/256 of the cube."""
        finest = self.encoding.finest_cell
        if finest is None:
            return self.side / 256
        if self.partition is not None:
            low, high = self.partition.boxes()
            finest *= float((high - low).min())
        return finest * self.side

    def gradient(self, points: Tensor, method: str = "autodiff", **options: Any) -> Tensor:
        """Gradient of `level` at world points, (*batch, 3); not of unit length. See `operators.gradient`.

        Unless told, taps lie 2 finest cells away (those of "taps4" one), and the samples of a fit spread over 2.
        """
        if method in ("taps6", "taps4"):
            options.setdefault("step", (1 if method == "taps4" else 2) * self.finest_cell)
        elif method in ("plane", "quadratic"):
            options.setdefault("sigma", 2 * self.finest_cell)
        return operators.gradient(self.level, points, method, **options)

    def normal(self, points: Tensor, method: str = "autodiff", **options: Any) -> Tensor:
        """Unit vectors out of the shape, (*batch, 3); 0 where the gradient vanishes. Options as for `gradient`."""
        g = self.gradient(points, method, **options)
        return g / torch.linalg.vector_norm(g, dim=-1, keepdim=True).clamp(min=1e-20)

    def hessian(self, points: Tensor, method: str = "quadratic", **options: Any) -> Tensor:
        """Second derivatives of `level`, (*batch, 3, 3). See `operators.hessian`; sigma: 4 finest cells unless told."""
        return operators.hessian(self.level, points, method, **self._wide(options))

    def laplacian(self, points: Tensor, method: str = "quadratic", **options: Any) -> Tensor:
        """Sum of the second derivatives of `level`, (*batch,). See `operators.laplacian`; sigma as for `hessian`."""
        return operators.laplacian(self.level, points, method, **self._wide(options))

    def mean_curvature(self, points: Tensor, method: str = "quadratic", **options: Any) -> Tensor:
        """Mean curvature of the level set through each point, 1/length, (*batch,); sigma as for `hessian`."""
        return operators.mean_curvature(self.level, points, method, **self._wide(options))

    def _wide(self, options: dict[str, Any]) -> dict[str, Any]:
        """Second derivatives are noisier than first ones: samples spread twice as far."""
        return {"sigma": 4 * self.finest_cell} | options


class DistanceField(ShapeField):
    """A field whose level is a distance; how the network's output becomes one in the cube is its kind's to say."""

    units = "world units of the mesh, for places and distances"
    outside = "the distance at the nearest point of the cube, plus the way there"
    is_distance = True

    def distance(self, points: Tensor) -> Tensor:
        """Distance to the surface, in world units: (*batch, 3) -> (*batch,).

        Outside the cube it is an upper bound on the distance, no estimate of it.
        """
        unit = self.to_unit(points)
        nearest = unit.clamp(0, 1)
        way = unit - nearest  # in sides of the cube
        is_outside = (way != 0).any(-1)
        # the length of nothing has no second derivative (NaN): it is only taken outside
        beyond = torch.linalg.vector_norm(torch.where(is_outside[..., None], way, 1.0), dim=-1) * is_outside
        return (self.level_in_cube(nearest) + beyond) * self.side

    def level(self, points: Tensor) -> Tensor:
        """The same as `distance`; where that is never negative, a surface is looked for at a small level above 0."""
        return self.distance(points)


@register("field", "SDFField")
class SDFField(DistanceField):
    """Signed distance to a surface: negative inside.

    Args:
        encoding, network, low, side, partition, generator: as for `ShapeField`.
        sphere: radius in sides of the cube of the sphere in its middle whose distance the untrained field is, see
            `fieldforge.fields.geometric`; 0: none, the network as it is drawn.

    Example:
        >>> field = SDFField(encoding="Identity", network={"otype": "MLP", "n_neurons": 16}, low=[0, 0, 0], side=10)
        >>> field.distance(torch.rand(4, 3) * 10).shape
        torch.Size([4])
    """

    otype = "SDFField"
    is_signed = True

    def __init__(
        self,
        *,
        encoding: str | Mapping[str, Any] | Encoding,
        network: str | Mapping[str, Any] | nn.Module,
        low: Sequence[float] = (-1.0, -1.0, -1.0),
        side: float = 2.0,
        sphere: float = 0.0,
        partition: str | Mapping[str, Any] | Partition | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            encoding=encoding, network=network, low=low, side=side, partition=partition, generator=generator
        )
        self.sphere = expect_float("sphere", sphere, 0.0, 1.0)
        if sphere and self.partition is not None:
            raise ValueError("sphere: is of one network for the whole cube; a field with a partition goes without")
        if sphere:
            draw_sphere(self.encoding, self.network, sphere, generator)

    def level_in_cube(self, unit: Tensor) -> Tensor:
        return self.raw(unit)


@register("field", "OccupancyField")
class OccupancyField(ShapeField):
    """Inside or not: the probability that a point is inside (Mescheder et al. 2019).

    Example:
        >>> field = OccupancyField(encoding="Identity", network={"otype": "MLP", "n_neurons": 16})
        >>> bool((field.occupancy(torch.rand(4, 3)) < 1).all())
        True
    """

    otype = "OccupancyField"
    units = "world units of the mesh; probability of being inside"
    outside = "0: nothing is outside the cube"
    is_distance = False
    is_signed = True

    def occupancy(self, points: Tensor) -> Tensor:
        """Probability of being inside, in [0, 1]: (*batch, 3) -> (*batch,)."""
        unit = self.to_unit(points)
        is_outside = ((unit < 0) | (unit > 1)).any(-1)
        return torch.where(is_outside, 0.0, torch.sigmoid(self.raw(unit.clamp(0, 1))))

    def level(self, points: Tensor) -> Tensor:
        """1/2 - occupancy: negative inside, in [-1/2, 1/2]."""
        return 0.5 - self.occupancy(points)

    def level_in_cube(self, unit: Tensor) -> Tensor:
        is_border = ((unit <= 0) | (unit >= 1)).any(-1)  # nothing is outside: bodies that touch the border are closed
        return torch.where(is_border, 0.5, 0.5 - torch.sigmoid(self.raw(unit)))


@register("field", "UDFField")
class UDFField(DistanceField):
    """Unsigned distance to a surface that has no inside: open sheets, soups, clouds.

    Example:
        >>> field = UDFField(encoding="Identity", network={"otype": "MLP", "n_neurons": 16})
        >>> bool((field.distance(torch.rand(4, 3)) >= 0).all())
        True
    """

    otype = "UDFField"
    is_signed = False

    def level_in_cube(self, unit: Tensor) -> Tensor:
        return self.raw(unit).abs()
