"""Fitting scenes: a ball from its photos, new views of it, depths; the same bits whatever happens in between."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scene_files import BALL_DISTANCE as DISTANCE
from scene_files import BALL_RADIUS as RADIUS
from scene_files import BALL_SIDE as SIDE
from scene_files import ball
from torch import Tensor

from fieldforge.apps.cli import main
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.loop import State
from fieldforge.apps.fit.scene.job import SceneFit, SceneJob, fit_scene
from fieldforge.apps.fit.scene.options import SceneOptions
from fieldforge.apps.fit.scene.presets import PRESETS
from fieldforge.apps.fit.scene.rays import RayDraw
from fieldforge.apps.fit.scene.report import SceneReport
from fieldforge.apps.fit.scene.step import scene_step
from fieldforge.apps.fit.scene.unseen import close_transparent, close_unseen
from fieldforge.apps.images import read_image
from fieldforge.apps.metrics import psnr
from fieldforge.apps.render.pictures import compare, look, photo_of
from fieldforge.apps.render.radiance import Eye, eye_of
from fieldforge.apps.scenes import Scene, read_scene
from fieldforge.apps.scenes.photos import Photos
from fieldforge.backends import use_backend
from fieldforge.fields.file import load_field, save_field
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.kernels import cpu_door
from fieldforge.renderers.cameras.paths import orbit
from fieldforge.renderers.occupancy import OccupancyGrid
from fieldforge.renderers.volume import render

needs_native = pytest.mark.skipif(cpu_door.missing() is not None, reason=f"no native kernels: {cpu_door.missing()}")

SMALL = [
    "encoding.n_levels=4", "encoding.log2_hashmap_size=12", "encoding.per_level_scale=1.6", "fit.batch_size=4096",
    "network.n_neurons=16", "rgb_network.n_neurons=16", "rgb_network.n_hidden_layers=1", "fit.samples_across=96",
    "fit.occupancy=16", "fit.update_every=8",
]  # fmt: skip
"""A field that is fitted to a ball in seconds."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen photos with alpha of a ball whose colours are its normals; every eighth is held out."""
    return ball(tmp_path_factory.mktemp("scene") / "ball.npz")


@pytest.fixture(scope="module")
def scene(photos: Path) -> Scene:
    return read_scene(photos)


@pytest.fixture(scope="module")
def fitted(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> SceneFit:
    """A field of it, with its file."""
    path = tmp_path_factory.mktemp("fields") / "ball.field"
    return fit_scene(photos, output=path, overrides=SMALL, steps=250, progress="quiet")


def test_a_ball_is_learnt_from_its_photos(fitted: SceneFit) -> None:
    assert fitted.psnr > 25
    assert fitted.ssim > 0.9
    assert len(fitted.scene.of("test")) == 2
    seen = [row["held_out_psnr"] for row in fitted.state.history if "held_out_psnr" in row]
    assert len(seen) > 5
    assert seen[0] < seen[-1] == pytest.approx(fitted.psnr, abs=2)


@pytest.mark.parametrize(
    "metadata",
    [{}, {"signal": 3, "run": []}, {"signal": {"width": "x", "up": [0, 0], "focal": True, "distance": -1.0},
     "run": {"fit": {"samples_across": 0, "early_stop": 9}}}, {"signal": {"up": [0, 0, 0], "width": 10**30}}],
)  # fmt: skip
def test_a_strange_header_is_looked_past(fitted: SceneFit, metadata: dict[str, Any], tmp_path: Path) -> None:
    assert fitted.path is not None
    save_field(tmp_path / "x.field", fitted.field, metadata=metadata)
    assert main(["render", str(tmp_path / "x.field"), "-o", str(tmp_path / "x.png"), "--size", "16x12", "--quiet"]) == 0
    assert read_image(tmp_path / "x.png").pixels.shape == (12, 16, 3)


def test_a_report_shows_a_held_out_view_beside_its_photo_and_changes_nothing(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [part for override in SMALL for part in ("--set", override)]
    fit = ["fit", "scene", str(photos), "--steps", "24", *overrides, "-o"]
    folder = tmp_path / "report"
    assert main([*fit, str(tmp_path / "a.field"), "--report", str(folder)]) == 0
    assert "stages, curve" in capsys.readouterr().out
    assert main([*fit, str(tmp_path / "b.field"), "--quiet"]) == 0
    assert (tmp_path / "a.field").read_bytes() == (tmp_path / "b.field").read_bytes()
    _, metadata = load_field(tmp_path / "a.field")
    rows = json.loads((folder / "curve.json").read_text())
    history = {row["step"]: row["held_out_psnr"] for row in metadata["history"] if "held_out_psnr" in row}
    assert [row["step"] for row in rows] == list(history) == [1, 2, 4, 8, 16]
    assert [row["held_out_psnr"] for row in rows] == pytest.approx(list(history.values()), abs=0.01)
    assert len(list(folder.glob("step_*.png"))) == 5
    scene, picture = read_scene(photos), read_image(folder / "step_000016.png").pixels
    photo = photo_of(scene, int(scene.of("test")[0]), torch.ones(3)).numpy()
    assert np.abs(picture[:, :SIDE] / 255 - photo).max() < 0.003
    assert psnr(picture[:, SIDE:].astype(np.float64) / 255, photo.astype(np.float64)) == pytest.approx(
        rows[-1]["view_psnr"], abs=0.1
    )
    assert read_image(folder / "report.png").pixels.shape[1] == 1500
    (tmp_path / "file").write_text("")
    assert main([*fit, str(tmp_path / "c.field"), "--report", str(tmp_path / "file")]) == 2
    assert "name a folder" in capsys.readouterr().err


def test_a_resumed_report_goes_on_with_the_rows_of_its_fit(scene: Scene, fitted: SceneFit, tmp_path: Path) -> None:
    rows = [{"step": step, "seconds": 1.0, "view_psnr": 9.0} for step in (4, 8, 999)]
    (tmp_path / "curve.json").write_text(json.dumps(rows))
    for steps, kept in (((4, 8, 12), [4, 8, 12]), ((12,), [12])):
        report = SceneReport(tmp_path, scene, 0)
        state = State(step=12, n_steps=20, history=[{"step": step} for step in steps])
        report.add(state, Eye(fitted.field), {})
        assert [row["step"] for row in json.loads((tmp_path / "curve.json").read_text())] == kept
    for strange in ("{", "3", "[3]", '[{"step": "x"}]'):
        (tmp_path / "curve.json").write_text(strange)
        SceneReport(tmp_path, scene, 0).add(State(step=1, history=[{"step": 1}]), Eye(fitted.field), {})
        assert len(json.loads((tmp_path / "curve.json").read_text())) == 1


def test_masked_pixels_are_never_drawn(scene: Scene) -> None:
    masks = np.zeros((16, SIDE, SIDE, 1), np.uint8)
    masks[:, 10:, :7] = 255
    masked = dataclasses.replace(scene, masks=Photos.from_array(masks))
    drawn = RayDraw(masked, scene.of("train"), background=(0.0, 0.0, 0.0), seed=0)(0, 3000)
    kept = torch.tensor([[x, y] for x in range(7) for y in range(10, SIDE)])
    cameras = scene.cameras.to(torch.float32)
    allowed = torch.cat([cameras.rays(torch.tensor(view), kept)[1] for view in scene.of("train").tolist()])
    apart = torch.cdist(drawn.directions, allowed, compute_mode="donot_use_mm_for_euclid_dist")
    assert (apart.min(1).values < 1e-5).all()
    assert len(torch.unique(drawn.directions, dim=0)) > 1000


def test_distances_are_those_of_the_ball(fitted: SceneFit) -> None:
    cameras = fitted.scene.cameras.to(torch.float32)
    picture = look(Eye(fitted.field), cameras, 3)
    origins, directions = cameras.picture_rays(3)
    nearest = -(origins * directions).sum(-1)
    under = RADIUS**2 - (origins.square().sum(-1) - nearest**2)
    distance = (nearest - under.clamp(min=0).sqrt()).view(SIDE, SIDE)
    is_ball = (under > 0.3 * RADIUS**2).view(SIDE, SIDE).numpy()
    z = (distance * (directions @ cameras.forwards[3]).view(SIDE, SIDE)).numpy()
    error = np.abs(picture.planar_z - z)[is_ball]
    assert np.median(error) < 0.03 * DISTANCE
    assert (picture.opacity[is_ball] > 0.95).all()
    assert not np.isfinite(picture.planar_z[0, 0]) or picture.opacity[0, 0] < 0.05


def test_the_file_holds_all_that_is_needed_to_look_at_it(fitted: SceneFit) -> None:
    assert fitted.path is not None
    field, metadata = load_field(fitted.path)
    assert isinstance(field, RadianceField)
    view = int(fitted.scene.of("test")[0])
    again, first = (compare(fitted.scene, view, eye_of(one, metadata)) for one in (field, fitted.field))
    assert np.array_equal(again.picture.color, first.picture.color)
    assert metadata["signal"]["held_out"] == 2
    assert metadata["metrics"]["psnr"] == pytest.approx(fitted.psnr)
    assert str(fitted.path.parent) not in json.dumps(metadata)


def test_occupancy_shows_the_dense_picture_from_a_quarter_of_the_samples(fitted: SceneFit) -> None:
    """Of the field as training knew it. Asked in closed cells too, where no ray looked, it shows the fog that is left
    there, and no more of the photo."""
    origins, directions = fitted.scene.cameras.to(torch.float32).picture_rays(0)
    sparse, field = Eye(fitted.field), fitted.field  # type: ignore[arg-type]
    everywhere = OccupancyGrid(field.low, field.high, 4)

    def known(points: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
        density, color = field.radiance(points, along)
        return torch.where(sparse.grid.occupied(points), density, 0.0), color

    densely: dict[str, Any] = {"step": sparse.step, "background": sparse.background, "early_stop": 0.0}
    with torch.no_grad():
        dense, foggy = (render(origins, directions, of, everywhere, **densely) for of in (known, field.radiance))
    seen, photo = sparse(origins, directions), photo_of(fitted.scene, 0, torch.ones(3)).view(-1, 3)
    assert psnr(seen.color, photo) == pytest.approx(psnr(dense.color, photo), abs=0.1)
    assert psnr(seen.color, dense.color) > 60
    assert psnr(seen.color, photo) > psnr(foggy.color, photo) - 0.1
    assert seen.n_evaluated < dense.n_evaluated / 4


@needs_native
def test_the_native_renderer_shows_what_the_plain_one_shows(fitted: SceneFit) -> None:
    origins, directions = fitted.scene.cameras.to(torch.float32).picture_rays(5)
    native = Eye(fitted.field, step=0.02)
    assert native.renderer is not None
    with use_backend("reference"):
        plain = Eye(fitted.field, step=0.02)
        assert plain.renderer is None
        expected = plain(origins[200:300], directions[200:300])
    seen = native(origins[200:300].contiguous(), directions[200:300].contiguous())
    torch.testing.assert_close(seen.color, expected.color, rtol=0, atol=1e-4)
    is_seen = expected.opacity > 1e-3
    torch.testing.assert_close(seen.distance[is_seen], expected.distance[is_seen], rtol=1e-3, atol=1e-3)


@needs_native
def test_native_steps_are_the_plain_ones(scene: Scene) -> None:
    """The first steps with either lead to the same losses."""
    losses: list[list[float]] = []
    for is_plain in (False, True):
        job = SceneJob(scene)
        config, _ = job.run_config(Plan(overrides=SMALL))
        options = SceneOptions.of(config["fit"])
        field = job.make_field(config, 0)
        step = scene_step(field, RayDraw(scene, job.train, background=None, seed=0), config, options)
        assert not step.why_plain
        if is_plain:
            step.native = None
        losses.append([step(i, 1.0)[0] for i in range(4)])
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)


def test_regularizers_move_the_parameters_in_plain_steps(scene: Scene) -> None:
    """A step with a heavy one goes elsewhere, the loss that is shown is that of the rays, and the reason is told."""
    ended: list[Tensor] = []
    shown: list[float] = []
    for section in ("[]", '[{otype="L1", weight=100.0}]'):
        job = SceneJob(scene)
        overrides = [
            "encoding={otype='TensorVM', resolution=8, n_components=2}", f"regularizers={section}",
            *(one for one in SMALL if not one.startswith("encoding")),
        ]  # fmt: skip
        config, _ = job.run_config(Plan(overrides=overrides))
        field = job.make_field(config, 0)
        with job.training(field, config, 0, ()) as training:
            shown.append(training.advance(0, 1.0)[0])
            reason = training.why_not_fused
        ended.append(next(field.encoding.parameters()).detach().clone())
    assert "the regularizer L1 is not native" in reason
    assert shown[0] == shown[1]
    assert not torch.equal(*ended)


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_threads(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("1", "2"):
        monkeypatch.setenv("FIELDFORGE_NUM_THREADS", name)
        fit_scene(photos, output=tmp_path / f"{name}.field", overrides=SMALL, steps=20, progress="quiet")
    assert (tmp_path / "1.field").read_bytes() == (tmp_path / "2.field").read_bytes()


def test_an_interrupted_fit_resumes_to_the_same_field(photos: Path, tmp_path: Path) -> None:
    """Position, ray count and occupancy come back too."""

    def interrupt(step: int, ray_loss: Tensor) -> None:
        if step == 21:
            os.kill(os.getpid(), signal.SIGINT)

    path = tmp_path / "x.field"
    options: dict[str, Any] = {"overrides": SMALL, "steps": 60, "progress": "quiet"}
    stopped = fit_scene(photos, output=path, hooks=(interrupt,), **options)
    assert stopped.state.stopped_by == "signal"
    assert 21 < stopped.state.step < 60
    fit_scene(photos, output=path, resume=True, **options)
    fit_scene(photos, output=tmp_path / "whole.field", **options)
    first, second = load_field(path)[0], load_field(tmp_path / "whole.field")[0]
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_a_coarse_start_has_longer_samples_until_its_share_of_the_steps_is_over(scene: Scene) -> None:
    job = SceneJob(scene)
    config, _ = job.run_config(Plan(overrides=[*SMALL, "fit.coarse_start=0.5", "fit.n_steps=80"]))
    options = SceneOptions.of(config["fit"])
    step = scene_step(job.make_field(config, 0), RayDraw(scene, job.train, background=None, seed=0), config, options)
    lengths = [step.length_at(number) / step.step_length for number in (0, 9, 10, 39, 40, 79)]
    assert lengths == [4, 4, 2, 2, 1, 1]
    marched = []
    for number in (0, 40):
        step.counters.copy_(torch.tensor([0, 200]))
        step(number, 0.0)
        marched.append(step.n_marched)
    assert 3.5 * marched[0] < marched[1] < 4.5 * marched[0]


def test_a_field_that_begins_the_same_everywhere_is_looked_at_everywhere(scene: Scene) -> None:
    """Its density exceeds its mean nowhere; were all cells closed, nothing would ever be learnt."""
    job = SceneJob(scene)
    overrides = ["encoding={otype='PREF', resolution=8, initial='Zero'}", "network.has_bias=true"]
    config, _ = job.run_config(Plan(overrides=[*overrides, *(one for one in SMALL if not one.startswith("encoding"))]))
    options = SceneOptions.of(config["fit"])
    step = scene_step(job.make_field(config, 0), RayDraw(scene, job.train, background=None, seed=0), config, options)
    step(0, 1.0)
    assert torch.equal(step.grid.cells, step.grid.density >= 0)  # all but those that are closed for good
    assert step.n_evaluated > 0


def test_rays_fill_the_budget_of_samples(scene: Scene) -> None:
    job = SceneJob(scene)
    config, _ = job.run_config(Plan(overrides=SMALL))
    options = SceneOptions.of(config["fit"])
    step = scene_step(job.make_field(config, 0), RayDraw(scene, job.train, background=None, seed=0), config, options)
    costs = []
    for i in range(60):
        step(i, 1.0)
        costs.append(step.n_evaluated + step.n_marched / 8)
    assert 0.5 * 4096 < np.median(costs[20:]) < 1.5 * 4096
    assert step.n_rays > 200


def test_cells_that_no_camera_sees_are_closed_for_good() -> None:
    grid = OccupancyGrid((-1, -1, -1), (1, 1, 1), 32)
    cameras = orbit(
        torch.zeros(3), distance=3.0, up=torch.tensor([0.0, 0.0, 1.0]), elevation=0.0, n_frames=2, width=20, height=20,
        focal=60.0,
    )  # fmt: skip
    share = close_unseen(grid, cameras, torch.tensor([0]))
    assert 0.5 < share < 0.9
    generator = torch.Generator().manual_seed(0)
    points = 2 * torch.rand(4000, 3, generator=generator) - 1
    is_seen = cameras.sees(torch.tensor(0), points)
    assert grid.occupied(points[is_seen]).all()
    assert grid.occupied(points[~is_seen]).float().mean() < 0.3  # a cell's width around what is seen
    grid.update(lambda points: torch.full_like(points[:, 0], 9.0), 0, generator=generator)
    assert float((grid.density < 0).float().mean()) == share
    assert not grid.occupied(torch.tensor([[0.9, 0.9, 0.9]])).any()


def test_photos_with_alpha_close_what_they_see_through_and_nothing_of_the_ball(photos: Path) -> None:
    scene = read_scene(photos)
    cameras, views = scene.cameras.to(torch.float32), scene.of("train")
    grid = OccupancyGrid((-1.5, -1.5, -1.5), (1.5, 1.5, 1.5), 32)
    share = close_transparent(grid, scene, cameras, views)
    points = 3 * torch.rand(20000, 3, generator=torch.Generator().manual_seed(0)) - 1.5
    distance = torch.linalg.vector_norm(points, dim=-1)
    assert grid.occupied(points[distance < RADIUS]).all()
    beside = points[(distance > RADIUS + 0.35) & (distance < 1.2)]  # two cells and two pixels away, and in the photos
    assert grid.occupied(beside).float().mean() < 0.1
    assert share > 0.5
    grid.update(lambda points: torch.full_like(points[:, 0], 9.0), 0)
    assert float((grid.density < 0).float().mean()) == share


def test_a_wrong_silhouette_alone_closes_nothing(photos: Path) -> None:
    scene = read_scene(photos)
    cameras, views = scene.cameras.to(torch.float32), scene.of("train")
    bare = Photos(
        scene.photos.sizes, 4,
        lambda view: np.zeros((SIDE, SIDE, 4), np.uint8)
        if view in (0, 1)
        else (255 * scene.photos.picture(view)).round().to(torch.uint8).numpy(),
        memory=2**20,
    )  # fmt: skip
    grid, low, high = OccupancyGrid((-1, -1, -1), (1, 1, 1), 16), (-0.1,) * 3, (0.1,) * 3
    close_transparent(grid, dataclasses.replace(scene, photos=bare), cameras, views)
    assert grid.occupied(torch.tensor([low, high, (0.0, 0.0, 0.0)])).all()
    n_wrong = sum(view in (0, 1) for view in views.tolist())
    assert n_wrong > 0
    close_transparent(grid, dataclasses.replace(scene, photos=bare), cameras, views, n_witnesses=n_wrong)
    assert not grid.occupied(torch.tensor([(0.0, 0.0, 0.0)])).any()


def test_photos_without_alpha_close_nothing(photos: Path) -> None:
    scene = read_scene(photos)
    opaque = Photos(scene.photos.sizes, 3, lambda view: np.zeros((SIDE, SIDE, 3), np.uint8), memory=2**20)
    grid = OccupancyGrid((-1, -1, -1), (1, 1, 1), 16)
    scene = dataclasses.replace(scene, photos=opaque)
    assert close_transparent(grid, scene, scene.cameras.to(torch.float32), scene.of("train")) == 0.0
    assert grid.cells.all()


def test_cells_of_every_cascade_are_closed_where_no_camera_looks() -> None:
    grid = OccupancyGrid((-1, -1, -1), (1, 1, 1), 32, 3)
    cameras = orbit(
        torch.zeros(3), distance=0.5, up=torch.tensor([0.0, 0.0, 1.0]), elevation=0.0, n_frames=2, width=20, height=20,
        focal=25.0,
    )  # fmt: skip
    close_unseen(grid, cameras, torch.tensor([0]))
    for cascade, size in enumerate((1.0, 2.0, 4.0)):
        points = size * (2 * torch.rand(4000, 3, generator=torch.Generator().manual_seed(cascade)) - 1)
        is_seen = cameras.sees(torch.tensor(0), points)
        is_there = points.abs().amax(-1) > (0.5 * size if cascade else 0)
        assert grid.occupied(points[is_seen & is_there]).all()
        assert grid.occupied(points[~is_seen & is_there]).float().mean() < 0.3


def test_every_pixel_is_drawn_once_before_any_is_drawn_again(scene: Scene) -> None:
    draw = RayDraw(scene, scene.of("train"), background=(1.0, 0.0, 0.0), seed=3)
    n = draw.n_pixels
    assert n == 14 * SIDE * SIDE
    rays = draw(0, n)
    keys = {tuple(row) for row in torch.cat([rays.origins, rays.directions], -1).tolist()}
    assert len(keys) == n
    parts = [draw(first, 1000) for first in range(0, n, 1000)]
    for k, column in enumerate(rays):
        assert torch.equal(torch.cat([part[k] for part in parts])[:n], column)
    cameras = scene.cameras.to(torch.float32)
    assert {tuple(place) for place in rays.origins.tolist()} == {
        tuple(cameras.positions[view].tolist()) for view in scene.of("train")
    }


def test_alpha_lets_the_background_through(scene: Scene) -> None:
    views = scene.of("train")
    fixed, random = (
        RayDraw(scene, views, background=background, seed=3)(0, 500) for background in ((1.0, 0.0, 0.0), None)
    )
    is_empty = (fixed.target == torch.tensor([1.0, 0.0, 0.0])).all(-1)
    assert 0.2 < is_empty.float().mean() < 0.95
    assert torch.equal(random.target[is_empty], random.background[is_empty])
    assert torch.equal(random.target[~is_empty], fixed.target[~is_empty])
    assert len(random.background.unique(dim=0)) == 500
    assert ((random.background >= 0) & (random.background < 1)).all()


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_complete_and_runs(preset: str, scene: Scene) -> None:
    config, notices = SceneJob(scene).run_config(Plan(preset=preset, steps=2))
    assert not notices
    small = ["fit.batch_size=512", "fit.samples_across=16", "fit.occupancy=8"]
    small += {"vanilla": ["sampler.n_samples=[4, 4]"], "proposal": ["sampler.n_samples=[8, 6, 4]"]}.get(preset, [])
    assert fit_scene(scene, config=config, overrides=small, progress="quiet").state.step == 2


def test_a_target_stops_the_fit(photos: Path) -> None:
    result = fit_scene(photos, overrides=SMALL, steps=250, psnr=15.0, progress="quiet")
    assert result.state.stopped_by == "target"
    assert result.psnr > 14.5


def test_the_commands(photos: Path, fitted: SceneFit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    field = tmp_path / "b.field"
    overrides = [part for override in SMALL for part in ("--set", override)]
    fit = ["fit", "scene", str(photos), "-o", str(field), "--steps", "5", "--background", "white", *overrides]
    assert main([*fit, "--quiet"]) == 0
    assert load_field(field)[0].background == [1.0, 1.0, 1.0]
    views = tmp_path / "views"
    command = ["render", str(fitted.path), "-o", str(views), "--split", "test", "--data", str(photos), "--depth"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert f"mean of 2: PSNR {fitted.psnr:.2f} dB" in printed
    rows = json.loads((views / "metrics.json").read_text())
    assert rows["mean"]["psnr"] == pytest.approx(fitted.psnr, abs=1e-3)
    assert len(list(views.glob("*.png"))) == 2
    depth = read_image(next(iter(sorted(views.glob("*.depth.exr")))))
    assert depth.pixels[10:14, 10:14].mean() == pytest.approx(DISTANCE - RADIUS, abs=0.1)
    assert main(["render", str(fitted.path), "-o", str(tmp_path / "one.png"), "--size", "30x20", "--quiet"]) == 0
    assert read_image(tmp_path / "one.png").pixels.shape == (20, 30, 3)
    assert main(["info", str(fitted.path)]) == 0
    assert "RadianceField" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--split", "test"], "where are the photos"),
        (["--split", "val", "--data", "PHOTOS"], "has no such views"),
        (["--data", "PHOTOS"], "give --split"),
        (["--clay"], "there is colour, --depth and --normals"),
        (["--scale", "2"], "has no such option"),
        (["--view", "top"], "has no such option"),
    ],
)
def test_wrong_options_are_one_sentence(
    options: list[str],
    sentence: str,
    photos: Path,
    fitted: SceneFit,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / ("views" if "--split" in options else "x.png")
    given = [str(photos) if one == "PHOTOS" else one for one in options]
    assert main(["render", str(fitted.path), "-o", str(output), *given, "--quiet"]) == 2
    assert sentence in capsys.readouterr().err


def test_a_scene_that_is_not_there_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "scene", str(tmp_path / "nowhere"), "--quiet"]) == 1
    assert "there is no such folder" in capsys.readouterr().err
