"""Collections on Ray: the same bytes as in one process, whoever is lost on the way.

What needs a cluster is slow (starting one takes some fifteen seconds of processor time); how work is handed out and
taken back is tested on a stand-in too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fieldforge.apps.cli import main
from fieldforge.apps.fit.collection import ray_executor
from fieldforge.apps.fit.collection.executors import executor_of
from fieldforge.apps.fit.collection.job import CollectionJob, fit_collection
from fieldforge.apps.fit.collection.plan import CollectionPlan
from fieldforge.apps.fit.collection.ray_executor import ClusterError, OnRay
from fieldforge.apps.fit.collection.work import Outcome, Task
from fieldforge.fields.collection import Collection

SMALL: dict[str, Any] = {"preset": "tiny", "steps": 20, "progress": "quiet", "overrides": ["fit.n_in_shard=40"]}
N = 100
"""Pictures: shards of 40, 40 and 20, pieces of 32, 8, 32, 8 and 20."""


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    path = tmp_path / "digits.npz"
    np.savez(path, images=np.random.default_rng(0).integers(0, 256, (N, 6, 6), np.uint8), labels=np.arange(N) % 3)
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


class Lost(Exception):
    """A worker is gone."""


class Wrapped(Exception):
    """What a task raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"Traceback ...\n{cause}")
        self.cause = cause


class StandIn:
    """What `OnRay` uses of Ray, in this process: runs the piece that was given last, loses some."""

    exceptions = SimpleNamespace(RayTaskError=Wrapped, RayError=(Wrapped, Lost))

    def __init__(self, loses: Callable[[int], bool] = lambda n: False) -> None:
        self.loses, self.given, self.found, self.cancelled = loses, dict[int, Any](), dict[int, Any](), list[int]()
        self.most = 0

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def remote(self, **_: Any) -> Callable[[Callable[..., Any]], Any]:
        def wrap(run: Callable[..., Any]) -> Any:
            def give(*args: Any) -> int:
                number = len(self.given) + len(self.found)
                self.given[number] = (run, args)
                self.most = max(self.most, len(self.given))
                return number

            return SimpleNamespace(remote=give)

        return wrap

    def wait(self, references: list[int], num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        number = max(references)
        run, args = self.given.pop(number)
        if self.loses(number):
            self.found[number] = Lost("the worker died\nits log says nothing")
        else:
            try:
                with threads_kept():
                    self.found[number] = run(*args)
            except Exception as error:
                self.found[number] = Wrapped(error)
        return [number], [reference for reference in references if reference != number]

    def get(self, number: int) -> Any:
        if isinstance(self.found[number], Exception):
            raise self.found[number]
        return self.found[number]

    def cancel(self, number: int, force: bool) -> None:
        self.cancelled.append(number)


@contextlib.contextmanager
def threads_kept() -> Iterator[None]:
    """A worker has an environment to itself."""
    before, threads = dict(os.environ), ray_executor.torch.get_num_threads()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        ray_executor.torch.set_num_threads(threads)


def stand_in(monkeypatch: pytest.MonkeyPatch, **more: Any) -> StandIn:
    ray = StandIn(**more)
    monkeypatch.setattr(ray_executor, "_ray", lambda: ray)
    return ray


def test_the_same_bytes_from_pieces_in_any_order_of_which_some_are_lost(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit_collection(digits, tmp_path / "local", **SMALL)
    ray = stand_in(monkeypatch, loses=lambda number: number % 3 == 1)
    for workers in (1, 2):
        executor = OnRay(workers)
        fit_collection(digits, tmp_path / str(workers), executor=executor, **SMALL)
        assert content(tmp_path / str(workers)) == content(tmp_path / "local")
        assert executor.n_lost > 0
    assert ray.most == 4, "a few ahead of the workers, so that not all items are in memory"
    assert ray.cancelled == []


def test_a_piece_that_costs_every_worker_is_named(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = stand_in(monkeypatch, loses=lambda number: number > 1)
    with pytest.raises(ClusterError, match=r"32 fields of shard 1 cost 5 workers \(the worker died\); what is"):
        fit_collection(digits, tmp_path / "c", executor="ray", workers=1, **SMALL)
    assert len(ray.cancelled) == 1, "what else was under way is called back"
    monkeypatch.setattr(ray, "loses", lambda number: False)
    monkeypatch.setattr(ray_executor, "fit_task", lambda piece: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit_collection(digits, tmp_path / "d", executor="ray", **SMALL)
    monkeypatch.setattr(ray_executor.fieldforge, "__version__", "0.0.0")
    with pytest.raises(ClusterError, match=r"a worker has fieldforge"):
        ray_executor._fit_piece(None, 1, "1.0")  # type: ignore[arg-type]


def test_a_fit_that_is_stopped_goes_on_with_another_executor(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit_collection(digits, tmp_path / "local", **SMALL)
    stand_in(monkeypatch)

    class Stopped(OnRay):
        def run(
            self, tasks: Iterable[Task], observe: Callable[[list[float]], None], should_stop: Callable[[], bool]
        ) -> Iterator[Outcome]:
            for outcome in super().run(tasks, observe, should_stop):
                yield outcome
                os.kill(os.getpid(), signal.SIGINT)

    plan = CollectionPlan(tmp_path / "c", executor=Stopped(2), **SMALL)
    result = CollectionJob(digits, plan).run()
    assert result.stopped_by == "signal"
    assert 0 < result.n_fields < N
    fit_collection(digits, tmp_path / "c", resume=True, **SMALL)
    assert content(tmp_path / "c") == content(tmp_path / "local")
    limit = sorted(quality for quality in Collection(tmp_path / "c").qualities if quality is not None)[9]
    for folder, executor in (("c", "ray"), ("local", "local")):
        again = fit_collection(digits, tmp_path / folder, resume=True, refit_below=limit, executor=executor, **SMALL)
        assert Counter(attempt > 0 for attempt in again.column("attempt"))[True] == 9
    assert content(tmp_path / "c") == content(tmp_path / "local"), "second attempts too"


def test_a_cluster_that_does_not_start_is_tried_again_then_named(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray, tried, folders = stand_in(monkeypatch), list[Any](), list[Path]()

    def init(address: str, **options: Any) -> None:
        tried.append(address)
        if "_temp_dir" in options:
            folders.append(Path(options["_temp_dir"]))
        raise RuntimeError("the node timed out\nand more")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init, raising=False)
    with pytest.raises(ClusterError, match=r"Ray could not be started: the node timed out; --executor local"):
        fit_collection(digits, tmp_path / "c", executor="ray", **SMALL)
    assert tried == ["local"] * 3
    assert not any(folder.exists() for folder in folders), "nothing is left behind"
    with pytest.raises(ClusterError, match=r"no Ray cluster answers at '10.0.0.1:1': the node timed out"):
        fit_collection(digits, tmp_path / "d", executor="ray", address="10.0.0.1:1", **SMALL)
    assert tried[3:] == ["10.0.0.1:1"]


def test_what_is_asked_of_the_wrong_executor_is_said(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["fit", "collection", str(digits), "-o", str(tmp_path / "x"), "--preset", "tiny"]
    assert main([*command, "--workers", "2"]) == 2
    assert "workers: is for the executor 'ray'" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"executor: expected one of local, ray, got 'dask'"):
        executor_of("dask")
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*command, "--executor", "ray"]) == 2
    assert "pip install 'fieldforge[cluster]' brings it" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


# -------------------------------------------------------------------------------------------------- on a real cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two workers that outlive the fits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray = pytest.importorskip("ray", reason="no Ray here: pip install 'fieldforge[cluster]'")
        OnRay(2)._start(ray, None)
    yield ray
    ray_executor._shut_down(ray)


class Killer(OnRay):
    """Kills the worker that hands in the first piece, when it is in the middle of its next."""

    killed: int | None = None

    def run(
        self, tasks: Iterable[Task], observe: Callable[[list[float]], None], should_stop: Callable[[], bool]
    ) -> Iterator[Outcome]:
        def kill(qualities: list[float]) -> None:
            observe(qualities)
            if self.killed is None:
                time.sleep(0.5)
                self.killed = self.pids[0]
                os.kill(self.killed, signal.SIGKILL)

        yield from super().run(tasks, kill, should_stop)


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_loses_nothing(digits: Path, tmp_path: Path, cluster: Any) -> None:
    longer = SMALL | {"steps": 3000}  # some seconds a piece
    fit_collection(digits, tmp_path / "local", **longer)
    executor = Killer(2)
    fit_collection(digits, tmp_path / "ray", executor=executor, **longer)
    assert content(tmp_path / "ray") == content(tmp_path / "local")
    assert executor.killed is not None
    assert executor.n_lost >= 1, "it was in the middle of a piece"
    assert set(executor.pids) - {executor.killed}, "another one took its place"
    assert cluster.is_initialized(), "a cluster that was there goes on"


@pytest.mark.slow
def test_ctrl_c_ends_a_fit_on_ray_and_all_that_it_started(digits: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="no Ray here: pip install 'fieldforge[cluster]'")
    out = tmp_path / "c"
    command = [
        sys.executable, "-W", "error", "-m", "fieldforge", "fit", "collection", str(digits), "-o", str(out), "--preset",
        "tiny", "--steps", "3000", "--set", "fit.n_in_shard=40", "--executor", "ray", "--workers", "1",
    ]  # fmt: skip
    fit = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        while not list(out.glob("shard-*.safetensors")) and fit.poll() is None:
            time.sleep(0.1)
        os.killpg(fit.pid, signal.SIGINT)  # as a terminal does: to all of them
        said, _ = fit.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(fit.pid, signal.SIGKILL)
    assert fit.returncode == 130, said
    assert "repeat the command with --resume to go on" in said
    for line in said.splitlines():
        assert "ray" not in line.lower().replace(str(tmp_path).lower(), ""), "Ray is quiet"
    assert 0 < len(Collection(out, allow_incomplete=True)) < N
    same = {"preset": "tiny", "steps": 3000, "overrides": ["fit.n_in_shard=40"], "progress": "quiet"}
    fit_collection(digits, out, resume=True, **same)
    fit_collection(digits, tmp_path / "local", **same)
    assert content(out) == content(tmp_path / "local")
