"""InsideOutsideField: a scene inside a sphere, and all the rest in inverted coordinates (Zhang et al. 2020, NeRF++).

    {"otype": "InsideOutside", "center": [0, 0, 0], "radius": 1.5,
     "inside": {"otype": "RadianceField", "encoding": {"otype": "HashGrid"}, ...},
     "outside_encoding": {"otype": "HashGrid"}, "outside_network": {"otype": "MLP"},
     "outside_rgb_network": {"otype": "MLP", "output_activation": "Sigmoid"}}

With x the place in radii from the centre and r its length, the inside is a `RadianceField` for r < 1. The outside is
asked at (x/r, 1/r): four numbers that end, a direction and an inverse radius that is 0 at infinity. Its density counts
along 1/r, not along length. What is seen is the colour inside, plus what light is left times the colour outside; the
outside ends opaque, so that nothing is behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fieldforge.checks import expect_float, expect_int, expect_points
from fieldforge.encodings.base import Encoding
from fieldforge.fields import fused
from fieldforge.fields.kinds.base import part_of
from fieldforge.fields.kinds.radiance import RadianceField, truncated_exp
from fieldforge.fields.kinds.scene import SceneField, corner
from fieldforge.registry import register


@register("field", "InsideOutside")
class InsideOutsideField(SceneField):
    """Density and colour inside of a sphere, and outside of it.

    Args:
        inside: configuration of a RadianceField in the space Box, whose box is the cube around the sphere (its low and
            high may be left out), or one made beforehand.
        outside_encoding: configuration of the encoding of four coordinates, or an `Encoding`.
        outside_network, outside_rgb_network: as `network` and `rgb_network` of a RadianceField.
        center, radius: of the sphere, in world units; it holds the cameras.
        n_geometry: numbers that the outside's colour network reads of a place.
        n_outside: samples on each ray outside, even in inverse radius.
        generator: source of the initial parameters; None is torch's own.

    Raises:
        ValueError: the inside is not the cube around the sphere.
    """

    otype = "InsideOutside"
    outside = "nothing is outside: beyond the sphere is the other part, up to infinity"

    def __init__(
        self,
        *,
        inside: Mapping[str, Any] | RadianceField,
        outside_encoding: str | Mapping[str, Any] | Encoding,
        outside_network: str | Mapping[str, Any] | nn.Module,
        outside_rgb_network: str | Mapping[str, Any] | nn.Module,
        center: Sequence[float] = (0.0, 0.0, 0.0),
        radius: float = 1.0,
        n_geometry: int = 16,
        n_outside: int = 64,
        generator: torch.Generator | None = None,
    ) -> None:
        self_center, size = corner("center", center), expect_float("radius", radius, 0.0, 1e15, open_low=True)
        low, high = [c - size for c in self_center], [c + size for c in self_center]
        if isinstance(inside, Mapping):
            inside = {"low": low, "high": high} | dict(inside)
        made: RadianceField = part_of("inside", inside, RadianceField, kind="field", generator=generator)
        if not isinstance(made, RadianceField) or not made.space.is_bounded:
            raise ValueError("inside: expected a RadianceField in the space Box")
        if [*made.low, *made.high] != [*low, *high]:
            raise ValueError(f"inside.low, inside.high: expected the cube around the sphere, {low} and {high}")
        super().__init__(low=low, high=high, color_space=made.color_space, generator=generator)
        self.inside, self.center, self.radius = made, list(self_center), size
        self.n_geometry = expect_int("n_geometry", n_geometry, 1, 256)
        self.n_outside = expect_int("n_outside", n_outside, 1, 4096)
        self.outside_encoding: Encoding = part_of(
            "outside_encoding", outside_encoding, Encoding, n_input_dims=4, generator=generator, kind="encoding"
        )
        sizes: dict[str, Any] = {"n_input_dims": self.outside_encoding.n_output_dims, "n_output_dims": self.n_geometry}
        self.outside_network: nn.Module = part_of(
            "outside_network", outside_network, nn.Module, **sizes, generator=generator, kind="network"
        )
        sizes = {"n_input_dims": self.n_geometry + made.dir_encoding.n_output_dims, "n_output_dims": 3}
        self.outside_rgb_network: nn.Module = part_of(
            "outside_rgb_network", outside_rgb_network, nn.Module, **sizes, generator=generator, kind="network"
        )

    @property
    def smoothness(self) -> float:
        """Continuous derivatives inside; across the sphere there are none."""
        return self.inside.smoothness

    def to_sphere(self, points: Tensor) -> Tensor:
        """(*batch, 3) world points in radii from the centre."""
        expect_points(points, 3, name="points", owner=self)
        axes = zip(points.unbind(-1), self.center, strict=True)
        return torch.stack([(axis - middle) / self.radius for axis, middle in axes], -1)

    def inside_density(self, points: Tensor) -> Tensor:
        """(*batch,) density of the inside, 1 / length; 0 beyond the sphere."""
        return torch.where(self._is_inside(points), self.inside.density(points), 0.0)

    def inside_radiance(self, points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Density of the inside, 0 beyond the sphere, and colour."""
        density, color = self.inside.radiance(points, directions)
        return torch.where(self._is_inside(points), density, 0.0), color

    def outside_radiance(self, places: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """What is outside.

        Args:
            places: (*batch, 4): a direction from the centre, of unit length, and an inverse radius from 1 to 0.
            directions: (*batch, 3) of unit length, away from the camera.

        Returns:
            (*batch,) density along the inverse radius, and (*batch, 3).
        """
        unit = torch.cat([0.5 * places[..., :3] + 0.5, places[..., 3:]], -1).clamp(0, 1)
        parameter = next(self.outside_network.parameters())
        geometry = fused.apply(self.outside_encoding, self.outside_network, unit.to(parameter.dtype))
        code = self.inside.dir_encoding((0.5 * directions + 0.5).to(geometry.dtype))
        return truncated_exp(geometry[..., 0]), self.outside_rgb_network(torch.cat([geometry, code], -1))

    def density(self, points: Tensor) -> Tensor:
        """Extinction, 1 / length; outside, that along a line through the centre."""
        return self.radiance(points, torch.zeros_like(points))[0]

    def radiance(self, points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        x = self.to_sphere(points)
        expect_points(directions, 3, name="directions", owner=self)
        if directions.shape != points.shape:
            raise ValueError(f"directions: expected one for each point {tuple(points.shape)}, got {directions.shape}")
        r = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=1)
        far, far_color = self.outside_radiance(torch.cat([x / r, 1 / r], -1), directions)
        near, color = self.inside.radiance(points, directions)
        is_inside = self._is_inside(points)
        density = torch.where(is_inside, near, far / (r[..., 0].square() * self.radius))  # |d(1/r)| = dr / r^2
        return density, torch.where(is_inside[..., None], color, far_color)

    def _is_inside(self, points: Tensor) -> Tensor:
        return torch.linalg.vector_norm(self.to_sphere(points), dim=-1) < 1
