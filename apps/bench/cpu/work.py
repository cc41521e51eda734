"""One work: what is done, by plain PyTorch and by us, on which sizes, what is expected of it, and how it is timed."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fieldforge.apps.bench.cpu.floors import Phase, floor
from fieldforge.apps.bench.harness import Row, spread, take_turns
from fieldforge.kernels.cpu_limits import Limits

GATE = 0.6
"""The part of a target below which a figure does not pass: other processors, other neighbours, other torch."""
LONGEST = 10.0
"""CPU seconds of a case, about: longer works get fewer turns, but at least 3."""
NOISE_BOUND = 0.25
"""A work whose ratio spreads more than this is measured again, and the quieter run counts."""

Run = Callable[[], Tensor | float]
FUSED, DEFAULT, OURS = "plain PyTorch", "plain PyTorch, default Adam", "ours, cpu"


@dataclass
class Work:
    """What is measured.

    Args:
        n: points, samples or rays of one call.
        sizes: the numbers that define it.
        target: ratio to plain PyTorch, and fraction of the floor (None: not asked).
        plain: idiomatic PyTorch (with fused Adam, where there is an optimizer).
        ours: the native kernels; its first result is held against that of `plain`.
        default_adam: `plain` with torch's default Adam, or None.
        others: more to be measured beside them, by name.
        phases: for the floor; empty: none.
        tolerance: relative difference of results that is not an error.
    """

    n: int
    sizes: Mapping[str, Any]
    target: tuple[float, float | None]
    plain: Run
    ours: Run
    default_adam: Run | None = None
    others: Mapping[str, Run] = field(default_factory=dict)
    phases: Sequence[Phase] = ()
    tolerance: float = 0.01


def passes(value: float, target: float) -> bool:
    """Whether a figure reaches the gate of its target.

    Example:
        >>> passes(18.0, 30.0), passes(17.9, 30.0)
        (True, False)
    """
    return value >= GATE * target


def measure(
    case: str, work: Work, limits: Limits, *, repeats: int, n_runs: int = 2, has_targets: bool = True
) -> list[Row]:
    """The rows of a case: one for each candidate; that of `OURS` holds the figures.

    Args:
        case, work: what is measured, and its name.
        limits: of this core.
        repeats: turns of each candidate.
        n_runs: at most so many times `repeats`, as long as the ratio is noisy.
        has_targets: whether these sizes are those of the targets.

    Raises:
        ValueError: ours and plain PyTorch do not compute the same.
    """
    candidates = {FUSED: work.plain, OURS: work.ours}
    if work.default_adam is not None:
        candidates[DEFAULT] = work.default_adam
    candidates |= work.others
    start = time.process_time()
    different = difference(work.ours(), work.plain())
    a_turn = (len(candidates) - 1) * (time.process_time() - start)
    repeats = max(min(repeats, 3), min(repeats, int(LONGEST / a_turn)))
    if not different <= work.tolerance:
        raise ValueError(f"{case}: ours and plain PyTorch differ by {different:.2g}, more than {work.tolerance:g}")
    best: dict[str, list[float]] = {}
    for _ in range(n_runs):
        seconds = take_turns(candidates, repeats=repeats, at_least=0.02)
        if not best or noise(seconds) < noise(best):
            best = seconds
        if noise(best) <= NOISE_BOUND:
            break
    median = {name: statistics.median(times) for name, times in best.items()}
    figures = {"ratio": median[FUSED] / median[OURS], "difference": different, "noise": noise(best)}
    if work.default_adam is not None:
        figures["ratio_default_adam"] = median[DEFAULT] / median[OURS]
    if work.phases:
        figures["floor_seconds"] = floor(work.phases, limits)
        figures["fraction"] = figures["floor_seconds"] / median[OURS]
    if has_targets:
        targets = zip(("target_ratio", "target_fraction"), work.target, strict=True)
        figures |= {name: target for name, target in targets if target is not None}
    both = two_threads(work.ours)
    if both is not None:
        figures["two_threads"] = both
    return [
        Row("cpu", case, name, {**work.sizes, "repeats": repeats}, median[name], spread(best[name]),
            work.n / median[name], quality=figures if name == OURS else None)
        for name in candidates
    ]  # fmt: skip


def noise(seconds: Mapping[str, Sequence[float]]) -> float:
    """(largest - smallest) / median of the ratios, turn by turn: what slows a whole turn down cancels."""
    return spread([plain / ours for plain, ours in zip(seconds[FUSED], seconds[OURS], strict=True)])


def difference(ours: Tensor | float, plain: Tensor | float) -> float:
    """Largest difference over the largest value; NaN differs."""
    one, other = torch.as_tensor(ours), torch.as_tensor(plain)
    if one.shape != other.shape:
        return float("inf")
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-30))


def two_threads(work: Run, *, repeats: int = 5) -> float | None:
    """Wall time with one thread over wall time with two; None without two free cores to tell by."""
    if not has_two_free_cores():
        return None
    before = os.environ.get("FIELDFORGE_NUM_THREADS")
    seconds: dict[str, list[float]] = {"1": [], "2": []}
    try:
        for _ in range(repeats):
            for n_threads, taken in seconds.items():
                os.environ["FIELDFORGE_NUM_THREADS"] = n_threads
                work()  # wakes the threads
                start = time.perf_counter()
                work()
                taken.append(time.perf_counter() - start)
    finally:
        os.environ.pop("FIELDFORGE_NUM_THREADS")
        if before is not None:
            os.environ["FIELDFORGE_NUM_THREADS"] = before
    return statistics.median(seconds["1"]) / statistics.median(seconds["2"])


def has_two_free_cores(seconds: float = 0.2) -> bool:
    """Whether two cores did (nearly) nothing while this process slept."""
    if not Path("/proc/stat").exists() or len(os.sched_getaffinity(0)) < 2:
        return False
    before = _idle_seconds()
    time.sleep(seconds)
    return _idle_seconds() - before > 1.8 * seconds


def _idle_seconds() -> float:
    first = Path("/proc/stat").read_text().splitlines()[0].split()
    return int(first[4]) / os.sysconf("SC_CLK_TCK")
