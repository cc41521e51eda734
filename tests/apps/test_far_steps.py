"""Training steps of every kind on the stand-in of tests/far.py: they come to what the CPU comes to, and the host waits
for nothing but what is said here. Scenes are in test_scene_on_device.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from far import META, Far
from stand_in import as_device, numbers

from fieldforge.apps.cli import main
from fieldforge.apps.convert.job import convert
from fieldforge.apps.fit.audio.job import AudioJob
from fieldforge.apps.fit.collection.job import fit_collection
from fieldforge.apps.fit.image.job import ImageJob
from fieldforge.apps.fit.image.job import fit as fit_picture
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.shape.job import ShapeJob
from fieldforge.apps.fit.tune import family
from fieldforge.apps.fit.video.job import VideoJob
from fieldforge.apps.generate.sample import sample_rows
from fieldforge.apps.generate.train import TrainingJob, TrainingPlan
from fieldforge.apps.images import read_image
from fieldforge.apps.shapes.read import Cloud, Mesh
from fieldforge.apps.sounds.clip import Clip
from fieldforge.apps.videos.film import Film
from fieldforge.apps.weights.embed import EmbeddingJob, EmbeddingPlan
from fieldforge.apps.weights.train import ClassifierJob, ClassifierPlan
from fieldforge.backends import use_backend
from fieldforge.devices import working_on
from fieldforge.fields.collection import Collection
from fieldforge.fields.file import save_field

N_STEPS = 4
GRID = ("encoding.n_levels=2", "encoding.log2_hashmap_size=8", "network.n_neurons=16", "fit.batch_size=64")
random = np.random.default_rng(0)


def picture() -> ImageJob:
    return ImageJob(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))


def in_both_places(job: Any, monkeypatch: pytest.MonkeyPatch, *overrides: str, preset: str = "balanced") -> list[str]:
    """Some steps here and there, whose parameters agree; what the host waited for after the first one."""
    config, _ = job.run_config(Plan(preset=preset, overrides=overrides, steps=40))
    with use_backend("reference"):
        here = job.make_field(config, 0)
        with job.training(here, config, 0, ()) as training:
            for step in range(N_STEPS):
                training.advance(step, 1.0)
    with as_device(monkeypatch) as far:
        there = far.bring(job.make_field(config, 0))
        with working_on(META), far.door(), job.training(there, config, 0, ()) as training:
            training.advance(0, 1.0)
            with far.waits() as waits:
                for step in range(1, N_STEPS):
                    training.advance(step, 1.0)
            found = list(waits)
    for (name, one), other in zip(there.named_parameters(), here.parameters(), strict=True):
        torch.testing.assert_close(
            numbers(one.data), other.detach(), rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    return found


def test_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_both_places(picture(), monkeypatch, *GRID, "fit.jitter=0.25") == []


def test_a_picture_in_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_both_places(picture(), monkeypatch, "fit.batch_size=64", preset="kilonerf") == []


@pytest.mark.parametrize("preset", ["balanced", "siren"])
def test_a_sound(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = Clip(np.sin(np.arange(600, dtype=np.float32) / 9)[:, None], 8000, "tone")
    some = GRID if preset == "balanced" else GRID[-2:]
    assert in_both_places(AudioJob(clip), monkeypatch, *some, preset=preset) == []


def test_a_film(monkeypatch: pytest.MonkeyPatch) -> None:
    film = Film(random.integers(0, 256, (4, 6, 8, 3), dtype=np.uint8), 10.0, "noise")
    assert in_both_places(VideoJob(film), monkeypatch, *GRID) == []


@pytest.mark.parametrize(("kind", "preset"), [("occupancy", "balanced"), ("sdf", "siren")])
def test_a_shape(kind: str, preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples are made by threads of the CPU, and sent ahead."""
    made = trimesh.creation.icosphere(1)
    job = ShapeJob(Mesh(np.asarray(made.vertices), np.asarray(made.faces)), kind=kind)
    some = GRID if preset == "balanced" else GRID[-2:]
    assert in_both_places(job, monkeypatch, *some, "fit.pool_size=256", preset=preset) == []


@pytest.mark.parametrize("loss", ["IGR", "SIREN"])
def test_a_cloud_by_slopes(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Second derivatives; what is drawn has names for its parts."""
    points = np.random.default_rng(1).normal(size=(300, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    job = ShapeJob(Cloud(points, points))
    small = ("network.n_neurons=16", "network.n_hidden_layers=2", "fit.batch_size=64", f"loss.otype={loss}")
    assert in_both_places(job, monkeypatch, *small, preset="igr") == []


def test_a_picture_becomes_another_field(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = fit_picture(random.integers(0, 256, (12, 16, 3), dtype=np.uint8), steps=20, overrides=GRID,
                          progress="quiet").field  # fmt: skip
    small = ["network.n_neurons=8", "fit.batch_size=64", "fit.storage=float32"]
    plan: dict[str, Any] = {"steps": 3, "overrides": small, "progress": "quiet", "backend": "reference"}
    here = convert(teacher, "siren", **plan)
    with as_device(monkeypatch) as far, far.door():
        there = convert(teacher, "siren", **plan)
        assert all(isinstance(one.data, Far) for one in there.field.parameters())
        found = [numbers(one.data) for one in there.field.parameters()]
    assert there.figures["teacher_psnr"] == pytest.approx(here.figures["teacher_psnr"], abs=1e-2)
    for one, other in zip(found, here.field.parameters(), strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-3, atol=1e-4)


def test_short_trainings_that_choose_a_family_go_on_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family, "FEWEST", 3)
    monkeypatch.setattr(ImageJob, "families", lambda job: {"finer": "finer"})
    few = ["fit.batch_size=64"]
    plan = Plan(tune="auto", steps=20, overrides=few, backend="reference")
    job, other = picture(), picture()
    other.picture = job.picture
    job.run_config(plan)
    with as_device(monkeypatch) as far, far.door():
        other.run_config(replace(plan, device="cuda"))
        assert far.n_leaves > 0
    assert job.tuned is not None
    assert other.tuned is not None
    for name, expected in job.tuned["families"].items():
        assert other.tuned["families"][name]["quality"] == pytest.approx(expected["quality"], abs=1e-2), name


SIDE = 6


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    y, x = np.mgrid[:SIDE, :SIDE]
    centres = random.uniform(1, SIDE - 1, (120, 2, 1, 1))
    images = (255 * np.exp(-((x - centres[:, 0]) ** 2 + (y - centres[:, 1]) ** 2) / 4)).astype(np.uint8)
    np.savez(folder / "digits.npz", images=images, labels=np.arange(120) % 2)
    return folder / "digits.npz"


@pytest.fixture(scope="module")
def fields(digits: Path) -> Path:
    folder = digits.parent / "fields"
    fit_collection(digits, folder, init="shared", preset="tiny", steps=5, progress="quiet")
    return folder


@pytest.mark.parametrize(("preset", "more"), [("tiny", []), ("tiny", ["fit.batch_size=16"]), ("triplane", [])])
def test_a_collection(
    preset: str, more: list[str], digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only qualities and finished fields come home."""
    plan: dict[str, Any] = {"preset": preset, "steps": 3, "progress": "quiet", "limit": 3, "overrides": more}
    here = fit_collection(digits, tmp_path / "here", backend="reference", **plan)
    with as_device(monkeypatch) as far:
        with far.door(numbers_only=True), far.waits() as waits:
            there = fit_collection(digits, tmp_path / "there", backend="reference", device="cuda", **plan)
        assert [one for one in waits if "steps.py" in one or "_fit_some" in one or "batch" in one] == []
    torch.testing.assert_close(there.rows(), here.rows(), rtol=1e-4, atol=1e-5)
    assert there.qualities == pytest.approx(here.qualities, abs=1e-2)


MODELS: dict[str, Any] = {
    "odd-graph": ["weight_network.nested.n_channels=4", "weight_network.nested.n_layers=1"],
    "flat-augmented": ["fit.noise=0.1"],
}


@pytest.mark.parametrize("model", MODELS)
def test_a_classifier(model: str, fields: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = ClassifierPlan(model=model, steps=3, progress="quiet", overrides=[*MODELS[model], "fit.batch_size=8"])
    here = ClassifierJob(Collection(fields), plan).run()
    with as_device(monkeypatch) as far, far.door(), far.waits() as waits:
        there = ClassifierJob(Collection(fields), replace(plan, device="cuda")).run()
    for one, other in zip(there.network.parameters(), here.network.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    assert there.report["accuracy"] == here.report["accuracy"]
    assert [one for one in waits if "train.py losses" in one or "networks" in one or "_move" in one] == []


def test_an_encoder_of_weights(fields: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = EmbeddingPlan(steps=3, progress="quiet", overrides=["fit.batch_size=8", "fit.n_points=9"])
    here = EmbeddingJob(Collection(fields), plan).run()
    with as_device(monkeypatch) as far, far.door(), far.waits() as waits:
        there = EmbeddingJob(Collection(fields), replace(plan, device="cuda")).run()
    assert there.report["psnr"] == pytest.approx(here.report["psnr"], abs=1e-2)
    assert [one for one in waits if "embed.py losses" in one or "_move" in one] == []


def test_a_diffusion_of_weights_its_samples_and_what_is_between(
    fields: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = TrainingPlan(
        tmp_path / "here.gen", steps=3, progress="quiet", condition="label",
        overrides=["denoiser.width=16", "fit.batch_size=8"],
    )  # fmt: skip
    here = TrainingJob(Collection(fields), plan).run()
    expected = sample_rows(here.model, 3, n_steps=2, label=1)
    ends = [str(tmp_path / f"{number}.field") for number in (0, 1)]
    for number, path in enumerate(ends):
        save_field(path, Collection(fields)[number])
    few = ["--frames", "3", "--size", "8", "--steps-of-sampling", "4", "--quiet"]
    words = ["generate", "interpolate", str(tmp_path / "here.gen"), *ends, *few, "-o"]
    assert main([*words, str(tmp_path / "here.png")]) == 0
    with as_device(monkeypatch) as far, far.door(), far.waits() as waits:
        there = TrainingJob(Collection(fields), replace(plan, device="cuda", output=tmp_path / "there.gen")).run()
        found = sample_rows(far.bring(there.model), 3, n_steps=2, label=1)
        assert main([*words, str(tmp_path / "there.png"), "--device", "cuda"]) == 0
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert [one for one in waits if "train.py losses" in one or "weightspace" in one or "_move" in one] == []
    pictures = [read_image(tmp_path / f"{name}.png").pixels.astype(int) for name in ("here", "there")]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
