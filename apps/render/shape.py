"""Pictures of shapes: clay, normals, depth or curvature, from a named side or all around.

    picture = render_shape(field, orbit(field, azimuth=30, elevation=20, size=(800, 800)))

Rays are traced in the unit cube of the field, strip by strip, so that places far from the origin keep their digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fieldforge.checks import expect_choice
from fieldforge.fields import operators
from fieldforge.fields.kinds.shape import ShapeField
from fieldforge.renderers.cameras import Pinhole, look_at
from fieldforge.renderers.rays import intersect_box
from fieldforge.renderers.sphere_tracing import ambient_occlusion, sphere_trace

VIEWS = {
    "front": (0.0, 0.0),
    "back": (180.0, 0.0),
    "left": (-90.0, 0.0),
    "right": (90.0, 0.0),
    "top": (0.0, 89.0),
    "iso": (35.0, 25.0),
}
"""Name -> azimuth and elevation, in degrees."""
MODES = ("clay", "normals", "depth", "curvature")
UPS = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}

_RAYS = 2**16
_TAP = 1.5e-3  # of the cube's side: about the finest cells of the presets
_CLAY = torch.tensor([0.80, 0.76, 0.70])
_SLOPE = 1.3


def orbit(
    azimuth: float, elevation: float, *, size: tuple[int, int], up: str = "y", field_of_view: float = 35.0
) -> Pinhole:
    """A camera around the unit cube that looks at its middle and sees all of it.

    Args:
        azimuth: degrees around the axis that points up; 0 is in front (+z when y is up, -y when z is up).
        elevation: degrees above the horizon, under 90.
        size: (width, height) in pixels.
        up: which axis points up.
        field_of_view: degrees across the shorter side.
    """
    axis = expect_choice("up", up, UPS)
    a, e = math.radians(azimuth), math.radians(elevation)
    forward, side, above = math.cos(a) * math.cos(e), math.sin(a) * math.cos(e), math.sin(e)
    toward = {"y": (side, above, forward), "z": (side, -forward, above), "x": (above, side, forward)}[axis]
    distance = 0.55 / math.sin(math.radians(field_of_view) / 2)
    position = [0.5 + distance * value for value in toward]
    width, height = size
    return look_at(position, (0.5, 0.5, 0.5), up=UPS[axis], width=width, height=height, field_of_view=field_of_view)


def render_shape(
    field: ShapeField,
    camera: Pinhole,
    mode: str = "clay",
    *,
    observe: Callable[[float], None] = lambda share: None,
) -> np.ndarray:
    """A picture of the field's surface.

    Args:
        field: of any kind; an unsigned distance is seen a thousandth of the cube away from its sheet.
        camera: in coordinates of the unit cube, see `orbit`.
        mode: "clay", lit from the upper left of the camera, with ambient occlusion; "normals", (n + 1) / 2 as colours;
            "depth", near is bright; "curvature", blue hollow, red bulging.
        observe: told the share of the work that is done.

    Returns:
        (height, width, 4) float32: display-encoded colour, not multiplied by the coverage that comes last.
    """
    mode = expect_choice("mode", mode, MODES)
    rows = max(1, _RAYS // camera.width)
    strips = []
    for first in range(0, camera.height, rows):
        last = min(camera.height, first + rows)
        strips.append(_strip(field, camera, mode, first, last))
        observe(last / camera.height)
    return np.concatenate(strips)


def _strip(field: ShapeField, camera: Pinhole, mode: str, first: int, last: int) -> np.ndarray:
    distance = _distance(field)
    origins, directions = camera.rays(first, last)
    origins = origins.contiguous()
    t_near, t_far = intersect_box(origins, directions, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    hits = sphere_trace(
        distance,
        origins,
        directions,
        t_near,
        t_far,
        tolerance=0.3 / camera.focal,
        slope=_SLOPE if field.is_distance else 4,
    )
    picture = torch.zeros(len(origins), 4)
    seen = hits.is_hit
    if seen.any():
        points = origins[seen] + hits.t[seen, None] * directions[seen]
        picture[seen, 3] = 1.0
        picture[seen, :3] = _shade(distance, points, directions[seen], hits.t[seen], camera, mode)
    return picture.view(last - first, camera.width, 4).numpy()


def _distance(field: ShapeField) -> Callable[[Tensor], Tensor]:
    """A distance in sides of the cube, negative inside."""
    shift = 0.0 if field.is_signed else 1e-3

    def distance(unit: Tensor) -> Tensor:
        nearest = unit.clamp(0, 1)
        with torch.no_grad():
            level = field.level_in_cube(nearest) - shift
        # occupancy says how sure it is, not how far: short steps that its change of sign then makes exact
        return level if field.is_distance else level * 0.04

    return distance


def _shade(
    distance: Callable[[Tensor], Tensor], points: Tensor, directions: Tensor, t: Tensor, camera: Pinhole, mode: str
) -> Tensor:
    if mode == "depth":
        span = float(t.max() - t.min())
        nearness = (float(t.max()) - t) / span if span > 0 else torch.ones_like(t)
        return (0.15 + 0.85 * nearness)[:, None].expand(-1, 3)
    normals = torch.nn.functional.normalize(operators.gradient(distance, points, "taps4", step=_TAP), dim=-1)
    if mode == "normals":
        return (normals + 1) / 2
    if mode == "curvature":
        # in units of 1 / side, squashed: ±20 is already strong
        bent = torch.tanh(operators.mean_curvature(distance, points, "quadratic", sigma=4 * _TAP) / 20)
        warm, cold = torch.tensor([0.75, 0.15, 0.12]), torch.tensor([0.15, 0.25, 0.75])
        neutral = torch.full((3,), 0.92)
        share = bent.abs()[:, None]
        return neutral * (1 - share) + torch.where(bent[:, None] > 0, warm, cold) * share
    right, up, backward = camera.rotation.unbind(1)
    key = torch.nn.functional.normalize(-0.5 * right + 0.7 * up + 0.8 * backward, dim=0)
    facing = torch.where(((normals * directions).sum(-1) > 0)[:, None], -normals, normals)  # sheets have two sides
    lit = (facing @ key).clamp(min=0)
    sky = 0.5 + 0.5 * (facing @ up)
    rim = (1 + (facing * directions).sum(-1)).clamp(0, 1) ** 3
    openness = ambient_occlusion(distance, points + 2e-3 * facing, facing, reach=0.08)
    light = (0.68 * lit + 0.34 * sky * openness + 0.06 * rim) * (0.55 + 0.45 * openness)
    return ((_CLAY * light[:, None]).clamp(0, 1)) ** (1 / 2.2)
