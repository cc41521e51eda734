"""The field that is converted: what it is, whose it is, and, of a scene, where anything is."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fieldforge.apps.convert.answers import NOTHING, Answers, answers
from fieldforge.apps.render.radiance import SceneEye, eye_of, occupancy_of
from fieldforge.checks import with_article
from fieldforge.devices import move
from fieldforge.fields.file import load_field
from fieldforge.fields.kinds.base import Box, Field
from fieldforge.fields.kinds.image import ImageField
from fieldforge.fields.kinds.inside_outside import InsideOutsideField
from fieldforge.fields.kinds.ndc import NDCField
from fieldforge.fields.kinds.proposal import ProposalField
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.fields.kinds.scene import SceneField
from fieldforge.fields.kinds.shape import ShapeField
from fieldforge.renderers.occupancy import OccupancyGrid

KINDS: dict[str, Any] = {"image": ImageField, "shape": ShapeField, "scene": SceneField}
"""What can be converted."""
LOOKS = 4
"""Looks at every cell of a scene that does not remember where it is."""


@dataclass(frozen=True)
class Teacher:
    """A field with its file.

    Args:
        field: in memory.
        metadata: of its header.
        name: of the file, for messages.
        sha256: of the file; of a field from memory, of its configuration and numbers.
        n_bytes: of the file; 0 without one.
    """

    field: Field
    metadata: dict[str, Any] = field(default_factory=dict)
    name: str = "the field"
    sha256: str = ""
    n_bytes: int = 0

    @property
    def kind(self) -> str:
        """One of `KINDS`.

        Raises:
            ValueError: it is of none.
        """
        for name, kind in KINDS.items():
            if isinstance(self.field, kind):
                return name
        raise ValueError(
            f"{self.name}: holds {with_article(self.field.otype)}; what can be converted are pictures, shapes and "
            "scenes"
        )

    def signal(self) -> dict[str, Any]:
        """What its header says of what it was fitted to."""
        found = self.metadata.get("signal")
        return dict(found) if isinstance(found, Mapping) else {}

    def parent(self) -> dict[str, Any]:
        """What the header of a student says of it."""
        return {"sha256": self.sha256, "name": self.name, "otype": self.field.otype, "bytes": self.n_bytes}


def load_teacher(source: str | Path | Field | Teacher) -> Teacher:
    """Read a field; its numbers stay as they are from now on.

    Raises:
        FieldFileError: the file cannot be read.
    """
    if isinstance(source, Teacher):
        return source
    if isinstance(source, Field):  # the caller's own stays trainable, and where it is
        own = move(copy.deepcopy(source), torch.device("cpu"))
        return Teacher(_frozen(own), sha256=_digest_of(source))
    path = Path(source)
    loaded, metadata = load_field(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Teacher(_frozen(loaded), metadata, path.name, digest, path.stat().st_size)


class SceneTeacher:
    """A scene as students see it: nothing where its occupied cells are not, since no ray ever looked there.

    Args:
        teacher: of the kind scene.

    Attributes:
        field: who answers; of a field with proposals, the field itself.
        grid: where anything is.
        side: the length that makes densities numbers.
        middles: (n, 3) of its occupied cells, on the CPU wherever it answers.

    Raises:
        ValueError: it goes on beyond every box, changes with time, or is empty.
    """

    def __init__(self, teacher: Teacher) -> None:
        whole = teacher.field
        assert isinstance(whole, SceneField)
        if isinstance(whole, (NDCField, InsideOutsideField)):
            raise ValueError(
                f"{teacher.name}: a {whole.otype} has no box that students could share; fields fitted with "
                "--set fit.space=box or contraction do"
            )
        if whole.has_time:
            raise ValueError(f"{teacher.name}: changes with time, and conversions are of scenes that stand still")
        self.whole, self.metadata, self.name = whole, teacher.metadata, teacher.name
        self.field: SceneField = whole.field if isinstance(whole, ProposalField) else whole
        self.side = self.field.longest_side
        self.grid = occupancy_of(self.field) if isinstance(self.field, RadianceField) else look_for(self.field)
        if not bool(self.grid.bricks.any()):
            raise ValueError(f"{teacher.name}: is empty: nowhere in its box does it hold more than anywhere else")

        cells = self.grid.cells.flatten().nonzero()[:, 0]
        self.middles = self.grid.points_in(cells, torch.full((len(cells), 3), 0.5))

    def move(self, device: torch.device) -> None:
        """Answer on a device from now on."""
        move(self.whole, device)
        move(self.grid, device)

    @property
    def n_cascades(self) -> int:
        """Of its cells."""
        return len(self.grid.cascades.low)

    @cached_property
    def eye(self) -> SceneEye:
        """That looks at it as its own file does."""
        return eye_of(self.whole, self.metadata)

    @torch.no_grad()
    def __call__(self, points: Tensor, directions: Tensor, *, color: bool = True, features: bool = False) -> Answers:
        """What students should answer."""
        found = answers(self.field, points, directions, side=self.side, color=color, features=features)
        return found._replace(log_density=torch.where(self.grid.occupied(points), found.log_density, NOTHING))

    @torch.no_grad()
    def density(self, points: Tensor) -> Tensor:
        """(n,) 1 / length."""
        return torch.where(self.grid.occupied(points), self.field.density(points), 0.0)

    def content(self) -> Box:
        """The smallest box around the middles of its occupied cells, one cell of the largest wider."""
        cell = 1 / self.middles.new_tensor(self.grid.cascades.cells_per_length[-1])
        low, high = self.middles.amin(0) - cell, self.middles.amax(0) + cell
        return tuple(_short(low)), tuple(_short(high))

    def share_in(self, box: Box) -> float:
        """How many of its occupied cells have their middles in a box."""
        low, high = (torch.tensor(corner, dtype=torch.float64) for corner in box)
        middles = self.middles.double()
        return float(((middles >= low) & (middles <= high)).all(-1).float().mean())


def look_for(found: SceneField, resolution: int = 64) -> OccupancyGrid:
    """Where a field that does not remember it holds anything."""
    grid = OccupancyGrid(found.low, found.high, resolution)
    generator = torch.Generator().manual_seed(0)
    for _ in range(LOOKS):
        grid.update(found.density, 0, generator=generator)
    return grid


def _frozen(found: Field) -> Field:
    return found.requires_grad_(False).eval()


def _digest_of(found: Field) -> str:
    digest = hashlib.sha256(json.dumps(found.config(), sort_keys=True).encode())
    for name, tensor in found.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _short(corner: Tensor) -> list[float]:
    return [float(f"{number:.6g}") for number in corner.tolist()]
