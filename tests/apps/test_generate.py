"""Models of weights from the command line: trained, stopped, resumed, sampled, and what is said where they fail."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fieldforge.apps.cli import main
from fieldforge.apps.fit.collection.job import fit_collection
from fieldforge.apps.fit.loop import Progress
from fieldforge.apps.fit.progress import Silent
from fieldforge.apps.generate.interpolate import between, spherical
from fieldforge.apps.generate.sample import sample_rows
from fieldforge.apps.generate.train import DenoisingStep, TrainingJob, TrainingPlan
from fieldforge.fields.collection import Collection
from fieldforge.fields.file import build_field, load_field, save_field
from fieldforge.fields.shards import write_collection
from fieldforge.fields.weightspace.layout import Layout
from fieldforge.fields.weightspace.model_file import load_model
from fieldforge.renderers.isosurface import Isosurface

SIDE = 6
SMALL = ["denoiser.width=16", "denoiser.n_layers=1", "fit.batch_size=16", "generator.n_sampling_steps=10"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 fields of pictures of a soft spot each, of three classes, in shards of eight."""
    folder = tmp_path_factory.mktemp("digits")
    random = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    centres = random.uniform(1, SIDE - 1, (40, 2, 1, 1))
    images = (255 * np.exp(-((x - centres[:, 0]) ** 2 + (y - centres[:, 1]) ** 2) / 4)).astype(np.uint8)
    np.savez(folder / "digits.npz", images=images, labels=np.arange(40) % 3)
    fit_collection(folder / "digits.npz", folder / "fields", init="shared", preset="tiny", steps=20, progress="quiet",
                   overrides=["fit.n_in_shard=8"])  # fmt: skip
    return folder / "fields"


@pytest.fixture
def fields(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    folder = tmp_path / "fields"
    folder.mkdir()
    for file in whole.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def trained(fields: Path, output: Path, *words: str) -> int:
    small = [word for override in SMALL for word in ("--set", override)]
    return main(["generate", "train", str(fields), "-o", str(output), "--quiet", *small, *words])


@pytest.fixture(scope="module")
def model(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "spots.gen"
    assert trained(whole, path, "--steps", "60", "--condition", "label") == 0
    return path


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def test_info_says_what_a_model_is(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(model)]) == 0
    told = capsys.readouterr().out
    assert "WeightDiffusion" in told
    assert "ImageField" in told
    assert main(["info", str(model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["slot"] == "generator"


def test_a_model_file_says_what_it_was_trained_on(model: Path, whole: Path) -> None:
    found = load_model(model)
    collection = Collection(whole)
    assert found.layout == collection.layout
    assert found.field_config == collection.config
    assert found.metadata["labels"] == [0, 1, 2]
    assert found.metadata["collection"]["init"]["policy"] == "shared"
    assert found.metadata["collection"]["identity"] == collection.body["identity"]
    assert found.metadata["n_training"] == sum(split < 0.8 for split in collection.splits)
    assert found.metadata["steps"] == 60
    held_out = [row["held_out"] for row in found.metadata["history"] if "held_out" in row]
    assert held_out[-1] < held_out[0]


def test_equal_trainings_leave_equal_files_and_another_seed_another(whole: Path, tmp_path: Path) -> None:
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        assert trained(whole, tmp_path / name, "--steps", "5", "--seed", seed) == 0
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c


class Interrupt(Silent):
    """Ctrl-C at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, progress: Progress) -> None:
        if progress.message.startswith(f"step {self.step}:"):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_training_that_was_interrupted_and_resumed_ends_with_the_same_bits(whole: Path, tmp_path: Path) -> None:
    def plan(name: str, **more: Any) -> TrainingPlan:
        return TrainingPlan(tmp_path / name, overrides=SMALL, steps=64, **{"progress": "quiet", **more})

    TrainingJob(Collection(whole), plan("whole.gen")).run()
    stopped = TrainingJob(Collection(whole), plan("parts.gen", progress=Interrupt(32))).run()
    assert stopped.state is not None
    assert stopped.state.stopped_by == "signal"
    assert 32 <= stopped.state.step < 64
    assert not (tmp_path / "parts.gen").exists()
    resumed = TrainingJob(Collection(whole), plan("parts.gen", resume=True)).run()
    assert resumed.state is not None
    assert resumed.state.step == 64
    assert (tmp_path / "parts.gen").read_bytes() == (tmp_path / "whole.gen").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["parts.gen", "whole.gen"]


def test_an_interrupted_training_is_neither_lost_nor_mixed_up(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "a.gen"
    TrainingJob(Collection(whole), TrainingPlan(output, overrides=SMALL, steps=64, progress=Interrupt(32))).run()
    assert trained(whole, output, "--steps", "64") == 2
    assert "--resume continues it, --restart discards it" in said(capsys)
    assert trained(whole, output, "--steps", "64", "--resume", "--seed", "9") == 2
    assert "belongs to another fit: seed differ" in said(capsys)
    assert trained(whole, output, "--steps", "3", "--restart") == 0


@pytest.mark.parametrize("name", ["gaussian", "pca", "jitter", "subset"])
def test_baselines_are_fitted_at_once(name: str, whole: Path, tmp_path: Path) -> None:
    assert main(["generate", "train", str(whole), "-o", str(tmp_path / "a"), "--model", name, "--quiet"]) == 0
    made = sample_rows(load_model(tmp_path / "a").model, 7)
    assert made.shape == (7, Collection(whole).n_parameters)
    if name == "subset":
        training = Collection(whole).rows([i for i, split in enumerate(Collection(whole).splits) if split < 0.8])
        assert all((training == row).all(1).any() for row in made)


def test_batches_follow_from_seed_and_step_alone(whole: Path) -> None:
    calls: list[torch.Tensor] = []

    class Seen:
        def loss(self, vectors: torch.Tensor, labels: Any, generator: torch.Generator) -> torch.Tensor:
            calls.append(torch.cat([vectors.flatten(), torch.randn(3, generator=generator)]))
            return torch.tensor(torch.nan)

    class Still:
        def zero_grad(self) -> None:
            pass

    step = DenoisingStep(Seen(), Still(), Collection(whole).rows(), None, 4, 1)  # type: ignore[arg-type]
    for number in (7, 8, 7):
        step(number, 1.0)
    assert torch.equal(calls[0], calls[2])
    assert not torch.equal(calls[0], calls[1])


# -------------------------------------------------------------------------------------------------------- samples


def test_samples_are_fields_with_a_sheet_and_a_summary(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        words = ["generate", "sample", str(model), "-o", str(tmp_path / name), "-n", "5", "--seed", "3", "--json"]
        assert main([*words, "--label", "2", "--guidance", "2"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["n_finite"] == 5
    names = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert names == [*(f"sample-{number:05d}.field" for number in range(5)), "sheet.png", "summary.json"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    field, metadata = load_field(tmp_path / "a" / names[3])
    expected = sample_rows(load_model(model).model, 5, seed=3, label=2, guidance=2.0)[3]
    assert torch.equal(Layout.of(field.state_dict()).flatten(field.state_dict()), expected)
    assert metadata["generated"]["label"] == "2"


def test_labels_and_guidance_and_steps_matter(model: Path) -> None:
    generator = load_model(model).model
    plain = sample_rows(generator, 4)
    others = [
        sample_rows(generator, 4, label=1), sample_rows(generator, 4, label=1, guidance=3.0),
        sample_rows(generator, 4, n_steps=3), sample_rows(generator, 4, seed=1),
    ]  # fmt: skip
    assert not any(torch.equal(plain, other) for other in others)
    assert torch.equal(plain, sample_rows(generator, 4))


def test_more_samples_than_a_batch_holds_are_all_different(model: Path) -> None:
    made = sample_rows(load_model(model).model, 300, n_steps=1)
    assert len(torch.unique(made, dim=0)) == 300


def test_what_a_model_cannot_sample_is_said(
    model: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subset = tmp_path / "subset.gen"
    assert main(["generate", "train", str(whole), "-o", str(subset), "--model", "subset", "--quiet"]) == 0

    def error(path: Path, *words: str) -> str:
        assert main(["generate", "sample", str(path), "-o", str(tmp_path / "out"), "--quiet", *words]) in (1, 2)
        return said(capsys)

    assert "--label 7" in (message := error(model, "--label", "7"))
    assert "knows 0, 1, 2" in message
    assert "knows no labels; train it with --condition label" in error(subset, "--label", "1")
    assert "Subset makes fields in one step" in error(subset, "--guidance", "2")
    assert "leads towards a label" in error(model, "--guidance", "2")
    assert "steps-of-sampling: expected an integer from 1 to 1000" in error(model, "--steps-of-sampling", "1001")
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out" / "mine.txt").touch()
    assert "holds other things" in error(model)
    assert "is a shard, not a model of weights" in error(whole / "shard-00000.safetensors")


def test_shapes_come_with_meshes_that_are_closed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {
        "otype": "OccupancyField", "encoding": {"otype": "Identity"},
        "network": {"otype": "MLP", "n_neurons": 8, "n_hidden_layers": 1, "has_bias": True},
    }  # fmt: skip
    start = build_field(config)
    layout = Layout.of(start.state_dict())
    # 1 - |x| - |y| - |z|, about: an octahedron inside the cube, and its like
    vector = {name: torch.zeros(shape) for name, shape in layout.shapes.items()}
    first, bias, last, offset = vector
    for axis in range(3):
        for sign in (0, 1):
            vector[first][2 * axis + sign, axis] = 1 - 2 * sign
            vector[bias][2 * axis + sign] = -0.5 * (1 - 2 * sign)
            vector[last][0, 2 * axis + sign] = -10
    vector[offset][0] = 3.0
    rows = layout.flatten(vector) + 0.02 * torch.randn(
        20, layout.n_parameters, generator=torch.Generator().manual_seed(0)
    )
    rows[:, layout.n_parameters - 1] = 3.0
    columns: dict[str, list[Any]] = {
        "name": [str(i) for i in range(20)], "item": list(range(20)), "init": [0] * 20, "init_seed": [0] * 20,
        "attempt": [0] * 20, "label": [None] * 20, "quality": [0.9] * 20, "source_sha256": ["0"] * 20,
        "split": [i / 20 for i in range(20)], "own": [None] * 20,
    }  # fmt: skip
    body = {"kind": "occupancy", "field": start.config(), "layout": layout.pairs(), "init": {"policy": "shared"},
            "quality": "iou"}  # fmt: skip
    write_collection(tmp_path / "shapes", body, rows, columns)
    path, out = tmp_path / "shapes.gen", tmp_path / "out"
    assert main(["generate", "train", str(tmp_path / "shapes"), "-o", str(path), "--model", "gaussian", "--quiet"]) == 0
    assert main(["generate", "sample", str(path), "-o", str(out), "-n", "3", "--resolution", "24", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["n_closed"], result["n_open"], result["n_empty"]) == (3, 0, 0)
    import trimesh

    mesh = trimesh.load_mesh(out / "sample-00000.ply")
    assert Isosurface(mesh.vertices, mesh.faces, 0, 0).n_open_edges == 0
    assert float(np.abs(mesh.vertices).max()) == pytest.approx(0.6, abs=0.25)


# -------------------------------------------------------------------------------------------------------- between


def test_the_arc_between_two_noises_keeps_their_length() -> None:
    a, b = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    arc = spherical(a, b * (a.norm() / b.norm()), torch.linspace(0, 1, 7)[:, None])
    torch.testing.assert_close(arc.norm(dim=1), a.norm().expand(7))
    torch.testing.assert_close(arc[0], a)
    steps = (arc[1:] - arc[:-1]).norm(dim=1)
    torch.testing.assert_close(steps, steps[:1].expand(6))
    torch.testing.assert_close(spherical(a, a, torch.tensor([[0.5]]))[0], a)


def test_the_ends_of_an_interpolation_are_the_fields_given(model: Path, whole: Path) -> None:
    generator, rows = load_model(model).model, Collection(whole).rows([0, 5])
    made = between(generator, rows[0], rows[1], 5, n_steps=200)
    spread = float((rows[0] - rows[1]).norm())
    for end, given in ((made[0], rows[0]), (made[-1], rows[1])):
        assert float((end - given).norm()) < 0.05 * spread
    straight = torch.lerp(rows[0], rows[1], 0.5)
    assert float((made[2] - straight).norm()) > 0.02 * spread


@pytest.mark.parametrize("suffix", [".png", ".mp4"])
def test_an_interpolation_is_a_file(suffix: str, model: Path, whole: Path, tmp_path: Path) -> None:
    if suffix == ".mp4":
        pytest.importorskip("av")
    paths = []
    for number in (0, 5):
        paths.append(tmp_path / f"{number}.field")
        save_field(paths[-1], Collection(whole)[number])
    output = tmp_path / f"morph{suffix}"
    words = ["generate", "interpolate", str(model), *map(str, paths), "-o", str(output), "--quiet"]
    assert main([*words, "--frames", "3", "--size", "32"]) == 0
    if suffix == ".png":
        from fieldforge.apps.images import read_image

        picture = read_image(output)
        assert (picture.height, picture.width) == (32, 3 * 32 + 2 * 2)
    else:
        assert output.stat().st_size > 100


def test_what_cannot_be_interpolated_is_said(
    model: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, wider, other = (tmp_path / f"{name}.field" for name in ("mine", "wider", "other"))
    save_field(mine, Collection(whole)[0])
    config = json.loads(json.dumps(Collection(whole).config))
    config["network"]["n_neurons"] = 9
    save_field(wider, build_field(config))
    config["network"]["n_neurons"] = 8
    config["width"] = 7
    save_field(other, build_field(config))

    def error(*words: Any) -> str:
        assert main(["generate", "interpolate", *map(str, words), "--quiet"]) in (1, 2)
        return said(capsys)

    out = ["-o", tmp_path / "a.png"]
    message = error(model, mine, wider, *out)
    assert "is a model of fields of 105 numbers" in message
    assert "wider.field has 127 numbers" in message
    assert "is a model of fields whose width is 6" in error(model, mine, other, *out)
    assert "expected a name that ends in .mp4 or .png" in error(model, mine, mine, "-o", tmp_path / "a.gif")
    assert "expected at least 2" in error(model, mine, mine, *out, "--frames", "1")
    subset = tmp_path / "subset.gen"
    assert main(["generate", "train", str(whole), "-o", str(subset), "--model", "subset", "--quiet"]) == 0
    assert "Subset makes copies of training fields" in error(subset, mine, mine, *out)


# ------------------------------------------------------------------------------------------------------ bad input


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def test_a_damaged_field_and_a_missing_shard_are_left_out_aloud(
    fields: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(fields / "shard-00000.safetensors", (fields / "shard-00000.safetensors").stat().st_size - 3)
    (fields / "shard-00002.safetensors").unlink()
    output = tmp_path / "a.gen"
    assert main(["generate", "train", str(fields), "-o", str(output), "--model", "gaussian", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    messages = [line["message"] for line in lines if line["event"] == "message"]
    assert "field 7 (00007) is damaged" in messages[0]
    assert "field 16 (00016) cannot be read: shard-00002.safetensors" in messages[1]
    assert lines[-1]["n_left_out"] == 9
    assert lines[-1]["n_training"] + lines[-1]["n_held_out"] == 31


def test_too_few_fields_are_an_error_that_names_the_first_bad_one(
    fields: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        (fields / f"shard-{number:05d}.safetensors").unlink()
    assert trained(fields, tmp_path / "a.gen", "--steps", "2") == 1
    message = said(capsys)
    assert "at least 8 are needed, as 32 cannot be used (first: field 0 (00000)" in message
    assert not (tmp_path / "a.gen").exists()


def test_labels_that_are_missing_are_named(fields: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fieldforge.fields.collection import COLUMNS

    collection = Collection(fields)
    columns = {name: collection.column(name) for name in COLUMNS if name != "digest"}
    body = {key: collection.body[key] for key in ("kind", "field", "layout", "init", "quality")}
    training = [index for index, split in enumerate(collection.splits) if split < 0.8]
    columns["label"] = [None if index == training[3] else label for index, label in enumerate(columns["label"])]
    write_collection(tmp_path / "other", body, collection.rows(), columns)
    assert trained(tmp_path / "other", tmp_path / "a.gen", "--condition", "label", "--steps", "2") == 1
    assert f"field {training[3]} ({training[3]:05d}) has no label" in said(capsys)


def test_what_a_training_cannot_do_is_said(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "a.gen"

    def error(*words: Any) -> str:
        assert main(["generate", "train", str(whole), "-o", str(output), "--quiet", *map(str, words)]) == 2
        return said(capsys)

    assert "gaussian: is fitted in closed form" in error("--model", "gaussian", "--steps", 3)
    assert "condition: gaussian knows no labels" in error("--model", "gaussian", "--condition", "label")
    assert "no denoiser is called 'Transfomer'" in error("--set", "denoiser.otype=Transfomer")
    assert "encoding" in error("--set", "encoding.n_levels=3")
    assert "n_heads" in error("--model", "transformer", "--set", "denoiser.n_heads=7")
    assert main(["generate", "train", str(tmp_path / "none"), "-o", str(output)]) == 1
    assert "is not the folder of a collection" in said(capsys)
    assert not output.exists()


def test_a_configuration_can_be_printed_and_read_again(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "a.gen"
    assert trained(whole, output, "--print-config") == 0
    (tmp_path / "run.toml").write_text(capsys.readouterr().out)
    words = ["generate", "train", str(whole), "-o", str(output), "--config", str(tmp_path / "run.toml")]
    assert main([*words, "--steps", "3", "--quiet"]) == 0
    assert load_model(output).config["denoiser"]["width"] == 16
