"""From rows of weights to what figures compare: pixels of pictures; volumes and surface points of shapes.

    looks = looks_of(config, layout)
    seen = looks.see(rows)              # (n, P) -> seen.outputs, seen.points, seen.is_empty, seen.is_closed
    looks.distance(seen.outputs, other.outputs)

Plain networks of one shape are asked side by side in one call; fields of other kinds one after another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fieldforge.apps.fit.collection.steps import stackable, stacked
from fieldforge.apps.generate.figures import euclidean
from fieldforge.fields.file import build_field
from fieldforge.fields.kinds.base import Field
from fieldforge.fields.kinds.image import ImageField
from fieldforge.fields.kinds.shape import OccupancyField, SDFField
from fieldforge.fields.networks.stacked import StackedMLP
from fieldforge.fields.weightspace.layout import Layout
from fieldforge.registry import ConfigError
from fieldforge.renderers.isosurface import Isosurface
from fieldforge.renderers.marching_cubes import marching_cubes

MAX_PIXELS = 128**2
"""Pictures with more are looked at in fewer places, evenly spread."""
RESOLUTION = 64
N_POINTS = 2048
_FIELDS, _PLACES = 16, 2**13
"""Asked in one call: few enough to stay in the cache."""


@dataclass(frozen=True)
class Seen:
    """What n fields look like.

    Attributes:
        outputs: (n, d) that distances are taken of: pixels float32, or corners of a lattice, uint8, 1 inside.
        points: (n, p, 3) on the surfaces, in the unit cube; None for pictures, and where nobody asked; 0 of fields that
            are empty.
        is_empty: (n,) bool: not finite, or a shape without a surface; nothing to compare.
        is_closed: (n,) bool: a surface without open edges; of pictures all that are not empty.
    """

    outputs: Tensor
    points: Tensor | None
    is_empty: Tensor
    is_closed: Tensor

    def __getitem__(self, chosen: Tensor | slice) -> Seen:
        points = None if self.points is None else self.points[chosen]
        return Seen(self.outputs[chosen], points, self.is_empty[chosen], self.is_closed[chosen])

    @staticmethod
    def joined(parts: list[Seen]) -> Seen:
        """One after another."""
        points = [part.points for part in parts if part.points is not None]
        return Seen(
            torch.cat([part.outputs for part in parts]),
            torch.cat(points) if points else None,
            torch.cat([part.is_empty for part in parts]),
            torch.cat([part.is_closed for part in parts]),
        )


class Looks(ABC):
    """How fields of one configuration are looked at.

    Attributes:
        kind: "image" or "shape".
        output_space: what to call the space of outputs.
        how: a sentence: what is compared.
    """

    kind: ClassVar[str]
    output_space: ClassVar[str]
    how: str

    def __init__(self, field: Field, layout: Layout) -> None:
        self.field, self.layout = field, layout
        try:
            self._network = stackable(field)
        except ConfigError:
            self._network = None

    @abstractmethod
    def see(self, rows: Tensor, *, with_points: bool = False, observe: Callable[[int], None] = lambda n: None) -> Seen:
        """Fields (n, P) float32.

        Args:
            rows: their parameters.
            with_points: whether points on surfaces are wanted.
            observe: told how many more are done.
        """

    @abstractmethod
    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """(n, d) and (m, d) outputs to (n, m)."""

    def raw(self, rows: Tensor, unit: Tensor, features: Tensor | None) -> Tensor:
        """(n, p, c) what the networks say at places (p, k) of the unit cube, of which `features` are the encoding."""
        if self._network is None:
            outs = []
            for row in rows:
                self.field.load_state_dict(self.layout.unflatten(row))
                outs.append(self.field.outputs(unit))
            return torch.stack(outs)
        assert features is not None
        offsets = torch.arange(len(rows) + 1, dtype=torch.int64) * len(features)
        stack = _stack(rows, self._network)
        return stack.grouped(features.repeat(len(rows), 1), offsets).unflatten(0, (len(rows), len(features)))

    def features(self, unit: Tensor) -> Tensor | None:
        """The encoding of places, where all fields share it."""
        with torch.no_grad():
            return None if self._network is None else self.field.encoding(unit)


class PictureLooks(Looks):
    """Pixels at the resolution of the source, clipped as a picture writer does.

    Attributes:
        height, width: of what is compared.
    """

    kind = "image"
    output_space = "pixels"

    def __init__(self, field: ImageField, layout: Layout) -> None:
        super().__init__(field, layout)
        shrink = max(1.0, (field.width * field.height / MAX_PIXELS) ** 0.5)
        self.width, self.height = max(1, int(field.width / shrink)), max(1, int(field.height / shrink))
        self.n_channels, self.is_srgb = field.n_channels, field.color_space == "srgb"
        x, y = (torch.arange(self.width) + 0.5) / self.width, (torch.arange(self.height) + 0.5) / self.height
        self._unit = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 2)
        self._features = self.features(self._unit)
        self._scale, self._offset = torch.tensor(field.output_scale), torch.tensor(field.output_offset)
        of = "" if shrink == 1 else f" of {field.width}x{field.height}"
        self.how = f"{self.width}x{self.height} pixels{of}, {self.n_channels} channels; Euclidean distance"

    @torch.no_grad()
    def see(self, rows: Tensor, *, with_points: bool = False, observe: Callable[[int], None] = lambda n: None) -> Seen:
        parts = []
        for some in rows.split(max(1, _FIELDS * 1024 // len(self._unit))):
            values = self.raw(some, self._unit, self._features) * self._scale + self._offset
            parts.append(values.clamp(0, 1 if self.is_srgb else None).flatten(1))
            observe(len(some))
        outputs = torch.cat([*parts, torch.zeros(0, len(self._unit) * self.n_channels)])
        is_empty = ~torch.isfinite(outputs).all(1)
        return Seen(outputs, None, is_empty, ~is_empty)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        return euclidean(a, b)


class SolidLooks(Looks):
    """Where a lattice of the unit cube lies inside, and points on the surface that marching cubes find in it.

    Args:
        field: an occupancy or a signed distance.
        layout: of the rows.
        resolution: cells along a side.
        n_points: on each surface, spread evenly over its area; of equal surfaces they are equal.
    """

    kind = "shape"
    output_space = "volumes"

    def __init__(
        self,
        field: SDFField | OccupancyField,
        layout: Layout,
        *,
        resolution: int = RESOLUTION,
        n_points: int = N_POINTS,
    ) -> None:
        super().__init__(field, layout)
        self.resolution, self.n_points = resolution, n_points
        corner = torch.arange(resolution + 1) / resolution
        self._unit = torch.stack(torch.meshgrid(corner, corner, corner, indexing="ij"), -1).reshape(-1, 3)
        self._is_border = ((self._unit <= 0) | (self._unit >= 1)).any(1)
        self._features = self.features(self._unit)
        self._is_occupancy = isinstance(field, OccupancyField)
        at = "probability 1/2" if self._is_occupancy else "distance 0"
        self.how = (
            f"marching cubes at {resolution} cells a side of the unit cube, level: {at}; {n_points} points on each "
            "surface (Chamfer, earth mover's); 1 - IoU of the lattice's corners (novelty)"
        )

    @torch.no_grad()
    def levels(self, rows: Tensor) -> Tensor:
        """(n, r + 1, r + 1, r + 1) at the corners of the lattice; negative inside."""
        parts = []
        for first in range(0, len(self._unit), _PLACES):
            part = slice(first, first + _PLACES)
            parts.append(self.raw(rows, self._unit[part], None if self._features is None else self._features[part]))
        values = torch.cat(parts, 1)[..., 0]
        if self._is_occupancy:  # what the network gives is a logit; nothing is outside the cube
            values = torch.where(self._is_border, values.abs(), -values)
        return values.unflatten(1, (self.resolution + 1,) * 3)

    def surface(self, levels: Tensor) -> Isosurface | None:
        """The surface in one field's (r + 1, r + 1, r + 1); None where there is none."""
        values, one = levels[None].numpy(), np.zeros((1, 3), np.int64)
        if not np.isfinite(values).all() or not (values < 0).any() or (values < 0).all():
            return None
        vertices, faces = marching_cubes(values, one, np.full(3, self.resolution + 1))
        return Isosurface(vertices / self.resolution, faces, levels.numel(), self.resolution**3)

    def see(self, rows: Tensor, *, with_points: bool = False, observe: Callable[[int], None] = lambda n: None) -> Seen:
        n = len(rows)
        outputs = torch.zeros(n, len(self._unit), dtype=torch.uint8)
        points = torch.zeros(n, self.n_points, 3) if with_points else None
        is_empty, is_closed = torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
        for first in range(0, n, _FIELDS):
            levels = self.levels(rows[first : first + _FIELDS])
            outputs[first : first + _FIELDS] = (levels < 0).flatten(1)
            for place, one in enumerate(levels, first):
                if points is None:
                    is_empty[place] = not (bool(torch.isfinite(one).all()) and bool(outputs[place].any()))
                    is_closed[place] = ~is_empty[place]
                    continue
                found = self.surface(one)
                is_empty[place] = found is None
                if found is not None:
                    is_closed[place] = found.n_open_edges == 0
                    points[place] = torch.from_numpy(scattered(found, self.n_points)[0])
            observe(len(levels))
        return Seen(outputs, points, is_empty, is_closed)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """1 - IoU, of volumes as the corners of the lattice count them."""
        a, b = a.float(), b.float()
        both = a @ b.T
        either = a.sum(1)[:, None] + b.sum(1)[None] - both
        return 1 - both / either.clamp(min=1)


def looks_of(config: Mapping[str, Any], layout: Layout, **options: int) -> PictureLooks | SolidLooks:
    """How fields of a configuration are looked at.

    Args:
        config: of the fields.
        layout: how their parameters lie in a row.
        options: of `SolidLooks`, where they are shapes.

    Raises:
        ValueError: fields of that kind cannot be compared.
    """
    field = build_field(dict(config))
    if isinstance(field, ImageField):
        return PictureLooks(field, layout)
    if isinstance(field, (SDFField, OccupancyField)):
        return SolidLooks(field, layout, **options)
    raise ValueError(f"fields: expected ImageField, SDFField or OccupancyField to compare, got {config.get('otype')}")


def scattered(surface: Isosurface, n: int) -> tuple[np.ndarray, np.ndarray]:
    """n points (n, 3) float32 spread evenly over the area, and the unit normals there; equal for equal surfaces."""
    corners = surface.vertices[surface.faces]  # (m, 3, 3)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    double_areas = np.linalg.norm(normals, axis=1)
    random = np.random.default_rng(0)
    # one in each n-th part of the area: less noise than anywhere
    at = (np.arange(n) + random.random(n)) / n * double_areas.sum()
    face = np.minimum(np.searchsorted(np.cumsum(double_areas), at), len(corners) - 1)
    u, v = random.random((2, n, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    a, b, c = corners[face].transpose(1, 0, 2)
    points = a + u * (b - a) + v * (c - a)
    return points.astype(np.float32), normals[face] / np.maximum(double_areas[face], 1e-30)[:, None]


def _stack(rows: Tensor, network: Any) -> StackedMLP:
    """Networks side by side, with these numbers."""
    with torch.device("meta"):
        stack = StackedMLP(
            len(rows), network.n_input_dims, network.n_output_dims, n_neurons=network.n_neurons,
            n_hidden_layers=network.n_hidden_layers, activation=network.activation,
            output_activation=network.output_activation, has_bias=network.has_bias, equal=True,
        )  # fmt: skip
    numbers, n_layers = stacked(rows, network), len(network.layers)
    stack.weights = nn.ParameterList(numbers[:n_layers])
    stack.biases = nn.ParameterList(numbers[n_layers:])
    return stack
