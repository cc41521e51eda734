"""Fits of collections: what is stored is what was fitted, however the work was cut, stopped or handed out."""

from __future__ import annotations

import json
import math
import os
import signal
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fieldforge.apps.cli import main
from fieldforge.apps.fit.collection.executors import Local
from fieldforge.apps.fit.collection.items import ItemError, open_items
from fieldforge.apps.fit.collection.job import CollectionJob, fit_collection
from fieldforge.apps.fit.collection.plan import CollectionPlan
from fieldforge.apps.fit.collection.steps import initial_row, make_steps, seed_of, stackable
from fieldforge.apps.fit.collection.work import Outcome, Task, fit_task
from fieldforge.apps.images import ImageError
from fieldforge.apps.metrics import psnr
from fieldforge.backends import use_backend
from fieldforge.fields.collection import Collection
from fieldforge.fields.file import FieldFileError, build_field, load_field
from fieldforge.kernels import cpu_door
from fieldforge.registry import ConfigError, build

needs_native = pytest.mark.skipif(cpu_door.missing() is not None, reason="no native kernels")
SIDE = 6
SMALL = {"preset": "tiny", "steps": 20, "progress": "quiet", "overrides": ["fit.n_in_shard=4"]}


def pictures(n: int = 10) -> np.ndarray:
    """(n, 6, 6) uint8, a soft spot each, at another place."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    centres = random.uniform(1, SIDE - 1, (n, 2, 1, 1))
    return (255 * np.exp(-((x - centres[:, 0]) ** 2 + (y - centres[:, 1]) ** 2) / 4)).astype(np.uint8)


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    path = tmp_path / "digits.npz"
    np.savez(path, images=pictures(), labels=np.arange(10) % 3)
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_what_is_stored_is_what_was_fitted(digits: Path, tmp_path: Path) -> None:
    fields = fit_collection(digits, tmp_path / "fields", inits_per_item=2, **SMALL | {"steps": 100})
    assert (len(fields), fields.body["n_fields"], len(set(fields.names))) == (20, 20, 10)
    assert fields.labels == [label for number in range(10) for label in [number % 3] * 2]
    assert fields.inits == [0, 1] * 10
    assert len(set(fields.column("init_seed"))) == 20
    assert len(set(fields.splits)) == 10, "the fields of an item fall on the same side of a split"
    y, x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    for index in (0, 7, 19):
        with torch.no_grad():
            seen = fields[index].color(torch.stack((x, y), -1))[..., 0].clamp(0, 1)  # type: ignore[operator]
        quality = psnr(seen.numpy(), pictures()[index // 2] / np.float32(255))
        assert fields.qualities[index] == pytest.approx(quality, abs=1e-3)
        assert quality > 25


class Backwards:
    """Runs all tasks before it hands anything back, the last first, a few fields at a time."""

    def run(
        self, tasks: Iterable[Task], observe: Callable[[list[float]], None], should_stop: Callable[[], bool]
    ) -> Iterator[Outcome]:
        for task in reversed(list(tasks)):
            outcome = fit_task(task, observe, should_stop, n_at_once=3)
            assert outcome is not None
            yield outcome


@needs_native
def test_the_same_bytes_however_the_work_is_cut(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some_pixels = SMALL | {"overrides": ["fit.n_in_shard=4", "fit.batch_size=16"]}
    monkeypatch.setenv("FIELDFORGE_NUM_THREADS", "1")
    fit_collection(digits, tmp_path / "a", **some_pixels)
    monkeypatch.setenv("FIELDFORGE_NUM_THREADS", "3")
    fit_collection(digits, tmp_path / "b", executor=Backwards(), **some_pixels)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    larger = fit_collection(digits, tmp_path / "c", **some_pixels | {"overrides": ["fit.batch_size=16"]})
    assert torch.equal(larger.rows(), Collection(tmp_path / "a").rows())
    some = fit_collection(digits, tmp_path / "d", limit=3, **some_pixels)
    assert torch.equal(some.rows(), larger.rows(range(3)))


def test_fields_begin_as_their_policy_says(digits: Path, tmp_path: Path) -> None:
    job = CollectionJob(digits, CollectionPlan(tmp_path / "x", **SMALL))  # type: ignore[arg-type]
    seed = seed_of(0, "00003", 0)
    alone = build_field(job.field)  # the layout is that of a field by itself, and so are the first numbers
    drawn = build("field", job.field, generator=torch.Generator().manual_seed(seed)).state_dict()
    row = job.layout.unflatten(initial_row(stackable(alone), seed))
    assert all(torch.equal(row[name], tensor) for name, tensor in drawn.items())

    nearly = SMALL | {"steps": 1, "inits_per_item": 2, "overrides": ["optimizer.learning_rate=1e-6"]}
    random, shared = (fit_collection(digits, tmp_path / init, init=init, **nearly) for init in ("random", "shared"))
    assert random.start() is None
    start = shared.start()
    assert start is not None
    assert torch.allclose(shared.rows(), start.repeat(10, 1), atol=1e-5)
    assert not torch.allclose(random.row(0), random.row(2), atol=0.1)
    first = fit_collection(digits, tmp_path / "first", init="first", **SMALL)
    where = first.start()
    assert where is not None
    assert torch.equal(where[0], fit_collection(digits, tmp_path / "s", init="shared", limit=1, **SMALL).row(0))
    assert len({init.body["init"]["policy"] for init in (random, shared, first)}) == 3


@needs_native
@pytest.mark.parametrize("loss", ["L2", "L1", "Huber", "BinaryCrossEntropy"])
def test_native_steps_are_the_plain_ones(loss: str, generator: torch.Generator) -> None:
    field = build_field({
        "otype": "ImageField", "width": 4, "height": 4, "encoding": "Identity", "n_channels": 2,
        "network": {"otype": "MLP", "n_neurons": 9, "n_hidden_layers": 2, "activation": "Sine", "has_bias": True},
    })  # fmt: skip
    network = stackable(field)
    rows = torch.stack([initial_row(network, seed) for seed in range(3)])
    x, target = torch.rand(3, 40, 2, generator=generator), torch.rand(3, 40, 2, generator=generator)
    target[1, 5, 0] = math.nan
    adam = {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-6, "l2_reg": 1e-3}
    found = []
    for backend in ("cpu", "reference"):
        with use_backend(backend):
            steps = make_steps(rows, network, build("loss", loss), adam)
            for _ in range(10):
                steps.step(x, target, 1e-3)
            found.append([*steps.parameters, steps.predict(x)])
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=2e-5)
    assert torch.equal(found[0][0][1], rows[1, : 9 * 2].view(9, 2)), "a network whose loss is NaN stays as it is"


class Interrupted(Local):
    """Ctrl-C after the first shard."""

    def run(
        self, tasks: Iterable[Task], observe: Callable[[list[float]], None], should_stop: Callable[[], bool]
    ) -> Iterator[Outcome]:
        for outcome in super().run(tasks, observe, should_stop):
            yield outcome
            os.kill(os.getpid(), signal.SIGINT)


def test_a_fit_goes_on_where_it_was_stopped(digits: Path, tmp_path: Path) -> None:
    fit_collection(digits, tmp_path / "whole", **SMALL)
    plan = CollectionPlan(tmp_path / "c", executor=Interrupted(), **SMALL)  # type: ignore[arg-type]
    result = CollectionJob(digits, plan).run()
    assert (result.stopped_by, result.n_fields, result.n_total) == ("signal", 4, 10)
    assert len(Collection(tmp_path / "c", allow_incomplete=True)) == 4
    with pytest.raises(FieldFileError, match="holds 4 of 10 fields"):
        Collection(tmp_path / "c")
    with pytest.raises(FieldFileError, match="--resume goes on with it, --restart discards it"):
        fit_collection(digits, tmp_path / "c", **SMALL)
    with pytest.raises(FieldFileError, match="is of another collection"):
        fit_collection(digits, tmp_path / "c", resume=True, **SMALL | {"seed": 1})
    fit_collection(digits, tmp_path / "c", resume=True, **SMALL)
    assert content(tmp_path / "c") == content(tmp_path / "whole")
    damaged = tmp_path / "c/shard-00001.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    (tmp_path / "c/shard-00002.safetensors").unlink()
    (tmp_path / "c/index.json").unlink()  # a process that was killed leaves one without its shards, or none
    fit_collection(digits, tmp_path / "c", resume=True, **SMALL)
    assert content(tmp_path / "c") == content(tmp_path / "whole")
    fit_collection(digits, tmp_path / "c", restart=True, **SMALL | {"steps": 1})
    assert content(tmp_path / "c") != content(tmp_path / "whole")


def test_bad_fields_are_fitted_again(digits: Path, tmp_path: Path) -> None:
    before = fit_collection(digits, tmp_path / "c", **SMALL)
    qualities = [quality for quality in before.qualities if quality is not None]
    limit = sorted(qualities)[3]
    old = before.rows()
    after = fit_collection(digits, tmp_path / "c", resume=True, refit_below=limit, **SMALL)
    for index, quality in enumerate(qualities):
        new = after.qualities[index]
        assert new is not None
        is_bad = quality < limit
        assert (new > quality) if is_bad else new == quality
        assert (after.column("attempt")[index] > 0) == is_bad
        assert torch.equal(old[index], after.row(index)) != is_bad
    assert after.problems() == []


def boxes(path: Path) -> None:
    """A zip of two boxes, 2 x 2 x 1 and 1 x 1 x 3 in size."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, size, at in (("flat/a.obj", (2, 2, 1), (0, 0, 0)), ("tall/b.obj", (1, 1, 3), (5, 0, -7))):
            corners = [[at[axis] + size[axis] * (k >> axis & 1) for axis in range(3)] for k in range(8)]
            quads = [(1, 3, 4, 2), (5, 6, 8, 7), (1, 2, 6, 5), (3, 7, 8, 4), (1, 5, 7, 3), (2, 4, 8, 6)]
            lines = [f"v {x} {y} {z}" for x, y, z in corners] + [f"f {' '.join(map(str, quad))}" for quad in quads]
            archive.writestr(name, "\n".join(lines))


@pytest.mark.parametrize("kind", ["occupancy", "sdf"])
def test_shapes_of_a_zip(kind: str, tmp_path: Path) -> None:
    boxes(tmp_path / "boxes.zip")
    more = {"preset": "relu", "overrides": ["network.n_neurons=24", "fit.pool_size=4096", "fit.batch_size=512"]}
    fields = fit_collection(tmp_path / "boxes.zip", tmp_path / "c", kind=kind, **SMALL | {"steps": 200} | more)
    assert fields.names == ["flat/a", "tall/b"]
    assert fields.labels == ["flat", "tall"]
    assert min(quality for quality in fields.qualities if quality is not None) > 0.8
    with zipfile.ZipFile(tmp_path / "boxes.zip", "a") as archive:
        archive.writestr("wrong/c.obj", "f 1 2 3")
    small = SMALL | {"overrides": ["fit.n_in_shard=2", "network.n_neurons=4"]}
    with pytest.raises(ItemError, match=r"wrong/c.obj.*; --skip-bad --restart begins anew"):
        fit_collection(tmp_path / "boxes.zip", tmp_path / "d", kind=kind, **small)
    assert len(Collection(tmp_path / "d", allow_incomplete=True)) == 2
    tall = fields[1]
    level = tall(torch.tensor([[5.5, 0.5, -5.5], [5.5, 2.0, -5.5], [4.5, 0.5, -5.5]]))
    assert [bool(value < 0) for value in level] == [True, False, False], "in the units of its mesh"


def save(folder: Path, name: str, pixels: np.ndarray) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / name)


def test_pictures_of_a_folder(tmp_path: Path) -> None:
    for number, pixels in enumerate(pictures(4)):
        save(tmp_path / "photos", f"{number % 2}/{number}.png", np.stack([pixels] * 3, -1))
    fields = fit_collection(tmp_path / "photos", tmp_path / "c", **SMALL)
    assert fields.names == ["0/0", "0/2", "1/1", "1/3"]
    assert fields.labels == [0, 0, 1, 1]
    assert fields.config["n_channels"] == 3
    save(tmp_path / "photos", "1/wide.png", np.zeros((SIDE, 9, 3), np.uint8))
    with pytest.raises(ItemError, match=r"wide.png: has 9x6 pixels of 3 channels, and 0.png has 6x6"):
        fit_collection(tmp_path / "photos", tmp_path / "d", **SMALL)
    (tmp_path / "photos/0/!.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")  # the first of all
    with pytest.raises(ImageError, match=r"!.png: the PNG header is damaged"):
        fit_collection(tmp_path / "photos", tmp_path / "d", **SMALL)
    rest = fit_collection(tmp_path / "photos", tmp_path / "e", skip_bad=True, **SMALL)
    assert rest.names == fields.names


def test_what_cannot_be_fitted_is_said_in_one_sentence(digits: Path, tmp_path: Path) -> None:
    def refused(message: str, source: Path = digits, **plan: Any) -> None:
        with pytest.raises(ValueError, match=message):
            fit_collection(source, tmp_path / "out", **SMALL | plan)

    refused("has 10 items, fewer than the 11 asked for", limit=11)
    refused("encoding: RandomFourier has numbers of its own", overrides=["encoding={otype='RandomFourier'}"])
    refused("network: the fields of a collection are plain MLPs", overrides=["network={otype='BACON'}"])
    refused("a collection is fitted with Adam, got SGD", overrides=["optimizer={otype='SGD'}"])
    refused(r"batch_size: expected an integer from 1 to 2048", overrides=["fit.batch_size=4096"])
    refused("init: expected", init="some")
    refused("meshes are read from a folder", kind="shape")
    refused("there is no such file", source=tmp_path / "nothing.npz")
    for arrays, message in (
        ({"pictures": pictures()}, "has no array images; it holds pictures"),
        ({"images": pictures()[0]}, r"images: expected \(n, height, width\)"),
        ({"images": pictures(), "labels": np.zeros(3, int)}, r"labels: expected \(10,\) integers"),
        ({"images": np.full((2, 4, 4), np.nan)}, "item 0 holds numbers that are not finite"),
        ({"images": np.zeros((2, 4, 4), np.int32)}, "images: expected uint8, uint16 or floats"),
    ):
        np.savez(tmp_path / "bad.npz", **arrays)  # type: ignore[arg-type]
        refused(message, source=tmp_path / "bad.npz")
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 nonsense")
    refused("no zip archive that can be read", source=tmp_path / "bad.zip")
    (tmp_path / "empty").mkdir()
    refused("holds no pictures or meshes", source=tmp_path / "empty")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/letter.txt").write_text("mine")
    with pytest.raises(FieldFileError, match="holds other things"):
        fit_collection(digits, tmp_path / "full", **SMALL)
    with pytest.raises(ConfigError, match="loss"):
        fit_collection(digits, tmp_path / "out", **SMALL | {"overrides": ["loss.otype=Eikonal"]})


def test_grey_levels_that_are_no_bytes_are_noticed(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=pictures() // 16)
    (note,) = open_items(tmp_path / "x.npz").notes
    assert "--white 15" in note
    (item,) = open_items(tmp_path / "x.npz", white=15.0).read([0])
    assert item.values.max() == 1.0  # type: ignore[union-attr]


def test_the_command_line(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "fields"
    command = ["fit", "collection", str(digits), "-o", str(out), "--preset", "tiny", "--steps", "20"]
    assert main([*command, "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[-1]["event"] == "result"
    assert events[-1]["fields"] == 10
    assert len(events[-1]["worst_fields"]) == 5
    assert {"fields_per_second", "seconds_left", "psnr"} <= events[0].keys()
    assert main(command) == 1
    assert "--resume" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert "10 fields of 105 parameters" in capsys.readouterr().out
    assert main(["info", str(out)]) == 0
    assert "init random, seed 0" in capsys.readouterr().out
    assert main(["info", str(out), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["fields"]["name"]) == 10
    assert main(["collection", "check", str(out)]) == 0
    assert main(["collection", "export", str(out), "-o", str(tmp_path / "some"), "--only", "2,4-5"]) == 0
    names = sorted(path.name for path in (tmp_path / "some").iterdir())
    assert names == ["00002.field", "00004.field", "00005.field"]
    field, metadata = load_field(tmp_path / "some/00004.field")
    assert metadata["signal"]["label"] == 1
    assert torch.equal(field.state_dict()["network.layers.0.bias"],
                       Collection(out).parameters(4)["network.layers.0.bias"])  # fmt: skip
    assert main(["collection", "export", str(out), "-o", str(tmp_path / "some"), "--only", "10"]) == 2
    shard = out / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-4] + b"????")
    capsys.readouterr()
    assert main(["collection", "check", str(out)]) == 1
    assert "field 9 (00009) is damaged" in capsys.readouterr().out
