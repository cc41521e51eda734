"""Signals that can be compared on: how each is opened, which figures count, and how a field of it is looked at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fieldforge.apps.compare.dead_leaves import dead_leaves
from fieldforge.apps.fit.audio.job import AudioJob
from fieldforge.apps.fit.image.job import ImageJob
from fieldforge.apps.fit.image.report import compare as compare_pictures
from fieldforge.apps.fit.image.report import display
from fieldforge.apps.fit.job import Job
from fieldforge.apps.fit.scene.job import SceneJob
from fieldforge.apps.fit.shape.job import ShapeJob
from fieldforge.apps.metrics import radial_spectrum
from fieldforge.apps.render.audio import sample
from fieldforge.apps.render.pictures import compare as compare_view
from fieldforge.apps.render.pictures import photo_of
from fieldforge.apps.render.radiance import eye_of
from fieldforge.apps.render.shape import orbit, render_shape
from fieldforge.apps.sounds.quality import spectrogram
from fieldforge.checks import expect_choice

SIDE = 192
"""Pixels along a side of the pictures that stand side by side."""


@dataclass(frozen=True)
class FigureKind:
    """A figure of a fit, for a table.

    Attributes:
        name: in `Fit.figures`. heading: of its column. form: of its values.
    """

    name: str
    heading: str
    form: str


@dataclass(frozen=True)
class Look:
    """A field beside its signal: pictures (height, width, 3) in [0, 1] by name, and spectra.

    Attributes:
        pictures: "signal", "fit" and "error", or those of them that there are.
        spectrum: of the field: (frequency, power).
        true_spectrum: of the signal.
    """

    pictures: dict[str, np.ndarray]
    spectrum: tuple[np.ndarray, np.ndarray] | None = None
    true_spectrum: tuple[np.ndarray, np.ndarray] | None = None


class Signal(ABC):
    """A kind of signal.

    Class attributes: ``name``; ``figures``, the first of which decides who is best, more being better.
    """

    name: ClassVar[str]
    figures: ClassVar[tuple[FigureKind, ...]]

    @abstractmethod
    def open(self, source: Path, downscale: int) -> Job[Any]:
        """The fit's job on a source."""

    def other(self) -> Job[Any]:
        """A signal that learning rates can be tuned on where the user names none.

        Raises:
            ValueError: there is none of this kind.
        """
        raise ValueError(f"tune_lr: name another {self.name} to tune learning rates on: --tune-lr FILE")

    @abstractmethod
    def look(self, job: Any, field: Any) -> Look:
        """A fitted field, seen."""


class ImageSignal(Signal):
    """A picture."""

    name = "image"
    figures = (FigureKind("psnr", "PSNR", "{:.2f} dB"), FigureKind("ssim", "SSIM", "{:.4f}"))

    def open(self, source: Path, downscale: int) -> ImageJob:
        if downscale != 1:
            raise ValueError(f"downscale: is for scenes, got {downscale} for a picture")
        return ImageJob(source)

    def other(self) -> ImageJob:
        return ImageJob(dead_leaves(128))

    def look(self, job: ImageJob, field: Any) -> Look:
        seen = compare_pictures(job.picture, field)
        signal, fit = display(seen.source_crop, seen), display(seen.fit_crop, seen)
        top, left = (max(0, (size - SIDE) // 2) for size in signal.shape[:2])
        signal, fit = (picture[top : top + SIDE, left : left + SIDE] for picture in (signal, fit))
        pictures = {"signal": signal, "fit": fit, "error x 10": 10 * np.abs(fit - signal)}
        return Look(pictures, radial_spectrum(seen.fit_crop), radial_spectrum(seen.source_crop))


class SoundSignal(Signal):
    """A sound."""

    name = "audio"
    figures = (FigureKind("snr", "SNR", "{:.2f} dB"),)

    def open(self, source: Path, downscale: int) -> AudioJob:
        if downscale != 1:
            raise ValueError(f"downscale: is for scenes, got {downscale} for a sound")
        return AudioJob(source)

    def look(self, job: AudioJob, field: Any) -> Look:
        sounds = {"signal": job.clip.samples, "fit": sample(field)}
        sounds["error"] = sounds["fit"] - sounds["signal"]
        powers = {name: spectrogram(samples[:, 0]) for name, samples in sounds.items()}
        loudest = powers["signal"].max() or 1.0
        return Look({f"{name}, spectrogram": _decibels(power / loudest) for name, power in powers.items()})


def _decibels(power: np.ndarray) -> np.ndarray:
    """(frequencies, times) as a grey picture, high tones at the top: 80 dB below 1 is black."""
    return (1 + np.log10(np.maximum(power[::-1], 1e-8)) / 8)[..., None]


class ShapeSignal(Signal):
    """A mesh or a cloud of points."""

    name = "shape"
    figures = (FigureKind("iou", "volume IoU", "{:.4f}"),)

    def open(self, source: Path, downscale: int) -> ShapeJob:
        if downscale != 1:
            raise ValueError(f"downscale: is for scenes, got {downscale} for a shape")
        return ShapeJob(source)

    def look(self, job: ShapeJob, field: Any) -> Look:
        camera = orbit(35.0, 25.0, size=(SIDE, SIDE))
        views = {mode: render_shape(field, camera, mode) for mode in ("clay", "normals")}
        return Look({mode: view[..., :3] * view[..., 3:] + 1 - view[..., 3:] for mode, view in views.items()})


class SceneSignal(Signal):
    """Posed photos."""

    name = "scene"
    figures = (FigureKind("psnr", "PSNR of held-out views", "{:.2f} dB"), FigureKind("ssim", "SSIM", "{:.4f}"))

    def open(self, source: Path, downscale: int) -> SceneJob:
        return SceneJob(source, downscale=downscale)

    def look(self, job: SceneJob, field: Any) -> Look:
        view = int((job.test if len(job.test) else job.train)[0])
        eye = eye_of(field, {"signal": job.metadata()})
        found = compare_view(job.scene, view, eye)
        photo = photo_of(job.scene, view, eye.background).numpy()
        fit = found.picture.color
        return Look({"signal": photo, "fit": fit, "error x 5": 5 * np.abs(fit - photo)})


SIGNALS: dict[str, Callable[[], Signal]] = {
    "image": ImageSignal,
    "audio": SoundSignal,
    "shape": ShapeSignal,
    "scene": SceneSignal,
}
"""Name -> what makes it."""
_SOUNDS = (".wav", ".ogg", ".flac", ".mp3", ".m4a", ".aiff")
_SHAPES = (".obj", ".ply", ".stl", ".off", ".glb", ".xyz", ".las")


def signal_of(source: Path, name: str | None) -> Signal:
    """The signal of a name, or, without one, what a file or folder is by its suffix."""
    if name is not None:
        return SIGNALS[expect_choice("signal", name, SIGNALS)]()
    suffix = source.suffix.lower()
    if source.is_dir() or suffix in (".npz", ".json"):
        return SceneSignal()
    if suffix in _SOUNDS:
        return SoundSignal()
    return ShapeSignal() if suffix in _SHAPES else ImageSignal()
