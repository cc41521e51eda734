"""Fit an image field to a picture.

    result = fit("photo.png")
    result.psnr, result.field

The picture stays as it was decoded (8 bits a channel, mostly); a training step gathers the pixels it needs. The field
is measured as it is stored: parameters are rounded to the storage type first, then every pixel is compared.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fieldforge.apps.fit.fused import make_step
from fieldforge.apps.fit.loop import Budget, Hook, Progress, State, Step, averages_in_place, settle, train
from fieldforge.apps.fit.optimizers.base import Optimizer
from fieldforge.apps.fit.options import FitOptions
from fieldforge.apps.fit.progress import Silent, observer
from fieldforge.apps.fit.recipe import SECTIONS, Config, make_field, run_config
from fieldforge.apps.fit.report import compare, write_report
from fieldforge.apps.fit.samplers import PixelDraw, permute
from fieldforge.apps.images import ImageError, Picture, read_image
from fieldforge.apps.metrics import Metrics
from fieldforge.apps.metrics import psnr as psnr_of
from fieldforge.apps.render.image import render, render_strips, view_of
from fieldforge.backends import use_backend
from fieldforge.fields.checkpoint import Checkpoints
from fieldforge.fields.file import round_to, save_field
from fieldforge.fields.kinds.image import ImageField
from fieldforge.kernels import cpu_door
from fieldforge.registry import build


@dataclass
class ImageFit:
    """What a fit came to.

    Attributes:
        field: the fitted field, with parameters as they are stored.
        psnr: decibels over all pixels and channels, after clipping to the range of the picture.
        ssim: structural similarity, mean over channels; None for pictures under 11 pixels a side.
        seconds: of training.
        state: steps, history, why it stopped.
        config: the complete run configuration.
        training_step: who made the training steps: "native, x86-64-v4", or "PyTorch, as ..." with the reason.
        path: the file, if one was written.
        n_bytes: its size.
    """

    field: ImageField
    psnr: float
    ssim: float | None
    seconds: float
    state: State
    config: Config
    training_step: str
    path: Path | None = None
    n_bytes: int | None = None

    @property
    def bits_per_pixel(self) -> float | None:
        """Size of the file over the number of pixels."""
        return None if self.n_bytes is None else 8 * self.n_bytes / (self.field.width * self.field.height)

    def summary(self) -> dict[str, Any]:
        """The figures as a flat table, for JSON and benchmark rows."""
        return {
            "psnr": round(self.psnr, 4),
            "ssim": None if self.ssim is None else round(self.ssim, 6),
            "seconds": round(self.seconds, 3),
            "steps": self.state.step,
            "stopped_by": self.state.stopped_by,
            "training_step": self.training_step,
            "bytes": self.n_bytes,
            "bits_per_pixel": None if self.bits_per_pixel is None else round(self.bits_per_pixel, 4),
        }

    def _repr_png_(self) -> bytes:
        """The picture, for notebooks."""
        from PIL import Image

        scale = min(1.0, 1024 / max(self.field.width, self.field.height))
        pixels = np.round(np.clip(render(self.field, scale=scale), 0, 1) * 255).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(stream, "PNG")
        return stream.getvalue()


def fit(
    source: str | Path | np.ndarray | Tensor | Picture,
    *,
    output: str | Path | None = None,
    preset: str = "balanced",
    config: str | Path | Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    steps: int | None = None,
    seconds: float | None = None,
    psnr: float | None = None,
    max_bytes: int | None = None,
    seed: int = 0,
    backend: str = "auto",
    resume: bool = False,
    report: str | Path | None = None,
    hooks: Sequence[Hook] = (),
    progress: str | Silent = "auto",
) -> ImageFit:
    """Fit an image field to a picture.

    Args:
        source: a file (PNG, JPEG, WebP, TIFF, EXR, HDR), an array or tensor (height, width[, channels]), or a Picture.
        output: the ``.field`` file to write; None writes nothing.
        preset: name of a starting point, see `fieldforge.apps.fit.presets`.
        config: run file (TOML), tiny-cuda-nn network file (JSON) or the same as a mapping, over the preset.
        overrides: single keys, "encoding.n_levels=12".
        steps: training steps instead of the preset's.
        seconds: stop after about that long.
        psnr: stop as soon as the picture is that good, in decibels.
        max_bytes: shrink the field until its file is no larger.
        seed: of initial parameters and of the order of pixels; same seed, same bits.
        backend: 'auto', 'reference', 'cpu' or 'cuda'.
        resume: continue the interrupted fit that was to write `output`.
        report: PNG with source, fit, error and curves.
        hooks: see `fieldforge.apps.fit.loop.Hook`.
        progress: 'auto', 'json', 'quiet', or an observer of your own.

    Returns:
        The result. If a signal stopped it, `state.stopped_by` is 'signal', and with an `output` the state is saved
        beside it, no field is written, and nothing was measured (psnr is nan).

    Raises:
        ImageError: the picture cannot be read or fitted.
        ConfigError, ValueError: options or configuration.
        BackendError: the backend asked for cannot run.
    """
    picture = _as_picture(source)
    path = Path(output) if output is not None else None
    config = Path(config) if isinstance(config, str) else config
    resolved, notices = run_config(
        picture, preset=preset, config=config, overrides=overrides, steps=steps, max_bytes=max_bytes
    )
    observe = progress if isinstance(progress, Silent) else observer(progress)
    try:
        for notice in (*picture.notes, *notices):
            observe(Progress(State(), message=notice))
        with use_backend(backend):
            result = _run(picture, resolved, path, seconds, psnr, seed, resume, hooks, observe)
            if report is not None and not math.isnan(result.psnr):
                write_report(
                    Path(report),
                    compare(picture, result.field),
                    result.state.history,
                    title=_title(picture, result),
                    psnr=result.psnr,
                )
    finally:
        observe.close()
    return result


def _as_picture(source: str | Path | np.ndarray | Tensor | Picture) -> Picture:
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
) -> tuple[Step, Optimizer, str]:
    """The training step of a configuration, the optimizer inside it, and why the step is not fused ('' if it is)."""
    return make_step(fitted, fitted, fitted.color, config, draw, hooks)


def _run(
    picture: Picture,
    config: Config,
    path: Path | None,
    seconds: float | None,
    target: float | None,
    seed: int,
    resume: bool,
    hooks: Sequence[Hook],
    observe: Silent,
) -> ImageFit:
    fitted = make_field(config, picture, seed)
    identity = {"config": config, "picture": picture.sha256, "seed": seed, "seconds": seconds, "psnr": target}
    state, training_step = _train(picture, fitted, path, identity, resume, hooks, observe)
    if state.stopped_by == "signal" and path is not None:
        return ImageFit(fitted, math.nan, None, state.seconds, state, config, training_step, path)
    storage = FitOptions.of(config["fit"]).storage
    fitted.requires_grad_(False)
    round_to(fitted, storage)
    if picture.width * picture.height > 2**22:
        observe(Progress(state, message=f"measuring all {picture.width * picture.height / 1e6:.0f} million pixels"))
    quality, similarity = measure(picture, fitted)
    result = ImageFit(fitted, quality, similarity, state.seconds, state, config, training_step, path)
    if path is not None:
        result.n_bytes = save_field(path, fitted, metadata=_metadata(picture, result, seed), dtype=storage)
        Checkpoints(path).remove()
    return result


def _train(
    picture: Picture,
    fitted: ImageField,
    path: Path | None,
    identity: dict[str, Any],
    resume: bool,
    hooks: Sequence[Hook],
    observe: Silent,
) -> tuple[State, str]:
    """Train a field in place, up to what inference uses; the state it ends in, and who made the steps.

    The moments and averages of the optimizer, several times the field in size, are free when this returns.
    """
    config, target = identity["config"], identity["psnr"]
    options = FitOptions.of(config["fit"])
    draw = PixelDraw(picture, options, identity["seed"])
    advance, optimizer, why_not_fused = step_of(fitted, config, draw, hooks)
    training_step = f"PyTorch, as {why_not_fused}" if why_not_fused else cpu_door.description()
    observe(Progress(State(), message=f"training step: {training_step}"))
    state = train(
        advance,
        optimizer,
        build("schedule", config["schedule"], path="schedule"),
        Budget(options.n_steps, identity["seconds"], target),
        batch_size=options.batch_size,
        peak=picture.peak,
        observe=observe,
        evaluate=None if target is None else NearOrExact(picture, fitted, optimizer, target),
        checkpoints=Checkpoints(path) if path is not None else None,
        identity=identity,
        resume=resume,
    )
    if state.stopped_by != "signal" or path is None:
        settle(optimizer)
    return state, training_step


class NearOrExact:
    """PSNR over a sample of pixels while that is below the target, then over all."""

    def __init__(self, picture: Picture, fitted: ImageField, optimizer: Optimizer, target: float) -> None:
        self.picture, self.fitted, self.optimizer, self.target = picture, fitted, optimizer, target
        n_pixels = picture.width * picture.height
        position = torch.arange(min(n_pixels, 2**14))
        index = permute(position, n_pixels, torch.zeros_like(position))
        self.points = torch.stack([index % picture.width, index // picture.width], -1) + 0.5
        self.values = picture.values(index)

    def __call__(self) -> float:
        with torch.no_grad(), averages_in_place(self.optimizer):
            color = self.fitted.color(self.points).clamp(0, math.inf)
        near = psnr_of(color, self.values, self.picture.peak)
        return near if near < self.target else measure(self.picture, self.fitted, self.optimizer)[0]


def measure(picture: Picture, fitted: ImageField, optimizer: Optimizer | None = None) -> tuple[float, float | None]:
    """PSNR and SSIM of a field against its picture, over every pixel, in strips; with an optimizer, of its averages."""
    metrics = Metrics(peak=picture.peak)
    first = 0
    with averages_in_place(optimizer) if optimizer is not None else nullcontext():
        for strip in render_strips(fitted, view_of(fitted)):
            metrics.add(strip, picture.rows(first, first + len(strip)))
            first += len(strip)
    return metrics.psnr(), metrics.ssim()


def _metadata(picture: Picture, result: ImageFit, seed: int) -> dict[str, Any]:
    height, width, n_channels = picture.pixels.shape
    return {
        "signal": {
            "kind": "image",
            "width": width,
            "height": height,
            "channels": n_channels,
            "color_space": picture.color_space,
            "sha256": picture.sha256,
        },
        "metrics": {"psnr": round(result.psnr, 4), "ssim": None if result.ssim is None else round(result.ssim, 6)},
        "history": [{"step": row["step"], "psnr": round(row["psnr"], 2)} for row in result.state.history],
        "run": {section: result.config[section] for section in SECTIONS[2:]}
        | {"seed": seed, "training_step": result.training_step},
    }


def _title(picture: Picture, result: ImageFit) -> str:
    parts = [Path(picture.source).name, f"{result.psnr:.2f} dB"]
    if result.ssim is not None:
        parts.append(f"SSIM {result.ssim:.4f}")
    if result.n_bytes is not None:
        parts.append(f"{result.n_bytes:,} bytes, {result.bits_per_pixel:.2f} bits per pixel")
    return "   ".join([*parts, f"{result.state.step} steps in {result.seconds:.1f} s"])
