"""``fieldforge evaluate``: a shape against the mesh, or the points, it should be; a scene against its photos; a sound
or a film against its file."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from fieldforge.apps.cli.words import UsageError, print_json
from fieldforge.apps.evaluate_recordings import FILM_MEANING, SOUND_MEANING, of_film, of_sound
from fieldforge.apps.mesh import extract, load_shape, progress_bar
from fieldforge.apps.render.radiance import eye_of
from fieldforge.apps.render.refined import in_its_world
from fieldforge.apps.render.remembered import remembered
from fieldforge.apps.scenes import read_scene
from fieldforge.apps.scenes.digest import expect_same_scene
from fieldforge.apps.scenes.quality import MEANING as SCENE_MEANING
from fieldforge.apps.scenes.quality import Row, evaluate_views, means_of
from fieldforge.apps.shapes.cloud import PointSurface
from fieldforge.apps.shapes.cloud_quality import evaluate_on_points
from fieldforge.apps.shapes.quality import evaluate
from fieldforge.apps.shapes.read import Cloud, read_shape
from fieldforge.apps.shapes.surface import Surface
from fieldforge.backends import use_backend
from fieldforge.checks import with_article
from fieldforge.devices import find_device, move, working_on
from fieldforge.fields.file import load_field
from fieldforge.fields.kinds.audio import AudioField
from fieldforge.fields.kinds.scene import SceneField
from fieldforge.fields.kinds.video import VideoField

MEANING = {
    "volume_iou": "share of the union of both insides that is in both",
    "near_iou": "the same within about 1 % of the diagonal from the surface",
    "distance_error_near": "mean |field - distance| there, over the diagonal",
    "distance_error_far": "the same anywhere in the cube",
    "points_to_surface": "mean distance from the points to the field's surface, over the diagonal",
    "surface_to_points": "mean distance back, to the nearest point: the cloud's spacing is in it",
    "chamfer": "mean distance between the surfaces, both ways, over the diagonal",
    "f_score_0.005": "points of either surface within 0.5 % of the diagonal of the other",
    "f_score_0.01": "the same within 1 %",
    "normal_consistency": "mean |n . n'| of nearest places",
    "stray": "farthest that the field's surface is from the mesh or the points, over the diagonal",
    "gradient_norm_05": "slope of the field, 5 % quantile (1 for a distance)",
    "gradient_norm_50": "median",
    "gradient_norm_95": "95 % quantile",
    "gradient_norm_histogram": "shares of slopes from 0 to 2 and beyond; a distance has one peak, in the middle",
}
"""What a figure says, in the order they are printed."""
_HEIGHTS = " ▁▂▃▄▅▆▇█"


def evaluate_command(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    found, metadata = load_field(options.field)
    if isinstance(found, SceneField):
        return _evaluate_scene(found, metadata, options)
    if isinstance(found, (AudioField, VideoField)):
        return _evaluate_recording(found, metadata, options)
    for name in ("force", "allow_missing"):
        if getattr(options, name):
            raise UsageError(
                f"--{name.replace('_', '-')}: is of scenes, and {options.field} is {with_article(found.otype)}"
            )
    shape = read_shape(options.source)
    surface = PointSurface.of(shape) if isinstance(shape, Cloud) else Surface.of(shape)
    device = find_device(options.device)
    field = move(load_shape(options.field), device)
    with use_backend(options.backend), working_on(device), progress_bar("meshing", is_silent=options.json) as observe:
        extracted = extract(field, resolution=options.resolution or 256, observe=observe)
        if isinstance(surface, PointSurface):
            figures = evaluate_on_points(field, surface, extracted, n=options.points or 2**18, seed=options.seed)
        else:
            figures = evaluate(field, surface, extracted, n=options.points or 2**18, seed=options.seed)
    if options.json:
        print_json({"field": str(options.field), "source": str(options.source), **figures})
        return 0
    table = Table("figure", "value", "what it says", title=f"{options.field} against {options.source}")
    for name, meaning in MEANING.items():
        if name in figures:
            value = figures[name]
            table.add_row(name, sparkline(value) if isinstance(value, list) else f"{value:.6g}", meaning)
    Console().print(table)
    return 0


def _evaluate_recording(field: AudioField | VideoField, metadata: dict[str, Any], options: argparse.Namespace) -> int:
    for name in ("force", "allow_missing", "resolution", "points"):
        if getattr(options, name):
            raise UsageError(
                f"--{name.replace('_', '-')}: {options.field} is {with_article(field.otype)}, which has no such option"
            )
    device = find_device(options.device)
    field = move(field, device)
    with use_backend(options.backend), working_on(device), progress_bar("comparing", is_silent=options.json) as observe:
        if isinstance(field, AudioField):
            figures, meaning = of_sound(field, metadata, options.source), SOUND_MEANING
        else:
            figures, meaning = of_film(field, metadata, options.source, observe), FILM_MEANING
    if options.json:
        print_json({"field": str(options.field), "source": str(options.source), **figures})
        return 0
    table = Table("figure", "value", "what it says", title=f"{options.field} against {options.source}")
    for name, value in figures.items():
        table.add_row(name, "not defined" if value is None else f"{value:.6g}", meaning[name])
    Console().print(table)
    return 0


def _evaluate_scene(field: SceneField, metadata: dict[str, Any], options: argparse.Namespace) -> int:
    for name in ("resolution", "points"):
        if getattr(options, name) is not None:
            raise UsageError(f"--{name}: is of shapes, and {options.field} is {with_article(field.otype)}")
    downscale = int(remembered(metadata, "signal.downscale", 1, least=1, most=64))
    scene = read_scene(options.source, downscale=downscale, allow_missing=options.allow_missing)
    expect_same_scene(scene, metadata, is_forced=options.force)
    scene = in_its_world(scene, metadata)
    device = find_device(options.device)
    field = move(field, device)
    with use_backend(options.backend), working_on(device), progress_bar("rendering", is_silent=options.json) as observe:
        rows = evaluate_views(field, eye_of(field, metadata), scene, downscale=downscale, observe=observe)
    means = means_of(rows)
    if options.json:
        views = [{"view": name, **{key: _finite(value) for key, value in row.items()}} for name, row in rows.items()]
        mean = {key: _finite(value) for key, value in means.items()}
        print_json({"field": str(options.field), "source": str(options.source), "mean": mean, "views": views})
        return 0
    for view, row in rows.items():
        print("".join(c if c.isprintable() else "?" for c in f"{view}: {_in_short(row)}"))
    table = Table("figure", "value", "what it says", title=f"mean of {len(rows)} views of {options.source}")
    for name, value in means.items():
        table.add_row(name, "" if value is None else f"{value:.4g}", SCENE_MEANING[name])
    Console().print(table)
    return 0


def _in_short(row: Row) -> str:
    shown = (
        ("psnr", "PSNR {:.2f} dB"), ("ssim", "SSIM {:.4f}"), ("depth_error", "depth {:.2%} off"),
        ("normal_angle_mean", "normals {:.1f} degrees off"),
    )  # fmt: skip
    return "  ".join(text.format(value) for name, text in shown if (value := row.get(name)) is not None)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def sparkline(shares: Sequence[float]) -> str:
    """Bars of eighths of the highest one, in a line between bounds; what is there at all is seen.

    Example:
        >>> sparkline([0.0, 0.001, 0.25, 0.5])
        '| ▁▄█|'
    """
    highest = max(shares, default=0.0) or 1.0
    return f"|{''.join(_HEIGHTS[math.ceil(8 * share / highest)] for share in shares)}|"
