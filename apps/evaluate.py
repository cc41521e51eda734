"""``fieldforge evaluate``: a shape field against the mesh, or the points, it should be."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from fieldforge.apps.cli import print_json
from fieldforge.apps.mesh import extract, load_shape, progress_bar
from fieldforge.apps.shapes.cloud import PointSurface
from fieldforge.apps.shapes.cloud_quality import evaluate_on_points
from fieldforge.apps.shapes.quality import evaluate
from fieldforge.apps.shapes.read import Cloud, read_shape
from fieldforge.apps.shapes.surface import Surface
from fieldforge.backends import use_backend

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
    shape = read_shape(options.source)
    surface = PointSurface.of(shape) if isinstance(shape, Cloud) else Surface.of(shape)
    field = load_shape(options.field)
    with use_backend(options.backend), progress_bar("meshing", is_silent=options.json) as observe:
        extracted = extract(field, resolution=options.resolution, observe=observe)
        if isinstance(surface, PointSurface):
            figures = evaluate_on_points(field, surface, extracted, n=options.points, seed=options.seed)
        else:
            figures = evaluate(field, surface, extracted, n=options.points, seed=options.seed)
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


def sparkline(shares: Sequence[float]) -> str:
    """Bars of eighths of the highest one, in a line between bounds; what is there at all is seen.

    Example:
        >>> sparkline([0.0, 0.001, 0.25, 0.5])
        '| ▁▄█|'
    """
    highest = max(shares, default=0.0) or 1.0
    return f"|{''.join(_HEIGHTS[math.ceil(8 * share / highest)] for share in shares)}|"
