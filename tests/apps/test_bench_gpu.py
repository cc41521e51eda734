"""``fieldforge bench gpu`` without a GPU: its whole logic on the CPU, timed by a stand-in for CUDA events."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from far import far_device

from fieldforge import backends
from fieldforge.apps.bench import gpu
from fieldforge.apps.bench.gpu import correct, goals, work
from fieldforge.apps.bench.gpu.clock import Timing, Work, timing_of
from fieldforge.apps.bench.harness import Row
from fieldforge.apps.cli import main
from fieldforge.kernels import guests


class StandInClock:
    """For CUDA events: this process's own time, on the CPU."""

    device = torch.device("cpu")

    def time(self, work: Work, repeats: int) -> Timing:
        seconds = []
        for _ in range(repeats):
            start = time.process_time()
            work()
            seconds.append(max(1e-9, time.process_time() - start))
        return timing_of(seconds, 1024)

    def wait(self) -> int:
        return 1024


@pytest.fixture
def ours_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were a device: what fieldforge makes is there, and no guest."""
    monkeypatch.setattr(backends, "makers", lambda operation, backend: [""])
    monkeypatch.setattr(backends, "why_missing", lambda operation, backend, maker: None)


def test_without_a_device_it_says_so_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "gpu", "--rows", str(tmp_path)]) == 1
    assert "bench gpu: needs a CUDA device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("ours_runs")
def test_all_of_it_runs_on_a_stand_in(capsys: pytest.CaptureFixture[str]) -> None:
    kept: list[Row] = []
    rows, is_right = gpu.measure(
        StandInClock(), work.SMALL, goals.SMALL, name="a stand-in", keep=kept.extend, repeats=2, compile_=None
    )
    assert is_right
    assert kept == rows
    timed = {(row.case, row.candidate) for row in rows if row.seconds}
    for case in (
        "hash grid, forward and backward",
        "MLP 64x5, training, half precision",
        "image fit, a step",
        "MLP 64x5, inference, half precision",
        "hash grid and MLP 64x2, forward and backward",
        "hash grid and MLP 64x2, forward and backward, half precision",
        "render 6x6",
    ):
        assert (case, "eager") in timed
        assert (case, "fieldforge") in timed
    out = capsys.readouterr().out
    assert "WRONG" not in out
    assert "scene: no lego" in out
    reached = {row.case: row for row in rows if "goal" in (row.quality or {}) and row.candidate.endswith("float32")}
    assert sum("goal" in (row.quality or {}) for row in rows) == 4  # and in half precision
    assert set(reached) == {"picture of 0.0 megapixels to 35 dB", "ball at 16x16 to 33 dB"}
    for row in reached.values():
        assert row.quality is not None
        assert 5 < row.quality["psnr"] < 60
        assert row.seconds > 0
    scene = reached["ball at 16x16 to 33 dB"]
    assert scene.quality is not None
    assert scene.quality["frames_per_second"] > 0
    told = gpu.table(rows)
    assert told.splitlines()[0].startswith("| goal | who | training")
    assert "| case | who | rate" in told
    assert "1.00x" in told
    assert "%" in told


@pytest.mark.slow
def test_photos_are_on_the_host_whatever_trains() -> None:
    """Tensors are made on the device there, where nobody can have them as numpy."""
    with far_device():
        for attempts in (gpu._picture, gpu._scene):
            assert list(attempts(None, goals.SMALL, StandInClock()))


@pytest.mark.slow
def test_what_float32_can_do_is_right_at_full_size() -> None:
    """The reference itself in float32: else every version would be wrong."""
    with backends.use_backend("reference"):
        for case in correct.cases(work.Sizes().n_correct):
            found, expected = correct._asked(case, torch.float32), correct._asked(case, torch.float64)
            assert correct._distance(found, expected) < 0.2 * correct.TOLERANCE[torch.float32], case.name


def test_a_device_that_gives_no_memory_back_costs_no_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class OnCuda(StandInClock):
        device = torch.device("cuda")

    def refuse() -> None:
        raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")

    monkeypatch.setattr(torch.cuda, "empty_cache", refuse)
    gpu._Bench(OnCuda(), "a card", lambda rows: None, time.monotonic(), 60, 60, 1).forget()
    assert capsys.readouterr().out == "memory: RuntimeError: captures_underway.empty() INTERNAL ASSERT FAILED\n"


def test_a_wrong_version_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    module = torch.nn.Linear(3, 2)
    is_wrong = False

    def run(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (module(x) * (1.01 if is_wrong and x.dtype == torch.float32 else 1.0),)

    case = correct.Case("grid", "a line", module, (torch.rand(5, 3),), run)
    assert correct.judge(case, [""])[0].is_right
    is_wrong = True
    verdict = correct.judge(case, [""])[0]
    assert not verdict.is_right
    assert 0.005 < verdict.error < 0.02


def test_a_version_that_fails_is_a_verdict() -> None:
    def run(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if x.dtype == torch.float32:
            raise RuntimeError("no kernel image is available for execution on the device")
        return (x,)

    (verdict,) = correct.judge(correct.Case("grid", "none", torch.nn.Module(), (torch.rand(5, 3),), run), [""])
    assert verdict.why_not == "RuntimeError: no kernel image is available for execution on the device"


def test_cases_that_would_begin_too_late_are_left_out_aloud(capsys: pytest.CaptureFixture[str]) -> None:
    rows, _ = gpu.measure(
        StandInClock(), work.SMALL, goals.SMALL, name="a stand-in", seconds=-1, repeats=1, compile_=None
    )
    assert not rows
    out = capsys.readouterr().out
    for what in ("picture", "scene", "ceilings", "image fit, a step", "render 6x6"):
        assert f"{what}: left out, -1 s are over" in out


@pytest.mark.usefixtures("ours_runs")
def test_what_fails_is_a_line_and_the_rest_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def no_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(goals, "fit_picture", no_memory)
    monkeypatch.setattr(backends, "makers", lambda operation, backend: ["", "tinycudann"])
    monkeypatch.setattr(
        backends, "why_missing", lambda operation, backend, maker: f"{maker} is not installed" if maker else None
    )
    (tmp_path / "transforms_train.json").write_text("{")
    rows, _ = gpu.measure(
        StandInClock(), work.SMALL, replace(goals.SMALL, is_small=False), name="a stand-in", repeats=1,
        parts=("picture", "scene", "work"), data=tmp_path, compile_=None,
    )  # fmt: skip
    out = capsys.readouterr().out
    assert "to 35 dB: fieldforge, float32: OutOfMemoryError: CUDA out of memory" in out
    assert "to 35 dB: tinycudann, float16: tinycudann is not installed" in out
    assert "\nscene: " in out
    assert "hash grid, forward and backward: tinycudann: BackendError: tinycudann is not installed" in out
    assert {row.candidate for row in rows} == {"torch", "fieldforge", "eager", "eager float32"}


def test_a_candidate_that_takes_too_long_is_broken_off() -> None:
    bench = gpu._Bench(StandInClock(), "a stand-in", lambda rows: None, time.monotonic(), 60, 60, 1)

    def endless() -> None:
        with bench.within(0.2):
            while True:
                time.sleep(0.01)

    with pytest.raises(gpu.TooLongError, match="broken off after 0 s"):
        endless()


def test_a_landscape_is_the_same_everywhere_and_no_noise() -> None:
    one = goals.landscape(48, 64).pixels
    assert (one == goals.landscape(48, 64).pixels).all()
    assert abs(int(one.sum()) - 1_130_590) < 500  # interpolation may round another way elsewhere
    steps = abs(one[1:].astype(int) - one[:-1]).mean()
    assert 1 < steps < 0.5 * one.astype(int).std()


def test_parts_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="only: expected one of correct, picture, scene, work, compiled, got 'lego'"):
        gpu.run(Path("nowhere"), None, is_quick=True, only=["lego"])


def test_whoever_is_asked_alone_is_not_replaced() -> None:
    with backends.made_by("grid", "nobody", alone=True):
        assert backends.choose("march", torch.device("cpu")) is not None
        with pytest.raises(backends.BackendError, match="nobody was asked for alone, but cannot run grid"):
            backends._expect_not_alone("grid", "cuda", "it is not installed")
    backends._expect_not_alone("grid", "cuda", "it is not installed")


def row(case: str, candidate: str, rate: float) -> Row:
    return Row("gpu", case, candidate, {}, 1 / rate, 0.0, rate)


def test_who_was_fastest_is_remembered_and_asked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    case = "hash grid, forward and backward"
    rows = [row(case, "eager", 9.0), row(case, "fieldforge", 2.0), row(case, "tinycudann", 3.0),
            row("render 400x400", "fieldforge", 5.0), row("render 400x400", "nerfacc", 4.0)]  # fmt: skip
    assert gpu.fastest(rows) == {"grid": "tinycudann", "march": ""}
    guests.remember("a card", gpu.fastest(rows))
    guests.remember("another", {"march": "nerfacc"})
    assert guests.measured("a card") == {"grid": "tinycudann", "march": ""}
    monkeypatch.setattr(backends, "_has_learnt", [])
    monkeypatch.setattr(backends, "_preferred", {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    assert backends.makers("grid", "cuda")[0] == "tinycudann"
    (tmp_path / "fieldforge" / "makers.json").write_text("{")
    assert guests.measured("a card") == {}
