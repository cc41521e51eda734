"""Timing and rows: what every suite shares."""

from __future__ import annotations

import contextlib
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import fieldforge

ONE_BY_ONE = ("gpu", "scene", "scene_models", "collections", "weights", "generate", "convert")
"""Suites of which each case may be measured in a run of its own, or is kept when it is there."""


@dataclass(frozen=True)
class Row:
    """One measured figure.

    Args:
        suite, case, candidate: what was measured, on what.
        sizes: the numbers that define the work.
        seconds: median CPU seconds of one repetition, one thread.
        spread: (largest - smallest) / median over the repetitions.
        rate: points (or pixels) per CPU second at the median.
        quality: decibels where there are any.
    """

    suite: str
    case: str
    candidate: str
    sizes: Mapping[str, Any]
    seconds: float
    spread: float
    rate: float
    quality: Mapping[str, float] | None = None
    backend: str = ""
    device: str = "cpu"


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Inside the block torch computes on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def take_turns(
    candidates: Mapping[str, Callable[[], object]], *, repeats: int, at_least: float = 0.0
) -> dict[str, list[float]]:
    """CPU seconds of each repetition of each candidate; they take turns, after one unmeasured round.

    Work that takes less than `at_least` seconds is done several times a turn, and its mean counts.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for repeat in range(-1, repeats):
        for name, work in candidates.items():
            start, elapsed, n_done = time.process_time(), 0.0, 0
            while not n_done or elapsed < at_least:
                work()
                elapsed, n_done = time.process_time() - start, n_done + 1
            if repeat >= 0:
                seconds[name].append(elapsed / n_done)
    return seconds


def spread(seconds: Sequence[float]) -> float:
    """(largest - smallest) / median."""
    return (max(seconds) - min(seconds)) / statistics.median(seconds)


def save(folder: Path, suite: str, rows: Sequence[Row], *, command: str | None = None, when: str | None = None) -> Path:
    """Append rows, each with where, when and with what it was measured.

    Args:
        folder, suite, rows: what goes where.
        command: that measures them; None is ``fieldforge bench <suite>``.
        when: of the run, as `now` gives it, for rows that are kept one by one; None is now.

    Returns:
        The file, ``<folder>/<suite>.jsonl``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{suite}.jsonl"
    about = {
        "commit": _commit(),
        "versions": _versions(),
        "python": platform.python_version(),
        "processor": _processor(),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "command": command or f"fieldforge bench {suite}",
        "time": when or now(),
    }
    with path.open("a") as file:
        for row in rows:
            file.write(json.dumps(asdict(row) | about, sort_keys=True) + "\n")
    return path


def now() -> str:
    """The time of a row."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@cache
def _versions() -> dict[str, str]:
    """Of what measures; fieldforge may run from a folder, and Triton be absent."""
    found = {"fieldforge": fieldforge.__version__}
    for name in ("torch", "numpy", "triton"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def latest(folder: Path, suite: str) -> list[dict[str, Any]]:
    """The rows of the last run of a suite: those that share the newest time; of `ONE_BY_ONE`, the newest time of
    their case, and of methods the newest of their case and candidate."""
    path = folder / f"{suite}.jsonl"
    if not path.exists():
        return []

    def key(row: dict[str, Any]) -> tuple[str, ...]:
        if suite == "methods":
            return row["case"], row["candidate"]
        return (row["case"],) if suite in ONE_BY_ONE else ()

    rows = [json.loads(line) for line in path.read_text().splitlines()]
    newest: dict[tuple[str, ...], str] = {}
    for row in rows:
        newest[key(row)] = max(row["time"], newest.get(key(row), ""))
    return [row for row in rows if row["time"] == newest[key(row)]]


def folder_of(data: Path | None) -> Path:
    """The folder of the shared material.

    Raises:
        ValueError: none was given.
    """
    if data is None:
        raise ValueError("data: give the folder that holds images, meshes and scenes, --data FOLDER")
    return data


def markdown(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, ["---"] * len(headings), *cells))


def say(text: str) -> None:
    """A line of the table on standard output, at once."""
    print(text, flush=True)


@cache
def _commit() -> str:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent
        )
    except OSError:  # a machine without git
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def _processor() -> str:
    model = platform.processor() or platform.machine()
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}"
