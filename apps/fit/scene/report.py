"""The report of a scene fit: while it goes on, pictures of a held-out view beside its photo; at the end one page with
stages, curve, error, depth and normals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fieldforge.apps.fit.loop import State
from fieldforge.apps.images import ImageWriter, read_image
from fieldforge.apps.render.normals import picture_normals
from fieldforge.apps.render.pictures import Comparison, compare, photo_of
from fieldforge.apps.render.radiance import SceneEye
from fieldforge.apps.scenes import Scene
from fieldforge.devices import home
from fieldforge.fields.kinds.scene import SceneField

CURVE, PAGE = "curve.json", "report.png"
N_STAGES = 5


class SceneReport:
    """Files in a folder: ``step_000480.png``, photo at the left and view at the right; `CURVE`, a list of rows with
    step, seconds and the PSNR of this view; and `PAGE`. A resumed fit goes on with the rows of its own history.

    Args:
        folder: where to; made if it is not there.
        scene: what is fitted.
        view: which of its views.
    """

    def __init__(self, folder: Path, scene: Scene, view: int) -> None:
        self.folder, self.scene, self.view = folder, scene, view
        self.rows: list[dict[str, float]] | None = None

    def add(self, state: State, eye: SceneEye, figures: dict[str, float]) -> None:
        """A picture of the field as it is, and its row in the curve.

        Raises:
            OSError: the file system refused.
        """
        self.folder.mkdir(exist_ok=True)
        if self.rows is None:
            known = {row["step"] for row in state.history[:-1]}
            self.rows = [row for row in self._earlier() if row["step"] in known]
        found = compare(self.scene, self.view, eye)
        self._write(self.folder / _name(state.step), np.concatenate([self._photo(eye), found.picture.color], 1))
        row = {"step": state.step, "seconds": round(state.seconds, 2), "view_psnr": round(found.psnr, 3)}
        self.rows.append(row | {name: round(value, 3) for name, value in figures.items()})
        (self.folder / CURVE).write_text(json.dumps(self.rows, indent=1) + "\n")

    def finish(self, field: SceneField, eye: SceneEye, state: State, title: str) -> None:
        """Draw the page.

        Args:
            field, eye: as they are stored.
            state: at the end.
            title: a line above all.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.folder.mkdir(exist_ok=True)
        found, photo = compare(self.scene, self.view, eye), self._photo(eye)
        height = 2.5 * photo.shape[0] / photo.shape[1] + 0.3
        figure = Figure(figsize=(15, 2 * max(height, 2.2) + 0.8), layout="constrained", dpi=100)
        FigureCanvasAgg(figure)
        figure.suptitle(title)
        grid = figure.add_gridspec(2, 6)
        stages = self._stages(photo.shape[1])[-N_STAGES:]
        pictures = [("photo", photo), *stages, *self._looks(field, found, photo)]
        places = [grid[0, column] for column in range(1 + len(stages))] + [grid[1, column] for column in (3, 4, 5)]
        for place, (name, picture) in zip(places, pictures, strict=True):
            axes = figure.add_subplot(place)
            axes.imshow(picture.clip(0, 1), interpolation="nearest" if photo.shape[1] < 200 else "antialiased")
            axes.set_title(name, fontsize=9)
            axes.set_axis_off()
        curve, rows = figure.add_subplot(grid[1, :3]), self.rows or []
        names = {"view_psnr": "this view", "held_out_psnr": "pixels of all held-out views"}
        for name, label in names.items():
            points = [(row["seconds"], row[name]) for row in rows if name in row]
            if points:
                curve.plot(*zip(*points, strict=True), marker=".", label=label)
        curve.axhline(found.psnr, color="0.4", linestyle="--", label=f"stored field, this view: {found.psnr:.2f} dB")
        curve.set(xlabel=f"seconds, of {state.seconds:.0f}", ylabel="PSNR (dB)")
        curve.grid(alpha=0.3)
        curve.legend(fontsize=8)
        figure.savefig(self.folder / PAGE, format="png", metadata={"Software": None})

    def _looks(self, field: SceneField, found: Comparison, photo: np.ndarray) -> list[tuple[str, np.ndarray]]:
        """Error, depth and normals."""
        picture, cameras = found.picture, self.scene.cameras.to(torch.float32)
        is_seen = (picture.opacity > 0.5) & np.isfinite(picture.distance)
        seen = picture.distance[is_seen]
        near, far = (float(seen.min()), float(seen.max())) if len(seen) else (0.0, 1.0)
        shade = 1 - 0.8 * (np.where(is_seen, picture.distance, far) - near) / max(far - near, 1e-6)
        depth = np.repeat(np.where(is_seen, shade, 0.0)[..., None], 3, 2)
        normals = picture_normals(field, cameras, self.view, picture, time=self.scene.views[self.view].time)
        normals = np.where(is_seen[..., None], (normals + 1) / 2, 0.0)
        return [("error x 5", 5 * np.abs(picture.color - photo)), ("distance", depth), ("normals", normals)]

    def _stages(self, width: int) -> list[tuple[str, np.ndarray]]:
        """Pictures of some rows, out of their files."""
        rows = self.rows or []
        picked = sorted(
            {math.ceil(k * (len(rows) - 1) / max(1, N_STAGES - 1)) for k in range(N_STAGES)} if rows else ()
        )
        stages = []
        for row in (rows[index] for index in picked):
            path = self.folder / _name(int(row["step"]))
            if path.is_file():
                pixels = read_image(path).pixels[:, width:, :3] / 255
                stages.append((f"step {row['step']:.0f}, {row['seconds']:.0f} s, {row['view_psnr']:.1f} dB", pixels))
        return stages

    def _photo(self, eye: SceneEye) -> np.ndarray:
        photo: np.ndarray = home(photo_of(self.scene, self.view, eye.background))
        return photo

    def _earlier(self) -> list[dict[str, Any]]:
        """Rows of a fit that was interrupted; none where the file holds something else."""
        try:
            rows = json.loads((self.folder / CURVE).read_text())
        except (OSError, ValueError):
            return []
        kept = ("step", "seconds", "view_psnr")
        is_curve = isinstance(rows, list) and all(
            isinstance(row, dict) and all(isinstance(row.get(name), (int, float)) for name in kept) for row in rows
        )
        return rows if is_curve else []

    def _write(self, path: Path, picture: np.ndarray) -> None:
        height, width, _ = picture.shape
        with ImageWriter(path, width=width, height=height, n_channels=3, bits=8, color_space="srgb") as writer:
            writer.write(np.ascontiguousarray(picture, dtype=np.float32))


def _name(step: int) -> str:
    return f"step_{step:06}.png"
