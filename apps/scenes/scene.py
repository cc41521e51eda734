"""A scene in memory: posed photos, as training and evaluation see them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from fieldforge.renderers.cameras import Cameras

if TYPE_CHECKING:
    from fieldforge.apps.scenes.photos import Photos

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class SceneError(ValueError):
    """A folder of posed photos cannot be used; the message names the file, says what is wrong and the way out."""


@dataclass(frozen=True)
class View:
    """One posed photo.

    Args:
        name: as the scene's file writes it; for messages and file names of renderings.
        photo: its file; None for pictures out of arrays.
        split: what it is for.
        time: 0 to 1 in dynamic scenes, else None.
        mask: a picture of which pixels count, or None.
    """

    name: str
    photo: Path | None
    split: Split
    time: float | None = None
    mask: Path | None = None


@dataclass(frozen=True)
class Bounds:
    """Where the scene is, as far as its files tell.

    Args:
        box: (2, 3) float64 lowest and highest corner in world units.
        near, far: ray lengths between which there is something to see, in world units.
        is_bounded: whether the box holds everything that the photos show, as far as is known.
        reason: where these come from ("the bounds in poses_bounds.npy").
    """

    box: Tensor
    near: float
    far: float
    is_bounded: bool
    reason: str

    @property
    def to_unit(self) -> Tensor:
        """(4, 4) from world coordinates to the unit cube: one scale for all axes, the box in the middle."""
        low, high = self.box
        side = float((high - low).max())
        matrix = torch.eye(4, dtype=self.box.dtype)
        matrix[:3, :3] /= side
        matrix[:3, 3] = 0.5 - (low + high) / 2 / side
        return matrix


@dataclass(frozen=True, eq=False)
class Scene:
    """Posed photos of one scene, all splits in one list.

    Args:
        source: the folder or file.
        format: what was found there, in words.
        cameras: of all views, float64, world axes as in the files; `.to(torch.float32)` for training.
        views: one for each camera.
        photos: their pixels.
        bounds: where the scene is.
        masks: 255 for pixels that count in training and 0 for the others, or None where all do.
        points: (m, 3) float64 points of a COLMAP model, or None.
        notes: what a user should know of the reading.
    """

    source: str
    format: str
    cameras: Cameras
    views: tuple[View, ...]
    photos: Photos
    bounds: Bounds
    masks: Photos | None = None
    points: Tensor | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)

    def of(self, *splits: str) -> Tensor:
        """Indices (int64) of the views of these splits, in order; on the CPU, where cameras are."""
        chosen = [i for i, view in enumerate(self.views) if view.split in splits]
        return torch.tensor(chosen, dtype=torch.int64, device="cpu")

    def counts(self, view: Tensor, pixels: Tensor) -> Tensor | None:
        """(n,) which pixels count: outside masks hide, and beyond what the lens shows; None where all do.

        Args:
            view: (n,) int64.
            pixels: (n, 2) int64 x and y.
        """
        return None if self.masks is None else self.masks.gather(view, pixels)[:, 0] > 0

    @property
    def has_alpha(self) -> bool:
        """Whether the photos have an alpha channel: 4 channels, colour not multiplied by it."""
        return self.photos.n_channels == 4

    @property
    def times(self) -> Tensor | None:
        """(n_views,) float64 times from 0 to 1; None for a scene that stands still."""
        times = [view.time for view in self.views]
        return None if None in times else torch.tensor(times, dtype=torch.float64)


def hold_out(n_views: int, every: int) -> list[Split]:
    """Every so-many-th view (the first, the ninth, ...) for tests; none for `every` 0, or when there is one view."""
    return ["test" if every and i % every == 0 and n_views > 1 else "train" for i in range(n_views)]
