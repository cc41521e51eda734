"""Fit a radiance field to posed photos.

    result = fit_scene("lego")
    result.field.radiance(points, directions), result.psnr

Rays come from all training photos at once; held-out photos say how good new views are.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch

from fieldforge.apps.fit.exposure import expect_none
from fieldforge.apps.fit.job import Fit, Job, Plan, PlanKeywords, Training
from fieldforge.apps.fit.loop import Figure, Hook, State, psnr
from fieldforge.apps.fit.ranks import current
from fieldforge.apps.fit.recipe import Config
from fieldforge.apps.fit.scene.ndc import in_ndc, why_not_forward
from fieldforge.apps.fit.scene.options import BACKGROUNDS, SceneOptions
from fieldforge.apps.fit.scene.poses import common_movement, move
from fieldforge.apps.fit.scene.presets import Seen, preset, with_time
from fieldforge.apps.fit.scene.rays import RayDraw, Rays
from fieldforge.apps.fit.scene.report import SceneReport
from fieldforge.apps.fit.scene.samplers import RayStep, Sampler
from fieldforge.apps.fit.scene.samplers.base import StepParts
from fieldforge.apps.fit.scene.samplers.occupancy import Occupancy
from fieldforge.apps.fit.scene.space import notices, place, settled
from fieldforge.apps.fit.scene.step import SceneStep
from fieldforge.apps.fit.slices import Slice
from fieldforge.apps.metrics import psnr as psnr_of
from fieldforge.apps.render.pictures import compare
from fieldforge.apps.render.radiance import SceneEye
from fieldforge.apps.render.remembered import remember_cameras
from fieldforge.apps.scenes import Scene, SceneError, read_scene
from fieldforge.apps.scenes.digest import digest_of
from fieldforge.fields.kinds.scene import SceneField
from fieldforge.registry import ConfigError, build

PARTS = ("partition", "encoding", "network", "dir_encoding", "rgb_encoding", "rgb_network")
"""Sections that are parts of the field; a run may leave out partition and rgb_encoding."""
SECTIONS = (*PARTS, "radiance", "sampler", "loss", "ray_losses", "regularizers", "optimizer", "schedule", "fit")
BACKGROUND_NETWORK: Config = {
    "otype": "MLP",
    "n_neurons": 32,
    "n_hidden_layers": 1,
    "activation": "ReLU",
    "output_activation": "Sigmoid",
}
"""What says the colour behind the scene, of a direction, where it is learned."""
N_SAMPLED = 2**14
"""Held-out pixels that are looked at while training goes on."""


@dataclass(kw_only=True)
class SceneFit(Fit[SceneField]):
    """What a fit to photos came to.

    Attributes:
        scene: what was fitted.
    """

    scene: Scene

    @property
    def psnr(self) -> float:
        """Decibels, mean over the held-out views; nan where there are none."""
        return self.figure("psnr")

    @property
    def ssim(self) -> float:
        """Structural similarity, mean over the held-out views."""
        return self.figure("ssim")


def fit_scene(
    source: str | Path | Scene, *, downscale: int = 1, psnr: float | None = None, **plan: Unpack[PlanKeywords]
) -> SceneFit:
    """Fit a radiance field to posed photos.

    Args:
        source: a folder or file as for `fieldforge.apps.scenes.read_scene`, or a Scene.
        downscale: blocks of so many by so many pixels become one; for a folder.
        psnr: stop as soon as the held-out views are that good, in decibels.
        plan: output, preset, steps, seconds, ...: see `fieldforge.apps.fit.job.Plan`.

    Returns:
        The result. If a signal stopped it, `state.stopped_by` is 'signal', and with an `output` the state is saved
        beside it, no field is written, and nothing was measured (psnr is nan).

    Raises:
        SceneError: the photos or their cameras cannot be used.
        ConfigError, ValueError: options or configuration.
        BackendError: the backend asked for cannot run.
    """
    result: SceneFit = SceneJob(source, downscale=downscale).run(Plan(**plan), psnr)
    return result


class SceneJob(Job[SceneField]):
    """Photos to fit.

    Args:
        source, downscale: as for `fit_scene`.
        allow_missing: go on without the views whose photos are not there.
        report: folder for pictures of a held-out view while the fit goes on, and a page at its end; None makes none.

    Raises:
        SceneError: the photos or their cameras cannot be used, or none is for training.
    """

    signal = "scene"
    is_shared = True
    target = "psnr"
    options = SceneOptions
    sections = SECTIONS

    def __init__(
        self,
        source: str | Path | Scene,
        *,
        downscale: int = 1,
        allow_missing: bool = False,
        report: Path | None = None,
    ) -> None:
        self.downscale = downscale
        self.scene = (
            source
            if isinstance(source, Scene)
            else read_scene(source, downscale=downscale, allow_missing=allow_missing)
        )
        self.train, self.test = self.scene.of("train"), self.scene.of("test")
        if not len(self.train):
            raise SceneError(f"{self.scene.source}: no view is for training")
        self.step: RayStep | None = None
        shown = int((self.test if len(self.test) else self.train)[0])
        self.report = None if report is None else SceneReport(report, self.scene, shown)

    @cached_property
    def digest(self) -> str | None:
        """See `digest_of`."""
        return digest_of(self.scene)

    def slices(self, side: int) -> list[Slice]:
        raise ConfigError(
            "a scene is known along rays through its photos, not at points, so neither --tune nor --diagnose can look "
            "at it; the grids and octaves of its presets have no setting that spectra choose"
        )

    def notices(self) -> list[str]:
        scene, n_test = self.scene, len(self.test)
        width, height = scene.photos.sizes[0].tolist()
        low, high = ([f"{number:.3g}" for number in corner] for corner in scene.bounds.box.tolist())
        return [
            f"{scene.format}; {len(self.train)} views of {width}x{height} for training, {n_test} held out",
            scene.photos.plan.sentence,
            f"box from {', '.join(low)} to {', '.join(high)}: {scene.bounds.reason}",
            *scene.notes,
        ]

    def preset(self, name: str) -> Config:
        low, high = self.scene.bounds.box.tolist()
        x, y, z = (b - a for a, b in zip(low, high, strict=True))
        found = preset(name, Seen(int(self.scene.photos.sizes.max()), self.scene.has_alpha, (x, y, z)))
        return found if self.scene.times is None else with_time(found)

    def settle(self, config: Config) -> list[str]:
        options = settled(SceneOptions.of(config["fit"]), self.scene)
        if options.space in ("ndc", "nerfpp") and not isinstance(sampler_of(config), Occupancy):
            raise ConfigError(
                f"fit.space: {options.space} goes with the sampler Occupancy; fit.space=box goes with any"
            )
        if options.space == "ndc":
            why_not = why_not_forward(self.scene)
            if why_not or options.refine_cameras:
                why_not = why_not or "cameras are not refined there"
                raise ConfigError(f"fit.space: ndc is not for {self.scene.source}: {why_not}; box or contraction are")
        config["fit"] = options.config()
        return [*notices(options, self.scene), *self._notices_of_rays(options)]

    def _notices_of_rays(self, options: SceneOptions) -> list[str]:
        found = list[str]()
        if self.scene.times is not None:
            found.append(
                "the photos have times: the field changes with time (fit.time=off fits one that stands still)"
                if options.time == "auto"
                else "the photos have times, and the field stands still, as fit.time=off asks"
            )
        if options.refine_cameras:
            found.append(
                "cameras are refined: held-out views are seen from their poses as given, moved as the training cameras "
                "moved together"
            )
        return found

    def background(self, options: SceneOptions) -> tuple[float, float, float] | None:
        """What a picture shows where nothing is: for photos with alpha white, unless training sees another colour."""
        fixed = BACKGROUNDS[options.background]
        return fixed if fixed is not None or not self.scene.has_alpha else (1.0, 1.0, 1.0)

    def run_config(self, plan: Plan, tell: Callable[[str], None] = lambda text: None) -> tuple[Config, list[str]]:
        """As of any job; and the sampler complete, because who opens the file looks where training did."""
        config, notices = super().run_config(plan, tell)
        return config | {"sampler": sampler_of(config).config()}, notices

    def make_field(self, config: Config, seed: int) -> SceneField:
        options = settled(SceneOptions.of(config["fit"]), self.scene)
        is_learned = options.background == "learned"
        if is_learned and self.scene.has_alpha:
            raise ConfigError(
                "fit.background: photos with alpha have nothing behind them to learn; take white, black or random"
            )
        described = {section: config[section] for section in PARTS if section in config} | config.get("radiance", {})
        background = self.background(options)
        described |= {
            "otype": "RadianceField",
            **place(options, self.scene),
            "background": None if background is None else list(background),
            "background_network": BACKGROUND_NETWORK if is_learned else None,
            "duration": 0.0 if self.scene.times is None or options.time == "off" else options.duration,
            "appearance": options.appearance,
            "n_photos": len(self.train) if options.appearance else 0,
        }
        sampler = sampler_of(config)
        asked = {"background=black": is_learned, "refine_cameras=false": options.refine_cameras}
        asked |= {"time=off": described["duration"] > 0, "appearance=0": options.appearance > 0}
        for way_out, is_asked in asked.items():
            if is_asked and sampler.otype != "Occupancy":
                key = way_out.split("=")[0]
                raise ConfigError(
                    f"fit.{key}: only the sampler Occupancy knows it, not {sampler.otype}; fit.{way_out} goes without"
                )
        described = sampler.field(described, options)
        if options.space == "ndc":
            described = in_ndc(described, self.scene)
        made: SceneField = build("field", described, generator=torch.Generator().manual_seed(seed))
        for part, network in made.named_modules():
            if getattr(network, "mixes_points", False):
                raise ConfigError(
                    f"{part}.norm: statistics of a batch mean little in a scene, where a step asks for samples of rays "
                    "in one batch and for cells that may be empty in another; layer or none will do"
                )
        expect_none(made, "photos of a scene tell those along rays")
        return made

    @contextmanager
    def training(self, fitted: SceneField, config: Config, seed: int, hooks: Sequence[Hook]) -> Iterator[Training]:
        options = settled(SceneOptions.of(config["fit"]), self.scene)
        background = BACKGROUNDS[options.background]
        is_endless = options.space == "ndc" or not self.scene.bounds.is_bounded
        draw = RayDraw(self.scene, self.train, background=background, must_end=is_endless, seed=seed)
        parts = StepParts(draw, config, options, seed=seed, hooks=hooks)
        self.step = step = sampler_of(config).step(fitted, parts)
        if options.precision != "float32" and type(step) is not SceneStep:
            raise ConfigError("fit.precision: steps of the sampler Occupancy in fit.space box, contraction or ndc know "
                              f"{options.precision}, and no others; leave it out")  # fmt: skip
        if current().n > 1 and type(step) is not SceneStep:
            raise ConfigError("sampler: several processes share steps of the sampler Occupancy in fit.space box, "
                              "contraction or ndc; start one")  # fmt: skip
        yield Training(step, step.optimizer, step.why_plain)
        step.finish(fitted)

    def shown(self, config: Config) -> Figure:
        return psnr()

    def look(self, fitted: SceneField, state: State) -> dict[str, float]:
        number = len(state.history)
        if not (number in (1, 2, 4) or number % 8 == 0) or state.step == state.n_steps:
            return {}
        seen = {"held_out_psnr": self._near(fitted)} if len(self.test) else {}
        if self.report is not None:
            self.report.add(state, self._eye(fitted), seen)
        return seen

    def quality(self, fitted: SceneField, target: float) -> float:
        near = self._near(fitted)
        return near if near < target else (self._measure(fitted, self._eye(fitted))["psnr"] or 0.0)

    def expect_target(self, value: float) -> None:
        if not len(self.test):
            raise ValueError(f"psnr: {self.scene.source} has no held-out views to measure")

    def measure(self, fitted: SceneField, tell: Callable[[str], None]) -> dict[str, float | None]:
        if len(self.test):
            tell(f"rendering {len(self.test)} held-out views")
        return self._measure(fitted, self._eye(fitted))

    def metadata(self) -> dict[str, Any]:
        cameras = self.scene.cameras
        middle = self.scene.bounds.box.mean(0)
        distance = float(torch.linalg.vector_norm(cameras.positions.double() - middle, dim=-1).median())
        up = torch.nn.functional.normalize(cameras.poses[:, :, 1].double().mean(0), dim=0)
        width, height = cameras.sizes[0].tolist()
        return {
            "views": len(self.train),
            "held_out": len(self.test),
            "downscale": self.downscale,
            "width": width,
            "height": height,
            "focal": round(float(cameras.intrinsics[0, 0]), 4),
            "distance": round(distance, 6),
            "up": [round(number, 6) for number in up.tolist()],
            "near": _short(self.scene.bounds.near),
            "far": _short(self.scene.bounds.far),
            "cameras": remember_cameras(cameras.select(self.train).poses.double().numpy()),
        } | self._refined()

    def finish(self, result: SceneFit) -> None:
        if self.report is not None:
            quality = "" if math.isnan(result.psnr) else f"; PSNR {result.psnr:.2f} dB over held-out views"
            title = f"{Path(self.scene.source).name}: {result.state.step} steps in {result.seconds:.0f} s{quality}"
            self.report.finish(result.field, self._eye(result.field), result.state, title)

    def _refined(self) -> dict[str, Any]:
        """Where refined cameras ended, for the header."""
        if self.step is None or self.step.poses is None:
            return {}
        scene, cameras = self.seen_scene(), self.scene.cameras
        movement = common_movement(cameras.poses[self.train], scene.cameras.poses[self.train], self.step.poses.length)
        return {
            "movement": [[round(number, 7) for number in row] for row in movement.tolist()],
            "refined_poses": {
                scene.views[view].name: [[round(number, 7) for number in row] for row in pose]
                for view, pose in zip(self.train.tolist(), scene.cameras.poses[self.train].tolist(), strict=True)
            },
        }

    def seen_scene(self) -> Scene:
        """The scene with its cameras where training has brought them; held-out ones share the common movement."""
        if self.step is None or self.step.poses is None:
            return self.scene
        cameras = self.scene.cameras
        before = cameras.poses[self.train]
        after = self.step.poses.refined(before)
        poses = move(cameras.poses, common_movement(before, after, self.step.poses.length))
        poses[self.train] = after
        return dataclasses.replace(self.scene, cameras=dataclasses.replace(cameras, poses=poses))

    def result(self, **parts: Any) -> SceneFit:
        return SceneFit(scene=self.scene, **parts)

    def _measure(self, fitted: SceneField, eye: SceneEye) -> dict[str, float | None]:
        scene = self.seen_scene()
        rows = [compare(scene, view, eye) for view in self.test.tolist()]
        if not rows:
            return {"psnr": None, "ssim": None}
        similar = [row.ssim for row in rows if row.ssim is not None]
        return {
            "psnr": round(float(np.mean([row.psnr for row in rows])), 4),
            "ssim": round(float(np.mean(similar)), 6) if similar else None,
        }

    def _eye(self, fitted: SceneField) -> SceneEye:
        """That looks at a field as training does."""
        assert self.step is not None
        return self.step.eye(fitted)

    def _near(self, fitted: SceneField) -> float:
        """PSNR over some pixels of the held-out views."""
        eye, rays = self._eye(fitted), self._some_rays(fitted)
        columns = [rays.origins, rays.directions, *([rays.time] if fitted.has_time else [])]
        color = [eye(*part).color for part in zip(*(column.split(2**12) for column in columns), strict=True)]
        return psnr_of(torch.cat(color).clamp(0, 1), rays.target, 1.0)

    def _some_rays(self, fitted: SceneField) -> Rays:
        background = fitted.background or (0.0, 0.0, 0.0)
        draw = RayDraw(self.seen_scene(), self.test, background=(background[0], background[1], background[2]), seed=0)
        return draw(0, min(N_SAMPLED, draw.n_pixels))


def _short(number: float) -> float | None:
    """Of a header: six digits, and nothing for what is not finite."""
    return float(f"{number:.6g}") if math.isfinite(number) else None


def sampler_of(config: Config) -> Sampler:
    """What the section ``sampler`` names; samples in occupied cells where there is none."""
    made: Sampler = build("sampler", config.get("sampler", "Occupancy"), path="sampler")
    return made
