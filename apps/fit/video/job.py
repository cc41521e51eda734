"""Fit a video field to a film.

    result = fit_video("clip.mp4", downscale=4)
    result.psnr, result.field

Pixels of all frames are seen in one shuffled order over space and time, and every one is compared in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from fieldforge.apps.fit.fused import make_step
from fieldforge.apps.fit.job import Fit, Job, Plan, PlanKeywords, Training
from fieldforge.apps.fit.loop import Figure, Hook, psnr
from fieldforge.apps.fit.options import FieldOptions
from fieldforge.apps.fit.placement import raster_places
from fieldforge.apps.fit.recipe import Config
from fieldforge.apps.fit.samplers import RasterDraw, permute
from fieldforge.apps.fit.slices import Slice, centers, square
from fieldforge.apps.fit.video.presets import preset
from fieldforge.apps.fit.video.report import write_report
from fieldforge.apps.metrics import psnr as psnr_of
from fieldforge.apps.render.film import frame_quality
from fieldforge.apps.videos import Film, read_film
from fieldforge.fields.kinds.video import VideoField
from fieldforge.registry import build

N_SLICES = 4
"""Frames that choosers look at; the paper of FreSh takes 10."""


@dataclass(kw_only=True)
class VideoFit(Fit[VideoField]):
    """What a fit to a film came to."""

    frame_psnr: list[float]
    """Of each frame."""

    @property
    def psnr(self) -> float:
        """Mean over the frames of the decibels of each, after clipping to [0, 1]."""
        return self.figure("psnr")

    @property
    def bits_per_pixel(self) -> float | None:
        """Size of the file over the number of pixels of all frames."""
        if self.n_bytes is None:
            return None
        field = self.field
        n_frames = max(1, round(field.duration * field.frames_per_second))
        return 8 * self.n_bytes / (field.width * field.height * n_frames)

    def summary(self) -> dict[str, Any]:
        """The figures as a flat table, for JSON and benchmark rows."""
        bits = self.bits_per_pixel
        return super().summary() | {"bits_per_pixel": None if bits is None else round(bits, 5)}


Source = str | Path | Film


def fit_video(
    source: Source, *, size: tuple[int, int] | None = None, downscale: int = 1,
    frames: tuple[int, int | None] = (0, None), psnr: float | None = None, report: str | Path | None = None,
    **plan: Unpack[PlanKeywords],
) -> VideoFit:  # fmt: skip
    """Fit a video field to a film.

    Args:
        source: a file (MP4, MOV, MKV, WebM, AVI, GIF; needs PyAV), or a `Film` (`Film.from_array` makes one).
        size, downscale, frames: of a file: see `fieldforge.apps.videos.read_film`.
        psnr: stop as soon as the film is that good, in decibels.
        report: PNG with some frames, their error, and the PSNR of each frame.
        plan: output, preset, steps, seconds, ...: see `fieldforge.apps.fit.job.Plan`.

    Returns:
        The result, as of `fieldforge.fit`.

    Raises:
        MediaError: the film cannot be read or fitted.
        ConfigError, ValueError: options or configuration.
        BackendError: the backend asked for cannot run.

    Example:
        >>> film = Film.from_array(np.zeros((3, 4, 4, 3), np.uint8))
        >>> fit_video(film, steps=1, progress="quiet").state.step
        1
    """
    film = source if isinstance(source, Film) else read_film(source, size=size, downscale=downscale, frames=frames)
    result: VideoFit = VideoJob(film, report=None if report is None else Path(report)).run(Plan(**plan), psnr)
    return result


class VideoJob(Job[VideoField]):
    """A film to fit.

    Args:
        film: its frames.
        report: PNG to write when all is done.
    """

    signal = "video"
    target = "psnr"
    options = FieldOptions

    def __init__(self, film: Film, *, report: Path | None = None) -> None:
        self.film, self.report, self.frame_psnr = film, report, list[float]()

    @property
    def digest(self) -> str | None:
        return self.film.sha256

    def identity(self) -> dict[str, Any]:
        return {"frames": [self.film.first, self.film.first + self.film.n_frames],
                "size": [self.film.width, self.film.height]}  # fmt: skip

    def notices(self) -> list[str]:
        return list(self.film.notes)

    def preset(self, name: str) -> Config:
        return preset(name, self.film.width, self.film.height, self.film.n_frames)

    def make_field(self, config: Config, seed: int) -> VideoField:
        film = self.film
        described = {
            "otype": "VideoField", "width": film.width, "height": film.height, "duration": film.duration,
            "frames_per_second": film.frames_per_second, "n_channels": film.n_channels,
            "encoding": config["encoding"], "network": config["network"],
        }  # fmt: skip
        made: VideoField = build("field", described, generator=torch.Generator().manual_seed(seed))
        return made

    @contextmanager
    def training(self, fitted: VideoField, config: Config, seed: int, hooks: Sequence[Hook]) -> Iterator[Training]:
        draw = RasterDraw(self.film.frames, 255.0, fitted.box, FieldOptions.of(config["fit"]).batch_size, seed)
        yield Training(*make_step(fitted, fitted, fitted.color, config, draw, hooks))

    def shown(self, config: Config) -> Figure:
        return psnr()

    def quality(self, fitted: VideoField, target: float) -> float:
        points, values = self._some_pixels
        near = psnr_of(fitted.color(points).clamp(0, 1), values)
        return near if near < target else float(np.mean(frame_quality(self.film, fitted)))

    def measure(self, fitted: VideoField, tell: Callable[[str], None]) -> dict[str, float | None]:
        film = self.film
        n_pixels = film.n_frames * film.width * film.height
        if n_pixels > 2**22:
            tell(f"measuring all {n_pixels / 1e6:.0f} million pixels of {film.n_frames} frames")
        self.frame_psnr = frame_quality(film, fitted)
        return {"psnr": round(float(np.mean(self.frame_psnr)), 4), "worst_frame_psnr": round(min(self.frame_psnr), 4)}

    def places(self, seed: int) -> tuple[Tensor, Tensor]:
        return raster_places(self.film.frames, seed)

    @property
    def full_side(self) -> int:
        return max(self.film.width, self.film.height)

    def slices(self, side: int) -> list[Slice]:
        """Up to `N_SLICES` frames, evenly through the film, each resampled to a square: side, at most the shorter."""
        film = self.film
        side = min(side, film.width, film.height)
        found = []
        for number in np.unique(np.linspace(0, film.n_frames - 1, 2 * N_SLICES + 1).round().astype(int)[1::2]):
            places = centers(film.width, film.height, side)
            moment = torch.full_like(places[..., :1], film.time(int(number)))
            values = square(torch.from_numpy(film.frame(int(number))), side)
            found.append(Slice(torch.cat([places, moment], -1), values))
        return found

    def metadata(self) -> dict[str, Any]:
        film = self.film
        return {"width": film.width, "height": film.height, "channels": film.n_channels, "frames": film.n_frames,
                "frames_per_second": film.frames_per_second, "first_frame": film.first}  # fmt: skip

    def result(self, **parts: Any) -> VideoFit:
        return VideoFit(**parts, frame_psnr=self.frame_psnr)

    def finish(self, result: VideoFit) -> None:
        result.frame_psnr = self.frame_psnr
        if self.report is not None:
            write_report(
                self.report, self.film, result.field, self.frame_psnr, result.state.history, title=self._title(result),
                diagnostics=result.diagnostics,
            )  # fmt: skip

    def _title(self, result: VideoFit) -> str:
        parts = [Path(self.film.source).name, f"mean PSNR {result.psnr:.2f} dB"]
        if result.n_bytes is not None:
            parts.append(f"{result.n_bytes:,} bytes, {result.bits_per_pixel:.3f} bits per pixel")
        return "   ".join([*parts, f"{result.state.step} steps in {result.seconds:.1f} s"])

    @cached_property
    def _some_pixels(self) -> tuple[Tensor, Tensor]:
        """Places, times and values of some thousand pixels."""
        film = self.film
        n_pixels = film.n_frames * film.height * film.width
        position = torch.arange(min(n_pixels, 2**14))
        index = permute(position, n_pixels, torch.zeros_like(position))
        high = (float(film.width), float(film.height), film.duration)
        draw = RasterDraw(film.frames, 255.0, ((0.0, 0.0, 0.0), high), 1, 0)
        return draw.samples(index)
