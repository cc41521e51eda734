"""Where a shape is looked at while a field learns it: sampling recipes, and pools of samples that a worker prepares.

All lengths are sides of the unit cube. This file imports neither torch nor the rest of the engine: the worker process
starts with it in a moment.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fieldforge.apps.shapes.points import PointTruth
from fieldforge.apps.shapes.truth import Truth


@dataclass(frozen=True)
class Recipe:
    """A mixture of places.

    Args:
        surface: share exactly on the surface.
        near: (share, law, standard deviation a coordinate) around points of the surface; "normal" or "logistic".
        uniform: share anywhere in the cube; the shares sum to 1.
        is_relative: the deviations are in units of the shape's bounding radius instead of the cube's side.
    """

    surface: float
    near: tuple[tuple[float, str, float], ...]
    uniform: float
    is_relative: bool = False


RECIPES: Mapping[str, Recipe] = {
    # logistic of std radius / 1024 with radius sqrt(3)/2, in the cube (Müller et al. 2022; their code)
    "instant-ngp": Recipe(4 / 8, ((3 / 8, "logistic", 0.75**0.5 / 1024),), 1 / 8),
    # per-axis variances 0.005 and 0.0005 in the unit sphere (Park et al. 2019; their parameters are variances)
    "deepsdf": Recipe(0.0, ((0.47, "normal", 0.005**0.5), (0.47, "normal", 0.0005**0.5)), 0.06, is_relative=True),
    # rand, near, near, trace, trace; what the code calls variance is a deviation (Takikawa et al. 2021)
    "nglod": Recipe(2 / 5, ((2 / 5, "normal", 0.01),), 1 / 5, is_relative=True),
    # on the surface and anywhere, half and half (Sitzmann et al. 2020; Gropp et al. 2020 add points in between)
    "siren": Recipe(1 / 2, (), 1 / 2),
    # ours: two widths close to the surface, less on it, where the target says nothing of the slope
    "layers": Recipe(4 / 16, ((7 / 16, "normal", 0.002), (3 / 16, "normal", 0.015)), 2 / 16),
}
"""Published sampling recipes by name."""

SURFACE_RECIPES: Mapping[str, tuple[float, float, float]] = {
    "siren": (1 / 2, 0.0, 1 / 2),
    # as many near as on the surface, as far as the 50th neighbour, and an eighth of that anywhere (their code)
    "igr": (8 / 17, 8 / 17, 1 / 17),
}
"""Of losses that need no distance: shares of samples on the surface, near it, and anywhere in the cube."""


def draw(truth: Truth | PointTruth, recipe: Recipe, n: int, seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """n samples in random order: points (n, 3) float32 in the unit cube and signed distances (n,) float32.

    The same seed gives the same samples, whatever was drawn before.
    """
    random = np.random.default_rng(seed)
    scale = float(np.linalg.norm(truth.vertices - truth.vertices.mean(0), axis=1).max()) if recipe.is_relative else 1.0
    n_surface = round(recipe.surface * n)
    n_near = [round(share * n) for share, _, _ in recipe.near]
    n_uniform = n - n_surface - sum(n_near)
    on, _ = truth.sample_surface(n_surface, random)
    off = [np.empty((0, 3))]
    for count, (_, law, deviation) in zip(n_near, recipe.near, strict=True):
        base, _ = truth.sample_surface(count, random)
        noise = random.normal(0, 1, base.shape) if law == "normal" else random.logistic(0, 3**0.5 / np.pi, base.shape)
        off.append(base + noise * deviation * scale)
    off.append(random.random((max(0, n_uniform), 3)))
    # what the field will see is float32: distances are taken there
    elsewhere = np.clip(np.concatenate(off), 0, 1).astype(np.float32)
    points = np.concatenate([on.astype(np.float32), elsewhere])[:n]
    distance = np.zeros(len(points), np.float32)
    distance[n_surface:] = truth.distance(elsewhere.astype(np.float64))[: n - n_surface]
    order = random.permutation(len(points))
    return points[order], distance[order]


class Pools:
    """Numbered pools of samples, each made once, ahead of time, by a worker process.

    Pool k depends on the recipe and (seed, k) alone, so a resumed fit sees the same samples. Where no process can be
    started, pools are made on demand.

    Args:
        vertices, faces: the mesh in the unit cube, or, of a cloud, its points and their normals.
        of: "mesh" or "cloud".
        is_solid: as for `Truth`.
        recipe: one of `RECIPES` by name.
        n: samples of a pool.
        seed: same seed, same pools.
    """

    def __init__(
        self,
        vertices: np.ndarray,
        faces: np.ndarray,
        *,
        of: Literal["mesh", "cloud"] = "mesh",
        is_solid: bool = False,
        recipe: str,
        n: int,
        seed: int,
    ) -> None:
        self._job = {"of": of, "is_solid": is_solid, "recipe": recipe, "n": n, "seed": seed}
        self._mesh = vertices, faces
        self._folder = tempfile.TemporaryDirectory(prefix="fieldforge-")
        self._asked: set[int] = set()
        self._latest = -1  # a resumed fit asks for older pools too; nothing is begun ahead of these
        self._made: set[int] = set()
        self._truth: Truth | PointTruth | None = None
        self._worker = self._start()

    def get(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Points (n, 3) and distances (n,) of a pool; the next one is begun."""
        if self._worker is None:
            return self._make_here(number)
        for wanted in (number, number + 1):
            if wanted not in self._asked and (wanted == number or wanted > self._latest):
                self._asked.add(wanted)
                self._latest = max(self._latest, wanted)
                self._send(wanted)
        while number not in self._made:
            assert self._worker.stdout is not None
            line = self._worker.stdout.readline()
            if not line:  # it died: go on without it
                self.close()
                self._worker = None
                self._folder = tempfile.TemporaryDirectory(prefix="fieldforge-")
                return self._make_here(number)
            self._made.add(int(line))
        path = Path(self._folder.name) / f"{number}.npy"
        table = np.load(path, allow_pickle=False)
        path.unlink()
        self._asked.discard(number)
        self._made.discard(number)
        return np.ascontiguousarray(table[:, :3]), np.ascontiguousarray(table[:, 3])

    def close(self) -> None:
        """Stop the worker and forget the files."""
        if self._worker is not None:
            self._worker.kill()
            self._worker.communicate()
        self._folder.cleanup()

    def _make_here(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        if self._truth is None:
            self._truth = _truth(*self._mesh, self._job)
        return _make(self._truth, self._job, number)

    def _start(self) -> subprocess.Popen[str] | None:
        mesh = Path(self._folder.name) / "mesh.npz"
        np.savez(mesh, vertices=self._mesh[0], faces=self._mesh[1])
        words = [str(self._job[key]) for key in ("of", "is_solid", "recipe", "n", "seed")]
        try:
            return subprocess.Popen(
                [sys.executable, "-m", "fieldforge.apps.shapes.samples", self._folder.name, *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"IGL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is the fit's to answer
            )
        except OSError:
            return None

    def _send(self, number: int) -> None:
        assert self._worker is not None
        assert self._worker.stdin is not None
        try:
            self._worker.stdin.write(f"{number}\n")
            self._worker.stdin.flush()
        except OSError:
            pass  # it died; the next read says so


def _truth(vertices: np.ndarray, faces: np.ndarray, job: Mapping[str, Any]) -> Truth | PointTruth:
    if job["of"] == "cloud":
        return PointTruth(vertices, faces)
    return Truth(vertices, faces, is_solid=bool(job["is_solid"]))


def _make(truth: Truth | PointTruth, job: Mapping[str, Any], number: int) -> tuple[np.ndarray, np.ndarray]:
    return draw(truth, RECIPES[job["recipe"]], job["n"], (job["seed"], number))


def _serve(folder: Path, job: Mapping[str, Any]) -> None:
    """The worker: numbers in, files out, until the other side goes away."""
    with np.load(folder / "mesh.npz", allow_pickle=False) as mesh:
        truth = _truth(mesh["vertices"], mesh["faces"], job)
    for line in sys.stdin:
        number = int(line)
        points, distance = _make(truth, job, number)
        np.save(folder / f"{number}.part.npy", np.column_stack([points, distance]))
        os.replace(folder / f"{number}.part.npy", folder / f"{number}.npy")
        print(number, flush=True)


if __name__ == "__main__":
    _serve(
        Path(sys.argv[1]),
        {
            "of": sys.argv[2],
            "is_solid": sys.argv[3] == "True",
            "recipe": sys.argv[4],
            "n": int(sys.argv[5]),
            "seed": int(sys.argv[6]),
        },
    )
