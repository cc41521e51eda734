"""How the fit of a collection speaks: a live bar on a terminal, lines elsewhere, JSON lines, or nothing."""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import dataclass

from fieldforge.apps.fit.progress import Speaker, clock


@dataclass(frozen=True)
class Count:
    """How far a fit has come.

    Attributes:
        done, total: fields.
        n_before: of those done, how many there were before this run.
        seconds: of this run.
        quality: mean of those fitted in this run; NaN while there are none.
        figure: what that is, "psnr" or "iou".
    """

    done: int
    total: int
    n_before: int
    seconds: float
    quality: float
    figure: str

    @property
    def rate(self) -> float:
        """Fields a second."""
        return (self.done - self.n_before) / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float:
        """At that rate; NaN before the first."""
        return (self.total - self.done) / self.rate if self.rate else math.nan

    def text(self) -> str:
        """'640/8000 fields  12.3 fields/s  PSNR 28.1 dB  10:03 left'."""
        parts = [f"{self.done}/{self.total} fields"]
        if self.rate:
            parts += [f"{self.rate:.3g} fields/s", said(self.figure, self.quality), f"{clock(self.seconds_left)} left"]
        return "  ".join(parts)


def said(figure: str, value: float | None) -> str:
    """A quality in words.

    Example:
        >>> said("psnr", 28.125), said("iou", None)
        ('PSNR 28.12 dB', 'IoU not finite')
    """
    name, unit = {"psnr": ("PSNR", " dB"), "iou": ("IoU", "")}[figure]
    if value is None or not math.isfinite(value):
        return f"{name} not finite"
    return f"{name} {value:.2f}{unit}" if figure == "psnr" else f"{name} {value:.4f}"


class Teller(Speaker):
    """Speaks in one of the styles "auto", "json" and "quiet".

    A context manager; a bar on a terminal is taken down at the end.
    """

    def __init__(self, style: str) -> None:
        super().__init__(style, "fitting", is_transient=False)
        self._next = 0.0

    def count(self, count: Count, *, is_last: bool = False) -> None:
        """Say how far it is; on no terminal at most every ten seconds."""
        if self.style == "json":
            row = {
                "event": "progress", "fields": count.done, "n_fields": count.total,
                "fields_per_second": round(count.rate, 3), "seconds": round(count.seconds, 3),
            }  # fmt: skip
            row |= {} if math.isnan(count.seconds_left) else {"seconds_left": round(count.seconds_left, 1)}
            row |= {} if math.isnan(count.quality) else {count.figure: round(count.quality, 4)}
            print(json.dumps(row), flush=True)
        elif self._bar:
            self._bar.update(self._task, total=count.total, completed=count.done, text=count.text())
        elif self.style == "auto" and (is_last or time.perf_counter() >= self._next):
            self._next = time.perf_counter() + 10
            print(count.text(), file=sys.stderr, flush=True)
