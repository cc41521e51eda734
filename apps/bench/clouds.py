"""``fieldforge bench clouds``: fields of points drawn from meshes, with normals and without, against the meshes.

100 000 points, uniform by area and exact, which no scan is. IoU, F-score and the rest are those of ``evaluate`` against
the mesh that the fit never saw.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import trimesh

from fieldforge.apps.bench.harness import Row, save, say
from fieldforge.apps.fit.shape.job import fit_shape
from fieldforge.apps.mesh import extract
from fieldforge.apps.shapes.quality import evaluate
from fieldforge.apps.shapes.read import Cloud, Mesh, ShapeError, read_shape
from fieldforge.apps.shapes.surface import Surface
from fieldforge.apps.shapes.truth import Truth

MESHES = ("ingp_armadillo.obj", "spot.obj", "libigl_fertility.off")
N_POINTS = 100_000


def cases() -> Iterator[tuple[str, str, bool]]:
    """(mesh, preset, whether normals are given): the default on every mesh, the papers' losses on the simplest."""
    for has_normals in (True, False):
        yield from ((name, "balanced", has_normals) for name in MESHES)
    yield from (("spot.obj", preset, has_normals) for preset in ("siren", "igr") for has_normals in (True, False))


def run(folder: Path, data: Path | None, *, is_quick: bool) -> None:
    """Fit, compare, print, and keep the rows unless `is_quick`.

    Args:
        folder: of the rows.
        data: folder that holds `MESHES`.

    Raises:
        ValueError: no folder given.
    """
    if data is None and not is_quick:
        raise ValueError(f"data: give the folder that holds {MESHES[0]} and the others, --data FOLDER")
    for name, preset, has_normals in list(cases())[: 1 if is_quick else None]:
        surface = Surface.of(_ball() if is_quick or data is None else _mesh(data / name))
        truth = Truth(surface.vertices, surface.faces, is_solid=surface.health.is_closed)
        points, normals = truth.sample_surface(2000 if is_quick else N_POINTS, np.random.default_rng(0))
        cloud = Cloud(surface.cube.to_world(points), normals if has_normals else None)
        result = fit_shape(cloud, preset=preset, steps=3 if is_quick else None, progress="quiet")
        size = 24 if is_quick else 256
        figures = evaluate(
            result.field, surface, extract(result.field, resolution=size), n=2**12 if is_quick else 2**17
        )
        rate = result.state.step * result.config["fit"]["batch_size"] / max(result.seconds, 1e-9)
        variant = f"{preset}, {'with' if has_normals else 'without'} normals"
        sizes = {"points": len(points), "config": result.config}
        row = Row("clouds", Path(name).stem, variant, sizes, result.seconds, 0.0, rate, quality=figures)
        say(
            f"{Path(name).stem:18} {variant:26} IoU {figures.get('volume_iou', 0):.5f}  F(1 %) "
            f"{figures['f_score_0.01']:.5f}  normals {figures['normal_consistency']:.4f}  {result.seconds:6.1f} s"
        )
        if not is_quick:
            save(folder, "clouds", [row])


def _mesh(path: Path) -> Mesh:
    shape = read_shape(path)
    if isinstance(shape, Cloud):
        raise ShapeError(f"{path}: is a cloud; the suite draws its points from meshes")
    return shape


def _ball() -> Mesh:
    made = trimesh.creation.icosphere(3)
    return Mesh(np.asarray(made.vertices), np.asarray(made.faces))
