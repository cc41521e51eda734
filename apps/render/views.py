"""``fieldforge render`` of a scene: the views of its photos with figures, a flight around it, or one picture."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fieldforge.apps.cli import UsageError
from fieldforge.apps.fit.command import expect_writable
from fieldforge.apps.images import ImageWriter
from fieldforge.apps.mesh import progress_bar
from fieldforge.apps.render.pictures import Picture, compare, look
from fieldforge.apps.render.radiance import eye_of
from fieldforge.apps.render.remembered import remembered
from fieldforge.apps.render.video import VideoWriter
from fieldforge.apps.scenes import Scene, read_scene
from fieldforge.fields.kinds.scene import SceneField
from fieldforge.renderers.cameras import MAX_SIDE, Cameras
from fieldforge.renderers.cameras.paths import orbit


def render_scene(field: SceneField, metadata: dict[str, Any], options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    if options.split is not None:
        return _render_split(field, metadata, options)
    if options.data is not None:
        raise UsageError("--data: it holds the photos of a --split; give --split test, say")
    is_video = options.output.suffix.lower() == ".mp4"
    if options.mode not in (None, "depth"):
        raise UsageError(f"--{options.mode}: of scenes there is colour and --depth")
    cameras = _path(field, metadata, options.size, options.frames if is_video else 1)
    eye = eye_of(field, metadata)
    width, height = cameras.sizes[0].tolist()
    if not is_video:
        with progress_bar("rendering", is_silent=options.quiet) as observe:
            picture = look(eye, cameras, 0)
            observe(1.0)
        _write(options.output, _shown(picture, field, options.mode))
    else:
        with (
            VideoWriter(options.output, width=width, height=height) as video,
            progress_bar("rendering", is_silent=options.quiet) as observe,
        ):
            for frame in range(options.frames):
                shown = _shown(look(eye, cameras, frame), field, options.mode)
                video.write(np.round(np.broadcast_to(shown, (height, width, 3)) * 255).astype(np.uint8))
                observe((frame + 1) / options.frames)
    if not options.quiet:
        print(f"{options.output}: {width}x{height} pixels{f', {options.frames} frames' if is_video else ''}")
    return 0


def _render_split(field: SceneField, metadata: dict[str, Any], options: argparse.Namespace) -> int:
    """Every view of a split beside its photo; PSNR and SSIM of each and their means."""
    if options.data is None:
        raise UsageError("--split: where are the photos? Give their folder with --data")
    folder: Path = options.output
    if folder.suffix or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"{folder}: the views of a split go to a folder; name one")
    scene = read_scene(options.data, downscale=int(remembered(metadata, "signal.downscale", 1, least=1, most=64)))
    views = scene.of(options.split).tolist()
    if not views:
        raise UsageError(f"--split {options.split}: {options.data} has no such views")
    folder.mkdir(parents=True, exist_ok=True)
    expect_writable(folder / "metrics.json")
    eye, rows = eye_of(field, metadata), list[dict[str, Any]]()
    with progress_bar("rendering", is_silent=options.quiet) as observe:
        for number, view in enumerate(views):
            found, name = compare(scene, view, eye), _file_name(scene, view)
            _write(folder / f"{name}.png", found.picture.color)
            if options.mode == "depth":
                z = found.picture.planar_z
                _write(folder / f"{name}.depth.exr", np.where(np.isfinite(z), z, 0.0)[..., None])
            rows.append({"view": name, "psnr": round(found.psnr, 4), "ssim": _rounded(found.ssim)})
            observe((number + 1) / len(views))
    means = {
        name: float(np.mean([row[name] for row in rows])) for name in ("psnr", "ssim") if rows[0][name] is not None
    }
    (folder / "metrics.json").write_text(json.dumps({"mean": means, "views": rows}, indent=1) + "\n")
    if not options.quiet:
        for row in [*rows, {"view": f"mean of {len(rows)}", "ssim": None, **means}]:
            similar = "" if row["ssim"] is None else f"  SSIM {row['ssim']:.4f}"
            print(f"{row['view']}: PSNR {row['psnr']:.2f} dB{similar}")
        print(f"{folder}: {len(rows)} views, metrics.json{', planar depth as EXR' if options.mode == 'depth' else ''}")
    return 0


def _path(field: SceneField, metadata: dict[str, Any], size: tuple[int, int] | None, n_frames: int) -> Cameras:
    """An orbit at the height and distance where the photos were taken from, as the file remembers them."""
    low, high, most = torch.tensor(field.low), torch.tensor(field.high), 1e6 * field.longest_side
    taken = [int(remembered(metadata, f"signal.{side}", 400, least=1, most=MAX_SIDE)) for side in ("width", "height")]
    width, height = size or (taken[0], taken[1])
    if n_frames > 1:
        width, height = width + width % 2, height + height % 2
    focal = remembered(metadata, "signal.focal", 1.4 * taken[0], least=1e-3, most=1e9) * width / taken[0]
    distance = remembered(metadata, "signal.distance", 1.4 * field.longest_side, least=0, most=most)
    return orbit(
        (low + high) / 2,
        distance=distance,
        up=_up(metadata),
        elevation=25.0,
        n_frames=n_frames,
        width=width,
        height=height,
        focal=focal,
    )


def _up(metadata: dict[str, Any]) -> torch.Tensor:
    """(3,) what was up for the cameras, as the file remembers; z where it does not."""
    signal = metadata.get("signal")
    found = signal.get("up") if isinstance(signal, dict) else None
    if isinstance(found, list) and len(found) == 3 and all(isinstance(value, (int, float)) for value in found):
        up = torch.tensor([float(value) for value in found])
        if 1e-3 < float(torch.linalg.vector_norm(up)) < 1e3:
            return up
    return torch.tensor([0.0, 0.0, 1.0])


def _shown(picture: Picture, field: SceneField, mode: str | None) -> np.ndarray:
    """(height, width, 1 or 3) in [0, 1]: the colours, or near things light and far ones dark."""
    if mode is None:
        return picture.color
    z = picture.planar_z[..., None]
    is_seen = np.isfinite(z) & (picture.opacity[..., None] > 0.5)
    if not is_seen.any():
        return np.zeros_like(z)
    near, far = float(z[is_seen].min()), float(z[is_seen].max())
    shade = 1 - 0.8 * (np.where(is_seen, z, far) - near) / max(far - near, 1e-6)
    shown: np.ndarray = np.where(is_seen, shade, 0.0).astype(np.float32)
    return shown


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
