"""What a reader of one format finds, and how it becomes a Scene: the checks that all formats share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fieldforge.apps.scenes.files import Header
from fieldforge.apps.scenes.scene import SceneError, Split
from fieldforge.renderers.cameras import MODELS, Cameras

MAX_VIEWS = 100_000
DRIFT = 1e-5  # how far a rotation may be from orthonormal before it is said
WRONG = 2e-2  # and before it is refused
LARGEST = 1e12  # coordinates, focal lengths and the like beyond it are damage
HUGE = 1e5  # coordinates, in units of the distances between cameras, whose float32 would show


@dataclass(frozen=True)
class Lens:
    """One camera's model at the size of its photo; pixels as in `renderers/cameras.md`."""

    model: str
    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    coefficients: tuple[float, ...] = ()

    def at(self, width: int, height: int, place: str) -> Lens:
        """For a photo of another size that shows the same.

        Raises:
            SceneError: the sides do not shrink alike.
        """
        across, down = width / self.width, height / self.height
        if abs(across * self.width - round(down * self.width)) > 1 + 0.005 * width:
            raise SceneError(
                f"{place}: the photo has {width}x{height} pixels, and its camera was made for "
                f"{self.width}x{self.height}; they are not the same picture at two sizes"
            )
        return replace(
            self, width=width, height=height, fx=self.fx * across, fy=self.fy * down, cx=self.cx * across,
            cy=self.cy * down,
        )  # fmt: skip


@dataclass(frozen=True)
class Frame:
    """One view as a format's reader found it.

    Args:
        name: as the file writes it.
        photo: the file, which exists.
        header: of the photo.
        pose: (4, 4) camera to world, OpenGL camera axes.
        lens: at the photo's size.
        split, time, mask: as in View.
        mask_hides: whether the mask is 0 where pixels count.
        ranges: nearest and farthest depth seen, or None.
    """

    name: str
    photo: Path
    header: Header
    pose: np.ndarray
    lens: Lens
    split: Split | None = None
    time: float | None = None
    mask: Path | None = None
    mask_hides: bool = False
    ranges: tuple[float, float] | None = None


@dataclass
class Draft:
    """A format's findings.

    Args:
        format: in words.
        frames: in the order of the file.
        missing: names of photos that are not there.
        box: (2, 3) where the file says the scene is, or None; `box_reason` says how.
        points: (m, 3) or None.
        notes: for the user.
    """

    format: str
    frames: list[Frame] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    box: np.ndarray | None = None
    box_reason: str = ""
    points: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)


def rotations_checked(poses: np.ndarray, names: Sequence[str], notes: list[str]) -> np.ndarray:
    """(n, 3, 4) poses whose left parts are rotations.

    Raises:
        SceneError: NaN, a mirror image, or something else than a rotation; which view.
    """
    for pose, name in zip(poses, names, strict=True):
        if not np.isfinite(pose).all():
            raise SceneError(f"{name}: its pose holds {pose[~np.isfinite(pose)][0]}; leave this view out")
        if np.abs(pose).max() > LARGEST:
            raise SceneError(f"{name}: its pose holds {np.abs(pose).max():.3g}, and {LARGEST:g} is the most")
    turn = poses[:, :3, :3]
    drift = np.abs(np.einsum("nji,njk->nik", turn, turn) - np.eye(3)).max((1, 2), initial=0)
    sign = np.linalg.det(turn)
    worst = int(np.argmax(np.where(sign > 0, drift, np.inf)))
    if sign[worst] <= 0 and drift[worst] < WRONG:
        raise SceneError(
            f"{names[worst]}: its pose mirrors (determinant {sign[worst]:.3g}); poses are camera to world, with "
            "columns right, up, backward"
        )
    if drift[worst] > WRONG or sign[worst] <= 0:
        lengths = ", ".join(f"{length:.4g}" for length in np.linalg.norm(turn[worst], axis=0))
        raise SceneError(
            f"{names[worst]}: its pose is not a rotation: its columns have lengths {lengths} and the determinant is "
            f"{sign[worst]:.4g}"
        )
    if drift[worst] > DRIFT:
        notes.append(f"poses are up to {drift[worst]:.1g} from rotations; the nearest rotations are used")
    left, _, right = np.linalg.svd(turn)
    return np.concatenate([left @ right, poses[:, :3, 3:]], 2)


def cameras_of(lenses: Sequence[Lens], poses: np.ndarray) -> Cameras:
    """Lenses and checked (n, 3, 4) poses as one batch; pinholes among opencv lenses become opencv ones.

    Raises:
        SceneError: models that cannot be mixed.
    """
    models = {lens.model for lens in lenses}
    if models == {"pinhole", "opencv"}:
        models = {"opencv"}
    if len(models) != 1:
        raise SceneError(f"cameras: {' and '.join(sorted(models))} lenses in one scene; split it into one for each")
    model = models.pop()
    for lens in lenses:
        values = (lens.fx, lens.fy, lens.cx, lens.cy, *lens.coefficients)
        if max(map(abs, values)) > LARGEST or min(lens.fx, lens.fy) < 1 / LARGEST:
            raise SceneError(f"cameras: {values[:4]} are no focal lengths and centre, in pixels")
    n_coefficients = MODELS[model]
    coefficients = [[*lens.coefficients, *[0.0] * n_coefficients][:n_coefficients] for lens in lenses]
    return Cameras(
        torch.from_numpy(np.ascontiguousarray(poses)),
        torch.tensor([[lens.fx, lens.fy, lens.cx, lens.cy] for lens in lenses], dtype=torch.float64),
        torch.tensor([[lens.width, lens.height] for lens in lenses]),
        model,
        torch.tensor(coefficients, dtype=torch.float64) if n_coefficients else None,
    )


def times_checked(frames: Sequence[Frame], notes: list[str]) -> list[float | None]:
    """Times from 0 to 1, or None for all.

    Raises:
        SceneError: only some frames have a time.
    """
    times = [frame.time for frame in frames]
    without = [frame.name for frame in frames if frame.time is None]
    if len(without) == len(frames):
        return times
    if without:
        raise SceneError(f"{without[0]}: has no time, and {len(frames) - len(without)} other views have one")
    known = np.array(times, dtype=np.float64)
    low, high = float(known.min()), float(known.max())
    if low < 0 or high > 1:
        notes.append(f"times from {low:g} to {high:g} are brought to 0..1")
        known = (known - low) / max(high - low, math.ulp(1.0))
    return list(known.tolist())


def named(names: Sequence[Any], n_most: int = 5) -> str:
    """The first few of a list, as messages show it."""
    more = f" and {len(names) - n_most} more" if len(names) > n_most else ""
    return ", ".join(str(name) for name in names[:n_most]) + more
