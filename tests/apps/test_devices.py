"""Nothing leaves a device in silence: fits and pictures on the stand-in of tests/far.py, beside the same on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from far import Far, FarDevice, FarError, far_device
from torch import Tensor, nn

import fieldforge.devices as devices
from fieldforge.apps.cli import main
from fieldforge.apps.fit.fused import make_step
from fieldforge.apps.fit.image.job import ImageJob, step_of
from fieldforge.apps.fit.loop import PlainStep
from fieldforge.apps.fit.on_device import Ahead, DeviceStep, GraphedStep, Lagging, cuda_graph
from fieldforge.apps.fit.optimizers.base import Parameters
from fieldforge.apps.fit.options import FitOptions
from fieldforge.apps.fit.samplers import PixelDraw
from fieldforge.apps.images import Picture
from fieldforge.apps.render.image import render
from fieldforge.backends import use_backend
from fieldforge.encodings.pref import PREF
from fieldforge.registry import build


def picture() -> Picture:
    return Picture.from_array(np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8))


CONFIG: dict[str, Any] = {
    "encoding": {"otype": "HashGrid", "n_levels": 2, "log2_hashmap_size": 8, "base_resolution": 4},
    "network": {"otype": "MLP", "n_neurons": 16, "n_hidden_layers": 1},
    "loss": {"otype": "L2"},
    "optimizer": {"otype": "Adam", "learning_rate": 0.01},
    "fit": {"n_steps": 40, "batch_size": 64, "jitter": 0.25},
}


@contextmanager
def on_the_stand_in() -> Iterator[FarDevice]:
    with far_device() as far, use_backend("reference"):
        yield far


def plain_step(bring: Callable[[Any], Any] = lambda module: module) -> tuple[nn.Module, PlainStep]:
    job = ImageJob(picture())
    with torch.device("cpu"):
        field = job.make_field(CONFIG, seed=0)
    field = bring(field)
    optimizer = build("optimizer", CONFIG["optimizer"], parameters=parameters_of(field))
    draw = PixelDraw(job.picture, FitOptions.of(CONFIG["fit"]), 0)
    return field, PlainStep(query=field.color, draw=draw, loss=build("loss", CONFIG["loss"]), optimizer=optimizer)


def parameters_of(field: Any) -> Any:
    from fieldforge.apps.fit.optimizers.base import Parameters

    return Parameters.of(field, [field.network])


def numbers(tensor: Tensor) -> Tensor:
    return tensor.near if isinstance(tensor, Far) else tensor.detach()


def test_a_step_on_a_device_brings_nothing_home_and_is_the_step_of_the_cpu() -> None:
    with use_backend("reference"):
        here, plain = plain_step()
        expected = [plain(step, 1.0) for step in range(3)]
    with on_the_stand_in() as far:
        there, step = plain_step(far.bring)
        figures = [DeviceStep(step).figures(number, 1.0) for number in range(3)]
        assert far.n_leaves == 0
    for row, (loss, error) in zip(figures, expected, strict=True):
        np.testing.assert_allclose(numbers(row).numpy(), [loss, error], rtol=1e-6)
    for one, other in zip(there.parameters(), here.parameters(), strict=True):
        torch.testing.assert_close(numbers(one.data), numbers(other.data), rtol=1e-5, atol=1e-7)


def test_the_plain_step_would_be_noticed() -> None:
    with on_the_stand_in() as far:
        _, step = plain_step(far.bring)
        with pytest.raises(FarError, match="brings a number to the host"):
            step(0, 1.0)


def test_losses_are_read_some_steps_at_a_time() -> None:
    with on_the_stand_in() as far:
        field, _ = plain_step(far.bring)
        job = ImageJob(picture())
        advance = make_step(field, field, field.color, CONFIG, PixelDraw(job.picture, FitOptions.of(CONFIG["fit"]), 0))[
            0
        ]  # type: ignore[arg-type]
        assert isinstance(advance, Lagging)
        with far.door():
            told = [advance(step, 1.0) for step in range(1 + 2 * advance.every)]
        assert far.n_leaves == 3
    assert told[1] == told[0]
    assert told[-1][0] < told[0][0]


class Figures:
    """Losses that were thought of beforehand."""

    def __init__(self, *losses: float) -> None:
        self.losses = losses

    def figures(self, step: int, factor: float) -> Tensor:
        return torch.tensor([self.losses[step], 0.5])


def test_a_loss_that_is_not_finite_is_told_at_the_next_reading() -> None:
    advance = Lagging(Figures(1.0, 2.0, float("inf"), 3.0, 4.0, 5.0), every=3)
    told = [advance(step, 1.0)[0] for step in range(4)]
    assert told == [1.0, 1.0, 1.0, float("inf")]
    assert advance(4, 1.0)[0] == 4.0  # after a step back the next one is read at once


def stand_in_recorder(passes: Callable[[], None]) -> Callable[[], None]:
    """Runs what was recorded, as a CUDA graph would."""
    passes()
    return passes


def test_a_recorded_step_is_the_step_itself() -> None:
    with use_backend("reference"):
        eager_field, eager = plain_step()
        graphed_field, graphed = plain_step()
        one, other = DeviceStep(eager), GraphedStep(graphed, stand_in_recorder)
        for step in range(8):
            torch.testing.assert_close(other.figures(step, 1.0), one.figures(step, 1.0))
    assert other.recorded.n_recordings == 1
    assert not other.why_not
    for a, b in zip(eager_field.parameters(), graphed_field.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_step_that_cannot_be_recorded_runs_as_it_is() -> None:
    def refuse(passes: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    with use_backend("reference"):
        _, plain = plain_step()
        step = GraphedStep(plain, refuse)
        losses = [float(step.figures(number, 1.0)[0]) for number in range(6)]
    assert step.why_not == "it cannot be recorded: RuntimeError: operation not permitted when stream is capturing"
    assert len(set(losses)) == 6


def test_what_is_remembered_of_parameters_is_computed_in_the_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """PREF keeps its inverse transforms until its spectrum moves: left out of a recording, they would never again."""
    encoding = PREF(n_input_dims=2, resolution=8, n_features=4)
    calls, inverse = list[int](), encoding._inverse
    monkeypatch.setattr(encoding, "_inverse", lambda spectrum: calls.append(1) or inverse(spectrum))
    found = list[int]()

    def record(passes: Callable[[], None]) -> Callable[[], None]:
        for _ in range(2):  # warm, and recorded
            calls.clear()
            passes()
            found.append(len(calls))
        return passes

    batch = (torch.rand(5, 2), torch.zeros(5, encoding.n_output_dims))
    optimizer = build("optimizer", CONFIG["optimizer"], parameters=Parameters(other=list(encoding.parameters())))
    plain = PlainStep(encoding, lambda step: batch, build("loss", CONFIG["loss"]), optimizer)
    step = GraphedStep(plain, record)
    for number in range(4):
        step.figures(number, 1.0)
    assert found == [1, 1]


class FakeCudaGraphs:
    """For torch.cuda's streams and graphs, on the CPU: says in which order they are asked, and may refuse."""

    def __init__(self, refusal: str = "") -> None:
        self.is_counting = False  # memory that is taken for a recording
        self.refusal, self.said, self.stream_now = refusal, list[str](), "main"

    def current_stream(self) -> FakeStream:
        return FakeStream(self, self.stream_now)

    def Stream(self) -> FakeStream:
        return FakeStream(self, "beside")

    def set_stream(self, stream: FakeStream) -> None:
        self.said.append(f"set {stream.name}")
        self.stream_now = stream.name

    def synchronize(self) -> None:
        self.said.append("synchronize")

    @contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        was, self.stream_now = self.stream_now, stream.name
        yield
        self.stream_now = was

    def CUDAGraph(self) -> FakeCudaGraphs:
        return self

    def graph_pool_handle(self) -> tuple[int, int]:
        return 0, 7

    def current_device(self) -> int:
        return 1

    @contextmanager
    def graph(self, graph: FakeCudaGraphs, pool: tuple[int, int], stream: FakeStream) -> Iterator[None]:
        assert pool == self.graph_pool_handle()
        self.said.append("record")
        self.stream_now, self.is_counting = stream.name, True
        try:
            yield
        finally:  # as PyTorch's before 2.12: where the end raises, the stream stays, and memory is counted on
            if self.refusal:
                raise RuntimeError("operation failed due to a previous error during capture")
        self.stream_now, self.is_counting = "main", False

    def end_allocating(self, device: int, pool: tuple[int, int]) -> None:
        assert (device, pool) == (1, (0, 7))
        if not self.is_counting:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.is_counting = False

    def replay(self) -> None:
        self.said.append("replay")


class FakeStream:
    def __init__(self, fake: FakeCudaGraphs, name: str) -> None:
        self.fake, self.name = fake, name

    def wait_stream(self, other: FakeStream) -> None:
        self.fake.said.append(f"{self.name} waits for {other.name}")


NAMES = (
    "current_stream", "Stream", "set_stream", "synchronize", "stream", "CUDAGraph", "graph", "graph_pool_handle",
    "current_device",
)  # fmt: skip


def test_a_recording_is_warm_and_on_a_stream_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCudaGraphs()
    for name in NAMES:
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    where: list[str] = []
    cuda_graph(lambda: where.append(fake.stream_now))()
    assert where == ["beside", "beside"]
    assert fake.said == ["beside waits for main", "main waits for beside", "synchronize", "record", "replay"]
    assert fake.stream_now == "main"


def test_a_recording_that_fails_says_why_and_leaves_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCudaGraphs("no")
    for name in NAMES:
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", fake.end_allocating, raising=False)

    def record(passes: Callable[[], None]) -> Callable[[], None]:
        def refuse() -> None:
            if "record" in fake.said:
                raise ValueError("cudaMalloc is not permitted")
            passes()

        return cuda_graph(refuse)

    with use_backend("reference"):
        _, plain = plain_step()
        step = GraphedStep(plain, record)
        losses = [float(step.figures(number, 1.0)[0]) for number in range(6)]
    assert step.why_not == "it cannot be recorded: ValueError: cudaMalloc is not permitted"
    assert fake.stream_now == "main"
    assert not fake.is_counting, "PyTorch could give no memory back"
    assert len(set(losses)) == 6


def test_neighbours_of_centres_are_looked_for_on_the_host() -> None:
    field = build("encoding", {"otype": "NeuRBF", "n_centers": 9, "n_features": 2}, n_input_dims=2)
    x = torch.rand(5, 2)
    with use_backend("reference"):
        expected = field(x).detach()
    with far_device() as far, far.door():
        found = far.bring(field)(far.tensor(x)).near
    assert torch.equal(found.detach(), expected)


def test_batches_are_made_ahead_and_are_the_same() -> None:
    draw = PixelDraw(picture(), FitOptions.of(CONFIG["fit"]), 0)
    ahead = Ahead(PixelDraw(picture(), FitOptions.of(CONFIG["fit"]), 0), torch.device("cpu"))
    for step in (0, 1, 2, 7, 8, 3):
        for one, other in zip(ahead(step), draw(step), strict=True):
            assert torch.equal(one, other)
    ahead.close()


def test_a_picture_of_a_field_on_a_device_leaves_it_once_a_strip() -> None:
    with torch.device("cpu"):
        field: Any = ImageJob(picture()).make_field(CONFIG, seed=0)
    with use_backend("reference"):
        expected = render(field)
    with on_the_stand_in() as far, home_is(far):
        found = render(far.bring(field))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert far.n_leaves == 0


@contextmanager
def home_is(far: FarDevice) -> Iterator[None]:
    """`home` for the stand-in; nothing else may open its door."""
    import fieldforge.apps.render.image
    import fieldforge.apps.render.pictures
    import fieldforge.apps.render.shape

    rooms = [fieldforge.apps.render.image, fieldforge.apps.render.pictures, fieldforge.apps.render.shape, devices]
    kept = [room.home for room in rooms]

    def home(tensor: Tensor) -> np.ndarray:
        near: np.ndarray = numbers(tensor).numpy()
        return near

    for room in rooms:
        room.home = home  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for room, was in zip(rooms, kept, strict=True):
            room.home = was  # type: ignore[attr-defined]


SCENE: dict[str, Any] = {
    "otype": "RadianceField", "encoding": CONFIG["encoding"], "network": CONFIG["network"],
    "dir_encoding": {"otype": "SphericalHarmonics", "degree": 2}, "rgb_network": CONFIG["network"], "occupancy": 8,
}  # fmt: skip


def test_a_scene_is_marched_and_rendered_on_its_device() -> None:
    """Single numbers may be asked for: how many samples there are is what the next operation is as large as."""
    from fieldforge.apps.render.radiance import Eye

    with torch.device("cpu"):
        field = build("field", SCENE, generator=torch.Generator().manual_seed(0))
        origins, directions = torch.randn(9, 3) * 0.1 + torch.tensor([0.0, 0.0, 3.0]), torch.randn(9, 3) * 0.05
        directions = torch.nn.functional.normalize(directions - torch.tensor([0.0, 0.0, 1.0]), dim=-1)
    with use_backend("reference"):
        expected = Eye(field, step=0.1)(origins, directions)
    with on_the_stand_in() as far, far.door(numbers_only=True):
        found = Eye(far.bring(field), step=0.1)(far.tensor(origins), far.tensor(directions))
    torch.testing.assert_close(numbers(found.color), expected.color, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(numbers(found.opacity), expected.opacity, atol=1e-5, rtol=1e-5)


ENCODINGS = (
    "HashGrid", "DenseGrid", "Frequency", "OneBlob", "SphericalHarmonics", "TriangleWave", "KPlanes", "TriPlane",
    "TensorVM", "TensorCP", "RandomFourier", "PREF",
)  # fmt: skip


@pytest.mark.parametrize("otype", ENCODINGS)
def test_encodings_stay_where_they_are(otype: str) -> None:
    config: dict[str, Any] = {"otype": otype}
    if otype in ("HashGrid", "DenseGrid"):
        config |= {"n_levels": 2, "base_resolution": 4, "per_level_scale": 2.0}
    with torch.device("cpu"):
        encoding = build("encoding", config, n_input_dims=3, generator=torch.Generator().manual_seed(0))
        x = torch.rand(7, 3, generator=torch.Generator().manual_seed(1))
    with use_backend("reference"):
        expected = encoding(x)
    with on_the_stand_in() as far:
        found = far.bring(encoding)(far.tensor(x).requires_grad_())
        found.sum().backward()
        assert far.n_leaves == 0
    torch.testing.assert_close(numbers(found), expected.detach(), atol=1e-5, rtol=1e-5)


def test_a_device_that_is_not_there_is_said_with_a_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    Image.fromarray(picture().pixels).save(tmp_path / "a.png")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    source, out = str(tmp_path / "a.png"), str(tmp_path / "a.field")
    words = ["fit", "image", source, "-o", out, "--no-report", "--quiet", "--steps", "2", "--device"]
    assert main([*words, "cuda"]) == 2
    error = capsys.readouterr().err
    assert "no CUDA device" in error or "sees no CUDA device" in error
    assert "cpu runs everywhere" in error
    assert main([*words, "cpu"]) == 0
    assert main(["render", out, "-o", str(tmp_path / "b.png"), "--quiet", "--device", "cuda:1"]) == 2
    assert "cuda:1 was asked for" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "gpu"])
    assert "expected auto, cpu, cuda or cuda:N, got gpu" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["graphics", "cuda:x", "cuda:", "cpu:0:1", "", "mps"])
def test_names_that_are_no_device(name: str) -> None:
    with pytest.raises(ValueError, match=r"device: expected auto, cpu, cuda or cuda:0"):
        devices.find_device(name)


def test_a_device_beyond_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.find_device("auto") == torch.device("cuda", 0)
    assert devices.find_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ValueError, match="there are 2: cuda:0 to cuda:1"):
        devices.find_device("cuda:2")


def test_step_of_is_plain_on_the_cpu() -> None:
    job = ImageJob(picture())
    with use_backend("reference"):
        field = job.make_field(CONFIG, seed=0)
        step = step_of(field, CONFIG, PixelDraw(job.picture, FitOptions.of(CONFIG["fit"]), 0)).advance
    assert isinstance(step, PlainStep)


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "collection", "{digits}", "-o", "{out}"],
        ["convert", "{field}", "--to", "siren", "-o", "{out}"],
        ["compare", "{photo}", "-o", "{out}", "--methods", "siren", "--steps", "1"],
    ],
    ids=lambda words: " ".join(words[:2] if words[0] == "fit" else words[:1]),
)
def test_every_command_that_computes_takes_a_device(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    from fieldforge.fields.file import save_field

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    Image.fromarray(picture().pixels).save(tmp_path / "a.png")
    np.savez(tmp_path / "digits.npz", images=np.zeros((2, 6, 6), np.uint8))
    save_field(tmp_path / "a.field", ImageJob(picture()).make_field(CONFIG, seed=0))
    places = {"digits": tmp_path / "digits.npz", "field": tmp_path / "a.field", "photo": tmp_path / "a.png"}
    filled = [word.format(out=tmp_path / "out.field", **places) for word in words]
    assert main([*filled, "--device", "cuda", "--quiet"]) == 2
    assert "cuda was asked for, but PyTorch" in capsys.readouterr().err


def test_workers_of_ray_have_no_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fieldforge.apps.fit.collection.job import _device_of
    from fieldforge.apps.fit.collection.plan import CollectionPlan

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert _device_of(CollectionPlan(tmp_path, executor="ray")) == "cpu"
    assert _device_of(CollectionPlan(tmp_path, backend="cpu")) == "cpu"
    assert _device_of(CollectionPlan(tmp_path)) == "auto"
    with pytest.raises(ValueError, match="workers of Ray compute on CPUs"):
        _device_of(CollectionPlan(tmp_path, executor="ray", device="cuda"))
