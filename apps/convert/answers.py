"""What teacher and student are asked alike: features, the logarithm of the density, colour.

    found = answers(field, points, directions, side=teacher.longest_side)

PVD splits a field in two: what makes features of a place, and what makes density and colour of features. Of a
`RadianceField` without a second encoding the features are its `geometry`; with a basis matrix (TensoRF) they are the
density's number and what the matrix gives. Where both sides have equally many, the second half can learn from the first
half's answers before anything is rendered.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.fields.kinds.scene import SceneField
from fieldforge.fields.networks.basis import Basis

NOTHING = -30.0
"""The logarithm of a density of 0."""


class Answers(NamedTuple):
    """Of (n,) points."""

    log_density: Tensor
    """(n,) natural logarithm of the density times a length."""
    color: Tensor | None
    """(n, 3)."""
    features: Tensor | None
    """(n, n_features), those beside the density's."""


def n_features(field: SceneField) -> int:
    """How many features a field has beside the density's number; 0: no split is known."""
    if not isinstance(field, RadianceField) or field.partition is not None:
        return 0
    if isinstance(field.rgb_network, Basis):
        return field.rgb_network.n_basis
    return field.n_geometry - 1 if field.rgb_encoding is None else 0


def answers(
    field: SceneField, points: Tensor, directions: Tensor, *, side: float, color: bool = True, features: bool = False
) -> Answers:
    """Ask a field.

    Args:
        field: teacher or student.
        points, directions: (n, 3) in world units; of unit length.
        side: the length that makes a density a number.
        color, features: whether they are wanted; features of a field that has some.
    """
    if not isinstance(field, RadianceField):
        density, shown = field.radiance(points, directions)
        return Answers(log_of(density * side), shown if color else None, None)
    unit, is_inside = field.place(points)
    seen: Tensor | None = None
    if color:
        geometry, seen = field.geometry_and_color(unit, directions)
    else:
        geometry = field.outputs(unit)
    number = geometry[..., 0] + field.density_shift if field.density_shift else geometry[..., 0]
    if field.density_activation == "softplus":  # far below 0 it is the exponential, which has a logarithm there
        number = torch.where(number < -15, number, functional.softplus(number.clamp(min=-16)).log())
    log_density = torch.where(is_inside, number + math.log(side * field.density_scale / field.longest_side), NOTHING)
    return Answers(
        log_density,
        seen,
        _features(field, unit, geometry) if features else None,
    )


def _features(field: RadianceField, unit: Tensor, geometry: Tensor) -> Tensor:
    if not isinstance(field.rgb_network, Basis):
        return geometry[..., 1:]
    mixed = geometry if field.rgb_encoding is None else torch.cat([geometry, field.rgb_encoding(unit)], -1)
    n_mixed = field.rgb_network.n_input_dims - field.rgb_network.n_direct
    # where the matrix mixes codes of directions in too, without one its columns read nothing
    mixed = functional.pad(mixed, (0, n_mixed - mixed.shape[-1]))
    return functional.linear(mixed, field.rgb_network.matrix)


def log_of(number: Tensor) -> Tensor:
    """The logarithm; `NOTHING` of 0, without a slope there."""
    return number.clamp(min=math.exp(NOTHING)).log()
