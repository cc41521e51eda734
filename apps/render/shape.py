"""Pictures of shapes: clay, normals, depth or curvature, from a named side or all around.

    picture = render_shape(field, orbit(azimuth=30, elevation=20, size=(800, 800)))

Rays are traced in the unit cube of the field, strip by strip, so that places far from the origin keep their digits. A
pixel with an edge of the shape in it is looked at in four places, all others in their middle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fieldforge.apps.render.traced import N_BLOCKS, TracedShape
from fieldforge.checks import expect_choice
from fieldforge.devices import home
from fieldforge.fields.kinds.shape import ShapeField
from fieldforge.renderers.cameras import Pinhole, paths
from fieldforge.renderers.sphere_tracing import ambient_occlusion, soft_shadow

VIEWS = {
    "front": (0.0, 0.0),
    "back": (180.0, 0.0),
    "left": (-90.0, 0.0),
    "right": (90.0, 0.0),
    "top": (0.0, 89.0),
    "iso": (35.0, 25.0),
}
"""Name -> azimuth and elevation, in degrees, see `orbit`: front is +z where y is up, -y where z is, +z where x is."""
MODES = ("clay", "normals", "depth", "curvature")
UPS = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}

_RAYS = 2**19
_CLAY = torch.tensor([0.80, 0.76, 0.70])
_INSIDE_PIXEL = torch.tensor([(0.375, 0.125), (0.875, 0.375), (0.125, 0.625), (0.625, 0.875)])
_EDGE = 8.0  # pixels: a step in depth that is an edge of the shape


def orbit(
    azimuth: float,
    elevation: float,
    *,
    size: tuple[int, int],
    up: str = "y",
    field_of_view: float = 35.0,
    radius: float = 0.55,
) -> Pinhole:
    """A camera around the unit cube that looks at its middle: `paths.orbit` for shapes.

    Args:
        azimuth: degrees around the axis that points up; 0 is in front (+z when y is up, -y when z is up).
        elevation: degrees above the horizon, under 90.
        size: (width, height) in pixels.
        up: which axis points up.
        field_of_view: degrees across the shorter side.
        radius: of the ball about the middle that it sees whole, in sides of the cube; see `TracedShape.radius`.
    """
    width, height = size
    cameras = paths.orbit(
        (0.5, 0.5, 0.5),
        distance=radius / math.sin(math.radians(field_of_view) / 2),
        up=UPS[expect_choice("up", up, UPS)],
        elevation=elevation,
        azimuth=azimuth,
        n_frames=1,
        width=width,
        height=height,
        focal=min(width, height) / 2 / math.tan(math.radians(field_of_view) / 2),
    )
    return Pinhole.of(cameras)


def render_shape(
    field: ShapeField,
    camera: Pinhole,
    mode: str = "clay",
    *,
    shadows: bool = False,
    observe: Callable[[float], None] = lambda share: None,
) -> np.ndarray:
    """A picture of the field's surface.

    Args:
        field: of any kind; an unsigned distance is seen a thousandth of the cube away from its sheet.
        camera: in coordinates of the unit cube, see `orbit`.
        mode: "clay", lit from the upper left of the camera, with ambient occlusion; "normals", (n + 1) / 2 as colours,
            n in world axes and out of the shape; "depth", near is bright; "curvature", the mean curvature H in 1 / side
            of the cube, as tanh(H / 20): red where the surface bulges out (H > 0, as on a ball), blue where it is
            hollow, nearly white where it is flat or a saddle.
        shadows: of a clay picture: the light throws them.
        observe: told the share of the work that is done.

    Returns:
        (height, width, 4) float32: display-encoded colour, not multiplied by the coverage that comes last.
    """
    strips = []
    for strip in render_strips(TracedShape(field), camera, mode, shadows=shadows):
        strips.append(strip)
        observe(sum(map(len, strips)) / camera.height)
    return np.concatenate(strips)


def render_strips(
    shape: TracedShape, camera: Pinhole, mode: str = "clay", *, shadows: bool = False
) -> Iterator[np.ndarray]:
    """The same from top to bottom, (rows, width, 4) at a time, in bounded memory; a shape serves many cameras.

    Raises:
        ValueError: no such mode, or shadows in another than "clay".
    """
    mode = expect_choice("mode", mode, MODES)
    if shadows and mode != "clay":
        raise ValueError(f"shadows: are thrown in mode 'clay', not in '{mode}'")
    rows = max(1, _RAYS // camera.width)
    look = _Look(shape, camera, mode, shadows)
    for first in range(0, camera.height, rows):
        yield look.strip(first, min(camera.height, first + rows))


class _Look:
    """One picture: what is seen along rays of a camera."""

    def __init__(self, shape: TracedShape, camera: Pinhole, mode: str, shadows: bool) -> None:
        self.shape, self.camera, self.mode, self.shadows = shape, camera, mode, shadows

    def strip(self, first: int, last: int) -> np.ndarray:
        """(last - first, width, 4); rows above and below are traced too, to see the edges between."""
        camera, width = self.camera, self.camera.width
        above, below = max(0, first - 1), min(camera.height, last + 1)
        origins, directions = camera.rays(above, below)
        t = self._trace(origins, directions)
        own = slice((first - above) * width, (last - above) * width)
        is_edge = _edges(t.view(-1, width), _EDGE / camera.focal).view(-1)[own]
        picture = torch.zeros(len(is_edge), 4)
        plain = (~is_edge & t[own].isfinite()).nonzero().squeeze(1)
        rows = plain + own.start
        picture[plain] = self._colors(origins[rows], directions[rows], t[rows])
        edge = is_edge.nonzero().squeeze(1)
        if len(edge):
            corner = torch.stack([edge % width, torch.div(edge, width, rounding_mode="floor") + first], 1)
            x, y = (corner[:, None] + _INSIDE_PIXEL).view(-1, 2).unbind(1)
            origins, directions = camera.through(x, y)
            parts = self._colors(origins, directions, self._trace(origins, directions)).view(-1, 4, 4)
            coverage = parts[..., 3:].mean(1)
            color = (parts[..., :3] * parts[..., 3:]).mean(1) / coverage.clamp(min=1e-9)
            picture[edge] = torch.cat([color, coverage], 1)
        return home(picture.view(last - first, width, 4))

    def _trace(self, origins: Tensor, directions: Tensor) -> Tensor:
        return self.shape.trace(origins.contiguous(), directions, tolerance=0.3 / self.camera.focal).t

    def _colors(self, origins: Tensor, directions: Tensor, t: Tensor) -> Tensor:
        """(N, 4): colour and coverage; zeros where t is infinite."""
        out = torch.zeros(len(t), 4)
        seen = t.isfinite().nonzero().squeeze(1)
        if len(seen):
            points = torch.addcmul(origins[seen], t[seen, None], directions[seen])
            out[seen] = torch.cat([self._shade(points, directions[seen], t[seen]), torch.ones(len(seen), 1)], 1)
        return out

    def _shade(self, points: Tensor, directions: Tensor, t: Tensor) -> Tensor:
        if self.mode == "depth":
            nearest, farthest = self._span
            return (1 - 0.85 * ((t - nearest) / (farthest - nearest)).clamp(0, 1))[:, None].expand(-1, 3)
        if self.mode == "curvature":
            bent = torch.tanh(self.shape.curvature(points) / 20)
            warm, cold = torch.tensor([0.75, 0.15, 0.12]), torch.tensor([0.15, 0.25, 0.75])
            neutral = torch.full((3,), 0.92)
            share = bent.abs()[:, None]
            return neutral * (1 - share) + torch.where(bent[:, None] > 0, warm, cold) * share
        normals = self.shape.normals(points, directions)
        if self.mode == "normals":
            return (normals + 1) / 2
        # A surface that is seen faces the camera. Along its outline taps reach around the edge, and their normal may
        # point away by a little: turned until it is at right angles, it is lit like its neighbours.
        away = (normals * directions).sum(-1, keepdim=True).clamp(min=0)
        return self._clay(points, torch.nn.functional.normalize(normals - away * directions, dim=-1), directions)

    def _clay(self, points: Tensor, normals: Tensor, directions: Tensor) -> Tensor:
        right, up, backward = self.camera.rotation.unbind(1)
        key = torch.nn.functional.normalize(-0.5 * right + 0.7 * up + 0.8 * backward, dim=0)
        lit = (normals @ key).clamp(min=0)
        outside = points + 2e-3 * normals
        if self.shadows:
            faces = (lit > 0).nonzero().squeeze(1)
            lit[faces] *= soft_shadow(self.shape.distance, outside[faces], key, reach=0.7, slope=1.1)
        sky = 0.5 + 0.5 * (normals @ up)
        rim = (1 + (normals * directions).sum(-1)).clamp(0, 1) ** 3
        openness = ambient_occlusion(self.shape.distance, outside, normals, reach=0.08)
        light = (0.68 * lit + 0.34 * sky * openness + 0.06 * rim) * (0.55 + 0.45 * openness)
        return ((_CLAY * light[:, None]).clamp(0, 1)) ** (1 / 2.2)

    @cached_property
    def _span(self) -> tuple[float, float]:
        """The nearest and the farthest that the surface can be."""
        middles = (self.shape.cells.cells[0].nonzero() + 0.5) / N_BLOCKS
        away = torch.linalg.vector_norm(middles - self.camera.position, dim=-1)
        return float(away.min()), float(away.max()) + 1 / N_BLOCKS


def _edges(t: Tensor, step: float) -> Tensor:
    """Which pixels of (rows, width) depths differ by an edge from one beside them: seen or not, or `step` * depth."""
    is_edge = torch.zeros_like(t, dtype=torch.bool)
    for axis in (0, 1):
        a, b = t.narrow(axis, 0, t.shape[axis] - 1), t.narrow(axis, 1, t.shape[axis] - 1)
        differs = (a.isinf() != b.isinf()) | ((a - b).abs() > step * torch.minimum(a, b))
        is_edge.narrow(axis, 0, t.shape[axis] - 1).logical_or_(differs)
        is_edge.narrow(axis, 1, t.shape[axis] - 1).logical_or_(differs)
    return is_edge
