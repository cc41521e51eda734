"""Fit an image field to a picture.

    result = fit("photo.png")
    result.psnr, result.field

The picture stays as it was decoded (8 bits a channel, mostly); a training step gathers the pixels it needs. The field
is measured as it is stored: parameters are rounded to the storage type first, then every pixel is compared.
"""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fieldforge.apps.fit.config import apply_overrides, read_run, validate
from fieldforge.apps.fit.fused import fused_step
from fieldforge.apps.fit.loop import Budget, Hook, PlainStep, Progress, State, Step, averages_in_place, train
from fieldforge.apps.fit.optimizers.base import Optimizer, Parameters
from fieldforge.apps.fit.options import FitOptions
from fieldforge.apps.fit.presets import preset as preset_config
from fieldforge.apps.fit.progress import Silent, observer
from fieldforge.apps.fit.report import Comparison, write_report
from fieldforge.apps.fit.samplers import ShuffledIndices
from fieldforge.apps.images import ImageError, Picture, read_image
from fieldforge.apps.metrics import Metrics
from fieldforge.apps.metrics import psnr as psnr_of
from fieldforge.apps.render.image import render, render_strips, view_of
from fieldforge.backends import use_backend
from fieldforge.checks import did_you_mean
from fieldforge.fields.checkpoint import Checkpoints
from fieldforge.fields.file import round_to, save_field
from fieldforge.fields.kinds.image import ImageField
from fieldforge.registry import ConfigError, build

Config = dict[str, Any]

SECTIONS = ("encoding", "network", "loss", "optimizer", "schedule", "fit")
"""What the run file of an image fit holds."""


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
        path: the file, if one was written.
        n_bytes: its size.
    """

    field: ImageField
    psnr: float
    ssim: float | None
    seconds: float
    state: State
    config: Config
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


def run_config(
    picture: Picture,
    *,
    preset: str = "balanced",
    config: Path | Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    steps: int | None = None,
    max_bytes: int | None = None,
) -> tuple[Config, list[str]]:
    """The complete configuration of a run, and notices about what was filled in or left out.

    The preset is the ground; sections of `config` replace its sections; `overrides` ("encoding.n_levels=12") change
    single keys; `steps` and `max_bytes` come last.

    Raises:
        ConfigError, ValueError: unknown preset, key or value; or `max_bytes` below what such a field can shrink to.
    """
    height, width, _ = picture.pixels.shape
    resolved = preset_config(preset, width, height, picture.color_space)
    notices: list[str] = []
    if isinstance(config, Mapping):
        resolved |= copy.deepcopy(dict(config))
    elif config is not None:
        given, notices = read_run(config, extra=("fit",))
        if config.suffix.lower() == ".json":
            notices += _fill_growth(given, width, height)
        resolved |= given
    resolved = apply_overrides(resolved, overrides)
    for section in resolved.keys() - SECTIONS:
        raise ConfigError(
            f"{section}: an image fit has no such section{did_you_mean(section, SECTIONS)}; "
            f"known: {', '.join(SECTIONS)}"
        )
    if steps is not None:
        resolved["fit"] = {**resolved["fit"], "n_steps": steps}
    resolved, more = validate(resolved, extra=("fit",))
    resolved["fit"] = FitOptions.of(resolved["fit"]).config()
    if max_bytes is not None:
        shrink(resolved, picture, max_bytes)
    return resolved, [*notices, *more]


def _fill_growth(config: Config, width: int, height: int) -> list[str]:
    """instant-ngp leaves per_level_scale out and sets it by the picture: the finest level is half the longest side."""
    encoding = config.get("encoding", {})
    if "grid" not in str(encoding.get("otype", "")).lower() or "per_level_scale" in encoding:
        return []
    levels, base = encoding.get("n_levels", 16), encoding.get("base_resolution", 16)
    if not (isinstance(levels, int) and isinstance(base, int) and levels > 1 and base > 0):
        return []
    finest = max(width, height) / 2
    encoding["per_level_scale"] = round(max(1.0, math.exp(math.log(finest / base) / (levels - 1))), 6)
    return [f"encoding.per_level_scale: {encoding['per_level_scale']} (instant-ngp's rule: finest level {finest:g})"]


def make_field(config: Config, picture: Picture, seed: int) -> ImageField:
    """The untrained field of a configuration: same seed, same parameters."""
    height, width, n_channels = picture.pixels.shape
    described = {"otype": "ImageField", "encoding": config["encoding"], "network": config["network"]}
    described |= {"width": width, "height": height, "n_channels": n_channels, "color_space": picture.color_space}
    if picture.color_space == "linear":  # light has any size; what the network gives should be about 1
        described["output_scale"] = [_magnitude(picture)] * n_channels
    made: ImageField = build("field", described, generator=torch.Generator().manual_seed(seed))
    return made


def _magnitude(picture: Picture) -> float:
    """The root of the mean square of a picture's values, to six digits; 1 for a black one."""
    strips = (picture.rows(top, min(picture.height, top + 256)) for top in range(0, picture.height, 256))
    total = sum(float(np.square(strip, dtype=np.float64).sum()) for strip in strips)
    return float(f"{math.sqrt(total / picture.pixels.size):.6g}") or 1.0


_HEADER_BYTES = 8192
"""What the header of a field file takes at most beside the parameters: configuration, figures, thinned history."""
_BYTES_A_NUMBER = {"float64": 8.0, "float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "int8": 1 + 4 / 256}


def stored_bytes(config: Config, picture: Picture) -> float:
    """An upper bound on the size of the file a configuration makes, without allocating its parameters."""
    with torch.device("meta"):
        skeleton = make_field(config, picture, 0)
    n_numbers = sum(tensor.numel() for tensor in skeleton.state_dict().values())
    return n_numbers * _BYTES_A_NUMBER[config["fit"]["storage"]] + _HEADER_BYTES


def shrink(config: Config, picture: Picture, max_bytes: int) -> None:
    """Make the field smaller, in place, until its file fits: grid tables first, then the width of the network.

    Raises:
        ValueError: it cannot be made that small.
    """
    while stored_bytes(config, picture) > max_bytes:
        encoding, network = config["encoding"], config["network"]
        if encoding.get("log2_hashmap_size", 0) > 8:
            encoding["log2_hashmap_size"] -= 1
        elif network.get("n_neurons", 0) > 16:
            network["n_neurons"] = max(16, network["n_neurons"] * 3 // 4)
        else:
            raise ValueError(
                f"max_bytes: {max_bytes:,} bytes are too few for {encoding['otype']} and {network['otype']}: the "
                f"smallest such file takes {math.ceil(stored_bytes(config, picture)):,}; --preset tiny or "
                "--set fit.storage=int8 may do"
            )


@dataclass
class PixelDraw:
    """The samples of a step: pixels in shuffled order, a share of them moved between pixel centres.

    Calling it gives points (batch, 2) in pixels and targets (batch, n_channels).
    """

    picture: Picture
    options: FitOptions
    seed: int
    indices: ShuffledIndices = field(init=False)

    def __post_init__(self) -> None:
        height, width, _ = self.picture.pixels.shape
        self.indices = ShuffledIndices(width * height, batch_size=self.options.batch_size, seed=self.seed)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        _, width, _ = self.picture.pixels.shape
        index = self.indices(step)
        corner = torch.stack([index % width, index // width], -1)
        n_moved = round(self.options.jitter * len(index))
        if not n_moved:
            return corner + 0.5, self.picture.values(index)
        generator = torch.Generator().manual_seed((self.seed << 32) + step)
        moved, color = self._between(corner[:n_moved], torch.rand(n_moved, 2, generator=generator))
        return (
            torch.cat([moved, corner[n_moved:] + 0.5]),
            torch.cat([color, self.picture.values(index[n_moved:])]),
        )

    def _between(self, corner: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        """Points inside the square from a pixel's centre to the next one's, and the bilinear colour there."""
        height, width, _ = self.picture.pixels.shape
        far = torch.minimum(corner + 1, torch.tensor([width - 1, height - 1]))
        weight_x, weight_y = offset[:, :1], offset[:, 1:]

        def values(x: Tensor, y: Tensor) -> Tensor:
            return self.picture.values(y[:, 1] * width + x[:, 0])

        top = values(corner, corner) * (1 - weight_x) + values(far, corner) * weight_x
        bottom = values(corner, far) * (1 - weight_x) + values(far, far) * weight_x
        return corner + 0.5 + offset * (far - corner), top * (1 - weight_y) + bottom * weight_y


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
        The result; if a signal stopped it, `state.stopped_by` is 'signal', the state is saved and no file is written.

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
        for notice in notices:
            observe(Progress(State(), message=notice))
        with use_backend(backend):
            result = _run(picture, resolved, path, seconds, psnr, seed, resume, hooks, observe)
            if result.state.stopped_by != "signal" and report is not None:
                write_report(
                    Path(report),
                    _comparison(picture, result.field),
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
    parameters = Parameters.of(fitted, [fitted.network])
    optimizer: Optimizer = build("optimizer", config["optimizer"], path="optimizer", parameters=parameters)
    loss = build("loss", config["loss"], path="loss")
    step = fused_step(fitted, draw, loss, optimizer, hooks)
    if isinstance(step, str):
        return PlainStep(query=fitted.color, draw=draw, loss=loss, optimizer=optimizer, hooks=hooks), optimizer, step
    return step, optimizer, ""


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
    options = FitOptions.of(config["fit"])
    fitted = make_field(config, picture, seed)
    advance, optimizer, why_not_fused = step_of(fitted, config, PixelDraw(picture, options, seed), hooks)
    if why_not_fused:
        observe(Progress(State(), message=f"training step by step in PyTorch: {why_not_fused}"))
    parameters = list(optimizer.parameters)
    state = train(
        advance,
        parameters,
        optimizer,
        build("schedule", config["schedule"], path="schedule"),
        Budget(options.n_steps, seconds, target),
        batch_size=options.batch_size,
        observe=observe,
        evaluate=lambda: _near_or_exact(picture, fitted, optimizer, target),
        checkpoints=Checkpoints(path) if path is not None else None,
        identity={"config": config, "picture": picture.sha256, "seed": seed, "seconds": seconds, "psnr": target},
        resume=resume,
    )
    with torch.no_grad():
        for parameter, average in zip(parameters, [one.clone() for one in optimizer.averaged()], strict=True):
            parameter.copy_(average)
    fitted.requires_grad_(False)
    round_to(fitted, options.storage)
    if picture.width * picture.height > 2**22:
        observe(Progress(state, message=f"measuring all {picture.width * picture.height / 1e6:.0f} million pixels"))
    quality, similarity = measure(picture, fitted)
    result = ImageFit(fitted, quality, similarity, state.seconds, state, config, path)
    if path is not None and state.stopped_by != "signal":
        result.n_bytes = save_field(path, fitted, metadata=_metadata(picture, result, seed), dtype=options.storage)
        Checkpoints(path).remove()
    return result


def _near_or_exact(picture: Picture, fitted: ImageField, optimizer: Optimizer, target: float | None) -> float:
    """PSNR over a sample of pixels while that is below the target, then over all."""
    n_pixels = picture.width * picture.height
    index = ShuffledIndices(n_pixels, batch_size=min(n_pixels, 2**14), seed=0)(0)
    points = torch.stack([index % picture.width, index // picture.width], -1) + 0.5
    with torch.no_grad(), averages_in_place(optimizer):
        near = psnr_of(fitted.color(points).clamp(0, math.inf), picture.values(index), picture.peak)
    return near if target is None or near < target else measure(picture, fitted, optimizer)[0]


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
        "run": {section: result.config[section] for section in SECTIONS[2:]} | {"seed": seed},
    }


def _comparison(picture: Picture, fitted: ImageField) -> Comparison:
    """Source and fit at most 640 pixels wide, and a centre crop of at most 512 at full resolution."""
    height, width, _ = picture.pixels.shape
    every = max(1, math.ceil(max(width, height) / 640))
    side = min(512, width, height)
    x, y = (width - side) // 2, (height - side) // 2
    crop = picture.rows(y, y + side)[:, x : x + side]
    reduced = np.concatenate([_block_means(picture.rows(top, top + every), every) for top in _tops(height, every)])
    return Comparison(
        source=reduced,
        fit=render(fitted, size=(reduced.shape[1], reduced.shape[0])),
        source_crop=crop,
        fit_crop=render(fitted, crop=(x, y, side, side)),
        color_space=picture.color_space,
    )


def _tops(height: int, every: int) -> range:
    return range(0, height - height % every, every)


def _block_means(strip: np.ndarray, every: int) -> np.ndarray:
    n_blocks = strip.shape[1] // every
    return strip[:, : n_blocks * every].reshape(every, n_blocks, every, -1).mean((0, 2))[None]


def _title(picture: Picture, result: ImageFit) -> str:
    parts = [Path(picture.source).name, f"{result.psnr:.2f} dB"]
    if result.ssim is not None:
        parts.append(f"SSIM {result.ssim:.4f}")
    if result.n_bytes is not None:
        parts.append(f"{result.n_bytes:,} bytes, {result.bits_per_pixel:.2f} bits per pixel")
    return "   ".join([*parts, f"{result.state.step} steps in {result.seconds:.1f} s"])
