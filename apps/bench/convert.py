"""``fieldforge bench convert``: fields into other fields, on Lego at 100 pixels.

Parts, each of which can be run alone (``--only matrix-hashgrid``), in one file of rows:

- scratch: every kind from photos, kept as teachers of the parts below;
- matrix-NAME: the teacher of that kind into every kind, without photos, in as much time; KiloNeRF has half of that, and
  the MLP a quarter;
- staged: hash grid into MLP in stages, at points and then pixels, at pixels alone; equal CPU time;
- clipping: the same with the logarithm of the density cut as PVD cuts it, below only at -100, and not at all;
- tenth: hash grid into MLP in a tenth of the CPU time that the MLP had from photos;
- kilonerf: the MLP into KiloNeRF and on with photos, what both take to render, without the penalty on colours, and
  KiloNeRF from photos alone; kilonerf-200: the same at 200 pixels, of a teacher with half of the time;
- megabyte: Lego at 200 pixels in files of 1 MB, of three kinds;
- picture: a hundred megapixels in cells of small networks, and as a hash grid.

Time is CPU time of one thread; schedules and stages are stretched over it. Every field is measured as it is stored,
over all held-out photos. Teachers stand in `fieldforge_convert` in the system's folder for temporary files, and are
fitted where they are missing.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fieldforge.apps.bench.convert_kilonerf import kilonerf_rendering
from fieldforge.apps.bench.convert_picture import hundred_megapixels, mirrored
from fieldforge.apps.bench.harness import Row, one_thread, save, say
from fieldforge.apps.bench.image import noise
from fieldforge.apps.bench.scene import DATA, SCENES, SMALL, ball
from fieldforge.apps.convert.job import ConversionJob, conversion_of
from fieldforge.apps.convert.students import SCENE
from fieldforge.apps.fit.job import Job, Plan
from fieldforge.apps.fit.loop import settle
from fieldforge.apps.fit.scene.job import SceneJob
from fieldforge.apps.render.pictures import compare
from fieldforge.apps.render.radiance import eye_of
from fieldforge.apps.scenes import Scene, read_scene
from fieldforge.checks import expect_choice
from fieldforge.fields.file import load_field, round_to, save_field
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.registry import build

KINDS = ("hashgrid", "mlp", "tensorf", "densegrid", "kplanes", "pref", "kilonerf")
BUDGETS = {"mlp": 600.0, "kilonerf": 240.0}
"""CPU seconds of training from photos; 60 of the other kinds."""
STUDENTS = {"mlp": 150.0, "kilonerf": 120.0}
"""CPU seconds of a student of the matrix; 60 of the other kinds."""
LARGE = ("megabyte", "kilonerf-200")
"""Parts at 200 pixels."""
PICTURE_SECONDS = 240.0
PARTS = (
    "scratch", *(f"matrix-{name}" for name in KINDS), "staged", "clipping", "tenth", "kilonerf", *LARGE, "picture"
)  # fmt: skip
QUICK = ["fit.batch_size=128", "fit.samples_across=16", "fit.occupancy=8"]
_STAGES = {
    "features, points, pixels": [],
    "points, pixels": ["distillation.features=0.0", "distillation.points=0.4"],
    "pixels": ["distillation.features=0.0", "distillation.points=0.0"],
    "pixels alone": ["distillation.features=0.0", "distillation.points=0.0", "distillation.points_weight=0.0"],
}
_CUTS = {
    "-2 to 7": [],
    "-100 to 7": ["distillation.clip_low=-100.0"],
    "none": ["distillation.clip_low=-1e4", "distillation.clip_high=1e4"],
}
MEGABYTE = 1_000_000


def run(folder: Path, data: Path | None, *, is_quick: bool, only: Sequence[str] = ()) -> None:
    """Convert, measure, print, and keep each row when it is there, unless `is_quick`.

    Args:
        folder: of the rows.
        data: folder that holds `lego_tiny100.npz` and, at 200 pixels, `lego`; beside it lies the folder of the picture.
        only: some of `PARTS`; none is all.

    Raises:
        SceneError, ImageError, ValueError: no such part, or the scene or the picture is not there.
    """
    parts = [expect_choice("only", part, PARTS) for part in only] or list(PARTS)
    work = Path(tempfile.mkdtemp()) if is_quick else Path(tempfile.gettempdir()) / "fieldforge_convert"
    work.mkdir(exist_ok=True)
    with one_thread():
        benches: dict[bool, Bench] = {}  # a scene is read once
        for part in parts[: 2 if is_quick and not only else None]:
            found: Iterator[list[Row]]
            if part == "picture":
                picture = noise(64) if is_quick else mirrored((data or DATA).parent)
                seconds = 0.05 if is_quick else PICTURE_SECONDS
                size = {"width": picture.width, "height": picture.height}
                found = ([_row(part, arm, one, seconds, size)] for arm, one in hundred_megapixels(picture, seconds))
            else:
                is_large = part in LARGE
                if is_large not in benches:
                    benches[is_large] = Bench(work, data or DATA, is_quick, is_large=is_large)
                found = benches[is_large].rows(part)
            for rows in found:
                if not is_quick:
                    save(folder, "convert", rows)


class Bench:
    """What the parts share.

    Args:
        work: folder of the teachers.
        data: of the scenes.
        is_quick: tiny sizes, a ball instead of Lego.
        is_large: 200 pixels instead of 100.
    """

    def __init__(self, work: Path, data: Path, is_quick: bool, *, is_large: bool = False) -> None:
        self.work, self.is_quick, self.is_large = work / "200" if is_large else work, is_quick, is_large
        self.work.mkdir(exist_ok=True)
        self.scene: Scene = ball() if is_quick else _lego(data, is_large=is_large)
        self.kinds = ("hashgrid", "kplanes") if is_quick else KINDS

    def rows(self, part: str) -> Iterator[list[Row]]:
        """Of one of `PARTS`, each when it is there."""
        if part.startswith("kilonerf"):
            yield from self._kilonerf(part)
        else:
            yield from ([row] for row in self._arms(part))

    def _arms(self, part: str) -> Iterator[Row]:
        if part == "scratch":
            yield from map(self._scratch, self.kinds)
        elif part.startswith("matrix-"):
            teacher = part.removeprefix("matrix-")
            for name in self.kinds:
                yield self._converted(part, name, teacher, name, seconds=STUDENTS.get(name, 60.0))
        elif part in ("staged", "clipping"):
            for arm, more in (_STAGES if part == "staged" else _CUTS).items():
                yield self._converted(part, arm, "hashgrid", "mlp", more=more, seconds=BUDGETS["mlp"] / 4)
        elif part == "tenth":
            yield self._converted(part, "mlp", "hashgrid", "mlp", seconds=BUDGETS["mlp"] / 10)
        else:
            yield from self._megabyte()

    def _kilonerf(self, part: str) -> Iterator[list[Row]]:
        """With its teacher and photos; without the penalty; without a teacher."""
        yield [self._converted(part, "as in the paper", "mlp", "kilonerf", photos=self.scene)]
        yield self._rendering(part)
        more = ["regularizers=[]"]
        yield [self._converted(part, "no penalty on colours", "mlp", "kilonerf", photos=self.scene, more=more)]
        yield [self._scratch("kilonerf", case=part, arm="no distillation")]

    def _rendering(self, part: str) -> list[Row]:
        """The large network densely, and its student in passes."""
        pair = (load_field(self.work / f"{name}.field")[0] for name in ("mlp", f"{part} as in the paper"))
        teacher, student = (found for found in pair if isinstance(found, RadianceField))
        rows = kilonerf_rendering(teacher, student, self.scene, case=part)
        for row in rows:
            figures = "  ".join(f"{key} {value:.4g}" for key, value in (row.quality or {}).items())
            say(f"{part:18} {row.candidate:24} {figures}")
        return rows

    def _megabyte(self) -> Iterator[Row]:
        """Files of 1 MB."""
        path, budget = self.work / "large.field", self._seconds("large")
        if not path.exists():
            self._fit(SceneJob(self.scene), "balanced", [], budget, path, self.scene)
        small = ["network.n_neurons=128", "network.n_hidden_layers=4", "optimizer.learning_rate=2e-3"]
        arms: dict[str, tuple[str, list[str]]] = {
            "hash grid, 8 bits": ("hashgrid", ["fit.storage=int8"]),
            "MLP": ("mlp", small),
            "MLP with CAM": ("mlp", [*small, "network.modulation.otype=CAM"]),
        }
        for arm, (to, more) in arms.items():
            yield self._converted(
                "megabyte", arm, path, to, more=more, max_bytes=MEGABYTE, photos=self.scene, seconds=budget
            )

    def _seconds(self, name: str) -> float:
        if self.is_quick:
            return 0.05
        if self.is_large and name == "mlp":
            return BUDGETS[name] / 2
        return {"large": 120.0, **BUDGETS}.get(name, 60.0)

    def _teacher(self, name: str) -> Path:
        path = self.work / f"{name}.field"
        if not path.exists():
            self._scratch(name)
        return path

    def _scratch(self, name: str, *, case: str = "scratch", arm: str = "") -> Row:
        path, chosen = self.work / f"{arm or name}.field", SCENE[name]
        more = () if chosen.is_large else chosen.overrides  # a table's rate is good on both sides
        figures = self._fit(SceneJob(self.scene), chosen.preset, more, self._seconds(name), path, self.scene)
        return _row(case, arm or name, figures, self._seconds(name))

    def _converted(
        self,
        case: str,
        arm: str,
        teacher: str | Path,
        to: str,
        *,
        more: Sequence[str] = (),
        photos: Scene | None = None,
        seconds: float | None = None,
        max_bytes: int | None = None,
    ) -> Row:
        source = self._teacher(teacher) if isinstance(teacher, str) else teacher
        job = conversion_of(source, to, photos=photos)
        allowed = self._seconds(to) if seconds is None or self.is_quick else seconds
        path = self.work / f"{case} {arm}.field"
        figures = self._fit(job, to, more, allowed, path, photos or self.scene, max_bytes)
        figures["teachers_psnr"] = self._psnr(source, photos or self.scene)
        return _row(case, arm, figures, allowed)

    def _fit(
        self, job: Job[Any], preset: str, more: Sequence[str], seconds: float, path: Path, scene: Scene,
        max_bytes: int | None = None,
    ) -> dict[str, float]:  # fmt: skip
        """Train for so much CPU time, write, and measure what was written."""
        overrides = [*(QUICK if self.is_quick else []), *more]
        config, _ = job.run_config(Plan(preset=preset, overrides=overrides, max_bytes=max_bytes))
        fitted = job.make_field(config, 0)
        schedule, n_steps = build("schedule", config["schedule"]), config["fit"]["n_steps"]
        with job.training(fitted, config, 0, ()) as training:
            tell: Callable[[int, int], None] = getattr(training.advance, "on_step", lambda step, n: None)
            start, n_done, spent = time.process_time(), 0, 0.0
            while spent < seconds:
                at = int(spent / seconds * n_steps)
                tell(at, n_steps)
                training.advance(n_done, schedule(at, n_steps))
                n_done, spent = n_done + 1, time.process_time() - start
            settle(training.optimizer)
        fitted.requires_grad_(False)
        round_to(fitted, config["fit"]["storage"])
        metadata = {"signal": job.metadata() | {"sha256": job.digest}, "run": {"fit": config["fit"]}}
        n_bytes = save_field(path, fitted, metadata=metadata, dtype=config["fit"]["storage"])
        figures = {"steps": n_done, "bytes": n_bytes, "psnr": self._psnr(path, scene)}
        if isinstance(job, ConversionJob):
            figures |= {key: value for key, value in job.measure(fitted, say).items() if value is not None}
        return figures

    def _psnr(self, path: Path, scene: Scene) -> float:
        """Mean over the held-out photos, of a file."""
        field, metadata = load_field(path)
        eye, views = eye_of(field, metadata), scene.of("test").tolist()  # type: ignore[arg-type]
        return round(sum(compare(scene, view, eye).psnr for view in views) / len(views), 4)


def _row(case: str, arm: str, figures: dict[str, float], seconds: float, size: Mapping[str, int] | None = None) -> Row:
    """Of an arm of a part that was given so much time; it is said, too."""
    said = "  ".join(f"{key} {value:.4g}" for key, value in figures.items())
    say(f"{case:18} {arm:24} {seconds:6.0f} s  {said}")
    rate = figures["steps"] / max(figures.get("training_seconds", seconds), 1e-9)
    return Row("convert", f"{case}: {arm}", arm, {"budget": seconds, **(size or {})}, seconds, 0.0, rate, figures)


def _lego(data: Path, *, is_large: bool) -> Scene:
    return read_scene(data / "lego", downscale=4) if is_large else read_scene(data / SCENES[SMALL])
