"""Fits of scenes whose samples do not come from an occupancy grid, and losses of rays."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scene_files import BALL_DISTANCE, BALL_RADIUS, BALL_SIDE, ball
from torch import Tensor

from fieldforge.apps.cli import main
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.scene.job import SceneFit, SceneJob, fit_scene, sampler_of
from fieldforge.apps.fit.scene.options import SceneOptions
from fieldforge.apps.fit.scene.rays import RayDraw
from fieldforge.apps.fit.scene.samplers.base import RayStep, StepParts
from fieldforge.apps.fit.scene.samplers.proposal import ProposalStep
from fieldforge.apps.fit.scene.step import SceneStep
from fieldforge.apps.images import read_image
from fieldforge.apps.render.pictures import compare, look
from fieldforge.apps.render.proposals import Looking, ProposalEye, looking_of, span
from fieldforge.apps.render.radiance import eye_of
from fieldforge.apps.scenes import Scene, read_scene
from fieldforge.backends import use_backend
from fieldforge.fields.file import load_field, save_field
from fieldforge.fields.kinds.proposal import ProposalField
from fieldforge.kernels import cpu_door
from fieldforge.registry import ConfigError

SMALL = [
    "encoding.n_levels=4", "encoding.log2_hashmap_size=12", "encoding.per_level_scale=1.6", "fit.batch_size=4096",
    "network.n_neurons=16", "rgb_network.n_neurons=16", "rgb_network.n_hidden_layers=1", "loss.otype=Huber",
]  # fmt: skip
PROPOSAL = [
    *SMALL, "sampler.n_samples=[24, 16, 12]", "sampler.resolutions=[24, 48]", "sampler.n_levels=3",
    "sampler.log2_hashmap_size=10", "sampler.annealing_steps=40",
]  # fmt: skip
HIERARCHICAL = [
    *SMALL, "encoding.otype=HashGrid", "network.n_hidden_layers=1", "sampler.n_samples=[12, 13]",
    "optimizer.learning_rate=1e-2", "dir_encoding.n_frequencies=2",
]  # fmt: skip
SETTINGS = {"proposal": PROPOSAL, "vanilla": HIERARCHICAL}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ball(tmp_path_factory.mktemp("scene") / "ball.npz")


@pytest.fixture(scope="module")
def scene(photos: Path) -> Scene:
    return read_scene(photos)


def fit_all(photos: Path, folder: Path, steps: int) -> dict[str, SceneFit]:
    return {
        preset: fit_scene(
            photos, output=folder / f"{preset}.field", preset=preset, overrides=overrides, steps=steps, progress="quiet"
        )
        for preset, overrides in SETTINGS.items()
    }


@pytest.fixture(scope="module")
def fits(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, SceneFit]:
    """A field by each sampler that has learnt a little, with its file."""
    return fit_all(photos, tmp_path_factory.mktemp("fields"), 40)


@pytest.fixture(scope="module")
def good(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, SceneFit]:
    """The same after longer fits."""
    return fit_all(photos, tmp_path_factory.mktemp("fields"), 400)


def make_step(scene: Scene, preset: str, overrides: list[str]) -> tuple[Any, RayStep]:
    """The untrained field of a configuration, and its step."""
    job = SceneJob(scene)
    config, _ = job.run_config(Plan(preset=preset, overrides=overrides))
    field = job.make_field(config, 0)
    parts = StepParts(RayDraw(scene, job.train, background=None, seed=0), config, SceneOptions.of(config["fit"]))
    return field, sampler_of(config).step(field, parts)


@pytest.mark.parametrize("preset", SETTINGS)
def test_colours_are_learnt_from_the_first_steps_on(fits: dict[str, SceneFit], preset: str) -> None:
    losses = [row["loss"] for row in fits[preset].state.history]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


@pytest.mark.slow
@pytest.mark.parametrize("preset", SETTINGS)
def test_a_ball_is_learnt_where_proposals_look(good: dict[str, SceneFit], preset: str) -> None:
    fitted = good[preset]
    assert fitted.psnr > 19
    cameras = fitted.scene.cameras.to(torch.float32)
    assert fitted.path is not None
    picture = look(eye_of(*load_field(fitted.path)), cameras, 3)  # type: ignore[arg-type]
    origins, directions = cameras.picture_rays(3)
    nearest = -(origins * directions).sum(-1)
    under = BALL_RADIUS**2 - (origins.square().sum(-1) - nearest**2)
    z = (nearest - under.clamp(min=0).sqrt()) * (directions @ cameras.forwards[3])
    is_ball = (under > 0.3 * BALL_RADIUS**2).view(BALL_SIDE, BALL_SIDE).numpy()
    error = np.abs(picture.planar_z - z.view(BALL_SIDE, BALL_SIDE).numpy())[is_ball]
    assert np.median(error) < 0.05 * BALL_DISTANCE
    assert picture.opacity[is_ball].min() > 0.9
    assert picture.opacity[0, 0] < 0.1


@pytest.mark.parametrize("preset", SETTINGS)
def test_the_file_holds_the_proposals_and_where_they_were_asked(fits: dict[str, SceneFit], preset: str) -> None:
    fitted = fits[preset]
    assert fitted.path is not None
    field, metadata = load_field(fitted.path)
    assert isinstance(field, ProposalField)
    looking = looking_of(field, metadata)
    assert list(looking.n_samples) == fitted.config["sampler"]["n_samples"]
    assert looking.joins == (preset == "vanilla")
    view = int(fitted.scene.of("test")[0])
    again = compare(fitted.scene, view, eye_of(field, metadata))
    assert isinstance(fitted.field, ProposalField)
    first = compare(fitted.scene, view, ProposalEye(fitted.field, looking))
    assert np.array_equal(again.picture.color, first.picture.color)


@pytest.mark.skipif(cpu_door.missing() is not None, reason=f"no native kernels: {cpu_door.missing()}")
@pytest.mark.parametrize("preset", SETTINGS)
def test_the_native_eye_sees_what_the_plain_one_sees(fits: dict[str, SceneFit], preset: str) -> None:
    field = fits[preset].field
    assert isinstance(field, ProposalField)
    looking = Looking([16, 11] if preset == "vanilla" else [16, 12, 8], joins=preset == "vanilla")
    origins, directions = fits[preset].scene.cameras.to(torch.float32).picture_rays(5)
    part = slice(200, 300)
    origins, directions = origins[part].contiguous(), directions[part].contiguous()
    native = ProposalEye(field, looking)
    assert native.renderer is not None
    with use_backend("reference"):
        plain = ProposalEye(field, looking)
        assert plain.renderer is None
        expected = plain(origins, directions)
    seen = native(origins, directions)
    assert (seen.color - expected.color).abs().max() < 2e-3  # an edge may fall to another side of a step of the cdf
    assert (seen.color - expected.color).abs().mean() < 1e-4


@pytest.mark.parametrize("preset", SETTINGS)
def test_an_interrupted_fit_resumes_to_the_same_field(preset: str, photos: Path, tmp_path: Path) -> None:
    """Position, ray count and when proposals learn come back too."""

    def interrupt(step: int, ray_loss: Tensor) -> None:
        if step == 13:
            os.kill(os.getpid(), signal.SIGINT)

    path = tmp_path / "x.field"
    options: dict[str, Any] = {
        "preset": preset, "overrides": [*SETTINGS[preset], "fit.batch_size=1024"], "steps": 22, "progress": "quiet",
    }  # fmt: skip
    stopped = fit_scene(photos, output=path, hooks=(interrupt,), **options)
    assert stopped.state.stopped_by == "signal"
    fit_scene(photos, output=path, resume=True, **options)
    fit_scene(photos, output=tmp_path / "whole.field", **options)
    assert path.read_bytes() == (tmp_path / "whole.field").read_bytes()


def test_defaults_of_the_sampler_are_remembered_too(scene: Scene) -> None:
    config, _ = SceneJob(scene).run_config(Plan(preset="proposal"))
    field: Any = SceneJob(scene).make_field(config, 0)
    looking = looking_of(field, {"run": config})
    assert list(looking.n_samples) == config["sampler"]["n_samples"] == [64, 48, 24]
    assert looking.spacing == "piecewise"


def test_proposals_learn_ever_more_rarely(scene: Scene) -> None:
    """In each of the first ten steps, then every other one, at last one in five and more (nerfacto)."""
    _, step = make_step(scene, "proposal", [*PROPOSAL, "sampler.update_warm_up=100"])
    assert isinstance(step, ProposalStep)
    learns = [step.teaches(k) for k in range(200)]
    assert all(learns[:10])
    assert learns[10:20] == [False, True] * 5
    assert sum(learns[100:196]) == 16  # more than five steps apart: every sixth


def test_only_steps_that_teach_move_the_proposals(scene: Scene) -> None:
    field, step = make_step(scene, "proposal", [*PROPOSAL, "fit.batch_size=512"])
    tables = [field.field.encoding.table, field.proposals[0].encoding.table]
    for k in range(10):
        step(k, 1.0)
    for k, moves in ((10, False), (11, True)):
        before = [table.detach().clone() for table in tables]
        step(k, 1.0)
        moved = [not torch.equal(table, old) for table, old in zip(tables, before, strict=True)]
        assert moved == [True, moves]


@pytest.mark.parametrize("preset", SETTINGS)
def test_regularizers_pull_at_the_field_that_is_seen(preset: str, scene: Scene) -> None:
    """A heavy one moves its tables elsewhere; a field of factors with a second encoding is trained there too."""
    planes = "{otype='TensorVM', resolution=6, n_components=2}"
    overrides = [one for one in SETTINGS[preset] if not one.startswith("encoding")]
    ended = []
    for section in ("[]", "[{otype='L1', weight=1e3, part='rgb_encoding'}]"):
        changed = [f"encoding={planes}", f"rgb_encoding={planes}", f"regularizers={section}"]
        field, step = make_step(scene, preset, [*overrides, *changed])
        step(0, 1.0)
        ended.append(field.field.rgb_encoding.planes.detach().clone())
    assert not torch.equal(*ended)


def test_coarse_and_fine_learn_from_the_colours(scene: Scene) -> None:
    field, step = make_step(scene, "vanilla", [*HIERARCHICAL, "fit.batch_size=512"])
    step(0, 1.0)
    for one in (field.field, field.proposals[0]):
        assert one.rgb_network.layers[0].weight.grad.abs().sum() > 0
    assert step.n_evaluated == pytest.approx(step.n_marched / 12 * 25)  # 12 + 13 samples for the fine one


def test_rays_run_as_far_as_a_contraction_reaches(scene: Scene) -> None:
    """And a box that holds all there is cuts them: those that miss it have no samples."""
    rays = RayDraw(scene, scene.of("train"), background=(1.0, 1.0, 1.0), seed=0)(0, 200)
    ends = {}
    for space in ("box", "contraction"):
        field, step = make_step(scene, "proposal", [*PROPOSAL, f"fit.space={space}", "sampler.far=50.0"])
        near, far = span(field, rays.origins, rays.directions, step.eye(field).looking)
        ends[space] = float(near.min()), float(far.max())
        loss, _ = step(0, 1.0)
        assert math.isfinite(loss)
    assert ends["contraction"] == (pytest.approx(0.05), 50.0)
    assert 0.05 < ends["box"][0] < ends["box"][1] < 2 * BALL_DISTANCE


@pytest.mark.parametrize("name", ["distortion", "opacity_entropy"])
def test_losses_of_rays_make_what_they_measure_smaller(name: str, scene: Scene) -> None:
    """Together with the colours, on the plain step; the native one refuses with the reason."""
    values = {}
    for factor in (0.0, 1.0):
        overrides = [*SMALL, "fit.samples_across=64", "fit.occupancy=8", f"ray_losses.{name}={factor}"]
        job = SceneJob(scene)
        config, _ = job.run_config(Plan(overrides=overrides))
        field: Any = job.make_field(config, 0)
        draw = RayDraw(scene, job.train, background=None, seed=0)
        step = sampler_of(config).step(field, StepParts(draw, config, SceneOptions.of(config["fit"])))
        assert isinstance(step, SceneStep)
        assert (name in step.why_plain) == (factor > 0)
        for k in range(60):
            step(k, 1.0)
        rays = draw(0, 1000)
        opacity = step.eye(field)(rays.origins, rays.directions).opacity
        values[factor] = float((opacity * (1 - opacity)).mean()) if name == "opacity_entropy" else _spread(step, rays)
    assert values[1.0] < 0.5 * values[0.0]


def _spread(step: SceneStep, rays: Any) -> float:
    from fieldforge.renderers import volume
    from fieldforge.renderers.compositing import distortion

    with torch.no_grad():
        seen = volume.render(
            rays.origins, rays.directions, step.field.radiance, step.grid, step=step.step_length, keep_samples=True
        )
    assert seen.samples is not None
    assert seen.weights is not None
    return float(distortion(seen.samples, seen.weights).mean())


def test_gradient_scaling_holds_back_what_is_near(scene: Scene) -> None:
    """Farther than every camera stands from the box, it makes all gradients small; nearer than all of it, it does
    nothing."""
    grads = {}
    for within in (0.0, 0.1, 100.0):
        field, step = make_step(scene, "proposal", [*PROPOSAL, f"ray_losses.gradient_scaling={within}"])
        step(0, 1.0)
        grads[within] = field.field.encoding.table.grad
    assert torch.equal(grads[0.0], grads[0.1])
    assert 0 < grads[100.0].norm() < 0.01 * grads[0.0].norm()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sampler.otype=Propose", "sampler.otype: no sampler is called 'Propose'; did you mean Proposal"),
        ("sampler.n_samples=[8]", "sampler.n_samples: expected two numbers or more"),
        ("sampler.n_samples=[8, 0, 8]", r"sampler.n_samples\[1\]: expected an integer from 1"),
        ("sampler.resolutions=[64]", "sampler.resolutions: expected 2, one for each proposal"),
        ("sampler.far=0.01", "sampler.far: expected a finite number above 0.05"),
        ("sampler.spacing=log", "sampler.spacing: expected one of linear, disparity, piecewise"),
        ("sampler.log2_hashmap_size=99", r"proposals\[0\].encoding.log2_hashmap_size"),
        ("ray_losses.distorsion=1", "ray_losses.distorsion: there is no such key; did you mean distortion"),
        ("ray_losses.distortion=-1", "ray_losses.distortion: expected a finite number of at least 0"),
    ],
)
def test_wrong_settings_are_refused_by_name(override: str, message: str, scene: Scene) -> None:
    with pytest.raises(ConfigError, match=message):
        fit_scene(scene, preset="proposal", overrides=[*PROPOSAL, override], steps=1, progress="quiet")


@pytest.mark.parametrize(
    "run",
    [
        {}, {"sampler": 3}, {"sampler": {"n_samples": "abc"}}, {"sampler": {"n_samples": [10**9] * 3}},
        {"sampler": {"n_samples": [4, 4]}}, {"sampler": {"n_samples": [4, 4, 4], "near": -1, "far": "x"}},
    ],
)  # fmt: skip
def test_a_strange_header_is_looked_past(run: Any, fits: dict[str, SceneFit], tmp_path: Path) -> None:
    field = fits["proposal"].field
    assert isinstance(field, ProposalField)
    assert list(looking_of(field, {"run": run}).n_samples) == [64, 64, 64]
    save_field(tmp_path / "x.field", field, metadata={"run": run})
    command = ["render", str(tmp_path / "x.field"), "-o", str(tmp_path / "x.png"), "--size", "8x6", "--quiet"]
    assert main(command) == 0
    assert read_image(tmp_path / "x.png").pixels.shape == (6, 8, 3)
