"""``fieldforge generate interpolate``: fields between two fields, as a video or a row of pictures.

A diffusion model is asked which noise each of the two comes from (DDIM's way back, `Diffusion.inverting`); between the
two noises lies an arc, and each place on it is brought to a field. So what is between is a field of the model's kind,
where the straight line between weights is not. Gaussians have that line, which their own latents give too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fieldforge.apps.cli.words import UsageError, print_json
from fieldforge.apps.fit.command import expect_another_file, expect_writable
from fieldforge.apps.generate.sample import BATCH, Batch, last, steps_taken
from fieldforge.apps.generate.telling import Stages
from fieldforge.apps.generate.thumbnails import beside
from fieldforge.apps.images import linear_to_srgb, write_image
from fieldforge.apps.render.image import render
from fieldforge.apps.render.shape import orbit, render_shape
from fieldforge.apps.render.video import VideoWriter
from fieldforge.devices import arrived, device_of, find_device, home, move, working_on
from fieldforge.fields.collection import OWN
from fieldforge.fields.file import load_field, skeleton_of
from fieldforge.fields.kinds.base import Field
from fieldforge.fields.kinds.image import ImageField
from fieldforge.fields.kinds.shape import ShapeField
from fieldforge.fields.weightspace.generators.base import Generator
from fieldforge.fields.weightspace.generators.diffusion import WeightDiffusion
from fieldforge.fields.weightspace.generators.gaussian import Gaussian, PCAGaussian
from fieldforge.fields.weightspace.layout import Layout
from fieldforge.fields.weightspace.model_file import ModelFile, ModelFileError, load_model


def between(
    model: Generator,
    a: Tensor,
    b: Tensor,
    n: int,
    *,
    n_steps: int | None = None,
    observe: Callable[[float], None] = lambda share: None,
) -> Tensor:
    """Vectors from a to b, (n, P) float32, evenly spaced on their way.

    Args:
        model: a diffusion model, on any device, or a Gaussian.
        a, b: (P,) vectors of the layout, on the CPU, as what comes back is.
        n: how many, both ends among them; at least 2.
        n_steps: of the noise, instead of the model's own for sampling.
        observe: told the share of the work that is done.

    Raises:
        ValueError: the model has nothing between its fields.
    """
    share = torch.linspace(0, 1, n)[:, None]
    if isinstance(model, (Gaussian, PCAGaussian)):
        return torch.lerp(a[None], b[None], share)
    if not isinstance(model, WeightDiffusion):
        raise ValueError(f"model: {model.otype} makes copies of training fields and has nothing between two fields; "
                         "a diffusion model or a Gaussian has")  # fmt: skip
    ends, share = (arrived(rows, device_of(model)) for rows in (torch.stack([a, b]), share))
    with steps_taken(model, n_steps) as total, torch.no_grad():
        across = ends - model.decode(model.encode(ends))  # what the model's components cannot hold goes straight
        noises = last(model.inverting(ends), lambda step: observe(0.3 * step / total))
        arc = spherical(noises[0], noises[1], share)
        eta, model.eta = model.eta, 0.0
        try:
            parts = []
            for first in range(0, n, BATCH):
                start = arc[first : first + BATCH]
                told = Batch(first, len(start), n, total, lambda done: observe(0.3 + 0.7 * done))
                parts.append(last(model.sampling(len(start), start=start), told))
        finally:
            model.eta = eta
    return torch.from_numpy(home(torch.cat(parts).float() + torch.lerp(across[:1], across[1:], share)))


def spherical(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """The arc from a to b (Shoemake 1985), whose length goes evenly from |a| to |b|.

    Args:
        a, b: (d,).
        share: (n, 1) from 0 to 1.

    Returns:
        (n, d).
    """
    a, b, share = a.double(), b.double(), share.double()
    of_a, of_b = a.norm(), b.norm()
    cosine = (a @ b / (of_a * of_b).clamp_min(1e-300)).clamp(-1, 1)
    angle = torch.arccos(cosine)
    if float(angle.sin()) < 1e-6:  # one direction, or opposite ones, between which no arc is the shortest
        return torch.lerp(a[None], b[None], share).float()
    unit = (((1 - share) * angle).sin() * (a / of_a) + (share * angle).sin() * (b / of_b)) / angle.sin()
    return (unit * torch.lerp(of_a, of_b, share)).float()


def picture_of(field: Field, side: int) -> np.ndarray:
    """(side, side, 3) float32 sRGB of an image, square, or of a shape seen from a corner, on white."""
    if isinstance(field, ImageField):
        picture = render(field, size=(side, side))
        n_channels = picture.shape[2]
        color = picture[..., :-1] if n_channels in (2, 4) else picture
        if field.color_space == "linear":
            color = linear_to_srgb(color.clip(0, 1))
        color = color.repeat(3, 2) if color.shape[2] == 1 else color
        cover = picture[..., -1:] if n_channels in (2, 4) else np.ones_like(picture[..., :1])
    elif isinstance(field, ShapeField):
        shaded = render_shape(field, orbit(35.0, 25.0, size=(side, side), up="z", radius=0.87))
        color, cover = shaded[..., :3], shaded[..., 3:]
    else:
        raise UsageError(f"{field.otype} cannot be drawn as a picture; images and shapes can")
    return (color * cover + (1 - cover)).clip(0, 1).astype(np.float32)


def read_vector(path: Path, found: ModelFile) -> Tensor:
    """The vector (P,) of a field file.

    Raises:
        ModelFileError: it is of another architecture than the model's fields.
    """
    field, _ = load_field(path)
    found.expect_layout(Layout.of(field.state_dict()), str(path))
    assert found.field_config is not None
    theirs, mine = _shared(field.config()), _shared(skeleton_of(found.field_config).config())
    if theirs != mine:
        key = next(key for key in mine if mine[key] != theirs.get(key))
        raise ModelFileError(found.path, f"is a model of fields whose {key} is {mine[key]}, but {path} has "
                                         f"{theirs.get(key)}")  # fmt: skip
    return found.layout.flatten(field.state_dict()).float()


def _shared(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in OWN}


def interpolate_command(options: argparse.Namespace) -> int:
    """``fieldforge generate interpolate``; returns the exit code."""
    output: Path = options.output
    is_video = output.suffix.lower() == ".mp4"
    if not is_video and output.suffix.lower() != ".png":
        raise UsageError(f"{output}: expected a name that ends in .mp4 or .png, got '{output.suffix}'")
    if options.frames is not None and options.frames < 2:
        raise UsageError(f"--frames {options.frames}: expected at least 2, both ends")
    if is_video and options.size % 2:
        raise UsageError(f"--size {options.size}: H.264 wants an even width and height")
    device = find_device(options.device)
    expect_writable(output)
    for source in (options.model, options.a, options.b):
        expect_another_file(output, source)
    found = load_model(options.model)
    if found.field_config is None:
        raise UsageError(f"{options.model}: does not say what its fields are; train it on a collection")
    a, b = (read_vector(path, found) for path in (options.a, options.b))
    n = options.frames or (60 if is_video else 9)
    style = "quiet" if options.quiet else "json" if options.json else "auto"
    with Stages(style, 2) as stages:
        model = move(found.model, device)
        rows = between(model, a, b, n, n_steps=options.steps_of_sampling, observe=stages.stage("fields between"))
        observe = stages.stage("pictures")

        def picture(number: int) -> np.ndarray:
            field = move(found.field(rows[number]), device)
            with working_on(device):
                drawn = picture_of(field, options.size)
            observe((number + 1) / n)
            return drawn

        if is_video:
            with VideoWriter(output, width=options.size, height=options.size, frames_per_second=options.fps) as video:
                for number in range(n):
                    video.write((picture(number) * 255 + 0.5).astype(np.uint8))
        else:
            write_image(output, beside([[picture(number) for number in range(n)]]).astype(np.float32))
    ends = [float((rows[place] - end).norm() / end.norm()) for place, end in ((0, a), (-1, b))]
    if options.json:
        print_json({"event": "result", "output": str(output), "frames": n, "ends_off": ends})
    elif not options.quiet:
        print(f"{output}: {n} fields; the ends are those given to {max(ends):.1%} of their weights' norm")
    return 0
