"""A scene into another field of the same scene."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fieldforge.apps.convert.heads import copy_head, with_head
from fieldforge.apps.convert.job import ConversionJob
from fieldforge.apps.convert.poses import Places, PoseDraw, places_of
from fieldforge.apps.convert.rules import Rules
from fieldforge.apps.convert.stages import DistillationStep, distillation_step
from fieldforge.apps.convert.students import Student
from fieldforge.apps.convert.teacher import SceneTeacher, Teacher
from fieldforge.apps.fit.job import Fit, Training
from fieldforge.apps.fit.loop import LOSS, Figure, Hook, State
from fieldforge.apps.fit.options import read_table
from fieldforge.apps.fit.recipe import Config
from fieldforge.apps.fit.scene.job import PARTS
from fieldforge.apps.fit.scene.options import SceneOptions
from fieldforge.apps.fit.scene.presets import Seen, preset
from fieldforge.apps.fit.scene.rays import RayDraw
from fieldforge.apps.metrics import psnr as psnr_of
from fieldforge.apps.render.pictures import compare
from fieldforge.apps.render.radiance import SceneEye
from fieldforge.apps.render.remembered import remembered
from fieldforge.apps.scenes import Scene, read_scene
from fieldforge.apps.scenes.digest import digest_of, expect_same_scene
from fieldforge.checks import expect_choice
from fieldforge.devices import arrived, device_of, here, seeded
from fieldforge.encodings.base import Encoding
from fieldforge.fields.cost import cost_of
from fieldforge.fields.kinds.base import Box
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.fields.kinds.scene import SceneField
from fieldforge.registry import ConfigError, build

SECTIONS = (*PARTS, "radiance", "distillation", "loss", "regularizers", "optimizer", "schedule", "fit")
N_MEASURED, N_LOOKED_AT = 2**13, 2**10
"""Rays of unseen poses on which student and teacher are compared: in the end, and on the way."""
UNSEEN = 900_001
"""Added to the seed of the poses that are measured."""
PALE = 0.5
"""Share of its teacher's variation over directions below which a student is said not to keep it."""
LARGE = 2**17
"""Multiply-adds of a point above which a teacher is slow: instant-ngp's networks have some 10,000, NeRF's 590,000."""
MATTE = 0.01
"""Variation of colours over directions below which there is nothing to keep."""
CPU = torch.device("cpu")


class SceneConversion(ConversionJob[RadianceField]):
    """A scene to convert.

    Args:
        teacher, to, chosen, command: as for `ConversionJob`.
        photos, box, head, force: as for `fieldforge.apps.convert.job.convert`.

    Raises:
        SceneError: the photos cannot be read, or are of another scene.
        ValueError: such a scene cannot be converted, or nothing of it is in the box.
    """

    signal = "scene"
    target = "teacher_psnr"
    options = SceneOptions
    sections = SECTIONS

    def __init__(
        self,
        teacher: Teacher,
        to: str,
        chosen: Student,
        *,
        photos: str | Path | Scene | None = None,
        box: tuple[float, ...] | str | None = None,
        head: str = "teacher",
        force: bool = False,
        command: str = "",
    ) -> None:
        super().__init__(teacher, to, chosen, command=command)
        self.head = expect_choice("head", head, ("teacher", "own"))
        self.told = SceneTeacher(teacher)
        has_margin = not self._space
        self.box, self._of_box = box_of(self.told, box or (chosen.box if has_margin else None))
        self.scene: Scene | None = None
        if photos is not None:
            downscale = int(remembered(teacher.metadata, "signal.downscale", 1, least=1, most=64))
            self.scene = photos if isinstance(photos, Scene) else read_scene(photos, downscale=downscale)
            expect_same_scene(self.scene, teacher.metadata, is_forced=force)
        self.step: DistillationStep | None = None

    def identity(self) -> dict[str, Any]:
        photos = None if self.scene is None else digest_of(self.scene)
        return super().identity() | ({"photos": photos} if photos else {})

    def ground(self, preset_name: str) -> Config:
        width = remembered(self.teacher.metadata, "signal.width", 200, least=1, most=2**20)
        tall = remembered(self.teacher.metadata, "signal.height", width, least=1, most=2**20)
        x, y, z = (high - low for low, high in zip(*self.box, strict=True))
        seen = Seen(int(max(width, tall)), self.told.field.background is not None, (x, y, z))
        found = preset(preset_name, seen)
        kept = {key: value for key, value in found.items() if key not in ("sampler", "ray_losses")}
        is_slow = is_large(self.told.field) and not self.chosen.is_large
        kept = {"distillation": {"remembered": 0.9, "points_weight": 0.0} if is_slow else {}, **kept}
        return with_head(kept, self.told.field) if self.head == "teacher" else kept

    def notices(self) -> list[str]:
        if self.scene is None:
            how = "rays of random poses, whose pixels are the teacher's"
        else:
            how = f"rays of {len(self.scene.of('train'))} photos in the last stage"
        return [f"{self.teacher.name} becomes {self.to}; {how}", *self._of_box]

    def settle(self, config: Config) -> list[str]:
        rules = rules_of(config)
        config["distillation"] = rules.config()
        options = SceneOptions.of(config["fit"])
        for key, value in (("refine_cameras", False), ("appearance", 0)):
            if getattr(options, key) != value:
                raise ConfigError(f"fit.{key}: a conversion has no cameras or photos of its own to learn; leave it out")
        if options.precision != "float32":
            raise ConfigError(
                f"fit.precision: scenes are converted in float32, not in {options.precision}; leave it out"
            )
        near = remembered(self.teacher.metadata, "run.fit.near", 0.0, least=0, most=1e15)
        cascades = self.told.n_cascades
        config["fit"] = replace(
            options,
            space="contraction" if self._space else "box",
            cascades=cascades,
            cone_angle=options.cone_angle_for(cascades),
            near=near if isinstance(options.near, str) else options.near,
        ).config()
        return self._warnings(config)

    def make_field(self, config: Config, seed: int) -> RadianceField:
        options, teacher = SceneOptions.of(config["fit"]), self.told.field
        described = {section: config[section] for section in PARTS if section in config} | config.get("radiance", {})
        described |= {
            "otype": "RadianceField", "low": list(self.box[0]), "high": list(self.box[1]),
            "color_space": teacher.color_space, "background": teacher.background,
            "occupancy": options.occupancy, "n_cascades": options.cascades, **self._space,
        }  # fmt: skip
        if isinstance(teacher, RadianceField) and teacher.background_network is not None:
            described["background_network"] = teacher.config()["background_network"]
        made: RadianceField = build("field", described, generator=torch.Generator().manual_seed(seed))
        return made

    @contextmanager
    def training(self, fitted: RadianceField, config: Config, seed: int, hooks: Sequence[Hook]) -> Iterator[Training]:
        rules, options = rules_of(config), SceneOptions.of(config["fit"])
        if self.head == "teacher":
            copy_head(fitted, self.told.field)
        draw: Any
        if self.scene is None:
            draw = PoseDraw(self._places, None, seed)
        else:
            is_open = bool(self._space)
            draw = RayDraw(self.scene, self.scene.of("train"), background=None, must_end=is_open, seed=seed)
            draw = draw.there(device_of(fitted))
        self.step = step = distillation_step(
            fitted, self.told, draw, config, options, rules, has_photos=self.scene is not None, seed=seed, hooks=hooks
        )
        yield Training(step, step.optimizer, step.why_plain)
        step.finish(fitted)

    def _run(self, *arguments: Any) -> Fit[RadianceField]:
        self.told.move(here())  # the teacher answers where the student learns
        return super()._run(*arguments)

    def shown(self, config: Config) -> Figure:
        return LOSS

    def look(self, fitted: RadianceField, state: State) -> dict[str, float]:
        assert self.step is not None
        number = len(state.history)
        if not (number in (1, 2, 4) or number % 8 == 0) or state.step == state.n_steps:
            return {}
        return {"stage": float(self.step.stage), "teacher_psnr": self._against_teacher(fitted, N_LOOKED_AT)}

    def quality(self, fitted: RadianceField, target: float) -> float:
        near = self._against_teacher(fitted, N_LOOKED_AT)
        return near if near < target else self._against_teacher(fitted, N_MEASURED)

    def measure(self, fitted: RadianceField, tell: Callable[[str], None]) -> dict[str, float | None]:
        tell(f"comparing {N_MEASURED:,} rays of unseen poses with the teacher")
        figures: dict[str, float | None] = {"teacher_psnr": round(self._against_teacher(fitted, N_MEASURED), 4)}
        wanted, found = (variation(one, self._some_points) for one in (self.told.field, fitted))
        figures |= {"variation": round(found, 6), "teacher_variation": round(wanted, 6)}
        if wanted > MATTE and found < PALE * wanted:
            tell(
                f"the student's colours vary by {found:.3f} over directions, and the teacher's by {wanted:.3f}: what "
                "shines is duller; more steps, or a student with a larger colour network, keep more of it"
            )
        test = [] if self.scene is None else self.scene.of("test").tolist()
        if self.scene is not None and test:
            tell(f"rendering {len(test)} held-out views, by the student and by the teacher")
            rows = {who: [compare(self.scene, view, eye) for view in test] for who, eye in self._eyes(fitted).items()}
            for who, found_rows in rows.items():
                figures[f"{who}psnr"] = round(sum(row.psnr for row in found_rows) / len(test), 4)
                similar = [row.ssim for row in found_rows if row.ssim is not None]
                if similar:
                    figures[f"{who}ssim"] = round(sum(similar) / len(similar), 6)
        return figures

    @cached_property
    def _space(self) -> dict[str, Any]:
        teacher = self.told.field
        is_open = isinstance(teacher, RadianceField) and not teacher.space.is_bounded
        return {"space": teacher.config()["space"]} if is_open else {}

    @cached_property
    def _places(self) -> Places:
        with torch.device("cpu"):
            found = places_of(self.teacher.metadata, self.told.content())
        return found.there(here())

    @cached_property
    def _unseen(self) -> tuple[Tensor, Tensor, Tensor]:
        """Origins, directions and the teacher's colours of `N_MEASURED` rays."""
        rays = PoseDraw(self._places, torch.zeros(3), UNSEEN)(0, N_MEASURED)
        return rays.origins, rays.directions, _seen(self.told.eye, rays.origins, rays.directions)

    @cached_property
    def _some_points(self) -> Tensor:
        cells = self.told.middles
        return cells[torch.randint(len(cells), (256,), generator=seeded(0, CPU), device=CPU)]

    def _against_teacher(self, fitted: RadianceField, n: int) -> float:
        """PSNR over some rays of poses that training never drew."""
        assert self.step is not None
        origins, directions, wanted = (rows[:n] for rows in self._unseen)
        return psnr_of(_seen(self.step.eye(fitted), origins, directions), wanted, 1.0)

    def _eyes(self, fitted: RadianceField) -> dict[str, SceneEye]:
        assert self.step is not None
        return {"": self.step.eye(fitted), "teachers_": self.told.eye}

    def _warnings(self, config: Config) -> list[str]:
        found = list[str]()
        code: Encoding = build("encoding", config["dir_encoding"], path="dir_encoding", n_input_dims=3)
        directions = functional.normalize(torch.randn(64, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
        with torch.no_grad():
            varies = float(code(0.5 * directions + 0.5).std(0).max()) > 0
        if not varies and variation(self.told.field, self._some_points) > MATTE:
            found.append(
                "dir_encoding: is the same along all directions, so the student cannot keep how the teacher's colours "
                "change with them; SphericalHarmonics of degree 3 or more can"
            )
        teacher = self.told.field
        if isinstance(teacher, RadianceField) and teacher.appearance:
            found.append("the teacher knows each photo's exposure; the student learns their mean")
        return found


def is_large(field: SceneField) -> bool:
    """Whether what a field answers at a point takes longer than a step of most students does there."""
    cost = cost_of(field)
    return cost is not None and sum(cost) > LARGE


def rules_of(config: Config) -> Rules:
    """The section distillation, complete."""
    return read_table(Rules, config.get("distillation", {}), "distillation")


def box_of(teacher: SceneTeacher, asked: tuple[float, ...] | str | None) -> tuple[Box, list[str]]:
    """The student's box, and what should be said of it.

    Raises:
        ValueError: not a box, or one in which the teacher holds nothing; names one that would do.
    """
    field = teacher.field
    if asked in (None, "teacher"):
        return (tuple(field.low), tuple(field.high)), []
    if isinstance(field, RadianceField) and not field.space.is_bounded:
        raise ValueError("box: the teacher's space goes on beyond its box, and the student's with it; leave box out")
    content = teacher.content()
    if asked == "content":
        return content, [f"box: {written(content)}, around what the teacher holds"]
    if not isinstance(asked, tuple) or len(asked) != 6 or not all(map(math.isfinite, asked)):
        raise ValueError(
            f"box: expected six numbers, the lowest corner first, or 'content' or 'teacher', got {asked!r}"
        )
    low, high = tuple(map(float, asked[:3])), tuple(map(float, asked[3:]))
    if not all(a < b for a, b in zip(low, high, strict=True)):
        raise ValueError(f"box: expected each of the last three numbers above that of the first, got {asked}")
    share = teacher.share_in((low, high))
    if share == 0:
        raise ValueError(
            f"box: the teacher holds nothing in {written((low, high))}, so the student would be empty; "
            f"{written(content)} would do"
        )
    said = f"box: holds {share:.1%} of what the teacher does; {written(content)} holds all of it"
    return (low, high), [said] if share < 0.995 else []


def written(box: Box) -> str:
    """As --box takes it."""
    return ",".join(f"{value:.4g}" for value in (*box[0], *box[1]))


@torch.no_grad()
def variation(field: Any, points: Tensor, n_directions: int = 16) -> float:
    """How much colours change over directions: their standard deviation, mean over points and channels."""
    numbers = torch.randn(n_directions, 3, generator=seeded(1, CPU), device=CPU)  # the same on every device
    points, directions = (arrived(rows, device_of(field)) for rows in (points, functional.normalize(numbers, dim=-1)))
    every = points.repeat_interleave(n_directions, 0)
    _, color = field.radiance(every, directions.repeat(len(points), 1))
    return float(color.view(len(points), n_directions, 3).std(1).mean())


def _seen(eye: SceneEye, origins: Tensor, directions: Tensor) -> Tensor:
    parts = zip(origins.split(2**12), directions.split(2**12), strict=True)
    return torch.cat([eye(*part).color for part in parts]).clamp(0, 1)
