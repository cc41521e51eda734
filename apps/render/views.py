"""``fieldforge render`` of a scene: the views of its photos with figures, a flight through it, or one picture."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fieldforge.apps.cli.words import UsageError
from fieldforge.apps.fit.command import expect_writable
from fieldforge.apps.images import ImageWriter
from fieldforge.apps.mesh import progress_bar
from fieldforge.apps.render.flight import flight_of
from fieldforge.apps.render.normals import picture_normals
from fieldforge.apps.render.pictures import Picture, compare, look
from fieldforge.apps.render.radiance import SceneEye, eye_of
from fieldforge.apps.render.refined import as_refined, in_its_world
from fieldforge.apps.render.remembered import remembered
from fieldforge.apps.render.tally import Tally
from fieldforge.apps.render.video import MAX_VIDEO_SIDE, VideoWriter
from fieldforge.apps.scenes import Scene, read_scene
from fieldforge.apps.scenes.digest import expect_same_scene
from fieldforge.fields.kinds.scene import SceneField
from fieldforge.renderers.cameras import MAX_SIDE, Cameras

_PLANAR = ("pinhole", "opencv", "orthographic")
"""Lenses whose depth is planar z; of the others, which may look backward, it is the distance along the ray."""


def render_scene(field: SceneField, metadata: dict[str, Any], options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    if options.mode not in (None, "depth", "normals"):
        raise UsageError(f"--{options.mode}: of scenes there is colour, --depth and --normals")
    if options.split is not None:
        if options.time is not None:
            raise UsageError("--time: the views of a --split have times of their own")
        return _render_split(field, metadata, options)
    if options.time is not None and options.time > 1:
        raise UsageError(f"--time: of a scene it is from 0 to 1, got {options.time:g}")
    if options.time is not None and not field.has_time:
        raise UsageError(f"--time: {options.field} holds a scene that stands still")
    is_video = options.output.suffix.lower() == ".mp4"
    _expect_flight(options, is_video)
    flight = flight_of(
        field, metadata, path=options.path, size=options.size, n_frames=options.frames, data=options.data,
        frames_per_second=options.fps, is_video=is_video,
    )  # fmt: skip
    for note in () if options.quiet else flight.notes:
        print(note, file=sys.stderr)
    eye, cameras = Tally(_eye(field, metadata, options)), flight.cameras
    width, height = cameras.sizes[0].tolist()
    if not is_video:
        with progress_bar("rendering", is_silent=options.quiet) as observe:
            picture = look(eye, cameras, 0, time=options.time)
            shown = _shown(picture, field, cameras, 0, options.mode, _span([picture], cameras), options.time)
            observe(1.0)
        _write(options.output, shown)
    else:
        known = flight.times if options.time is None and flight.times is not None else None
        times = _times(options, len(cameras)) if known is None else known.clamp(0, 1).tolist()
        span = _span_of_flight(eye, cameras) if options.mode == "depth" else (0.0, 1.0)
        with (
            VideoWriter(
                options.output, width=width, height=height, frames_per_second=flight.frames_per_second
            ) as video,
            progress_bar("rendering", is_silent=options.quiet) as observe,
        ):  # fmt: skip
            for frame, time in enumerate(times):
                shown = _shown(look(eye, cameras, frame, time=time), field, cameras, frame, options.mode, span, time)
                video.write(np.round(np.broadcast_to(shown, (height, width, 3)) * 255).astype(np.uint8))
                observe((frame + 1) / len(cameras))
    if not options.quiet:
        print(f"{options.output}: {width}x{height} pixels{f', {len(cameras)} frames' if is_video else ''}")
        print(eye.sentence(len(cameras) if is_video else 1))
    return 0


def _expect_flight(options: argparse.Namespace, is_video: bool) -> None:
    longest = MAX_VIDEO_SIDE if is_video else MAX_SIDE
    if options.size is not None and not all(1 <= side <= longest for side in options.size):
        width, height = options.size
        what = "videos" if is_video else "pictures"
        raise UsageError(f"--size {width}x{height}: {what} of scenes are 1x1 to {longest}x{longest}")
    if options.data is not None and options.path not in ("orbit", "spiral", "interpolate"):
        raise UsageError("--data: it holds the photos of a --split, or the cameras of a --path; give --split test, say")
    if options.force:
        raise UsageError("--force: is of a --split; give --split test, say")
    if not is_video and (options.frames is not None or options.fps is not None):
        raise UsageError(f"--{'frames' if options.fps is None else 'fps'}: is of videos; name the output .mp4")


def _render_split(field: SceneField, metadata: dict[str, Any], options: argparse.Namespace) -> int:
    """Every view of a split beside its photo; PSNR and SSIM of each and their means."""
    if options.data is None:
        raise UsageError("--split: where are the photos? Give their folder with --data")
    if options.path is not None or options.size is not None or options.frames is not None or options.fps is not None:
        raise UsageError(
            "--split: shows the views of the photos as they are; --path, --size, --frames, --fps do not go"
        )
    folder: Path = options.output
    if folder.suffix or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"{folder}: the views of a split go to a folder; name one")
    scene = read_scene(options.data, downscale=int(remembered(metadata, "signal.downscale", 1, least=1, most=64)))
    expect_same_scene(scene, metadata, is_forced=options.force)
    if field.has_time and scene.times is None:
        raise UsageError(f"--data {options.data}: its views have no times, and {options.field} changes with time")
    scene = in_its_world(as_refined(scene, metadata), metadata)
    views = scene.of(options.split).tolist()
    if not views:
        raise UsageError(f"--split {options.split}: {options.data} has no such views")
    folder.mkdir(parents=True, exist_ok=True)
    expect_writable(folder / "metrics.json")
    eye, rows = Tally(_eye(field, metadata, options)), list[dict[str, Any]]()
    with progress_bar("rendering", is_silent=options.quiet) as observe:
        for number, view in enumerate(views):
            found, name = compare(scene, view, eye), _file_name(scene, view)
            _write(folder / f"{name}.png", found.picture.color)
            if options.mode == "depth":
                z = found.picture.planar_z
                _write(folder / f"{name}.depth.exr", np.where(np.isfinite(z), z, 0.0)[..., None])
            if options.mode == "normals":
                normals = picture_normals(
                    field, scene.cameras.to(torch.float32), view, found.picture, time=scene.views[view].time
                )
                _write(folder / f"{name}.normal.exr", normals)
            rows.append({"view": name, "psnr": round(found.psnr, 4), "ssim": _rounded(found.ssim)})
            observe((number + 1) / len(views))
    means = {
        name: float(np.mean([row[name] for row in rows])) for name in ("psnr", "ssim") if rows[0][name] is not None
    }
    found = {"mean": means, "rendering": eye.summary(len(rows)), "views": rows}
    (folder / "metrics.json").write_text(json.dumps(found, indent=1) + "\n")
    if not options.quiet:
        for row in [*rows, {"view": f"mean of {len(rows)}", "ssim": None, **means}]:
            similar = "" if row["ssim"] is None else f"  SSIM {row['ssim']:.4f}"
            print(f"{row['view']}: PSNR {row['psnr']:.2f} dB{similar}")
        more = {"depth": ", planar depth as EXR", "normals": ", normals in world axes as EXR"}.get(options.mode, "")
        print(f"{folder}: {len(rows)} views, metrics.json{more}")
        print(eye.sentence(len(rows)))
    return 0


def _eye(field: SceneField, metadata: dict[str, Any], options: argparse.Namespace) -> SceneEye:
    try:
        return eye_of(field, metadata, options.engine)
    except ValueError as error:
        raise UsageError(f"--{error}") from None


def _times(options: argparse.Namespace, n_frames: int) -> list[float]:
    """When each frame of a video is: at --time, or from the beginning to the end."""
    if options.time is not None:
        return [options.time] * n_frames
    return [frame / max(1, n_frames - 1) for frame in range(n_frames)]


def _shown(
    picture: Picture,
    field: SceneField,
    cameras: Cameras,
    view: int,
    mode: str | None,
    span: tuple[float, float],
    time: float | None = None,
) -> np.ndarray:
    """(height, width, 1 or 3) in [0, 1]: the colours; normals n in world axes as (n + 1) / 2; or near things light and
    far ones dark, of a span. Where nothing is seen, normals and depths are black."""
    if mode is None:
        return picture.color
    is_seen = (picture.opacity > 0.5)[..., None]
    if mode == "normals":
        normals = picture_normals(field, cameras, view, picture, time=time)
        return np.where(is_seen, (normals + 1) / 2, 0.0).astype(np.float32)
    depth = _depth(picture, cameras)[..., None]
    far = np.where(np.isfinite(depth), depth, span[1])
    shade = 1 - 0.8 * ((far - span[0]) / max(span[1] - span[0], 1e-6)).clip(0, 1)
    return np.where(is_seen, shade, 0.0).astype(np.float32)


def _depth(picture: Picture, cameras: Cameras) -> np.ndarray:
    return picture.planar_z if cameras.model in _PLANAR else picture.distance


def _span(pictures: list[Picture], cameras: Cameras) -> tuple[float, float]:
    """Nearest and farthest that anything is seen, but for a hundredth at either end."""
    depths = [_depth(picture, cameras)[(picture.opacity > 0.5) & np.isfinite(picture.distance)] for picture in pictures]
    seen = np.concatenate(depths)
    return (float(np.quantile(seen, 0.01)), float(np.quantile(seen, 0.99))) if len(seen) else (0.0, 1.0)


def _span_of_flight(eye: SceneEye, cameras: Cameras) -> tuple[float, float]:
    """One span for all frames, so that nothing flickers, from a small look at some of them."""
    small = cameras.downscaled(max(1, int(cameras.sizes.min()) // 48))
    return _span([look(eye, small, len(cameras) * k // 8) for k in range(min(8, len(cameras)))], small)


def _write(path: Path, picture: np.ndarray) -> None:
    height, width, n_channels = picture.shape
    is_light = path.suffix.lower() in (".exr", ".hdr")
    with ImageWriter(
        path, width=width, height=height, n_channels=n_channels, bits=8, color_space="linear" if is_light else "srgb"
    ) as writer:
        writer.write(np.ascontiguousarray(picture, dtype=np.float32))


def _file_name(scene: Scene, view: int) -> str:
    """The name of a view as a name of a file: no folders, nothing that a system could mind."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(scene.views[view].name).stem).strip("._") or "view"
    return f"{view:04}_{plain}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
