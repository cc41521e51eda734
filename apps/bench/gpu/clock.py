"""How long work takes on a device, and how much memory: CUDA events there, a stand-in in tests."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

Work = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds of one repetition: the median, and (largest - smallest) / median; and the most memory beside what was
    there, in bytes."""

    seconds: float
    spread: float
    peak_bytes: int


class Clock(Protocol):
    """Times work on a device."""

    device: torch.device

    def time(self, work: Work, repeats: int) -> Timing: ...
    def wait(self) -> int:
        """Until all work is done; returns the most bytes that were taken since the last wait."""


class CudaClock:
    """Pairs of events on the stream, read when all work is done, after two repetitions that do not count."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def time(self, work: Work, repeats: int) -> Timing:
        for _ in range(2):
            work()
        torch.cuda.synchronize(self.device)
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
        for start, end in pairs:
            start.record()
            work()
            end.record()
        torch.cuda.synchronize(self.device)
        seconds = [start.elapsed_time(end) / 1e3 for start, end in pairs]
        return timing_of(seconds, torch.cuda.max_memory_allocated(self.device) - before)

    def wait(self) -> int:
        torch.cuda.synchronize(self.device)
        peak = torch.cuda.max_memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return peak


def timing_of(seconds: list[float], peak_bytes: int = 0) -> Timing:
    """The median and the spread of repetitions."""
    middle = statistics.median(seconds)
    return Timing(middle, (max(seconds) - min(seconds)) / max(middle, 1e-12), peak_bytes)
