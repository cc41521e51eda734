"""A picture into another field of the same picture, at points alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fieldforge.apps.convert.job import ConversionJob
from fieldforge.apps.fit.image.job import step_of
from fieldforge.apps.fit.image.presets import preset
from fieldforge.apps.fit.job import Fit, Training
from fieldforge.apps.fit.loop import Figure, Hook, psnr
from fieldforge.apps.fit.options import FitOptions
from fieldforge.apps.fit.recipe import SECTIONS, Config
from fieldforge.apps.fit.samplers import ShuffledIndices, offsets
from fieldforge.apps.metrics import Metrics
from fieldforge.apps.metrics import psnr as psnr_of
from fieldforge.apps.render.image import render_strips, view_of
from fieldforge.devices import here, move
from fieldforge.fields.kinds.image import ImageField
from fieldforge.registry import build

N_LOOKED_AT = 2**14


class PicturePoints:
    """The samples of a step: pixel centres in shuffled order, a share of them moved, with what the teacher says there.

    A field answers between its pixels too, so nothing is interpolated; which share is moved is fit.jitter, as in a fit
    to a photo.

    Calling it gives points (batch, 2) in pixels and values (batch, n_channels).
    """

    def __init__(self, teacher: ImageField, options: FitOptions, seed: int) -> None:
        self.teacher, self.seed = teacher, seed
        self.n_moved = round(options.jitter * options.batch_size)
        self.indices = ShuffledIndices(teacher.width * teacher.height, batch_size=options.batch_size, seed=seed)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        index = self.indices(step)
        points = torch.stack([index % self.teacher.width, index // self.teacher.width], -1) + 0.5
        position = torch.arange(step * len(index), step * len(index) + self.n_moved)
        points[: self.n_moved] += offsets(position, self.seed) - 0.5
        with torch.no_grad():
            return points, self.teacher.color(points)


class ImageConversion(ConversionJob[ImageField]):
    """A picture to convert; arguments as for `ConversionJob`."""

    signal = "image"
    target = "teacher_psnr"
    options = FitOptions
    sections = (*SECTIONS, "partition")

    @property
    def field(self) -> ImageField:
        """The teacher's."""
        assert isinstance(self.teacher.field, ImageField)
        return self.teacher.field

    def ground(self, preset_name: str) -> Config:
        return preset(preset_name, self.field.width, self.field.height, self.field.color_space)

    def notices(self) -> list[str]:
        return [f"{self.teacher.name} becomes {self.to}, at {self.field.width}x{self.field.height} pixels"]

    def make_field(self, config: Config, seed: int) -> ImageField:
        described = self.field.config() | {"encoding": config["encoding"], "network": config["network"]}
        described["partition"] = config.get("partition")
        made: ImageField = build("field", described, generator=torch.Generator().manual_seed(seed))
        return made

    @contextmanager
    def training(self, fitted: ImageField, config: Config, seed: int, hooks: Sequence[Hook]) -> Iterator[Training]:
        yield step_of(fitted, config, PicturePoints(self.field, FitOptions.of(config["fit"]), seed), hooks)

    def _run(self, *arguments: Any) -> Fit[ImageField]:
        move(self.field, here())  # the teacher answers where the student learns
        return super()._run(*arguments)

    def shown(self, config: Config) -> Figure:
        return psnr(self._peak)

    def quality(self, fitted: ImageField, target: float) -> float:
        points, values = self._some_pixels
        near = psnr_of(fitted.color(points), values, self._peak)
        return near if near < target else self._measured(fitted)[0]

    def measure(self, fitted: ImageField, tell: Callable[[str], None]) -> dict[str, float | None]:
        quality, similarity = self._measured(fitted)
        return {
            "teacher_psnr": round(quality, 4),
            "teacher_ssim": None if similarity is None else round(similarity, 6),
        }

    def _measured(self, fitted: ImageField) -> tuple[float, float | None]:
        """PSNR and SSIM against the teacher over every pixel, in strips."""
        metrics = Metrics(peak=self._peak)
        strips: Any = (render_strips(one, view_of(one)) for one in (fitted, self.field))
        for ours, its in zip(*strips, strict=True):
            metrics.add(ours, its)
        return metrics.psnr(), metrics.ssim()

    @cached_property
    def _some_pixels(self) -> tuple[Tensor, Tensor]:
        n_pixels = self.field.width * self.field.height
        options = FitOptions(batch_size=min(n_pixels, N_LOOKED_AT))
        return PicturePoints(self.field, options, 0)(0)

    @cached_property
    def _peak(self) -> float:
        if self.field.color_space == "srgb":
            return 1.0
        largest = max(float(strip.max()) for strip in render_strips(self.field, view_of(self.field)))
        return largest if math.isfinite(largest) and largest > 0 else 1.0
