"""Signals that can be compared on: how each is opened, which figures count, and how a field of it is looked at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from fieldforge.apps.compare.dead_leaves import dead_leaves
from fieldforge.apps.compare.drawn import drifting_leaves, knot, plucked
from fieldforge.apps.fit.audio.job import AudioJob
from fieldforge.apps.fit.image.job import ImageJob
from fieldforge.apps.fit.image.report import compare as compare_pictures
from fieldforge.apps.fit.image.report import display
from fieldforge.apps.fit.job import Job
from fieldforge.apps.fit.scene.job import SceneJob
from fieldforge.apps.fit.shape.job import ShapeJob
from fieldforge.apps.fit.slices import answers
from fieldforge.apps.fit.video.job import VideoJob
from fieldforge.apps.metrics import radial_spectrum
from fieldforge.apps.render.audio import sample
from fieldforge.apps.render.film import frame
from fieldforge.apps.render.pictures import compare as compare_view
from fieldforge.apps.render.pictures import photo_of
from fieldforge.apps.render.radiance import eye_of
from fieldforge.apps.render.shape import orbit, render_shape
from fieldforge.apps.sounds.quality import spectrogram
from fieldforge.apps.videos import read_film
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
        signal: pictures of the signal by name.
        pictures: of the field, under the same names, and of its error.
        spectrum: of the field: (frequency, power).
        true_spectrum: of the signal.
    """

    signal: dict[str, np.ndarray]
    pictures: dict[str, np.ndarray]
    spectrum: tuple[np.ndarray, np.ndarray] | None = None
    true_spectrum: tuple[np.ndarray, np.ndarray] | None = None


class Signal(ABC):
    """A kind of signal.

    Class attributes: ``name``; ``figures``, the first of which decides who is best, more being better; ``frequency``,
    what its spectra are over.
    """

    name: ClassVar[str]
    figures: ClassVar[tuple[FigureKind, ...]]
    frequency: ClassVar[str] = "radial frequency (cycles per pixel)"

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
            raise ValueError(f"downscale: is for scenes and films, got {downscale} for a picture")
        return ImageJob(source)

    def other(self) -> ImageJob:
        return ImageJob(dead_leaves(128))

    def look(self, job: ImageJob, field: Any) -> Look:
        seen = compare_pictures(job.picture, field)
        whole = display(seen.source_crop, seen), display(seen.fit_crop, seen)
        top, left = (max(0, (size - SIDE) // 2) for size in whole[0].shape[:2])
        signal, fit = (picture[top : top + SIDE, left : left + SIDE] for picture in whole)
        error = 10 * np.abs(fit - signal)
        spectra = radial_spectrum(seen.fit_crop), radial_spectrum(seen.source_crop)
        return Look({"crop": signal}, {"crop": fit, "error x 10": error}, *spectra)


class SoundSignal(Signal):
    """A sound."""

    name = "audio"
    figures = (
        FigureKind("snr", "SNR", "{:.2f} dB"),
        FigureKind("log_spectral_distance", "log-spectral distance", "{:.2f} dB"),
    )
    frequency = "frequency (Hz)"

    def open(self, source: Path, downscale: int) -> AudioJob:
        if downscale != 1:
            raise ValueError(f"downscale: is for scenes and films, got {downscale} for a sound")
        return AudioJob(source)

    def other(self) -> AudioJob:
        return AudioJob(plucked())

    def look(self, job: AudioJob, field: Any) -> Look:
        truth, said = job.clip.samples, sample(field)
        powers = {"signal": spectrogram(truth[:, 0]), "fit": spectrogram(said[:, 0])}
        powers["error"] = spectrogram((said - truth)[:, 0])
        loudest = powers["signal"].max() or 1.0
        shown = {name: _decibels(power / loudest) for name, power in powers.items()}
        hertz = np.linspace(0, job.clip.sample_rate / 2, len(powers["signal"]))
        spectra = ((hertz, powers[name].mean(1)) for name in ("fit", "signal"))
        return Look(
            {"spectrogram": shown["signal"]},
            {"spectrogram": shown["fit"], "spectrogram of the error": shown["error"]},
            *spectra,
        )


def _decibels(power: np.ndarray) -> np.ndarray:
    """(frequencies, times) as a grey picture, high tones at the top: 80 dB below 1 is black."""
    return (1 + np.log10(np.maximum(power[::-1], 1e-8)) / 8)[..., None]


class VideoSignal(Signal):
    """A film."""

    name = "video"
    figures = (
        FigureKind("psnr", "PSNR, mean of frames", "{:.2f} dB"),
        FigureKind("worst_frame_psnr", "worst frame", "{:.2f} dB"),
    )

    def open(self, source: Path, downscale: int) -> VideoJob:
        return VideoJob(read_film(source, downscale=downscale))

    def other(self) -> VideoJob:
        return VideoJob(drifting_leaves())

    def look(self, job: VideoJob, field: Any) -> Look:
        film = job.film
        middle = film.n_frames // 2
        truth, fit = film.frame(middle), frame(field, film.time(middle))
        error = 5 * np.abs(fit - truth)
        named = f"frame {film.first + middle}"
        return Look({named: truth}, {named: fit, "error x 5": error}, radial_spectrum(fit), radial_spectrum(truth))


class ShapeSignal(Signal):
    """A mesh or a cloud of points."""

    name = "shape"
    figures = (FigureKind("iou", "volume IoU", "{:.4f}"),)
    frequency = "radial frequency of a slice (cycles per sample)"

    def open(self, source: Path, downscale: int) -> ShapeJob:
        if downscale != 1:
            raise ValueError(f"downscale: is for scenes and films, got {downscale} for a shape")
        return ShapeJob(source)

    def other(self) -> ShapeJob:
        return ShapeJob(knot())

    def look(self, job: ShapeJob, field: Any) -> Look:
        # a field that has learnt little takes long to trace: few pixels
        view = render_shape(field, orbit(35.0, 25.0, size=(SIDE // 2, SIDE // 2)), "normals")
        seen = {"normals": view[..., :3] * view[..., 3:] + 1 - view[..., 3:]}
        (plane, *_) = job.slices(SIDE // 2)
        with torch.no_grad():
            said = answers(field, plane.points)[..., 0].numpy()
        truth, side = plane.values[..., 0].numpy(), job.surface.cube.side
        error = np.abs(said - truth)[..., None] / (0.02 * side)
        return Look(
            {"slice": _contours(truth / side)},
            {"slice": _contours(said / side), "error of the slice, white at 2 % of the cube": error, **seen},
            radial_spectrum(said),
            radial_spectrum(truth),
        )


def _contours(distance: np.ndarray) -> np.ndarray:
    """(h, w) distances in sides of the cube as a picture: orange inside, blue outside, a line every 5 %, black at 0."""
    color = np.where(distance[..., None] < 0, [0.95, 0.65, 0.3], [0.5, 0.7, 0.95])
    shade = 0.85 + 0.15 * np.cos(2 * np.pi * distance / 0.05)[..., None]
    return np.where(np.abs(distance)[..., None] < 0.004, 0.0, color * shade)


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
        photo, fit = photo_of(job.scene, view, eye.background).numpy(), found.picture.color
        named = "a held-out view" if len(job.test) else "a view"
        error = 5 * np.abs(fit - photo)
        return Look({named: photo}, {named: fit, "error x 5": error}, radial_spectrum(fit), radial_spectrum(photo))


SIGNALS: dict[str, Callable[[], Signal]] = {
    "image": ImageSignal,
    "audio": SoundSignal,
    "video": VideoSignal,
    "shape": ShapeSignal,
    "scene": SceneSignal,
}
"""Name -> what makes it."""
_SOUNDS = (".wav", ".ogg", ".flac", ".mp3", ".m4a", ".aiff")
_FILMS = (".mp4", ".mov", ".mkv", ".webm", ".avi")
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
    if suffix in _FILMS:
        return VideoSignal()
    return ShapeSignal() if suffix in _SHAPES else ImageSignal()
