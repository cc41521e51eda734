"""``fieldforge export``: the field of a scene to a coloured cloud or a coloured mesh; any to tiny-cuda-nn's numbers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from fieldforge.apps.cli.words import UsageError
from fieldforge.apps.export.box import Box, written
from fieldforge.apps.export.cloud import cloud_of
from fieldforge.apps.export.surface import surface_of
from fieldforge.apps.fit.command import expect_another_file, expect_writable
from fieldforge.apps.importing.command import export_vector
from fieldforge.apps.mesh import FORMATS, progress_bar, write_mesh
from fieldforge.apps.render.flight import cameras_of_photos
from fieldforge.apps.render.moment import Moment
from fieldforge.apps.render.radiance import SceneEye, eye_of
from fieldforge.apps.shapes.write import write_cloud
from fieldforge.backends import use_backend
from fieldforge.checks import with_article
from fieldforge.devices import find_device, move, working_on
from fieldforge.fields.file import load_field
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.fields.kinds.scene import SceneField
from fieldforge.renderers.isosurface import MAX_RESOLUTION

LEVEL = 20.0
"""Density of a surface where none is given, over the longest side of the box: through a fiftieth of it a third of the
light gets lost. Fitted surfaces have hundreds, the fog around them has less."""
MOST_POINTS = 50_000_000


def export_command(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    if options.to == "tcnn" or (options.to is None and options.output.suffix.lower() == ".npy"):
        return _parameters(options)
    is_mesh = _is_mesh(options)
    expect_writable(options.output)
    expect_another_file(options.output, options.field)
    device = find_device(options.device)
    field, metadata = load_field(options.field)
    if not isinstance(field, SceneField):
        raise UsageError(
            f"{options.field}: is {with_article(field.otype)}, and scenes are exported; fieldforge mesh turns shapes "
            "to triangles"
        )
    if options.time is not None and not field.has_time:
        raise UsageError(f"--time: {options.field} holds a scene that stands still")
    box = _box(options.crop, field)
    level = LEVEL / field.longest_side if options.level is None else options.level
    field = move(field, device)
    with use_backend(options.backend), working_on(device):
        eye = eye_of(field, metadata)
        if isinstance(field, RadianceField) and field.has_time:
            eye.time = options.time or 0.0
            field = Moment(field, eye.time)
        if is_mesh:
            return _mesh(field, eye, box, level, options)
        return _cloud(field, eye, metadata, box, level, options)


def _parameters(options: argparse.Namespace) -> int:
    """As tiny-cuda-nn keeps them."""
    for name in ("crop", "level", "n", "data", "time", "resolution"):
        if getattr(options, name) is not None:
            raise UsageError(f"--{name}: is of clouds and meshes, and {options.output} is neither")
    if options.output.suffix.lower() != ".npy":
        raise UsageError(f"{options.output}: parameters of tiny-cuda-nn go to a .npy file")
    expect_writable(options.output)
    expect_another_file(options.output, options.field)
    beside, n = export_vector(load_field(options.field)[0], options.output)
    if not options.quiet:
        print(f"{options.output}: {n:,} numbers in tiny-cuda-nn's order; their configuration is {beside}")
    return 0


def _mesh(field: SceneField, eye: SceneEye, box: Box, level: float, options: argparse.Namespace) -> int:
    resolution = options.resolution or 256
    if resolution > MAX_RESOLUTION:
        raise UsageError(f"--resolution {resolution}: expected at most {MAX_RESOLUTION}")
    with progress_bar("meshing", is_silent=options.quiet) as observe:
        surface, colors = surface_of(field, eye, box=box, level=level, resolution=resolution, observe=observe)
    write_mesh(options.output, surface, colors)
    if not options.quiet:
        n_open = surface.n_open_edges
        print(
            f"{options.output}: {len(surface.vertices):,} vertices with colours, {len(surface.faces):,} triangles, "
            f"{'watertight' if not n_open else f'{n_open:,} open edges'}; density {level:.4g} in the box {written(box)}"
        )
    return 0


def _cloud(
    field: SceneField, eye: SceneEye, metadata: dict[str, Any], box: Box, level: float, options: argparse.Namespace
) -> int:
    n = options.n or 1_000_000
    if n > MOST_POINTS:
        raise UsageError(f"--n {n}: expected at most {MOST_POINTS}")
    cameras = cameras_of_photos(metadata, options.data)
    with progress_bar("looking", is_silent=options.quiet) as observe, torch.no_grad():
        cloud = cloud_of(field, eye, cameras, n=n, box=box, level=level, seed=options.seed, observe=observe)
    write_cloud(options.output, cloud.points, cloud.normals, cloud.colors)
    if not options.quiet:
        few = "" if len(cloud.points) == n else f" (of {n:,} wanted: few rays end in the box)"
        where = "around the box" if cameras is None else f"{len(cameras)} cameras"
        print(
            f"{options.output}: {len(cloud.points):,} points with normals and colours{few}, from {cloud.n_rays:,} rays "
            f"of {where}; density {level:.4g} or more in the box {written(box)}"
        )
    return 0


def _is_mesh(options: argparse.Namespace) -> bool:
    """What to make: as --to says, else as the options and the name of the file do."""
    output: Path = options.output
    suffix = output.suffix.lower()
    if suffix not in FORMATS:
        raise UsageError(f"{output}: expected a name that ends in one of {', '.join(FORMATS)}, got '{output.suffix}'")
    is_mesh = suffix != ".ply" or options.resolution is not None or "mesh" in output.stem.lower()
    if options.to is not None:
        is_mesh = options.to == "mesh"
    if not is_mesh and suffix != ".ply":
        raise UsageError(f"{output}: a cloud of points goes to a .ply file")
    if is_mesh and (options.n is not None or options.data is not None):
        raise UsageError(f"--{'data' if options.n is None else 'n'}: is of clouds, and {output} is a mesh; --to cloud?")
    if not is_mesh and options.resolution is not None:
        raise UsageError(f"--resolution: is of meshes, and {output} is a cloud; --to mesh?")
    return is_mesh


def _box(crop: tuple[float, ...] | None, field: SceneField) -> Box:
    if crop is None:
        return (field.low[0], field.low[1], field.low[2]), (field.high[0], field.high[1], field.high[2])
    low, high = crop[:3], crop[3:]
    if not all(a < b for a, b in zip(low, high, strict=True)):
        raise UsageError(f"--crop {written((low, high))}: expected X0,Y0,Z0,X1,Y1,Z1 with each X1 above X0 and so on")
    return low, high
