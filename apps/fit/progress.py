"""How a running fit speaks: a live bar on a terminal, a line per report elsewhere, JSON lines, or nothing."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from typing import Self, TextIO

from fieldforge.apps.fit.loop import Progress

Observer = Callable[[Progress], None]


class Silent:
    """Says nothing."""

    def __call__(self, progress: Progress) -> None:
        pass

    def close(self) -> None:
        pass


class Lines(Silent):
    """A line when a tenth of the steps, or ten seconds, have passed: for logs."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self._next_step, self._next_time = 0, 0.0

    def __call__(self, progress: Progress) -> None:
        state, now = progress.state, time.perf_counter()
        if progress.message:
            print(progress.message, file=self.stream, flush=True)
        elif state.step >= self._next_step or now >= self._next_time or state.step == state.n_steps:
            print(describe(progress), file=self.stream, flush=True)
            self._next_step, self._next_time = state.step + state.n_steps // 10, now + 10


class Json(Silent):
    """One JSON object per report: event, step, n_steps, seconds, points_per_second,
    seconds_left, and psnr or whatever else the fit shows."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout

    def __call__(self, progress: Progress) -> None:
        state = progress.state
        row: dict[str, object] = {"event": "progress", "step": state.step, "n_steps": state.n_steps}
        row |= {
            f"{progress.figure.unit}_per_second": round(progress.points_per_second),
            "seconds_left": round(progress.seconds_left, 1),
        }
        row |= {"seconds": round(state.seconds, 3)}
        row |= {} if math.isnan(progress.value) else {progress.figure.name: float(f"{progress.value:.5g}")}
        if progress.message:
            row |= {"event": "message", "message": progress.message}
        print(json.dumps(row), file=self.stream, flush=True)


class Live(Silent):
    """A progress bar with steps, rate, how good it is, and time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self.console = Console(stderr=True)
        self.bar = Bar(TextColumn("fitting"), BarColumn(), TextColumn("{task.fields[text]}"), console=self.console)
        self.task = self.bar.add_task("", total=None, text="")
        self.bar.start()

    def __call__(self, progress: Progress) -> None:
        if progress.message:
            self.bar.print(progress.message)
            return
        state = progress.state
        self.bar.update(self.task, total=state.n_steps, completed=state.step, text=describe(progress))

    def close(self) -> None:
        self.bar.stop()


def describe(progress: Progress) -> str:
    """'step 120/800  1.2 M points/s  PSNR 31.4 dB  0:42 left'."""
    state = progress.state
    quality = "" if math.isnan(progress.value) else f"{progress.figure.text.format(progress.value)}  "
    return (
        f"step {state.step}/{state.n_steps}  {human_rate(progress.points_per_second)} {progress.figure.unit}/s  "
        f"{quality}{clock(progress.seconds_left)} left"
    )


def human_rate(rate: float) -> str:
    """Three digits with k, M or G.

    Example:
        >>> human_rate(1234567)
        '1.23 M'
    """
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if rate >= limit:
            return f"{rate / limit:.3g} {unit}"
    return f"{rate:.3g}"


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours when there are any.

    Example:
        >>> clock(3725)
        '1:02:05'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def observer(style: str) -> Silent:
    """The observer of a style: 'auto' (bar on a terminal and in notebooks, lines elsewhere), 'json' or 'quiet'."""
    if style == "quiet":
        return Silent()
    if style == "json":
        return Json()
    from rich.console import Console

    return Live() if sys.stderr.isatty() or Console().is_jupyter else Lines()


class Speaker:
    """Speaks of long work that is no fit of one field: a bar on a terminal, lines elsewhere, JSON lines, or nothing.

    A context manager; the bar stands while the block runs.

    Args:
        style: "auto", "json" or "quiet".
        title: what stands before the bar.
        is_transient: whether the bar goes at the end.
    """

    def __init__(self, style: str, title: str, *, is_transient: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self.style = style
        self._bar: Bar | None = None
        if style == "auto" and sys.stderr.isatty():
            columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}")
            self._bar = Bar(*columns, console=Console(stderr=True), transient=is_transient)
            self._task = self._bar.add_task(title, total=None, text="")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, sentence: str) -> None:
        """A sentence of its own."""
        if self.style == "json":
            print(json.dumps({"event": "message", "message": sentence}), flush=True)
        elif self._bar:
            self._bar.print(sentence)
        elif self.style == "auto":
            print(sentence, file=sys.stderr, flush=True)
