"""NDCField: a scene in front of cameras that all look the same way (Mildenhall et al. 2020, appendix C).

    {"otype": "NDC", "pose": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], "slopes": [0.5, 0.4], "near": 1.0, "far": 8.0,
     "field": {"otype": "RadianceField", "low": [-1.2, -1.2, -1], "high": [1.2, 1.2, 1], ...}}

Inside is a `RadianceField` in normalised device coordinates (`fieldforge.fields.frustum`), directions too; the original
code encodes the directions of the world. Who renders bends rays once and asks the inside; densities then count along
the bent rays. Points of the world may be asked as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fieldforge.checks import expect_float, expect_points
from fieldforge.fields.frustum import Frustum
from fieldforge.fields.kinds.base import part_of
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.fields.kinds.scene import SceneField
from fieldforge.registry import register


@register("field", "NDC")
class NDCField(SceneField):
    """Density and colour of what lies ahead of some cameras, up to infinity.

    Args:
        field: configuration of a RadianceField in the space Box, in normalised device coordinates; or one made before.
        pose, slopes, near: of the `Frustum` that has these coordinates.
        far: where the box ends that is spoken of, in world units from the middle of the cameras; the field goes on.
        generator: source of the initial parameters; None is torch's own.

    Raises:
        ValueError: the inside is no such field, changes with time, or the frustum is none.
    """

    otype = "NDC"
    outside = "density 0 beside the box in normalised device coordinates, and behind the near plane"

    def __init__(
        self,
        *,
        field: Mapping[str, Any] | RadianceField,
        pose: Sequence[Sequence[float]],
        slopes: Sequence[float],
        near: float = 1.0,
        far: float = 10.0,
        generator: torch.Generator | None = None,
    ) -> None:
        frustum = Frustum(pose, slopes, near)
        made: RadianceField = part_of("field", field, RadianceField, kind="field", generator=generator)
        if not isinstance(made, RadianceField) or not made.space.is_bounded or made.has_time:
            raise ValueError("field: expected a RadianceField in the space Box, of a scene that stands still")
        far = expect_float("far", far, near, 1e15, open_low=True)
        sides = [(made.low[0], made.high[0]), (made.low[1], made.high[1]), (-1.0, 1 - 2 * near / far)]
        corners = torch.cartesian_prod(*(torch.tensor(side, dtype=torch.float64, device="cpu") for side in sides))
        world = frustum.from_ndc(corners)
        super().__init__(
            low=world.amin(0).tolist(), high=world.amax(0).tolist(), color_space=made.color_space,
            background=made.background, generator=generator,
        )  # fmt: skip
        self.field, self.frustum = made, frustum
        self.pose, self.slopes, self.near, self.far = frustum.pose.tolist(), list(frustum.slopes), frustum.near, far

    @property
    def smoothness(self) -> float:
        """Continuous derivatives of the field inside."""
        return self.field.smoothness

    def density(self, points: Tensor) -> Tensor:
        """Extinction along the line from the middle of the cameras, (*batch, 3) -> (*batch,), 1 / length."""
        expect_points(points, 3, name="points", owner=self)
        from_middle = points - self.frustum.pose[:, 3].to(points)
        along = torch.nn.functional.normalize(from_middle, dim=-1)
        found = self.field.density(self.frustum.to_ndc(points).nan_to_num(nan=2.0))
        return found * torch.linalg.vector_norm(self.frustum.speed(points, along), dim=-1).nan_to_num(nan=0.0)

    def radiance(self, points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        expect_points(directions, 3, name="directions", owner=self)
        if directions.shape != points.shape:
            raise ValueError(f"directions: expected one for each point {tuple(points.shape)}, got {directions.shape}")
        speed = self.frustum.speed(points, directions)
        length = torch.linalg.vector_norm(speed, dim=-1)
        along = torch.nn.functional.normalize(speed, dim=-1)
        density, color = self.field.radiance(self.frustum.to_ndc(points).nan_to_num(nan=2.0), along)
        return density * length.nan_to_num(nan=0.0), color
