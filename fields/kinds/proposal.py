"""Scenes with proposals: a field that is costly to ask, and cheap ones that know where asking is worth it.

    {"otype": "ProposalField", "field": {"otype": "RadianceField", ...},
     "proposals": [{"otype": "DensityField", "encoding": {...}, "network": {...}, "low": ..., "high": ...}]}

mip-NeRF 360's proposal networks (Barron et al. 2022, section 4) give a density and nothing else: `DensityField`. The
coarse network of the original NeRF (Mildenhall et al. 2020, section 5.2) is a proposal that has colours too: a
`RadianceField`. What is seen of the whole is the field alone; whoever looks asks the proposals where.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fieldforge.checks import expect_choice
from fieldforge.encodings.base import Encoding
from fieldforge.fields.kinds.base import Field, part_of
from fieldforge.fields.kinds.radiance import DENSITIES, RadianceField
from fieldforge.fields.kinds.scene import SceneField, corner
from fieldforge.fields.space import Space
from fieldforge.registry import register


@register("field", "DensityField")
class DensityField(Field):
    """Where something is, and not what it looks like.

    Args:
        encoding: configuration of the encoding of places (3 coordinates), or an `Encoding`.
        network: configuration of the network behind it, or a module; it has one output.
        low, high, space, density_activation: as for `RadianceField`.
        generator: source of the initial parameters; None is torch's own.

    Example:
        >>> network = {"otype": "MLP", "n_neurons": 16, "n_hidden_layers": 1}
        >>> DensityField(encoding="Identity", network=network).density(torch.zeros(5, 3)).shape
        torch.Size([5])
    """

    otype = "DensityField"
    units = "world units of the cameras; density per world unit"
    outside = "density 0 in the space Box, whose box holds all there is; in a Contraction nothing is outside"

    def __init__(
        self,
        *,
        encoding: str | Mapping[str, Any] | Encoding,
        network: str | Mapping[str, Any] | nn.Module,
        low: Sequence[float] = (-1.0, -1.0, -1.0),
        high: Sequence[float] = (1.0, 1.0, 1.0),
        space: str | Mapping[str, Any] | Space = "Box",
        density_activation: Literal["exponential", "softplus"] = "exponential",
        generator: torch.Generator | None = None,
    ) -> None:
        box = corner("low", low), corner("high", high)
        if not all(a < b for a, b in zip(*box, strict=True)):
            raise ValueError(f"high: expected each number above that of low, {box[0]}, got {box[1]}")
        super().__init__(box=box, encoding=encoding, network=network, n_output_dims=1, generator=generator)
        self.low, self.high = list(box[0]), list(box[1])
        self.space: Space = part_of("space", space, Space)
        self.density_activation = expect_choice("density_activation", density_activation, DENSITIES)

    def density(self, points: Tensor) -> Tensor:
        """Extinction at places of the world: (*batch, 3) -> (*batch,), 1 / length, at least 0."""
        unit = self.to_unit(points)
        raw = self.outputs(self.space.to_cube(unit).clamp(0, 1))[..., 0]
        longest_side = max(b - a for a, b in zip(self.low, self.high, strict=True))
        return torch.where(self.space.holds(unit), DENSITIES[self.density_activation](raw) / longest_side, 0.0)

    def forward(self, points: Tensor) -> Tensor:
        """The same as `density`."""
        return self.density(points)


@register("field", "ProposalField")
class ProposalField(SceneField):
    """A field of radiance, and proposals that say where to ask it.

    Args:
        field: configuration of a `RadianceField`, or one that was made beforehand: what is seen.
        proposals: configurations of a `DensityField` or `RadianceField` each, or such fields, coarse to fine, over the
            same box and space.
        generator: source of the initial parameters; None is torch's own.

    Raises:
        ValueError: no proposal, or one of another kind, box or space.
    """

    otype = "ProposalField"
    outside = "that of its field"

    def __init__(
        self,
        *,
        field: Mapping[str, Any] | RadianceField,
        proposals: Sequence[Mapping[str, Any] | Field],
        generator: torch.Generator | None = None,
    ) -> None:
        made = part_of("field", field, Field, generator=generator)
        if not isinstance(made, RadianceField):
            raise ValueError(f"field: expected a RadianceField, got a {made.otype}")
        super().__init__(
            low=made.low, high=made.high, color_space=made.color_space, background=made.background
        )  # fmt: skip
        self.field = made
        if not proposals or isinstance(proposals, str):
            raise ValueError(f"proposals: expected one field or more, got {proposals!r}")
        levels = list[DensityField | RadianceField]()
        for i, one in enumerate(proposals):
            level = part_of(f"proposals[{i}]", one, Field, kind="field", generator=generator)
            if not isinstance(level, (DensityField, RadianceField)):
                raise ValueError(f"proposals[{i}]: expected a DensityField or a RadianceField, got a {level.otype}")
            if level.box != made.box or level.space.config() != made.space.config():
                raise ValueError(
                    f"proposals[{i}]: expected the field's box {made.box} and space {made.space.config()}, "
                    f"got {level.box} and {level.space.config()}"
                )
            levels.append(level)
        self.levels = nn.ModuleList(levels)

    @property
    def proposals(self) -> list[DensityField | RadianceField]:
        """Coarse to fine."""
        return [level for level in self.levels if isinstance(level, (DensityField, RadianceField))]

    @property
    def smoothness(self) -> float:
        """That of the field."""
        return self.field.smoothness

    def density(self, points: Tensor) -> Tensor:
        return self.field.density(points)

    def radiance(self, points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        return self.field.radiance(points, directions)
