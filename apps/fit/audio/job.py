"""Fit an audio field to a sound.

    result = fit_audio("clip.wav")
    result.snr, result.field

Every sample is seen in shuffled order, and every sample is compared in the end.
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

from fieldforge.apps.fit.audio.presets import preset
from fieldforge.apps.fit.audio.report import write_report
from fieldforge.apps.fit.fused import make_step
from fieldforge.apps.fit.job import Fit, Job, Plan, PlanKeywords, Training
from fieldforge.apps.fit.loop import LOSS, Figure, Hook
from fieldforge.apps.fit.options import FieldOptions
from fieldforge.apps.fit.placement import raster_places
from fieldforge.apps.fit.recipe import SECTIONS, Config
from fieldforge.apps.fit.samplers import RasterDraw
from fieldforge.apps.fit.selections.base import selected
from fieldforge.apps.fit.slices import Slice
from fieldforge.apps.render.audio import sample
from fieldforge.apps.sounds import Clip, read_sound
from fieldforge.apps.sounds.quality import decibels, figures_of, snr
from fieldforge.devices import arrived, home
from fieldforge.fields.kinds.audio import AudioField
from fieldforge.registry import build

N_SLICES = 4
"""Stretches that choosers of settings look at."""


@dataclass(kw_only=True)
class AudioFit(Fit[AudioField]):
    """What a fit to a sound came to."""

    @property
    def snr(self) -> float:
        """Power of the clip over that of the error, in decibels, over all samples and channels; nan if it is silent."""
        return self.figure("snr")

    @property
    def kilobits_per_second(self) -> float | None:
        """Size of the file over the length of the clip."""
        return None if self.n_bytes is None else 8e-3 * self.n_bytes / self.field.duration

    def summary(self) -> dict[str, Any]:
        """The figures as a flat table, for JSON and benchmark rows."""
        rate = self.kilobits_per_second
        return super().summary() | {"kilobits_per_second": None if rate is None else round(rate, 3)}


Source = str | Path | Clip


def fit_audio(
    source: Source, *, start: float = 0.0, stop: float | None = None, snr: float | None = None,
    report: str | Path | None = None, **plan: Unpack[PlanKeywords],
) -> AudioFit:  # fmt: skip
    """Fit an audio field to a sound.

    Args:
        source: a file (WAV; OGG, FLAC, MP3 and kin with PyAV), or a `Clip` (`Clip.from_array` makes one).
        start, stop: of a file: the part to fit, in seconds.
        snr: stop as soon as the signal is that far above the error, in decibels.
        report: PNG with waveform, spectrograms and error.
        plan: output, preset, steps, seconds, ...: see `fieldforge.apps.fit.job.Plan`.

    Returns:
        The result, as of `fieldforge.fit`.

    Raises:
        MediaError: the sound cannot be read or fitted.
        ConfigError, ValueError: options or configuration.
        BackendError: the backend asked for cannot run.

    Example:
        >>> clip = Clip.from_array(np.sin(np.arange(100) / 9), 8000)
        >>> fit_audio(clip, steps=1, progress="quiet").state.step
        1
    """
    job = AudioJob(source, start=start, stop=stop, report=None if report is None else Path(report))
    result: AudioFit = job.run(Plan(**plan), snr)
    return result


class AudioJob(Job[AudioField]):
    """A sound to fit.

    Args:
        source, start, stop: as for `fit_audio`.
        report: PNG to write when all is done.

    Raises:
        MediaError: the sound cannot be read or fitted.
    """

    signal = "audio"
    target = "snr"
    options = FieldOptions
    sections = (*SECTIONS, "selection")

    def __init__(
        self, source: Source, *, start: float = 0.0, stop: float | None = None, report: Path | None = None
    ) -> None:
        self.clip = source if isinstance(source, Clip) else read_sound(source, start=start, stop=stop)
        self.report = report

    @property
    def digest(self) -> str | None:
        return self.clip.sha256

    def identity(self) -> dict[str, Any]:
        return {"start": self.clip.start, "n_samples": self.clip.n_samples}

    def notices(self) -> list[str]:
        silent = ["the clip is silent: a ratio of signal to noise is not defined, and none is given"]
        return [*self.clip.notes, *(silent if self.clip.peak == 0 else [])]

    def preset(self, name: str) -> Config:
        return preset(name, self.clip.n_samples)

    def make_field(self, config: Config, seed: int) -> AudioField:
        clip = self.clip
        described = {
            "otype": "AudioField", "n_samples": clip.n_samples, "sample_rate": clip.sample_rate,
            "n_channels": clip.n_channels, "peak": clip.peak or 1.0,
            "encoding": config["encoding"], "network": config["network"],
        }  # fmt: skip
        made: AudioField = build("field", described, generator=torch.Generator().manual_seed(seed))
        return made

    @contextmanager
    def training(self, fitted: AudioField, config: Config, seed: int, hooks: Sequence[Hook]) -> Iterator[Training]:
        options = FieldOptions.of(config["fit"])
        draw = selected(RasterDraw(self.clip.samples, 1.0, fitted.box, options.batch_size, seed), fitted, config)
        yield Training(*make_step(fitted, fitted, fitted.amplitude, config, draw, hooks))

    def shown(self, config: Config) -> Figure:
        power = self.clip.power
        if power == 0:
            return LOSS
        return Figure("snr", "SNR {:.2f} dB", lambda loss, error: decibels(power / max(error, 1e-12 * power)))

    def expect_target(self, value: float) -> None:
        if self.clip.peak == 0:
            raise ValueError(f"{self.target}: the clip is silent, and its signal to noise is not defined")

    def quality(self, fitted: AudioField, target: float) -> float:
        points, values = self._some_samples
        near = snr(values, home(fitted.amplitude(points)))
        if near is not None and near < target:
            return near
        return snr(self.clip.samples, sample(fitted)) or 0.0

    def measure(self, fitted: AudioField, tell: Callable[[str], None]) -> dict[str, float | None]:
        return figures_of(self.clip.samples, sample(fitted))

    def places(self, seed: int) -> tuple[Tensor, Tensor]:
        return raster_places(self.clip.samples, seed)

    @property
    def full_side(self) -> int:
        return self.clip.n_samples

    def slices(self, side: int) -> list[Slice]:
        """All samples where they are so few, else up to `N_SLICES` stretches of so many in a row, evenly through the
        clip: at the clip's own rate, since fewer samples a second would fold the high tones of a field onto low ones.
        """
        clip, found = self.clip, []
        n = min(side, clip.n_samples)
        last = clip.n_samples - n
        for first in np.unique(np.linspace(0, last, N_SLICES).round().astype(int)) if last else [0]:
            moments = (torch.arange(int(first), int(first) + n, dtype=torch.float64) + 0.5) / clip.sample_rate
            found.append(Slice(moments[:, None], torch.from_numpy(clip.samples[first : first + n])))
        return found

    def metadata(self) -> dict[str, Any]:
        clip = self.clip
        return {"sample_rate": clip.sample_rate, "channels": clip.n_channels, "seconds": round(clip.duration, 6),
                "start": clip.start}  # fmt: skip

    def result(self, **parts: Any) -> AudioFit:
        return AudioFit(**parts)

    def finish(self, result: AudioFit) -> None:
        if self.report is not None:
            write_report(
                self.report, self.clip, sample(result.field), result.state.history, title=self._title(result),
                diagnostics=result.diagnostics,
            )  # fmt: skip

    def _title(self, result: AudioFit) -> str:
        quality = "silent" if self.clip.peak == 0 else f"SNR {result.snr:.2f} dB"
        parts = [Path(self.clip.source).name, quality]
        if result.n_bytes is not None:
            parts.append(f"{result.n_bytes:,} bytes, {result.kilobits_per_second:.0f} kbit/s")
        return "   ".join([*parts, f"{result.state.step} steps in {result.seconds:.1f} s"])

    @cached_property
    def _some_samples(self) -> tuple[Tensor, np.ndarray]:
        """Times of some thousand samples, and the samples."""
        clip = self.clip
        index = np.linspace(0, clip.n_samples - 1, min(clip.n_samples, 2**14)).astype(np.int64)
        return arrived((index[:, None] + 0.5) / clip.sample_rate), clip.samples[index]
