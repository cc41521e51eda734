"""``fieldforge render``: a field file in, a picture or a video out."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Literal

import numpy as np
from rich.progress import track

from fieldforge.apps.cli.words import UsageError
from fieldforge.apps.fit.command import expect_another_file, expect_writable
from fieldforge.apps.images import ImageWriter
from fieldforge.apps.mesh import progress_bar
from fieldforge.apps.render.audio import sample
from fieldforge.apps.render.film import Moment, frames
from fieldforge.apps.render.image import Pictured, render_strips, view_of
from fieldforge.apps.render.shape import VIEWS, orbit
from fieldforge.apps.render.shape import render_strips as render_shape_strips
from fieldforge.apps.render.traced import TracedShape
from fieldforge.apps.render.video import MAX_VIDEO_SIDE, VideoWriter
from fieldforge.apps.render.views import render_scene
from fieldforge.apps.sounds import write_wav
from fieldforge.backends import use_backend
from fieldforge.checks import with_article
from fieldforge.devices import find_device, move, working_on
from fieldforge.fields.file import load_field
from fieldforge.fields.kinds.audio import AudioField
from fieldforge.fields.kinds.base import Field
from fieldforge.fields.kinds.image import ImageField
from fieldforge.fields.kinds.scene import SceneField
from fieldforge.fields.kinds.shape import ShapeField
from fieldforge.fields.kinds.video import VideoField
from fieldforge.renderers.cameras import MAX_SIDE, Pinhole

ONLY_IMAGES: dict[str, object] = {"scale": None, "crop": None, "bits": None}
ONLY_SOUNDS: dict[str, object] = {"rate": None}
ONLY_SHAPES: dict[str, object] = {"view": None, "mode": None, "up": "y", "frames": None, "shadows": False}
N_FRAMES = 120
ONLY_SCENES: dict[str, object] = {"split": None, "data": None, "path": None, "fps": None, "force": False, "time": None,
                               "engine": "auto"}  # fmt: skip
"""Options that one kind of field has, with the value that means nobody asked."""
_NOT_OF_FILMS = ONLY_SOUNDS | {
    name: unset for name, unset in (ONLY_SHAPES | ONLY_SCENES).items() if name not in ("fps", "time", "frames")
}


def render_to_file(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    if options.split is None:
        expect_writable(options.output)
    expect_another_file(options.output, options.field)
    device = find_device(options.device)
    field, metadata = load_field(options.field)
    if options.max_level is not None:
        field.show_level(options.max_level)
    field = move(field, device)
    with use_backend(options.backend), working_on(device):
        if isinstance(field, ImageField):
            _refuse(options, ONLY_SHAPES | ONLY_SCENES | ONLY_SOUNDS, field)
            return render_picture(field, options, field.n_channels)
        if isinstance(field, AudioField):
            _refuse(options, ONLY_SHAPES | ONLY_SCENES | {"scale": None, "crop": None, "size": None}, field)
            return _render_sound(field, options)
        if isinstance(field, VideoField):
            _refuse(options, _NOT_OF_FILMS, field)
            return _render_film(field, options)
        if isinstance(field, ShapeField):
            _refuse(options, ONLY_IMAGES | ONLY_SCENES | ONLY_SOUNDS, field)
            return _render_shape(field, options)
        if isinstance(field, SceneField):
            _refuse(options, ONLY_IMAGES | ONLY_SOUNDS | {"view": None, "up": "y", "shadows": False}, field)
            return render_scene(field, metadata, options)
    raise UsageError(f"{options.field}: is {with_article(field.otype)}, which is neither seen nor heard")


def _refuse(options: argparse.Namespace, foreign: Mapping[str, object], field: Field) -> None:
    for name, unset in foreign.items():
        if getattr(options, name) != unset:
            shown = getattr(options, name) if name == "mode" else name
            raise UsageError(f"--{shown}: {options.field} is {with_article(field.otype)}, which has no such option")


def render_picture(field: Pictured, options: argparse.Namespace, n_channels: int) -> int:
    """Write what has colours to a picture file; returns the exit code."""
    view = view_of(field, size=options.size, scale=options.scale, crop=options.crop)
    width, height = view.size
    if options.bits not in (None, 8, 16):
        raise UsageError(f"--bits: pictures have 8 or 16, got {options.bits}")
    color_space: Literal["srgb", "linear"] = "srgb" if field.color_space == "srgb" else "linear"
    with ImageWriter(
        options.output, width=width, height=height, n_channels=n_channels, bits=options.bits or 8,
        color_space=color_space,
    ) as writer:  # fmt: skip
        strips = render_strips(field, view)
        for strip in track(strips, "rendering", transient=True, disable=options.quiet) if not options.quiet else strips:
            writer.write(np.ascontiguousarray(strip))
    if not options.quiet:
        print(f"{options.output}: {width}x{height} pixels")
    return 0


def _render_sound(field: AudioField, options: argparse.Namespace) -> int:
    if options.output.suffix.lower() != ".wav":
        raise UsageError(f"{options.output}: a sound goes to a .wav file")
    if options.bits == 8:
        raise UsageError("--bits: sounds have 16, 24 or 32 (floats), got 8")
    rate = options.rate or field.sample_rate
    samples = sample(field, rate)
    n_clipped = write_wav(options.output, samples, rate, bits=options.bits or 16)
    if not options.quiet:
        clipped = f", {n_clipped} of them clipped at full scale (--bits 32 keeps them)" if n_clipped else ""
        print(f"{options.output}: {len(samples):,} samples at {rate} Hz, {field.n_channels} channels{clipped}")
    return 0


def _render_film(field: VideoField, options: argparse.Namespace) -> int:
    if options.output.suffix.lower() != ".mp4":
        if options.fps is not None or options.frames is not None:
            raise UsageError("--fps and --frames: are of an .mp4; a picture is one frame, at --time")
        return render_picture(Moment(field, options.time or 0.0), options, field.n_channels)
    for name in ("time", "frames", "scale", "crop", "bits"):
        if getattr(options, name) is not None:
            raise UsageError(f"--{name}: an .mp4 shows the whole film; --size and --fps say how")
    width, height = options.size or (field.width // 2 * 2, field.height // 2 * 2)  # H.264 wants even sides
    pace = options.fps or min(240.0, max(1.0, field.frames_per_second))
    if not (2 <= width <= MAX_VIDEO_SIDE and 2 <= height <= MAX_VIDEO_SIDE):
        raise UsageError(f"--size {width}x{height}: films are 2x2 to {MAX_VIDEO_SIDE}x{MAX_VIDEO_SIDE}")
    n_frames = 0
    with (
        VideoWriter(options.output, width=width, height=height, frames_per_second=pace) as video,
        progress_bar("rendering", is_silent=options.quiet) as observe,
    ):
        for picture in frames(field, pace, (width, height), observe):
            video.write(picture)
            n_frames += 1
    if not options.quiet:
        print(f"{options.output}: {width}x{height} pixels, {n_frames} frames at {pace:g} a second")
    return 0


def _render_shape(field: ShapeField, options: argparse.Namespace) -> int:
    width, height = options.size or (800, 800)
    is_video = options.output.suffix.lower() == ".mp4"
    longest = MAX_VIDEO_SIDE if is_video else MAX_SIDE
    if not (1 <= width <= longest and 1 <= height <= longest):
        raise UsageError(
            f"--size {width}x{height}: {'videos' if is_video else 'pictures'} of shapes are 1x1 to {longest}x{longest}"
        )
    mode, n_frames = options.mode or "clay", options.frames or N_FRAMES
    side = options.view or ("turntable" if is_video else "iso")
    if (side == "turntable") != is_video:
        raise UsageError(f"--view: {'a turntable goes to an .mp4' if not is_video else 'an .mp4 is a turntable'}")
    if options.shadows and mode != "clay":
        raise UsageError(f"--shadows: belong to --clay, not to --{mode}")
    shape = TracedShape(field)  # what all frames share is made once
    if not is_video:
        azimuth, elevation = VIEWS[side] if isinstance(side, str) else side
        camera = orbit(azimuth, elevation, size=(width, height), up=options.up, radius=shape.radius)
        with (
            ImageWriter(
                options.output, width=width, height=height, n_channels=3, bits=8, color_space="srgb"
            ) as writer,
            progress_bar("rendering", is_silent=options.quiet) as observe,
        ):  # fmt: skip
            for rows in _strips(shape, camera, mode, options.shadows, observe):
                writer.write(rows)
    else:
        with (
            VideoWriter(options.output, width=width, height=height) as video,
            progress_bar("rendering", is_silent=options.quiet) as observe,
        ):
            for frame in range(n_frames):
                around = 360 * frame / n_frames
                camera = orbit(around, 15.0, size=(width, height), up=options.up, radius=shape.radius)
                done = partial(_of_a_part, observe, frame, n_frames)
                picture = np.concatenate(list(_strips(shape, camera, mode, options.shadows, done)))
                video.write(np.round(picture * 255).astype(np.uint8))
    if not options.quiet:
        print(f"{options.output}: {width}x{height} pixels{f', {n_frames} frames' if is_video else ''}")
    return 0


def _strips(
    shape: TracedShape, camera: Pinhole, mode: str, shadows: bool, observe: Callable[[float], None]
) -> Iterator[np.ndarray]:
    n_rows = 0
    for strip in render_shape_strips(shape, camera, mode, shadows=shadows):
        yield on_white(strip)
        n_rows += len(strip)
        observe(n_rows / camera.height)


def _of_a_part(observe: Callable[[float], None], part: int, n_parts: int, share: float) -> None:
    observe((part + share) / n_parts)


def on_white(picture: np.ndarray) -> np.ndarray:
    """(height, width, 4) with coverage to (height, width, 3) on white."""
    coverage = picture[..., 3:]
    opaque: np.ndarray = np.ascontiguousarray(picture[..., :3] * coverage + (1 - coverage))
    return opaque
