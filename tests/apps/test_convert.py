"""Conversions: what a student learns from its teacher in each stage, how large its file is, what cannot be done."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scene_files import ball
from torch import Tensor

from fieldforge.apps.cli import main
from fieldforge.apps.convert import scene as scene_conversion
from fieldforge.apps.convert import stages
from fieldforge.apps.convert.answers import NOTHING, Answers, answers, n_features
from fieldforge.apps.convert.job import conversion_of, convert
from fieldforge.apps.convert.points import PointDraw, Points, cells_of
from fieldforge.apps.convert.poses import Around, Beside, PoseDraw, places_of
from fieldforge.apps.convert.rules import FEATURES, PIXELS, POINTS, Rules
from fieldforge.apps.convert.size import fitting
from fieldforge.apps.convert.stages import DistillationStep, density_difference
from fieldforge.apps.convert.students import STUDENTS, Turn
from fieldforge.apps.convert.teacher import SceneTeacher, load_teacher
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.render.radiance import Eye, new_grid
from fieldforge.fields.file import load_field, read_header, save_field
from fieldforge.fields.kinds.image import ImageField
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.fields.kinds.shape import SDFField
from fieldforge.fields.storage import stored_bytes
from fieldforge.registry import ConfigError
from fieldforge.renderers.cameras.paths import orbit
from fieldforge.renderers.occupancy import OccupancyGrid

SMALL = {
    "hashgrid": ["encoding.n_levels=4", "encoding.log2_hashmap_size=10", "encoding.per_level_scale=1.4",
                 "encoding.base_resolution=8"],
    "mlp": ["network.n_neurons=32", "network.n_hidden_layers=2", "encoding.n_frequencies=3",
            "optimizer.learning_rate=5e-3"],
    "tensorf": ["encoding.resolution=12", "rgb_encoding.resolution=12", "rgb_network.nested.n_neurons=16",
                "optimizer.learning_rate=5e-3"],
    "tensorf-cp": ["encoding.resolution=12", "rgb_encoding.resolution=12", "rgb_network.nested.n_neurons=16",
                   "optimizer.learning_rate=5e-3"],
    "kplanes": ["encoding.resolution=8", "encoding.multiscale=[1, 2]", "encoding.n_features=4"],
    "densegrid": ["encoding.base_resolution=10", "rgb_encoding.base_resolution=10"],
    "pref": ["encoding.resolution=8", "rgb_encoding.resolution=8", "rgb_network.nested.n_neurons=16"],
    "kilonerf": ["partition.resolution=[2, 2, 2]", "network.n_neurons=16", "encoding.n_frequencies=3",
                 "rgb_network.n_neurons=16", "optimizer.learning_rate=5e-3"],
    "mimlp": ["network.n_neurons=32", "network.n_hidden_layers=2", "encoding.n_frequencies=3",
              "rgb_encoding.n_frequencies=3", "optimizer.learning_rate=5e-3"],
}  # fmt: skip
"""Students that learn an octahedron in a blink."""
LITTLE = ["fit.batch_size=512", "fit.samples_across=32", "fit.occupancy=16"]


@pytest.fixture(autouse=True)
def few_rays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_conversion, "N_MEASURED", 400)
    monkeypatch.setattr(scene_conversion, "N_LOOKED_AT", 100)


def octahedron(**more: Any) -> RadianceField:
    """log density 8 - 20 |x|₁ of the place in the unit cube, from its middle; colours of random features."""
    generator = torch.Generator().manual_seed(0)
    network = {"otype": "MLP", "n_neurons": 8, "n_hidden_layers": 1, "activation": "ReLU", "has_bias": True}
    field = RadianceField(
        **{"encoding": "Identity", "network": network, "n_geometry": 6, "occupancy": 16,
           "dir_encoding": {"otype": "SphericalHarmonics", "degree": 3}, "background": [1.0, 1.0, 1.0],
           "rgb_network": network | {"n_neurons": 16, "output_activation": "Sigmoid"}, "generator": generator} | more
    )  # fmt: skip
    inner, outer = field.network.layers  # type: ignore[misc,union-attr]
    with torch.no_grad():
        rows = torch.cat([torch.eye(3), -torch.eye(3), torch.randn(2, 3, generator=generator)])
        inner.weight.copy_(rows)  # type: ignore[union-attr,operator]
        inner.bias.copy_(-rows @ torch.full((3,), 0.5))  # type: ignore[union-attr,operator]
        outer.weight.copy_(torch.randn(6, 8, generator=generator))  # type: ignore[union-attr,operator]
        outer.weight[0] = torch.tensor([-20.0] * 6 + [0.0] * 2)  # type: ignore[union-attr,index]
        outer.bias.copy_(torch.tensor([8.0, 0, 0, 0, 0, 0]))  # type: ignore[union-attr,operator]
    if field.occupancy:
        grid = new_grid(field, field.occupancy)
        grid.update(field.density, 0, generator=generator)
        field.bricks.copy_(grid.bricks)
    return field


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "octahedron.field"
    save_field(path, octahedron(), metadata={"signal": {"width": 24, "height": 24, "focal": 30.0, "distance": 4.0}})
    return path


def job_of(teacher: Path, to: str = "hashgrid", *, rules: str = "", **more: Any) -> tuple[Any, Any, Any]:
    """A job, its configuration and its untrained student."""
    job = conversion_of(teacher, to, **more)
    config, _ = job.run_config(Plan(preset=to, overrides=[*LITTLE, *SMALL[to], *rules.split()]))
    return job, config, job.make_field(config, 0)


@pytest.mark.parametrize(
    ("stage", "rules"),
    [(FEATURES, "distillation.features=1.0 distillation.points=0.0"),
     (POINTS, "distillation.features=0.0 distillation.points=1.0"),
     (PIXELS, "distillation.features=0.0 distillation.points=0.0")],
)  # fmt: skip
def test_each_stage_lowers_its_own_error(teacher: Path, stage: int, rules: str) -> None:
    job, config, student = job_of(teacher, rules=rules)
    with job.training(student, config, 0, ()) as training:
        step: DistillationStep = training.advance
        losses = []
        for number in range(50):
            step.on_step(number, 50)
            assert step.stage == stage
            losses.append(step(number, 1.0)[0])
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:2])


def test_features_are_learnt_only_where_both_have_as_many(teacher: Path) -> None:
    for name, has in (("mlp", 5), ("hashgrid", 5), ("kplanes", 5), ("tensorf", 5), ("pref", 5), ("densegrid", 0)):
        job, config, student = job_of(teacher, name)
        assert n_features(student) == has, name
        with job.training(student, config, 0, ()) as training:
            training.advance.on_step(0, 1000)
            assert training.advance.stage == (FEATURES if has else POINTS)


def test_a_student_takes_over_its_teachers_colour_network_unless_told_otherwise(teacher: Path) -> None:
    for head, is_same in (("teacher", True), ("own", False)):
        job, config, student = job_of(teacher, "mlp", head=head)
        assert (config["rgb_network"]["n_neurons"] == 16) is is_same
        with job.training(student, config, 0, ()):
            ours, its = (dict(one.rgb_network.named_parameters()) for one in (student, job.told.field))
            assert is_same == all(name in ours and torch.equal(its[name], ours[name]) for name in its)


def test_teacher_and_student_are_asked_at_the_same_points(teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, config, student = job_of(teacher)
    asked: dict[str, list[tuple[Tensor, Tensor]]] = {"teacher": [], "student": []}

    def watched(who: str, ask: Callable[..., Answers], skip: int) -> Callable[..., Answers]:
        def run(*arguments: Any, **keys: Any) -> Answers:
            asked[who].append((arguments[skip].clone(), arguments[skip + 1].clone()))
            return ask(*arguments, **keys)

        return run

    monkeypatch.setattr(stages, "answers", watched("student", answers, 1))
    monkeypatch.setattr(SceneTeacher, "__call__", watched("teacher", SceneTeacher.__call__, 1))
    with job.training(student, config, 0, ()) as training:
        for number in (0, 1, 9):  # features, points, pixels
            training.advance.on_step(number, 10)
            training.advance(number, 1.0)
    assert len(asked["teacher"]) == len(asked["student"]) == 3
    for its, ours in zip(asked["teacher"], asked["student"], strict=True):
        assert len(its[0]) > 10
        assert torch.equal(its[0], ours[0])
        assert torch.equal(its[1], ours[1])
        assert (its[1].norm(dim=-1) - 1).abs().max() < 1e-5


ALIKE = ("tensorf-cp", "mimlp")
"""Students that differ from others in nothing that a conversion knows."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in ALIKE else []) for name in STUDENTS["scene"]]
)
def test_every_student_comes_nearer_and_the_teacher_stays_as_it_is(teacher: Path, tmp_path: Path, name: str) -> None:
    before = teacher.read_bytes()
    output = tmp_path / "student.field"
    job = conversion_of(teacher, name)
    numbers = {key: tensor.clone() for key, tensor in job.teacher.field.state_dict().items()}
    result = job.run(
        Plan(preset=name, output=output, overrides=[*LITTLE, *SMALL[name]], steps=40, progress="quiet")
    )  # fmt: skip
    seen = [row["teacher_psnr"] for row in result.state.history if "teacher_psnr" in row]
    assert result.figure("teacher_psnr") > seen[0] + 1
    assert teacher.read_bytes() == before
    for key, tensor in job.teacher.field.state_dict().items():
        assert torch.equal(tensor, numbers[key])
    field, metadata = load_field(output)
    assert isinstance(field, RadianceField)
    assert field.background == [1.0, 1.0, 1.0]
    assert metadata["signal"]["distance"] == 4.0
    assert metadata["run"]["parent"]["sha256"] == job.teacher.sha256
    assert 0 < len(field.bricks.nonzero()) < field.bricks.numel()


def test_the_students_cells_are_its_teachers(teacher: Path) -> None:
    told = SceneTeacher(load_teacher(teacher))
    same = cells_of(told, OccupancyGrid(told.field.low, told.field.high, 16))
    assert torch.equal(same.cells, told.grid.cells)
    finer = cells_of(told, OccupancyGrid(told.field.low, told.field.high, 32)).cells
    assert torch.equal(finer[:, ::2, ::2, ::2], told.grid.cells)
    draw = PointDraw(same, batch_size=300, along_rays=0.5, seed=3)
    along = Points(torch.zeros(100, 3), torch.ones(100, 3))
    first, again, other = draw(4, along), draw(4, along), draw(5, along)
    assert torch.equal(first.points, again.points)
    assert not torch.equal(first.points, other.points)
    assert (first.points[:100] == 0).all()  # fewer along rays than there may be: cells have the rest
    assert same.occupied(first.points[100:]).all()
    assert told.grid.occupied(told.middles).all()


def test_a_teacher_is_empty_where_its_cells_are(teacher: Path) -> None:
    told = SceneTeacher(load_teacher(teacher))
    points = torch.tensor([[0.0, 0.0, 0.0], [0.9, 0.9, 0.9]])
    found = told(points, torch.tensor([[0.0, 0.0, 1.0]]).expand(2, 3))
    assert torch.allclose(found.log_density, torch.tensor([8.0, NOTHING]))
    assert told.density(points)[1] == 0


def test_logarithms_of_densities_are_those_of_the_field() -> None:
    points = torch.rand(50, 3) * 2 - 1
    directions = torch.nn.functional.normalize(torch.randn(50, 3), dim=-1)
    network = {"otype": "MLP", "n_neurons": 8, "n_hidden_layers": 1}
    for activation, shift in (("exponential", 0.5), ("softplus", -10.0)):
        field = RadianceField(
            encoding="Identity", network=network, rgb_network=network, density_activation=activation,
            density_shift=shift, density_scale=3.0, low=[-1, -1, -1], high=[1, 1, 2],
        )  # fmt: skip
        found = answers(field, points, directions, side=5.0)
        density, color = field.radiance(points, directions)
        assert torch.allclose(found.log_density.exp() / 5, density, rtol=1e-5, atol=1e-7)
        assert torch.equal(found.color, color)  # type: ignore[arg-type]
        assert torch.equal(answers(field, points, directions, side=5.0, color=False).log_density, found.log_density)


def test_a_student_below_the_cut_is_pulled_up_and_one_beside_its_teacher_left_alone() -> None:
    ours = torch.tensor([-9.0, -9.0, 9.0, 3.0], requires_grad=True)
    told = Answers(torch.tensor([1.0, -20.0, 30.0, 5.0]), None, None)
    density_difference(Answers(ours, None, None), told, Rules()).sum().backward()
    assert ours.grad is not None
    assert ours.grad.tolist() == [1, 0, 0, 1]
    for how in ("alpha", "raw"):
        found = density_difference(Answers(ours.detach(), None, None), told, Rules(density=how))
        assert (found[0] < 0, found.isfinite().all()) == (True, True)


@pytest.mark.parametrize("is_known", [False, True])
def test_random_rays_meet_the_scene_and_follow_from_their_position(is_known: bool) -> None:
    cameras = orbit(torch.zeros(3), distance=3.0, up=torch.tensor([0.0, 0, 1]), n_frames=8, width=20, height=16,
                    focal=24.0, elevation=30.0)  # fmt: skip
    from fieldforge.apps.render.remembered import remember_cameras

    metadata = {"signal": {"width": 20, "height": 16, "focal": 24.0}}
    if is_known:
        metadata["signal"]["cameras"] = remember_cameras(cameras.poses.double().numpy())  # type: ignore[assignment]
    places = places_of(metadata, ((-0.5, -0.5, -0.5), (0.5, 0.5, 0.5)))
    assert isinstance(places, Around)
    rays = PoseDraw(places, None, 1)(0, 500)
    later = PoseDraw(places, None, 1)(200, 100)
    for ours, its in zip(rays, later, strict=True):
        assert torch.equal(ours[200:300], its)
    assert (rays.directions.norm(dim=-1) - 1).abs().max() < 1e-5
    nearest = (rays.origins + (-(rays.origins * rays.directions).sum(-1))[:, None] * rays.directions).norm(dim=-1)
    assert (nearest < 0.5).float().mean() > 0.08
    assert (nearest < 3).all()
    if is_known:
        distance = rays.origins.norm(dim=-1)
        assert 2.8 < distance.min() < distance.max() < 3.2
        height = torch.rad2deg(torch.asin(rays.origins[:, 2] / distance))
        assert 20 < height.min() < height.max() < 40
    assert rays.background.std() > 0.2


def test_scenes_seen_from_within_or_from_one_side_are_looked_at_from_beside_their_cameras() -> None:
    poses = torch.eye(4)[:3].repeat(5, 1, 1)
    poses[:, 0, 3] = torch.linspace(0, 1, 5)
    from fieldforge.apps.render.remembered import remember_cameras

    metadata = {"signal": {"cameras": remember_cameras(poses.double().numpy())}}
    for box in (((-2.0, -2.0, -2.0), (2.0, 2.0, 2.0)), ((-1.0, -1.0, -9.0), (1.0, 1.0, -7.0))):
        places = places_of(metadata, box)
        assert isinstance(places, Beside)
        rays = PoseDraw(places, None, 0)(0, 200)
        assert (rays.directions[:, 2] < -0.5).all()
        assert rays.origins[:, 1].abs().max() <= 0.125


def test_photos_take_the_teachers_place_in_the_last_stage(teacher: Path, tmp_path: Path) -> None:
    photos = ball(tmp_path / "ball.npz")
    result = convert(
        teacher, "hashgrid", photos=photos, overrides=[*LITTLE, *SMALL["hashgrid"], "distillation.features=0.0",
        "distillation.points=0.0", "distillation.points_weight=0.0"], steps=60, progress="quiet",
    )  # fmt: skip
    assert result.figure("psnr") > result.figure("teachers_psnr") + 1  # the photos show a ball, not an octahedron
    assert result.figure("ssim") <= 1


def test_with_photos_a_teacher_whose_points_do_not_count_is_not_asked_for_pixels(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = "distillation.points=0.5 distillation.points_weight=0.0 distillation.remembered=0.75"
    asked = asked_of(monkeypatch)
    for photos in (ball(tmp_path / "ball.npz"), None):
        job, config, student = job_of(teacher, "kilonerf", rules=rules, photos=photos)
        with job.training(student, config, 0, ()) as training:
            for number in range(8):
                training.advance.on_step(number, 8)
                training.advance(number, 1.0)
                most = max(asked, default=0)
                if number < 4:
                    assert most == 128  # a quarter of 512, and others from before
                else:
                    assert most == 0 if photos else 0 < most < 256
                asked.clear()
            assert training.advance.n_evaluated > 0


def asked_of(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Points of which teachers are asked for everything from now on, and 0 for each look at densities alone."""
    asked = list[int]()

    def ask(self: SceneTeacher, points: Tensor, directions: Tensor, **keys: Any) -> Answers:
        asked.append(len(points))
        return answers(self.field, points, directions, side=self.side, **keys)

    def density(self: SceneTeacher, points: Tensor) -> Tensor:
        asked.append(0)
        return self.field.density(points)

    monkeypatch.setattr(SceneTeacher, "__call__", ask)
    monkeypatch.setattr(SceneTeacher, "density", density)
    return asked


def test_a_student_closes_the_cells_in_which_it_came_to_nothing(teacher: Path) -> None:
    job, config, student = job_of(teacher, "kilonerf", rules="distillation.faint=0.4")
    with job.training(student, config, 0, ()) as training:
        before = training.advance.grid.cells.clone()
        with torch.no_grad():
            student.network.mlp.biases[-1][:4, 0] = -30.0  # half of the cells of the partition
            student.network.mlp.biases[-1][4:, 0] = 30.0
    left = training.advance.grid.cells & before
    assert 0 < int(left.sum()) < int(before.sum())
    assert torch.equal(student.bricks, training.advance.grid.bricks)
    assert torch.equal(left, training.advance.grid.cells)


@pytest.mark.parametrize("name", ["hashgrid", "kilonerf"])
def test_an_interrupted_conversion_resumes_to_the_same_field(teacher: Path, tmp_path: Path, name: str) -> None:
    def interrupt(step: int, loss: Tensor) -> None:
        if step == 14:
            os.kill(os.getpid(), signal.SIGINT)

    options: dict[str, Any] = {"overrides": [*LITTLE, *SMALL[name]], "steps": 24, "progress": "quiet"}
    path = tmp_path / "x.field"
    stopped = convert(teacher, name, output=path, hooks=(interrupt,), **options)
    assert stopped.state.stopped_by == "signal"
    assert not path.exists()
    with pytest.raises(ValueError, match=r"belongs to another fit: .*to"):
        convert(teacher, "mlp", output=path, resume=True, **(options | {"overrides": [*LITTLE, *SMALL["mlp"]]}))
    convert(teacher, name, output=path, resume=True, **options)
    convert(teacher, name, output=tmp_path / "whole.field", **options)
    assert path.read_bytes() == (tmp_path / "whole.field").read_bytes()


def test_a_file_is_no_larger_than_asked_for_and_never_allocated_to_find_out(teacher: Path, tmp_path: Path) -> None:
    for name, asked, settings in (("hashgrid", 90_000, []), ("kilonerf", 150_000, ["fit.batch_size=128"])):
        path = tmp_path / f"{name}.field"
        result = convert(
            teacher, name, output=path, max_bytes=asked, steps=2, overrides=[*LITTLE, *settings], progress="quiet"
        )
        assert result.n_bytes == path.stat().st_size <= asked
        assert path.stat().st_size > 0.2 * asked
        assert any("made small enough" in note for note in result.notes)


@pytest.mark.parametrize(
    "name",
    ["tensorf", *(pytest.param(name, marks=pytest.mark.slow) for name in STUDENTS["scene"] if name != "tensorf")],
)
def test_a_student_is_turned_down_to_the_least_there_is_and_no_further(teacher: Path, name: str) -> None:
    job = conversion_of(teacher, name)
    large, _ = job.run_config(Plan(preset=name))
    small, _ = job.run_config(Plan(preset=name, max_bytes=200_000))
    assert job.file_bytes(small) <= 200_000 < job.file_bytes(large)
    with pytest.raises(ValueError, match="max_bytes: 5,000 bytes are too few: the smallest such file takes") as told:
        job.run_config(Plan(preset=name, max_bytes=5000))
    least = int(str(told.value).split("takes ")[1].split(";")[0].replace(",", ""))
    assert job.file_bytes(job.run_config(Plan(preset=name, max_bytes=least))[0]) <= least


def test_turns_are_taken_in_order_and_no_further_than_they_must() -> None:
    config = {"encoding": {"otype": "HashGrid", "log2_hashmap_size": 12}, "network": {"otype": "MLP", "n_neurons": 64}}
    turns = (Turn(("encoding.log2_hashmap_size",), 6), Turn(("network.n_neurons", "rgb_network.n_neurons"), 16, 8))

    def size(one: Any) -> float:
        return 2.0 ** one["encoding"]["log2_hashmap_size"] + 10 * one["network"]["n_neurons"]

    for most, expected in ((5000, (12, 64)), (2000, (10, 64)), (704, (6, 64)), (703, (6, 56)), (224, (6, 16))):
        found, said = fitting(config, turns, size, most)
        assert (found["encoding"]["log2_hashmap_size"], found["network"]["n_neurons"]) == expected
        assert bool(said) == (expected != (12, 64))
    with pytest.raises(ValueError, match="takes 224"):
        fitting(config, turns, size, 223)


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_bytes_that_a_field_will_take_are_those_of_its_file(tmp_path: Path, storage: str) -> None:
    field = octahedron(occupancy=20)
    save_field(tmp_path / "x.field", field, dtype=storage)
    tensors = read_header(tmp_path / "x.field").tensors
    stored = {"F32": 4, "F16": 2, "I8": 1, "I64": 8}
    written = sum(stored[info.dtype] * int(np.prod(info.shape)) for info in tensors.values())
    assert stored_bytes(field, storage) == written


def test_a_box_that_misses_the_scene_names_one_that_would_do(teacher: Path) -> None:
    with pytest.raises(
        ValueError, match=r"holds nothing in 0\.8,0\.8,0\.8,1,1,1, so the student would be empty"
    ) as told:
        conversion_of(teacher, "mlp", box=(0.8, 0.8, 0.8, 1.0, 1.0, 1.0))
    named = str(told.value).split("; ")[1].split(" would")[0]
    box = tuple(map(float, named.split(",")))
    job = conversion_of(teacher, "mlp", box=box)
    assert job.notices()[1:] == []
    assert conversion_of(teacher, "mlp", box="content").box == (box[:3], box[3:])
    assert "% of what the teacher does" in conversion_of(teacher, "mlp", box=(-1.0, -1, -1, 0.05, 1, 1)).notices()[1]
    for wrong in ((0.0, 0, 0, 0, 1, 1), (0.0, 1.0), "all", (0.0, 0, 0, float("nan"), 1, 1)):
        with pytest.raises(ValueError, match="box: expected"):
            conversion_of(teacher, "mlp", box=wrong)


def test_what_cannot_be_converted_is_said(teacher: Path, tmp_path: Path) -> None:
    picture = ImageField(encoding="Identity", network={"otype": "MLP", "n_neurons": 8}, width=8, height=8)
    cases: list[tuple[Any, str, dict[str, Any], str]] = [
        (picture, "tensorf", {}, "to: tensorf is made of a scene, and the field holds an image"),
        (picture, "hashgird", {}, "did you mean hashgrid"),
        (picture, "mlp", {"photos": tmp_path}, "photos: is of scenes"),
        (octahedron(), "siren", {}, "to: siren is made of an image"),
        (octahedron(density_shift=-1e5, occupancy=0), "mlp", {}, "is empty"),
        (SDFField(encoding="Identity", network={"otype": "MLP", "n_neurons": 8, "n_hidden_layers": 0}), "mlp", {},
         "is empty: its level is 0 nowhere"),
    ]  # fmt: skip
    with torch.no_grad():
        for layer in cases[-1][0].network.layers:
            layer.weight.zero_()
    for source, to, options, expected in cases[:-1]:
        with pytest.raises(ValueError, match=expected):
            conversion_of(source, to, **options)
    job = conversion_of(teacher, "mlp")
    for plan, expected in (
        (Plan(preset="mlp", tune="fresh"), "tune: fresh"), (Plan(preset="mlp", diagnose=("ntk",)), "diagnose"),
        (Plan(preset="mlp", overrides=["fit.appearance=3"]), "fit.appearance"),
        (Plan(preset="mlp", overrides=["fit.precision=bfloat16"]), "converted in float32, not in bfloat16"),
        (Plan(preset="mlp", overrides=["distillation.pionts=0.5"]), "distillation.pionts"),
        (Plan(preset="mlp", overrides=["distillation.points=0.95"]), "more than all steps"),
    ):  # fmt: skip
        with pytest.raises((ConfigError, ValueError), match=expected):
            job.run_config(plan)


def test_losing_the_view_is_said_before_and_after(teacher: Path) -> None:
    job, config, student = job_of(teacher, "densegrid")
    assert job.settle(config) == []
    said = job.settle(config | {"dir_encoding": {"otype": "SphericalHarmonics", "degree": 1}})
    assert "cannot keep how the teacher's colours change" in said[0]
    told: list[str] = []
    with job.training(student, config, 0, ()):
        pass
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    figures = job.measure(student, told.append)
    assert figures["variation"] == 0
    assert "colours vary by 0.000 over directions" in told[-1]


def test_a_picture_becomes_another_field_at_points_alone(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    network = {"otype": "MLP", "n_neurons": 32, "activation": {"otype": "Sine", "omega": 8.0}, "has_bias": True}
    picture = ImageField(
        encoding={"otype": "Identity", "scale": 2.0, "offset": -1.0}, network=network, width=20, height=16,
        output_scale=[0.3] * 3, output_offset=[0.5] * 3, generator=generator,
    )  # fmt: skip
    quick = ["fit.batch_size=320"]
    for name, more in (("hashgrid", ["encoding.log2_hashmap_size=8"]), ("mlp", ["network.n_neurons=32"])):
        output = tmp_path / f"{name}.field"
        result = convert(picture, name, output=output, overrides=[*quick, *more], steps=100, progress="quiet")
        assert result.figure("teacher_psnr") > 20, name
        assert isinstance(load_field(output)[0], ImageField)
    reached = convert(picture, "siren", target=15.0, steps=300, progress="quiet", overrides=["network.n_neurons=32"])
    assert reached.state.stopped_by == "target"


@pytest.mark.parametrize(("name", "more"), [
    ("hashgrid", SMALL["hashgrid"]), ("mlp", ["network.n_neurons=32", "optimizer.learning_rate=5e-3"]),
])  # fmt: skip
def test_a_shape_becomes_another_field_at_points_alone(name: str, more: list[str], tmp_path: Path) -> None:
    network = {"otype": "MLP", "n_neurons": 32, "activation": {"otype": "Softplus", "beta": 100.0}, "has_bias": True}
    generator = torch.Generator().manual_seed(0)
    shape = SDFField(encoding={"otype": "Identity", "scale": 2.0, "offset": -1.0}, network=network, sphere=0.3,
                     low=[3, 3, 3], side=4.0, generator=generator)  # fmt: skip
    output = tmp_path / "x.field"
    result = convert(
        shape, name, output=output, steps=150, progress="quiet",
        overrides=["fit.batch_size=1024", "fit.pool_size=1024", *more],
    )  # fmt: skip
    assert result.figure("teacher_iou") > 0.85
    field, _ = load_field(output)
    assert isinstance(field, SDFField)
    assert field.box == shape.box


def test_the_command_makes_a_field_and_its_header_tells_where_from(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "b.field"
    settings = [part for one in [*LITTLE, *SMALL["hashgrid"]] for part in ("--set", one)]
    command = ["convert", str(teacher), "--to", "hashgrid", "--steps", "6", "-o", str(output), *settings]
    assert main([*command, "--quiet"]) == 0
    metadata = read_header(output).metadata
    assert metadata["run"]["command"].startswith(
        "fieldforge convert octahedron.field --to hashgrid --steps 6 -o b.field"
    )
    assert str(tmp_path) not in json.dumps(metadata)
    assert main(["info", str(output)]) == 0
    assert "octahedron.field" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"progress", "message", "result"} == {line["event"] for line in lines}
    assert main([*command, "--target", "99"]) == 0
    said = capsys.readouterr().out
    assert "against the teacher: PSNR" in said
    assert "--target 99 was not reached in 6 steps" in said
    assert main([*command, "--print-config"]) == 0
    assert "[distillation]" in capsys.readouterr().out
    assert main(["convert", str(teacher), "--to", "hashgrid", "-o", str(teacher)]) == 2
    assert "is the file that is read" in capsys.readouterr().err
    assert main(["render", str(output), "-o", str(tmp_path / "x.png"), "--size", "16x12", "--quiet"]) == 0
    assert isinstance(Eye(load_field(output)[0]), Eye)  # type: ignore[arg-type]


def test_the_page_of_conversions_shows_what_was_measured() -> None:
    from fieldforge.apps.bench.convert_page import tables

    quality = {"psnr": 31.5, "teachers_psnr": 32.0, "teacher_psnr": 35.0, "bytes": 5e5}
    rows: list[dict[str, Any]] = [
        {"case": case, "candidate": case.split(": ")[1], "quality": quality, "seconds": 3.0}
        for case in ("scratch: mlp", "matrix-mlp: pref", "staged: pixels")
    ]
    figures = {"seconds": 2e-6, "samples": 9.0, "less_time": 250.0}
    rows.append({"case": "kilonerf", "candidate": "passes", "quality": figures, "seconds": 2e-6})
    said = tables(rows, lambda cells: f"| {' | '.join(cells)} |").splitlines()
    assert said[3] == "| mlp | 31.50 |  |  |  |  |  | 31.50 |  |"
    assert "| pixels | 31.50 dB | 32.00 dB | 35.00 dB | 3 s | 0.50 MB |" in said
    assert said[-1] == "| passes | 2 µs | 9.0 |  | 250 x |  |"
