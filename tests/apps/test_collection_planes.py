"""Collections whose encodings learn: planes of features, each field its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from far import far_device
from stand_in import numbers
from torch.utils._python_dispatch import TorchDispatchMode

from fieldforge.apps.bench.digits import shrunk
from fieldforge.apps.fit.collection.encoded import look_up, together, why_one_by_one
from fieldforge.apps.fit.collection.items import ItemError
from fieldforge.apps.fit.collection.job import CollectionJob, fit_collection
from fieldforge.apps.fit.collection.plan import CollectionPlan
from fieldforge.apps.fit.collection.steps import initial_row, make_steps, stackable
from fieldforge.apps.fit.collection.work import Outcome, fit_task
from fieldforge.apps.metrics import psnr
from fieldforge.backends import use_backend
from fieldforge.encodings.base import Encoding
from fieldforge.encodings.tri_plane import TriPlane
from fieldforge.fields.collection import Collection
from fieldforge.fields.file import build_field
from fieldforge.fields.weightspace.codecs.planes import PlaneChannels
from fieldforge.fields.weightspace.networks.channel_transformer import ChannelTransformer
from fieldforge.kernels import cpu_door
from fieldforge.registry import ConfigError, build

needs_native = pytest.mark.skipif(cpu_door.missing() is not None, reason="no native kernels")
SIDE = 8
SMALL: dict[str, Any] = {
    "preset": "triplane", "steps": 60, "progress": "quiet",
    "overrides": ["fit.n_in_shard=4", "encoding.resolution=5", "encoding.n_features=4"],
}  # fmt: skip


def pictures(n: int = 6) -> np.ndarray:
    """(n, 8, 8) uint8, a soft spot each, at another place."""
    y, x = np.mgrid[:SIDE, :SIDE]
    centres = np.random.default_rng(0).uniform(1, SIDE - 1, (n, 2, 1, 1))
    return (255 * np.exp(-((x - centres[:, 0]) ** 2 + (y - centres[:, 1]) ** 2) / 4)).astype(np.uint8)


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    path = tmp_path / "digits.npz"
    np.savez(path, images=pictures(), labels=np.arange(6) % 3)
    return path


@pytest.fixture
def fields(digits: Path, tmp_path: Path) -> Collection:
    return fit_collection(digits, tmp_path / "fields", **SMALL)


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.mark.parametrize("n_dims", [2, 3])
def test_planes_of_a_stack_are_those_of_each_field(n_dims: int, generator: torch.Generator) -> None:
    encoding = TriPlane(n_dims, resolution=5, n_features=3, generator=generator)
    planes = torch.randn(4, *encoding.planes.shape, generator=generator)
    points = torch.rand(4, 17, n_dims, generator=generator) * 1.2 - 0.1  # some outside, where borders go on
    wanted = torch.randn(4, 17, 3, generator=generator)
    alone = [torch.func.functional_call(encoding, {"planes": one}, (x,)) for one, x in zip(planes, points, strict=True)]
    for backend in ("cpu", "reference"):
        leaf = planes.clone().requires_grad_()
        with use_backend(backend):
            features = look_up(encoding, points)([leaf])
        torch.testing.assert_close(features, torch.stack(alone), rtol=0, atol=2e-6)
        (gradient,) = torch.autograd.grad((features * wanted).sum(), [leaf])
        for index in range(4):
            encoding.planes.data = planes[index]
            (expected,) = torch.autograd.grad((encoding(points[index]) * wanted[index]).sum(), [encoding.planes])
            torch.testing.assert_close(gradient[index], expected, rtol=0, atol=1e-5)


STACKED: dict[str, dict[str, Any]] = {
    "planes": {"otype": "TriPlane", "resolution": 5, "n_features": 3},
    "product": {"otype": "TriPlane", "resolution": 5, "n_features": 3, "reduction": "Product"},
    "hash": {"otype": "HashGrid", "n_levels": 3, "log2_hashmap_size": 4, "base_resolution": 3},
    "dense": {"otype": "DenseGrid", "n_levels": 2, "base_resolution": 3, "interpolation": "Smoothstep"},
    "nearest": {"otype": "TiledGrid", "n_levels": 2, "base_resolution": 3, "interpolation": "Nearest"},
    "pref": {"otype": "PREF", "resolution": 8, "n_features": 2},
    "kplanes": {"otype": "KPlanes", "resolution": 4, "n_features": 2, "multiscale": [1, 2]},
    "vm": {"otype": "TensorVM", "resolution": 5, "n_components": 2},
    "cp": {"otype": "TensorCP", "resolution": 5, "n_components": 2},
    "composite": {"otype": "Composite", "nested": [
        {"otype": "DenseGrid", "n_levels": 2, "base_resolution": 3, "n_dims_to_encode": 2},
        {"otype": "Frequency", "n_frequencies": 2},
    ]},
}  # fmt: skip


class Operations(TorchDispatchMode):
    """Counts what is sent to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.n += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", STACKED)
def test_all_fields_of_a_stack_are_asked_in_as_many_operations_as_two(name: str, generator: torch.Generator) -> None:
    """What a GPU runs; features and gradients are those of one field after another."""
    encoding: Encoding = build("encoding", STACKED[name], n_input_dims=3, generator=generator)
    assert name in ("planes", "hash", "dense", "nearest") or not why_one_by_one(encoding)
    found = []
    for n in (2, 5):
        parameters = [torch.randn(n, *one.shape, generator=generator, dtype=one.dtype).requires_grad_()
                      for one in encoding.parameters()]  # fmt: skip
        points = torch.rand(n, 17, 3, generator=generator) * 1.2 - 0.1  # some outside
        with use_backend("reference"):
            expected = look_up(encoding, points)(parameters)
        weights = torch.randn(expected.shape, generator=generator)
        gradients = torch.autograd.grad((expected * weights).sum(), parameters)
        with Operations() as operations:
            got = together(encoding, points)(parameters)
            theirs = torch.autograd.grad((got * weights).sum(), parameters)
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=2e-6)
        for one, other in zip(theirs, gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
        found.append(operations.n)
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["planes", "hash", "nearest"])
def test_where_the_rows_of_a_stack_are_makes_nobody_wait(name: str) -> None:
    with far_device() as far:
        with torch.device("cpu"):
            encoding: Any = build("encoding", STACKED[name], n_input_dims=3, generator=torch.Generator("cpu"))
            (table,), points = encoding.parameters(), torch.rand(2, 5, 3)
            table = torch.stack([table.detach(), 2 * table.detach()])
            expected = together(encoding, points)([table])
        encoding, points, table = far.bring(encoding), far.tensor(points), far.tensor(table)
        together(encoding, points)  # numbers that stay are sent once
        with far.waits() as waits:
            found = together(encoding, points)([table])
        assert torch.equal(numbers(found), expected)
    assert waits == []


def test_what_is_stored_is_what_was_fitted(fields: Collection) -> None:
    assert [name for name, _ in fields.layout.tensors][:2] == ["encoding.planes", "network.layers.0.weight"]
    assert fields.layout.shapes["encoding.planes"] == (1, 5, 5, 4)
    y, x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    for index in (0, 5):
        with torch.no_grad():
            seen = fields[index].color(torch.stack((x, y), -1))[..., 0].clamp(0, 1)  # type: ignore[operator]
        quality = psnr(seen.numpy(), pictures()[index] / np.float32(255))
        assert fields.qualities[index] == pytest.approx(quality, abs=1e-3)
        assert quality > 20
    seed = fields.column("init_seed")[3]
    drawn = build("field", fields.config, generator=torch.Generator().manual_seed(seed)).state_dict()
    field = build_field(fields.config)
    row = fields.layout.unflatten(initial_row(stackable(field), seed, field.encoding))
    assert all(torch.equal(row[name], tensor) for name, tensor in drawn.items())


class InThrees:
    """The last task first, three fields at a time."""

    def run(self, tasks: Any, observe: Any, should_stop: Any) -> Any:
        for task in reversed(list(tasks)):
            outcome = fit_task(task, n_at_once=3)
            assert isinstance(outcome, Outcome)
            yield outcome


@needs_native
def test_the_same_bytes_however_the_work_is_cut(
    fields: Collection, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIELDFORGE_NUM_THREADS", "3")
    fit_collection(digits, tmp_path / "b", executor=InThrees(), **SMALL)
    assert content(tmp_path / "b") == content(fields.path)
    shared = fit_collection(digits, tmp_path / "c", init="shared", **SMALL | {"steps": 1})
    start = shared.start()
    assert start is not None
    assert float((shared.rows() - start).abs().max()) < 0.2, "one step from where all began"


@needs_native
def test_the_steps_of_both_backends_are_the_same(generator: torch.Generator) -> None:
    """Also of an encoding that only the plain way knows."""
    for encoding in ({"otype": "TriPlane", "resolution": 4, "n_features": 3},
                     {"otype": "DenseGrid", "n_levels": 2, "base_resolution": 3}):  # fmt: skip
        field = build_field({
            "otype": "ImageField", "width": 4, "height": 4, "n_channels": 1, "encoding": encoding,
            "network": {"otype": "MLP", "n_neurons": 8, "n_hidden_layers": 1, "activation": "ReLU", "has_bias": True},
        })  # fmt: skip
        network = stackable(field)
        rows = torch.stack([initial_row(network, seed, field.encoding) for seed in range(3)])
        points, target = torch.rand(3, 20, 2, generator=generator), torch.rand(3, 20, 1, generator=generator)
        target[1, 5] = torch.nan
        adam = {"learning_rate": 1e-2, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-6, "l2_reg": 1e-3}
        found = []
        for backend in ("auto", "reference"):
            with use_backend(backend):
                steps = make_steps(rows, network, build("loss", "L2"), adam, field.encoding)
                for _ in range(5):
                    steps.step(points, target, 1e-2)
                found.append([*steps.parameters, steps.predict(points)])
        for got, expected in zip(*found, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-3, atol=5e-5)
        assert torch.equal(found[0][0][1].flatten(), rows[1, : found[0][0][1].numel()]), "a field with NaN stays"


def test_channels_have_no_order(fields: Collection, generator: torch.Generator) -> None:
    codec, vectors = PlaneChannels(fields.layout), fields.rows()
    code = codec.encode(vectors)
    assert code.channels.shape == (6, 4, 5, 5)
    assert torch.equal(codec.decode(code), vectors)
    order = torch.rand(6, 4, generator=generator).argsort(1)
    moved = codec.move_channels(vectors, order)
    assert not torch.equal(moved, vectors)
    points = torch.rand(50, 2, generator=generator) * SIDE
    for index in range(6):
        field, other = fields[index], build_field(fields.config)
        other.load_state_dict(fields.layout.unflatten(moved[index]))
        with torch.no_grad():
            torch.testing.assert_close(other(points), field(points), rtol=0, atol=1e-6)
    reader = ChannelTransformer(fields.layout, 3, width=16, n_layers=1, n_heads=2, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(reader(moved), reader(vectors), rtol=0, atol=1e-5)
    without = PlaneChannels([["a.planes", [3, 4, 4, 2]]])
    with pytest.raises(ValueError, match=r"expected a first matrix that reads 2 channels"):
        without.move_channels(torch.zeros(1, 96), torch.tensor([[1, 0]]))


@pytest.mark.parametrize("is_nested", [False, True])
def test_centres_that_would_follow_each_item_are_refused(is_nested: bool, digits: Path, tmp_path: Path) -> None:
    """Fields of a collection share all that is not learnt, and places of centres are not."""
    encoding: dict[str, Any] = {"otype": "NeuRBF", "n_centers": 9, "n_features": 4, "resolution": 4}
    if is_nested:
        encoding = {"otype": "Composite", "nested": [encoding | {"n_dims_to_encode": 2}]}
    with pytest.raises(
        ConfigError, match=r"^encoding: .* has numbers of its own that do not learn \(.*centers, .*shapes"
    ):
        CollectionJob(digits, CollectionPlan(tmp_path / "centres", config={"encoding": encoding}, progress="quiet"))


def test_shapes_have_three_planes(tmp_path: Path) -> None:
    corners = [f"v {k & 1} {k >> 1 & 1} {2 * (k >> 2)}" for k in range(8)]
    quads = ["1 3 4 2", "5 6 8 7", "1 2 6 5", "3 7 8 4", "1 5 7 3", "2 4 8 6"]
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes/a.obj").write_text("\n".join([*corners, *(f"f {quad}" for quad in quads)]))
    more = ["fit.pool_size=2048", "fit.batch_size=512", "encoding.resolution=6", "encoding.n_features=4"]
    fields = fit_collection(tmp_path / "boxes", tmp_path / "c", **SMALL | {"steps": 100, "overrides": more})
    assert fields.layout.shapes["encoding.planes"] == (3, 6, 6, 4)
    assert (fields.qualities[0] or 0) > 0.9
    codec = PlaneChannels(fields.layout)
    assert codec.encode(fields.rows()).channels.shape == (1, 12, 6, 6)
    assert torch.equal(codec.decode(codec.encode(fields.rows())), fields.rows())


def test_digits_are_made_smaller_or_it_is_said_why_not(tmp_path: Path) -> None:
    with pytest.raises(ItemError, match="there is no such file"):
        shrunk(tmp_path / "nothing.npz", 4, tmp_path / "x.npz")
    np.savez(tmp_path / "small.npz", images=np.zeros((3, 3, 8), np.uint8), labels=np.zeros(3, int))
    with pytest.raises(ItemError, match="at least 2 images of at least 4 x 4 pixels"):
        shrunk(tmp_path / "small.npz", 4, tmp_path / "x.npz", 2)
    np.savez(tmp_path / "ok.npz", images=pictures(), labels=np.arange(6) % 3)
    with np.load(shrunk(tmp_path / "ok.npz", 4, tmp_path / "x.npz", 5)) as found:
        assert found["images"].shape == (5, 4, 4)
        assert found["images"][0, 0, 0] == round(float(pictures()[0, :2, :2].mean()))
    with np.load(shrunk(tmp_path / "ok.npz", 3, tmp_path / "x.npz")) as found:  # what is left over is cut off around
        assert found["images"][0, 0, 0] == round(float(pictures()[0, 1:3, 1:3].mean()))
