"""Several processes come to what one comes to: in threads that stand in for processes, and under torchrun (slow)."""

from __future__ import annotations

import contextvars
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scene_files
import torch
from torch import Tensor

import fieldforge.apps.fit.ranks as ranks_module
from fieldforge.apps.fit.collection.work import Outcome, Task
from fieldforge.apps.fit.image.job import ImageJob
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.ranks import ALONE, OnRanks, Ranks, joined
from fieldforge.apps.fit.scene.job import SceneJob
from fieldforge.apps.scenes import Scene, read_scene
from fieldforge.fields.file import load_field

SMALL = [
    "encoding.n_levels=2", "encoding.log2_hashmap_size=8", "encoding.per_level_scale=1.6", "fit.batch_size=1024",
    "network.n_neurons=16", "rgb_network.n_neurons=16", "rgb_network.n_hidden_layers=1", "fit.samples_across=32",
    "fit.occupancy=8", "fit.update_every=4", "fit.storage=float32",
]  # fmt: skip


@dataclass(frozen=True)
class ThreadRanks(Ranks):
    """A rank that is a thread, and adds through shared memory: a stand-in for a process."""

    shared: Any = None

    def _all(self, value: Any) -> list[Any]:
        meeting, places = self.shared
        places[self.rank] = value
        meeting.wait(60)
        found = list(places)
        meeting.wait(60)
        return found

    def add(self, *tensors: Tensor) -> None:
        rows = self._all([tensor.clone() for tensor in tensors])
        for place, tensor in enumerate(tensors):
            tensor.copy_(sum(row[place] for row in rows))

    def same(self, *tensors: Tensor) -> None:
        rows = self._all([tensor.clone() for tensor in tensors])
        for place, tensor in enumerate(tensors):
            tensor.copy_(rows[0][place])

    def sums(self, *numbers: float) -> list[float]:
        return [float(sum(column)) for column in zip(*self._all(numbers), strict=True)]

    def of_first(self, *numbers: float) -> list[float]:
        return [float(number) for number in self._all(numbers)[0]]


def in_threads(n: int, work: Callable[[], Any]) -> list[Any]:
    """What each of n ranks comes to."""
    shared = threading.Barrier(n), [None] * n
    found: list[Any] = [None] * n

    def run(rank: int) -> None:
        ranks_module._current.set(ThreadRanks(rank, n, rank, shared))
        try:
            found[rank] = work()
        except BaseException as error:
            found[rank] = error
            shared[0].abort()

    threads = [threading.Thread(target=contextvars.copy_context().run, args=(run, rank)) for rank in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in found:
        if isinstance(one, BaseException) and not isinstance(one, threading.BrokenBarrierError):
            raise one
    return found


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return read_scene(scene_files.nerf_synthetic(tmp_path_factory.mktemp("photos")))


def fit(scene: Scene, n_steps: int = 6) -> Any:
    plan = Plan(overrides=SMALL, steps=n_steps, backend="reference", progress="quiet", seed=3)
    return SceneJob(scene).run(plan)


@pytest.mark.parametrize("n", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_processes_that_share_a_scene_come_to_what_one_comes_to(n: int, scene: Scene) -> None:
    expected = fit(scene)
    for found in in_threads(n, lambda: fit(scene)):
        assert found.state.step == expected.state.step
        for (name, one), other in zip(found.field.named_parameters(), expected.field.parameters(), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
        losses = [row["loss"] for row in found.state.history]
        np.testing.assert_allclose(losses, [row["loss"] for row in expected.state.history], rtol=1e-5)


def test_only_the_first_measures_and_writes(scene: Scene, tmp_path: Path) -> None:
    plan = Plan(overrides=SMALL, steps=2, backend="reference", progress="quiet", output=tmp_path / "a.field")
    first, second = in_threads(2, lambda: SceneJob(scene).run(plan))
    assert first.n_bytes == (tmp_path / "a.field").stat().st_size
    assert second.n_bytes is None
    assert second.figures == {}
    assert [path.name for path in tmp_path.iterdir()] == ["a.field"]


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_shares_are_all_rows_once(n: int) -> None:
    rows = np.arange(17)
    parts = [rows[Ranks(rank, n).share(17)] for rank in range(n)]
    np.testing.assert_array_equal(np.concatenate(parts), rows)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_what_cannot_be_shared_says_so(scene: Scene) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="torchrun: 2 processes share the fit of a scene or of a collection"):
        in_threads(2, lambda: ImageJob(pixels).run(Plan(steps=1, progress="quiet")))
    with pytest.raises(ValueError, match="torchrun: hooks and diagnostics"):
        in_threads(2, lambda: SceneJob(scene).run(Plan(steps=1, progress="quiet", hooks=[lambda *_: True])))


def test_alone_without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with joined() as ranks:
        assert ranks is ALONE
    assert ranks.sums(1.5) == [1.5]
    assert ranks.any(True, False) == [True, False]
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ValueError, match="WORLD_SIZE: expected a whole number"), joined():
        pass


def test_tasks_go_to_every_rank_and_all_outcomes_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue each way stands in for the processes."""
    wires: dict[tuple[int, int], queue.Queue[Any]] = {(a, b): queue.Queue() for a in range(3) for b in range(3)}
    rank_of = threading.local()
    monkeypatch.setattr(ranks_module.dist, "send_object_list", lambda one, dst: wires[rank_of.it, dst].put(one[0]))

    def receive(box: list[Any], src: int) -> None:
        box[0] = wires[src, rank_of.it].get(timeout=30)

    monkeypatch.setattr(ranks_module.dist, "recv_object_list", receive)
    done: list[tuple[int, int]] = []

    def fit_task(task: Any, observe: Any = lambda qualities: None, should_stop: Any = lambda: False) -> Any:
        done.append((rank_of.it, task))
        observe([1.0])
        return Outcome(task, torch.zeros(1), [1.0])

    monkeypatch.setattr(ranks_module, "fit_task", fit_task)

    def serve(rank: int) -> None:
        rank_of.it = rank
        ranks_module.serve()

    others = [threading.Thread(target=serve, args=(rank,)) for rank in (1, 2)]
    for thread in others:
        thread.start()
    rank_of.it = 0
    executor, qualities = OnRanks(Ranks(0, 3)), list[float]()
    tasks = (Task(number, {}, {}, (), ()) for number in range(8))
    found = [outcome.task.number for outcome in executor.run(tasks, qualities.extend, lambda: False)]
    executor.close()
    for thread in others:
        thread.join(30)
    assert sorted(found) == list(range(8))
    assert len(qualities) == 8
    assert {rank for rank, _ in done} == {0, 1, 2}


# ---- under torchrun


def torchrun(*words: str, n: int = 2) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "FIELDFORGE_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(n),
        "-m",
        "fieldforge",
    ]
    return subprocess.Popen(
        [*command, *words], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )  # fmt: skip


@pytest.mark.slow
def test_torchrun_fits_a_scene_as_one_process_does(tmp_path: Path) -> None:
    photos = scene_files.nerf_synthetic(tmp_path / "photos")
    words = ["--steps", "10", "--backend", "reference", "--device", "cpu", "--seed", "3"]
    words += [word for one in SMALL for word in ("--set", one)]
    process = torchrun("fit", "scene", str(photos), "-o", str(tmp_path / "two.field"), *words)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert said.count("two.field:") == 1  # one of them speaks
    from fieldforge.apps.cli import main

    assert main(["fit", "scene", str(photos), "-o", str(tmp_path / "one.field"), "--quiet", *words]) == 0
    two, one = load_field(tmp_path / "two.field")[0], load_field(tmp_path / "one.field")[0]
    for a, b in zip(two.parameters(), one.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_torchrun_fits_a_collection_to_the_same_bits(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "digits.npz", images=images)
    words = ["--steps", "20", "--set", "fit.n_in_shard=8"]
    process = torchrun("fit", "collection", str(tmp_path / "digits.npz"), "-o", str(tmp_path / "two"), *words)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    from fieldforge.apps.cli import main

    one = ["fit", "collection", str(tmp_path / "digits.npz"), "-o", str(tmp_path / "one"), "--quiet", *words]
    assert main(one) == 0
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == files
    for name in files:
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


@pytest.mark.slow
def test_ctrl_c_leaves_a_scene_that_can_go_on(tmp_path: Path) -> None:
    photos = scene_files.nerf_synthetic(tmp_path / "photos")
    words = ["--steps", "100000", "--backend", "reference", "--device", "cpu"]
    words += [word for one in SMALL for word in ("--set", one)]
    process = torchrun("fit", "scene", str(photos), "-o", str(tmp_path / "a.field"), "--json", *words)
    assert process.stdout is not None
    for line in process.stdout:
        if '"event": "progress"' in line:  # messages come before the loop that minds signals
            break
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert not (tmp_path / "a.field").exists()
    assert [path for path in tmp_path.iterdir() if path.name.startswith("a.field")]
