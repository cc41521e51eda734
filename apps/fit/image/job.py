"""Fit an image field to a picture.

    result = fit("photo.png")
    result.psnr, result.field

The picture stays as it was decoded (8 bits a channel, mostly); a training step gathers the pixels it needs, and every
pixel is compared in the end.
"""

from __future__ import annotations

import io
import math
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
from fieldforge.apps.fit.gradient_transforms.base import GradientTransform
from fieldforge.apps.fit.image.presets import preset
from fieldforge.apps.fit.image.report import block_means, compare, write_report
from fieldforge.apps.fit.job import Fit, Job, Plan, PlanKeywords, Training
from fieldforge.apps.fit.loop import Figure, Hook, psnr
from fieldforge.apps.fit.losses.squared import L2
from fieldforge.apps.fit.optimizers.base import Optimizer, Parameters
from fieldforge.apps.fit.options import FitOptions
from fieldforge.apps.fit.placement import raster_places
from fieldforge.apps.fit.recipe import SECTIONS, Config
from fieldforge.apps.fit.samplers import PixelDraw, permute
from fieldforge.apps.fit.selections.base import selected
from fieldforge.apps.fit.slices import Slice, centers, square
from fieldforge.apps.images import ImageError, Picture, read_image
from fieldforge.apps.metrics import Metrics
from fieldforge.apps.metrics import psnr as psnr_of
from fieldforge.apps.render.image import render, render_strips, view_of
from fieldforge.fields.kinds.image import ImageField
from fieldforge.registry import ConfigError, build


@dataclass(kw_only=True)
class ImageFit(Fit[ImageField]):
    """What a fit to a picture came to."""

    @property
    def psnr(self) -> float:
        """Decibels over all pixels and channels, after clipping to the range of the picture."""
        return self.figure("psnr")

    @property
    def ssim(self) -> float | None:
        """Structural similarity, mean over channels; None for pictures under 11 pixels a side."""
        return self.figures.get("ssim")

    @property
    def bits_per_pixel(self) -> float | None:
        """Size of the file over the number of pixels."""
        return None if self.n_bytes is None else 8 * self.n_bytes / (self.field.width * self.field.height)

    def summary(self) -> dict[str, Any]:
        """The figures as a flat table, for JSON and benchmark rows."""
        bits = self.bits_per_pixel
        return super().summary() | {"bits_per_pixel": None if bits is None else round(bits, 4)}

    def _repr_png_(self) -> bytes:
        """The picture, for notebooks."""
        from PIL import Image

        scale = min(1.0, 1024 / max(self.field.width, self.field.height))
        pixels = np.round(np.clip(render(self.field, scale=scale), 0, 1) * 255).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(stream, "PNG")
        return stream.getvalue()


Source = str | Path | np.ndarray | Tensor | Picture


def fit(
    source: Source, *, psnr: float | None = None, report: str | Path | None = None, **plan: Unpack[PlanKeywords]
) -> ImageFit:
    """Fit an image field to a picture.

    Args:
        source: a file (PNG, JPEG, WebP, TIFF, EXR, HDR), an array or tensor (height, width[, channels]), or a Picture.
        psnr: stop as soon as the picture is that good, in decibels.
        report: PNG with source, fit, error and curves.
        plan: output, preset, steps, seconds, ...: see `fieldforge.apps.fit.job.Plan`.

    Returns:
        The result. If a signal stopped it, `state.stopped_by` is 'signal', and with an `output` the state is saved
        beside it, no field is written, and nothing was measured (psnr is nan).

    Raises:
        ImageError: the picture cannot be read or fitted.
        ConfigError, ValueError: options or configuration.
        BackendError: the backend asked for cannot run.

    Example:
        >>> fit(np.zeros((8, 8), np.uint8), steps=1, progress="quiet").state.step
        1
    """
    job = ImageJob(source, report=None if report is None else Path(report))
    result: ImageFit = job.run(Plan(**plan), psnr)
    return result


class ImageJob(Job[ImageField]):
    """A picture to fit.

    Args:
        source: as for `fit`.
        report: PNG to write when all is done.

    Raises:
        ImageError: the picture cannot be read or fitted.
    """

    signal = "image"
    target = "psnr"
    options = FitOptions
    sections = (*SECTIONS, "partition", "selection", "gradient_transform")

    def __init__(self, source: Source, *, report: Path | None = None) -> None:
        self.picture, self.report = _as_picture(source), report

    @property
    def digest(self) -> str | None:
        return self.picture.sha256

    def notices(self) -> list[str]:
        return list(self.picture.notes)

    def preset(self, name: str) -> Config:
        return preset(name, self.picture.width, self.picture.height, self.picture.color_space)

    def complete(self, given: Config) -> list[str]:
        """instant-ngp leaves per_level_scale out: the finest level is to be half the longest side."""
        encoding = given.get("encoding", {})
        if "grid" not in str(encoding.get("otype", "")).lower() or "per_level_scale" in encoding:
            return []
        levels, base = encoding.get("n_levels", 16), encoding.get("base_resolution", 16)
        if not (isinstance(levels, int) and isinstance(base, int) and levels > 1 and base > 0):
            return []
        finest = max(self.picture.width, self.picture.height) / 2
        encoding["per_level_scale"] = round(max(1.0, math.exp(math.log(finest / base) / (levels - 1))), 6)
        return [
            f"encoding.per_level_scale: {encoding['per_level_scale']} (instant-ngp's rule: finest level {finest:g})"
        ]

    def settle(self, config: Config) -> list[str]:
        if "gradient_transform" not in config:
            return []
        if config["fit"].get("precision", "float32") != "float32":
            raise ConfigError("fit.precision: a gradient transform is computed in float32; leave out precision, or it")
        if "selection" in config:
            raise ConfigError("selection: a gradient transform takes all pixels; leave out selection, or it")
        return [f"fit.batch_size: {config['gradient_transform']['otype']} takes all pixels in every step"]

    def make_field(self, config: Config, seed: int) -> ImageField:
        height, width, n_channels = self.picture.pixels.shape
        described = {"otype": "ImageField", "encoding": config["encoding"], "network": config["network"]}
        described |= {"width": width, "height": height, "n_channels": n_channels}
        described |= {"partition": config.get("partition")}
        described |= {"color_space": self.picture.color_space}
        if self.picture.color_space == "linear":  # light has any size; what the network gives should be about 1
            described["output_scale"] = [self._magnitude] * n_channels
        made: ImageField = build("field", described, generator=torch.Generator().manual_seed(seed))
        return made

    @contextmanager
    def training(self, fitted: ImageField, config: Config, seed: int, hooks: Sequence[Hook]) -> Iterator[Training]:
        draw = PixelDraw(self.picture, FitOptions.of(config["fit"]), seed)
        if "gradient_transform" in config:
            yield transformed_step(fitted, config, self.picture, hooks)
        else:
            yield step_of(fitted, config, selected(draw, fitted, config), hooks)

    def shown(self, config: Config) -> Figure:
        return psnr(self.picture.peak)

    def quality(self, fitted: ImageField, target: float) -> float:
        points, values = self._some_pixels
        near = psnr_of(fitted.color(points).clamp(0, math.inf), values, self.picture.peak)
        return near if near < target else measure(self.picture, fitted)[0]

    def measure(self, fitted: ImageField, tell: Callable[[str], None]) -> dict[str, float | None]:
        n_pixels = self.picture.width * self.picture.height
        if n_pixels > 2**22:
            tell(f"measuring all {n_pixels / 1e6:.0f} million pixels")
        quality, similarity = measure(self.picture, fitted)
        return {"psnr": round(quality, 4), "ssim": None if similarity is None else round(similarity, 6)}

    def samples(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        """So many pixels, each at most once."""
        n_pixels = self.picture.width * self.picture.height
        position = torch.arange(min(n_pixels, n))
        index = permute(position, n_pixels, torch.full_like(position, seed))
        places = torch.stack([index % self.picture.width, index // self.picture.width], -1) + 0.5
        return places, self.picture.values(index)

    def families(self) -> dict[str, str]:
        return {"siren": "siren", "ffn": "ffn", "finer": "finer", "grid": "balanced"}

    @property
    def full_side(self) -> int:
        return max(self.picture.width, self.picture.height)

    def slices(self, side: int) -> list[Slice]:
        """The whole picture, resampled to a square as the field's unit square is: side, at most the shorter side."""
        picture = self.picture
        shorter = min(picture.width, picture.height)
        side = min(side, shorter)
        pixels = torch.from_numpy(block_means(picture, max(1, shorter // (2 * side))))
        return [Slice(centers(picture.width, picture.height, side), square(pixels, side))]

    def places(self, seed: int) -> tuple[Tensor, Tensor]:
        return raster_places(self.picture.pixels, seed)

    def metadata(self) -> dict[str, Any]:
        height, width, n_channels = self.picture.pixels.shape
        return {"width": width, "height": height, "channels": n_channels, "color_space": self.picture.color_space}

    def result(self, **parts: Any) -> ImageFit:
        return ImageFit(**parts)

    def finish(self, result: ImageFit) -> None:
        if self.report is not None:
            write_report(
                self.report,
                compare(self.picture, result.field),
                result.state.history,
                title=self._title(result),
                psnr=result.psnr,
                diagnostics=result.diagnostics,
            )

    def _title(self, result: ImageFit) -> str:
        parts = [Path(self.picture.source).name, f"{result.psnr:.2f} dB"]
        if result.ssim is not None:
            parts.append(f"SSIM {result.ssim:.4f}")
        if result.n_bytes is not None:
            parts.append(f"{result.n_bytes:,} bytes, {result.bits_per_pixel:.2f} bits per pixel")
        return "   ".join([*parts, f"{result.state.step} steps in {result.seconds:.1f} s"])

    @cached_property
    def _magnitude(self) -> float:
        """The root of the mean square of the picture's values, to six digits; 1 for a black one."""
        picture = self.picture
        strips = (picture.rows(top, min(picture.height, top + 256)) for top in range(0, picture.height, 256))
        total = sum(float(np.square(strip, dtype=np.float64).sum()) for strip in strips)
        return float(f"{math.sqrt(total / picture.pixels.size):.6g}") or 1.0

    @cached_property
    def _some_pixels(self) -> tuple[Tensor, Tensor]:
        """Places and values of some thousand pixels."""
        return self.samples(2**14, 0)


def _as_picture(source: Source) -> Picture:
    if isinstance(source, Picture):
        picture = source
    elif isinstance(source, (str, Path)):
        picture = read_image(source)
    else:
        picture = Picture.from_array(source)
    height, width, _ = picture.pixels.shape
    if min(width, height) < 2:
        raise ImageError(
            f"{picture.source}: is {width}x{height} pixels; a field interpolates between neighbours and needs at least "
            "2 pixels a side"
        )
    return picture


def step_of(
    fitted: ImageField, config: Config, draw: Callable[[int], tuple[Tensor, Tensor]], hooks: Sequence[Hook] = ()
) -> Training:
    """The training step of a configuration."""
    return Training(*make_step(fitted, fitted, fitted.color, config, draw, hooks))


def transformed_step(fitted: ImageField, config: Config, picture: Picture, hooks: Sequence[Hook] = ()) -> Training:
    """The training step of a configuration with a gradient transform.

    Raises:
        ConfigError: a loss other than L2.
    """
    transform: GradientTransform = build("gradient_transform", config["gradient_transform"], path="gradient_transform")
    if not isinstance(build("loss", config["loss"], path="loss"), L2):
        raise ConfigError(f"loss.otype: {transform.otype} is of the loss L2; --set loss.otype=L2, or leave it out")
    parameters = Parameters.of(fitted, [fitted.network])
    optimizer: Optimizer = build("optimizer", config["optimizer"], path="optimizer", parameters=parameters)
    step = transform.step(fitted, picture, optimizer, hooks)
    return Training(step, optimizer, f"the gradient transform {transform.otype} looks at all pixels")


def measure(picture: Picture, fitted: ImageField) -> tuple[float, float | None]:
    """PSNR and SSIM of a field against its picture, over every pixel, in strips."""
    metrics = Metrics(peak=picture.peak)
    first = 0
    for strip in render_strips(fitted, view_of(fitted)):
        metrics.add(strip, picture.rows(first, first + len(strip)))
        first += len(strip)
    return metrics.psnr(), metrics.ssim()
