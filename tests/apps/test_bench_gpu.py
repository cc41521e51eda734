"""``fieldforge bench gpu`` without a GPU: its whole logic on the CPU, timed by a stand-in for CUDA events."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from fieldforge import backends
from fieldforge.apps.bench import gpu
from fieldforge.apps.bench.gpu import correct, work
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


def test_without_a_device_it_says_so_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "gpu", "--rows", str(tmp_path)]) == 1
    assert "bench gpu: needs a CUDA device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_all_of_it_runs_on_a_stand_in(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(backends, "makers", lambda operation, backend: [""])
    rows, is_right = gpu.measure(StandInClock(), work.SMALL, name="a stand-in", repeats=2, compile_=None)
    assert is_right
    timed = {(row.case, row.candidate) for row in rows if row.seconds}
    for case in (
        "hash grid, forward and backward",
        "MLP 64x5, training, half precision",
        "image fit, a step",
        "MLP 64x5, inference, half precision",
        "hash grid and MLP 64x2, forward and backward",
        "render 6x6",
    ):
        assert (case, "eager") in timed
        assert (case, "fieldforge") in timed
    assert not any("WRONG" in line for line in capsys.readouterr().out.splitlines())
    told = gpu.table(rows)
    assert told.splitlines()[0].startswith("| case | who | rate")
    assert "1.00x" in told
    assert "%" in told


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
    gpu.measure(StandInClock(), work.SMALL, name="a stand-in", seconds=-1, repeats=1, compile_=None)
    assert capsys.readouterr().out.count("left out, -1 s are over") == 8


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
