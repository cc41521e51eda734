"""Fitting shapes: good after a moment, in the mesh's own units, resumable, and honest about what is wrong."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from fieldforge.apps.cli import main
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.options import ShapeOptions
from fieldforge.apps.fit.shape.job import PoolDraw, ShapeJob, fit_shape
from fieldforge.apps.fit.shape.presets import PRESETS
from fieldforge.apps.mesh import extract
from fieldforge.apps.render.shape import MODES, orbit, render_shape
from fieldforge.apps.shapes import quality
from fieldforge.apps.shapes.quality import evaluate
from fieldforge.apps.shapes.read import Mesh
from fieldforge.apps.shapes.surface import Surface
from fieldforge.fields.file import load_field
from fieldforge.registry import ConfigError

SMALL = [
    "encoding.n_levels=5", "encoding.log2_hashmap_size=13", "encoding.per_level_scale=1.6", "fit.batch_size=4096",
    "fit.pool_size=16384", "fit.n_passes=4",
    "network.n_neurons=32", "optimizer.learning_rate=5e-3",
]  # fmt: skip
"""A field that is fitted to a simple body in a second."""


def ball(centre: tuple[float, float, float] = (0.0, 0.0, 0.0), radius: float = 1.0) -> Mesh:
    made = trimesh.creation.icosphere(4, radius)
    return Mesh(np.asarray(made.vertices) + centre, np.asarray(made.faces))


@pytest.fixture(autouse=True, scope="module")
def _few_points() -> Iterator[None]:
    """Measured on few points: these fits are about what happens, not about the last digit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "IOU_POINTS", 2**15)
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ball, a ball with a hole, and the field of the first."""
    folder = tmp_path_factory.mktemp("shapes")
    made = trimesh.creation.icosphere(4)
    made.export(folder / "ball.obj")
    trimesh.Trimesh(made.vertices, made.faces[5:], process=False).export(folder / "open.ply")
    options = [part for override in SMALL for part in ("--set", override)]
    assert main(["fit", "shape", str(folder / "ball.obj"), "--steps", "150", "--quiet", *options]) == 0
    return folder


def test_a_ball_is_learnt_where_it_is() -> None:
    """Far from the origin, in its own units."""
    result = fit_shape(ball((1000.0, -50.0, 3.0), 20.0), overrides=SMALL, steps=150, progress="quiet")
    assert result.iou > 0.97
    places = torch.tensor([[1000.0, -50.0, 21.0], [1000.0, -50.0, 23.0], [1021.5, -50.0, 3.0]], dtype=torch.float64)
    torch.testing.assert_close(
        result.field.distance(places).double(), torch.tensor([-2.0, 0.0, 1.5]).double(), atol=0.6, rtol=0
    )


@pytest.mark.parametrize("kind", ["sdf", "occupancy", "udf"])
def test_every_kind_gives_a_surface_near_the_mesh(kind: str) -> None:
    mesh = ball()
    result = fit_shape(mesh, kind=kind, overrides=SMALL, steps=300, progress="quiet")
    surface = extract(result.field, resolution=128 if kind == "udf" else 48)
    assert len(surface.faces) > 500
    figures = evaluate(result.field, Surface.of(mesh), surface, n=4000)
    assert figures["chamfer"] < 0.01
    assert ("volume_iou" in figures) == (kind != "udf")
    if kind != "udf":
        assert surface.n_open_edges == 0
        assert figures["volume_iou"] == pytest.approx(result.iou, abs=0.02)


def test_a_perfect_field_gets_perfect_figures() -> None:
    """The exact distance to a ball, as if it had been fitted."""

    class Exact(torch.nn.Module):
        n_input_dims, n_output_dims, smoothness = 3, 1, 1.0

        def forward(self, unit: torch.Tensor) -> torch.Tensor:
            return torch.linalg.vector_norm(unit - 0.5, dim=-1, keepdim=True) - 1 / 2.2

    made = trimesh.creation.icosphere(6)
    mesh = Mesh(np.asarray(made.vertices), np.asarray(made.faces))
    surface = Surface.of(mesh)
    field = fit_shape(mesh, overrides=[*SMALL, "encoding={otype='Identity'}"], steps=1, progress="quiet").field
    field.network = Exact()
    figures = evaluate(field, surface, extract(field, resolution=96), n=20_000)
    assert figures["volume_iou"] > 0.999
    assert figures["f_score_0.005"] == 1.0
    assert figures["chamfer"] < 2e-4
    assert figures["normal_consistency"] > 0.998
    assert figures["gradient_norm_50"] == pytest.approx(1.0, abs=1e-3)
    shares = figures["gradient_norm_histogram"]
    assert len(shares) == 20
    assert sum(shares) == pytest.approx(1.0, abs=1e-4)
    assert shares[9] + shares[10] > 0.999  # slopes of 1 lie on the edge of the two in the middle
    assert figures["distance_error_far"] < 1e-3


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        fit_shape(ball(), output=tmp_path / f"{name}.field", overrides=SMALL, steps=20, progress="quiet")
    assert (tmp_path / "a.field").read_bytes() == (tmp_path / "b.field").read_bytes()


def test_an_interrupted_fit_resumes_to_the_same_field(tmp_path: Path) -> None:
    def interrupt(step: int, per_sample_loss: torch.Tensor) -> None:
        if step == 30:
            os.kill(os.getpid(), signal.SIGINT)

    path = tmp_path / "x.field"
    options = {"overrides": SMALL, "steps": 100}
    stopped = fit_shape(ball(), output=path, hooks=(interrupt,), progress="quiet", **options)  # type: ignore[arg-type]
    assert stopped.state.stopped_by == "signal"
    assert 30 < stopped.state.step < 100
    assert not path.exists()
    fit_shape(ball(), output=path, progress="quiet", resume=True, **options)  # type: ignore[arg-type]
    fit_shape(ball(), output=tmp_path / "whole.field", progress="quiet", **options)  # type: ignore[arg-type]
    first, second = load_field(path)[0], load_field(tmp_path / "whole.field")[0]
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_each_pool_is_gone_through_as_often_as_asked_mixed_with_others() -> None:
    class Counted:
        def get(self, number: int) -> tuple[np.ndarray, np.ndarray]:
            asked.append(number)
            return np.full((8, 3), number, np.float32), np.arange(8, dtype=np.float32)

    asked: list[int] = []
    draw = PoolDraw(Counted(), ShapeOptions(batch_size=2, pool_size=8, n_passes=3), "sdf")  # type: ignore[arg-type]
    seen = Counter((int(points[0, 0]), float(target[0])) for points, target in map(draw, range(12 * 6)))
    assert asked == list(range(6))
    assert {seen[number, first] for number in (2, 3) for first in (0.0, 2.0, 4.0, 6.0)} == {3}
    late = PoolDraw(Counted(), draw.options, "sdf")  # type: ignore[arg-type]
    for step in (40, 41, 42, 71):  # as after a resume
        assert torch.equal(late(step)[0], draw(step)[0])
        assert torch.equal(late(step)[1], draw(step)[1])


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", ["sdf", "occupancy"])
def test_every_preset_is_complete_and_runs(preset: str, kind: str) -> None:
    config, notices = ShapeJob(ball(), kind=kind).run_config(Plan(preset=preset, steps=2))
    assert not notices
    result = fit_shape(
        ball(), kind=kind, config=config, overrides=["fit.batch_size=256", "fit.pool_size=512"], progress="quiet"
    )
    assert result.state.step == 2


def test_a_small_file_is_a_small_file(tmp_path: Path) -> None:
    result = fit_shape(
        ball(), preset="tiny", max_bytes=40_000, steps=2, output=tmp_path / "x.field", progress="quiet",
        overrides=["fit.batch_size=256", "fit.pool_size=512"],
    )  # fmt: skip
    assert (tmp_path / "x.field").stat().st_size == result.n_bytes
    assert result.n_bytes is not None
    assert result.n_bytes <= 40_000


# ---- the command line


def test_the_commands_of_the_page(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    field = str(files / "ball.field")
    assert main(["mesh", field, "-o", str(files / "out.ply"), "--resolution", "40"]) == 0
    assert "watertight" in capsys.readouterr().out
    assert trimesh.load(files / "out.ply").is_watertight
    assert main(["mesh", field, "-o", str(files / "few.obj"), "--resolution", "40", "--simplify", "0.2"]) == 0
    assert len(trimesh.load(files / "few.obj").faces) < 0.3 * len(trimesh.load(files / "out.ply").faces)
    capsys.readouterr()
    evaluated = ["evaluate", field, str(files / "ball.obj"), "--resolution", "40", "--points", "4000", "--json"]
    assert main(evaluated) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["volume_iou"] > 0.95
    assert len(figures["gradient_norm_histogram"]) == 20
    assert main(evaluated[:-1]) == 0
    assert sum(bar in "▁▂▃▄▅▆▇█" for bar in capsys.readouterr().out) > 2  # the histogram, drawn
    assert main(["info", field]) == 0
    assert "SDFField" in capsys.readouterr().out
    assert main(["render", field, "-o", str(files / "x.png"), "--size", "64x48", "--quiet"]) == 0
    assert (files / "x.png").stat().st_size > 500


def test_an_open_mesh_is_fitted_and_said(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [part for override in SMALL for part in ("--set", override)]
    arguments = ["fit", "shape", str(files / "open.ply"), "-o", str(files / "open.field"), "--steps", "5", "--json"]
    assert main([*arguments, *options]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert any("boundary edges" in note for note in result["notes"])
    assert any("winding number" in note for note in result["notes"])


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["fit", "shape", "{}/nothing.obj"], "nothing.obj: No such file", 1),
        (["fit", "shape", "{}/ball.obj", "--preset", "bset"], "did you mean best?", 2),
        (["fit", "shape", "{}/ball.obj", "--set", "fit.recipe=ngp"], "fit.recipe: expected one of", 2),
        (["fit", "shape", "{}/ball.obj", "--set", "encoding.n_level=3"], "did you mean n_levels?", 2),
        (["fit", "shape", "{}/ball.obj", "--kind", "udf", "--iou", "0.9"], "of a field that has an inside", 2),
        (["fit", "shape", "{}/ball.obj", "--iou", "1.5"], "between 0 and 1", 2),
        (["mesh", "{}/ball.field", "-o", "{}/x.xyz"], "expected a name that ends in", 2),
        (
            ["mesh", "{}/ball.field", "-o", "{}/x.ply", "--resolution", "100000"],
            "about 7,451 GiB of memory. 1024 takes",
            2,
        ),
        (["mesh", "{}/ball.field", "-o", "{}/x.ply", "--level", "50"], "values seen there go from", 2),
        (["mesh", "{}/ball.obj", "-o", "{}/x.ply"], "ball.obj", 1),
        (["render", "{}/ball.field", "-o", "{}/x.png", "--scale", "2"], "--scale", 2),
        (["render", "{}/ball.field", "-o", "{}/x.png", "--view", "turntable"], "goes to an .mp4", 2),
        (["render", "{}/ball.field", "-o", "{}/x.png", "--view", "30,90"], "under 90 up", 2),
        (["render", "{}/ball.field", "-o", "{}/x.png", "--view", "nowhere"], "expected front, back", 2),
        (["evaluate", "{}/ball.field", "{}/ball.field"], "is neither of OBJ", 1),
    ],
)
def test_a_mistake_is_one_sentence(
    files: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str, code: int
) -> None:
    try:
        found = main([argument.format(files) for argument in arguments])
    except SystemExit as error:
        found = int(str(error.code))
    said = capsys.readouterr().err
    assert message in said, said
    assert found == code
    assert not (files / "x.ply").exists()


# ---- pictures


@pytest.mark.parametrize("mode", MODES)
def test_a_ball_is_seen_as_a_disc(files: Path, mode: str) -> None:
    field, _ = load_field(files / "ball.field")
    picture = render_shape(field, orbit(20.0, 10.0, size=(60, 40)), mode)  # type: ignore[arg-type]
    assert picture.shape == (40, 60, 4)
    coverage = picture[..., 3]
    assert coverage[20, 30] == 1
    assert coverage[0].max() == coverage[-1].max() == 0
    # the disc of a ball of radius 1/2.2 of the cube, seen from the camera's distance
    radius = np.sqrt(coverage.sum() / np.pi)
    distance = 0.55 / np.sin(np.radians(17.5))
    expected = 20 / np.tan(np.radians(17.5)) * np.tan(np.arcsin(1 / 2.2 / distance))
    assert radius == pytest.approx(expected, rel=0.06)
    assert np.isfinite(picture).all()
    assert 0 <= picture.min()
    assert picture.max() <= 1


def test_a_turntable_is_a_video(files: Path) -> None:
    av = pytest.importorskip("av")
    path = files / "turn.mp4"
    options = ["--size", "64x48", "--frames", "3", "--quiet"]
    assert main(["render", str(files / "ball.field"), "-o", str(path), *options]) == 0
    with av.open(str(path)) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 3


def test_an_unknown_section_is_refused() -> None:
    with pytest.raises(ConfigError, match="such a fit has no such section"):
        ShapeJob(ball()).run_config(Plan(config={"renderer": {}}))
