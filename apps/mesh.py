"""``fieldforge mesh``: a shape field back into triangles.

surface = extract(field, resolution=512)
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from fieldforge.apps.cli.words import UsageError
from fieldforge.apps.fit.command import expect_another_file, expect_writable
from fieldforge.backends import use_backend
from fieldforge.checks import with_article
from fieldforge.devices import find_device, move, working_on
from fieldforge.fields.container import replacing
from fieldforge.fields.file import load_field
from fieldforge.fields.kinds.shape import ShapeField
from fieldforge.renderers.isosurface import MAX_RESOLUTION, EmptyLevelError, Isosurface, isosurface

FORMATS = (".ply", ".obj", ".stl", ".off", ".glb")
SLOPE = 1.5
"""How much steeper than a distance a fitted one is taken to be at most."""
_BYTES_A_SQUARE = 800
"""Memory over resolution², of a statue that fills its cube (armadillo at 1024³, less the 0.3 GiB of Python)."""


def mesh_command(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    output: Path = options.output
    if output.suffix.lower() not in FORMATS:
        raise UsageError(f"{output}: expected a name that ends in one of {', '.join(FORMATS)}, got '{output.suffix}'")
    expect_writable(output)
    expect_another_file(output, options.field)
    if options.resolution > MAX_RESOLUTION:
        needed = _BYTES_A_SQUARE * options.resolution**2
        raise UsageError(
            f"--resolution {options.resolution}: expected at most {MAX_RESOLUTION}; the surface alone would take about "
            f"{needed / 2**30:,.0f} GiB of memory. 1024 takes about 1 GiB, {MAX_RESOLUTION} about "
            f"{_BYTES_A_SQUARE * MAX_RESOLUTION**2 / 2**30:.0f}"
        )
    device = find_device(options.device)
    field = move(load_shape(options.field), device)
    with use_backend(options.backend), working_on(device), progress_bar("meshing", is_silent=options.quiet) as observe:
        surface = extract(field, resolution=options.resolution, level=options.level, observe=observe)
    if options.simplify is not None:
        surface = simplify(surface, options.simplify)
    write_mesh(output, surface)
    if not options.quiet:
        n_open = surface.n_open_edges
        print(
            f"{output}: {len(surface.vertices):,} vertices, {len(surface.faces):,} triangles, "
            f"{'watertight' if not n_open else f'{n_open:,} open edges'}; "
            f"{surface.n_evaluated / surface.n_cells:.1%} as many evaluations as cells"
        )
    return 0


def load_shape(path: Path) -> ShapeField:
    """A shape field from its file.

    Raises:
        UsageError: the file holds a field of another kind.
    """
    field, _ = load_field(path)
    if not isinstance(field, ShapeField):
        raise UsageError(
            f"{path}: is {with_article(type(field).__name__)}, and a shape is needed (SDFField, OccupancyField, "
            "UDFField)"
        )
    return field


def extract(
    field: ShapeField,
    *,
    resolution: int = 256,
    level: float | None = None,
    observe: Callable[[float], None] = lambda share: None,
) -> Isosurface:
    """The surface of a shape field, in world units.

    Args:
        field: of any kind.
        resolution: cells along each side of its cube.
        level: which level, in the units of `field.level`; None: 0, or one cell for an unsigned distance, which gives
            both sides of a sheet.
        observe: told the share of the work that is done.

    Raises:
        EmptyLevelError: the field does not take the level; says which ones it takes.
        TooLargeError: the surface would not fit into the memory that is free.
    """
    if level is None:
        level = 0.0 if field.is_signed else field.side / resolution
    # in cells of a unit cube, so that places far from the origin keep their digits
    unit_length = field.side if field.is_distance else 1.0
    try:
        unit = isosurface(
            field.level_in_cube,
            ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
            resolution=resolution,
            level=level / unit_length,
            is_distance=field.is_distance,
            slope=SLOPE,
            observe=observe,
            max_bytes=free_memory(),
        )
    except EmptyLevelError as error:
        raise EmptyLevelError(level, error.smallest * unit_length, error.largest * unit_length) from None
    vertices = unit.vertices * field.side + np.asarray(field.low)
    return Isosurface(vertices, unit.faces, unit.n_evaluated, unit.n_cells)


def free_memory() -> int | None:
    """Bytes that a program can still ask for; None where the system does not say."""
    try:
        with open("/proc/meminfo") as lines:
            rows = dict(line.split(":", 1) for line in lines)
        return int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def simplify(surface: Isosurface, share: float) -> Isosurface:
    """Fewer triangles by edge collapse (Garland and Heckbert 1997, fast-simplification)."""
    import fast_simplification

    centre = surface.vertices.mean(0)
    vertices, faces = fast_simplification.simplify(
        (surface.vertices - centre).astype(np.float32), surface.faces.astype(np.int32), target_reduction=1 - share
    )
    return Isosurface(vertices + centre, faces.astype(np.int64), surface.n_evaluated, surface.n_cells)


def write_mesh(path: Path, surface: Isosurface, colors: np.ndarray | None = None) -> None:
    """Write a mesh; the file that was there is replaced in one step.

    Args:
        path: its suffix, one of `FORMATS`, says how.
        surface: vertices and faces.
        colors: (n, 3) uint8 sRGB of the vertices; STL has none, and leaves them out.

    Raises:
        OSError: the file system refused.
    """
    import trimesh

    made = trimesh.Trimesh(surface.vertices, surface.faces, vertex_colors=colors, process=False)
    stream = io.BytesIO()
    made.export(stream, file_type=path.suffix.lower().lstrip("."))
    with replacing(path) as file:
        file.write(stream.getvalue())


@contextmanager
def progress_bar(what: str, *, is_silent: bool) -> Iterator[Callable[[float], None]]:
    """Inside the block, a function that shows the share of the work done, with the time left."""
    with Progress(console=Console(stderr=True), disable=is_silent or not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task(what, total=1.0)
        yield lambda share: bar.update(task, completed=share)
