"""``fieldforge bench gpu``: is every CUDA version of an operation right, and how fast is it; one command, no network.

Parts, each of which can be run alone (``--only picture,scene``), in this order:

- correct: every version of every operation against the reference in float64;
- picture: seconds of training to 35 dB of a picture of 14 megapixels;
- scene: seconds of training to 33 dB of Lego at 400x400, and frames a second at that size;
- work: encoding, networks, both, steps of a fit and a render, against eager PyTorch and against tinycudann and nerfacc
  where they are installed, with CUDA events: medians, memory, and the share of the bandwidth of a copy and of the speed
  of a product of matrices that were measured in the same run;
- compiled: the same by torch.compile, last, as each takes a minute to compile.

Each row is kept as soon as it is measured; who was fastest is kept for `fieldforge.backends`. The table comes last.
What fails is a line, not the end. Work stops `LIMIT` seconds after its start, and a case that would begin after
`SECONDS` is left out aloud.

A run from a folder needs no installation and no native module: ``PYTHONPATH=src python -m fieldforge bench gpu``, with
the folders src (whose links lead to the other four), encodings, fields, renderers and apps, a PyTorch for CUDA with
Triton, a C compiler and Python's headers, with which Triton starts kernels, NumPy, Pillow, imageio, safetensors, SciPy
and scikit-image. ``--data FOLDER`` names what is fitted:
``scenes/lego`` in it (18 MB at 400x400: transforms_*.json, train, test), without which a ball that code makes stands
in; and a picture ``photo.png`` or ``photo.jpg`` there, or ``--data FILE``, without which code makes one, the same
everywhere.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fieldforge.apps.bench.gpu import correct, goals, work
from fieldforge.apps.bench.gpu.clock import Clock, CudaClock, Timing
from fieldforge.apps.bench.gpu.goals import GoalSizes, Raced
from fieldforge.apps.bench.gpu.work import SMALL, Candidate, Sizes, timed
from fieldforge.apps.bench.harness import Row, markdown, now, save, say
from fieldforge.checks import expect_choice
from fieldforge.devices import working_on
from fieldforge.kernels import guests
from fieldforge.kernels.triton import door as triton_door

PARTS = ("correct", "picture", "scene", "work", "compiled")
SECONDS, QUICK_SECONDS = 7.5 * 60, 45.0
"""After which nothing is begun."""
LIMIT, QUICK_LIMIT = 8.6 * 60, 55.0
"""After which what was begun is broken off."""
OF_CORRECT = 0.5
"""Of that time is for what is correct, beside other parts: most of it goes into compiling."""
EACH, GOAL_LIMIT = 75.0, 60.0
"""Seconds that one candidate may take, and that training for a goal may."""
REPEATS = 20
OPERATION = {"hash grid, forward and backward": "grid", "render": "march"}
"""Case -> the operation whose fastest maker is kept. Half-precision fields have one of their own: they are another
function."""


class TooLongError(RuntimeError):
    """A candidate's time was over."""


def run(folder: Path, data: Path | None, *, is_quick: bool, only: Sequence[str] = ()) -> int:
    """Measure, print, and keep the rows unless `is_quick`; returns the exit code, 1 where a version is wrong.

    Args:
        folder: of the rows.
        data: with `scenes/lego` and a photo, or a photo; None: what code makes.
        is_quick: small sizes, and within a minute.
        only: some of `PARTS`; none is all, but not "compiled" where `is_quick`.

    Raises:
        ValueError: no such part.
    """
    parts = [expect_choice("only", part, PARTS) for part in only] or list(PARTS[: 4 if is_quick else 5])
    if not torch.cuda.is_available():
        built = "was built without CUDA" if torch.version.cuda is None else "sees no CUDA device"
        print(f"fieldforge: bench gpu: needs a CUDA device, and PyTorch {torch.__version__} {built}", file=sys.stderr)
        return 1
    device = torch.device("cuda", torch.cuda.current_device())
    words = ["fieldforge bench gpu", *(["--only", ",".join(only)] if only else []), *(["--data ..."] if data else [])]
    when, command = now(), " ".join(words)

    def keep(rows: Sequence[Row]) -> None:
        if not is_quick:
            save(folder, "gpu", rows, command=command, when=when)

    found, is_right = measure(
        CudaClock(device), SMALL if is_quick else Sizes(), goals.SMALL if is_quick else GoalSizes(),
        name=about(device), parts=parts, data=data, keep=keep, seconds=QUICK_SECONDS if is_quick else SECONDS,
        limit=QUICK_LIMIT if is_quick else LIMIT,
    )  # fmt: skip
    if not is_quick:
        say(f"rows: {folder / 'gpu.jsonl'}")
        with contextlib.suppress(OSError):  # a home that cannot be written
            guests.remember(torch.cuda.get_device_name(device), fastest(found))
    say(table(found))
    return 0 if is_right else 1


def about(device: torch.device) -> str:
    """Card, memory, versions: 'NVIDIA H200, 140 GiB, 9.0, driver 580.95, CUDA 13.0, Triton 3.6.0'."""
    properties: Any = torch.cuda.get_device_properties(device)
    return (
        f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {properties.major}.{properties.minor}, driver "
        f"{_driver()}, CUDA {torch.version.cuda}, Triton {triton_door.installed()}"
    )


def _driver() -> str:
    """Its version, or 'unknown'."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True,
            timeout=10,
        )  # fmt: skip
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.split()[0]
    return "unknown"


def measure(
    clock: Clock,
    sizes: Sizes,
    goal_sizes: GoalSizes,
    *,
    name: str,
    parts: Sequence[str] = PARTS,
    data: Path | None = None,
    keep: Callable[[Sequence[Row]], None] = lambda rows: None,
    seconds: float = SECONDS,
    limit: float = LIMIT,
    repeats: int = REPEATS,
    compile_: Callable[[Any], Any] | None = torch.compile,
) -> tuple[list[Row], bool]:
    """All rows, and whether every version was right; `keep` is handed rows as they come."""
    bench = _Bench(clock, name, keep, time.monotonic(), seconds, limit, repeats)
    say(name)
    with working_on(clock.device):
        if "correct" in parts:
            bench.judge(sizes)
        if "picture" in parts:
            bench.reach("picture", partial(_picture, data, goal_sizes, clock))
        if "scene" in parts:
            bench.reach("scene", partial(_scene, data, goal_sizes, clock))
        if "work" in parts or "compiled" in parts:
            bench.find_ceilings(sizes)
        if "work" in parts:
            bench.time(work.cases(sizes, None))
        if "compiled" in parts and compile_ is not None:
            bench.time(work.cases(sizes, compile_), only="compile")
    return bench.rows, bench.is_right


Attempt = tuple[str, dict[str, Any], float, Callable[[float], Raced] | str]
"""Who, sizes, the goal, and training for so many seconds, or why not."""


def _picture(data: Path | None, sizes: GoalSizes, clock: Clock) -> Iterator[tuple[str, Attempt]]:
    with torch.device("cpu"):  # photos are there, whatever trains
        picture = goals.picture_of(data, sizes)
    case = f"picture of {picture.width * picture.height / 1e6:.1f} megapixels to {goals.PICTURE_GOAL:g} dB"
    for who, precision, contexts in goals.makers("grid"):
        about = {"width": picture.width, "height": picture.height, "source": Path(picture.source).name,
                 "config": goals.picture_config(sizes, picture, precision)}  # fmt: skip
        how: Callable[[float], Raced] | str = contexts if isinstance(contexts, str) else partial(
            goals.under, contexts, partial(goals.fit_picture, picture, sizes, precision, clock)
        )  # fmt: skip
        yield case, (who, about, goals.PICTURE_GOAL, how)


def _scene(data: Path | None, sizes: GoalSizes, clock: Clock) -> Iterator[tuple[str, Attempt]]:
    with torch.device("cpu"):
        scene, notice = goals.scene_of(data, sizes)
    if notice:
        say(f"scene: {notice}")
    width, height = scene.photos.sizes[0].tolist()
    case = f"{Path(scene.source).name} at {width}x{height} to {goals.SCENE_GOAL:g} dB"
    for who, precision, contexts in goals.makers("march"):
        about = {"width": width, "height": height, "views": len(scene.of("train")), "held_out": len(scene.of("test")),
                 "overrides": goals.scene_overrides(sizes, precision), "notice": notice}  # fmt: skip
        how: Callable[[float], Raced] | str = contexts if isinstance(contexts, str) else partial(
            goals.under, contexts, partial(goals.fit_scene, scene, sizes, precision, clock)
        )  # fmt: skip
        yield case, (who, about, goals.SCENE_GOAL, how)


class _Bench:
    """What was measured so far, and the time that is left."""

    def __init__(
        self, clock: Clock, name: str, keep: Callable[[Sequence[Row]], None], begun: float, seconds: float,
        limit: float, repeats: int,
    ) -> None:  # fmt: skip
        self.clock, self.name, self.keep, self.repeats = clock, name, keep, repeats
        self.begun, self.seconds, self.limit = begun, seconds, limit
        self.rows: list[Row] = []
        self.is_right = True
        self.bandwidth = self.flops = 0.0

    def is_late(self, what: str, share: float = 1.0) -> bool:
        """Whether nothing is begun any more, said aloud; `share` of the time is what a part may take."""
        is_late = time.monotonic() - self.begun > share * self.seconds
        if is_late:
            say(f"{what}: left out, {share * self.seconds:.0f} s are over")
        return is_late

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self.keep([row])

    def row(self, case: str, who: str, sizes: dict[str, Any], quality: dict[str, float], **figures: float) -> Row:
        numbers = {"seconds": 0.0, "spread": 0.0, "rate": 0.0} | figures
        return Row("gpu", case, who, sizes, **numbers, quality=quality, backend="cuda", device=self.name)

    @contextlib.contextmanager
    def within(self, seconds: float = EACH) -> Iterator[None]:
        """Break off what takes longer, or lasts beyond the end of the run: TooLongError. The main thread alone can."""
        left = min(seconds, self.limit - (time.monotonic() - self.begun))
        if threading.current_thread() is not threading.main_thread() or os.name != "posix":
            yield
            return

        def stop(number: int, frame: object) -> None:
            raise TooLongError(f"broken off after {left:.0f} s")

        was = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, max(0.1, left), 5.0)  # again, where somebody swallowed the first
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, was)

    def judge(self, sizes: Sizes) -> None:
        for case in correct.cases(sizes.n_correct):
            if self.is_late(f"correct: {case.operation}, {case.name}", OF_CORRECT):
                continue
            try:
                with self.within():
                    verdicts = list(correct.verdicts(case, "cuda"))
            except Exception as error:  # the reference itself, or its time
                say(f"correct: {case.operation}, {case.name}: {_line(error)}")
                self.is_right = False
                continue
            for verdict in verdicts:
                self.is_right &= verdict.is_right
                word = verdict.why_not or f"{verdict.error:.1e} off"
                who, word = verdict.maker or "fieldforge", word + ("" if verdict.is_right else ", WRONG")
                say(f"{case.operation:16} {verdict.case:18} {who:12} {word}")
                quality = {} if verdict.why_not else {"error": verdict.error}
                about = {"n": sizes.n_correct} | ({"why_not": verdict.why_not} if verdict.why_not else {})
                self.add(self.row(f"correct: {case.operation}, {verdict.case}", who, about, quality))

    def reach(self, part: str, attempts: Callable[[], Iterator[tuple[str, Attempt]]]) -> None:
        """A goal, by everyone who can; ours first, and the others in the time that is left."""
        if self.is_late(part):
            return
        try:
            made = list(attempts())
        except Exception as error:  # a photo or a scene that cannot be read
            say(f"{part}: {_line(error)}")
            return
        for case, (who, about, goal, how) in made:
            if isinstance(how, str):
                say(f"{case}: {who}: {how}")
                continue
            if self.is_late(f"{case}: {who}"):
                continue
            try:
                with self.within(2.5 * GOAL_LIMIT):
                    found = how(GOAL_LIMIT)
            except Exception as error:  # out of memory, a kernel that does not compile: the others are measured
                say(f"{case}: {who}: {_line(error)}")
                self.forget()
                continue
            quality = {"psnr": found.quality, "goal": goal, "has_reached": float(found.has_reached), **found.figures}
            self.add(self.row(case, who, about | {"steps": found.n_steps}, quality, seconds=found.seconds,
                              rate=found.n_steps / max(found.seconds, 1e-9)))  # fmt: skip
            told = "" if found.has_reached else f", short of {goal:g} dB"
            frames = f", {found.figures['frames_per_second']:.1f} frames a second" if "views" in found.figures else ""
            say(f"{case}: {who}: {found.quality:.2f} dB in {found.seconds:.1f} s, {found.n_steps} steps{told}{frames}")
            for note in found.notes:
                say(f"{case}: {who}: {note}")
            self.forget()

    def find_ceilings(self, sizes: Sizes) -> None:
        if self.is_late("ceilings"):
            return
        try:
            with self.within():
                (copy, n_bytes), (product, flops) = work.ceilings(sizes)
                self.bandwidth = n_bytes / self.clock.time(copy, self.repeats).seconds
                self.flops = flops / self.clock.time(product, self.repeats).seconds
        except Exception as error:  # shares are left out then
            say(f"ceilings: {_line(error)}")
            return
        finally:
            self.forget()
        say(f"a copy: {self.bandwidth / 1e9:,.0f} GB/s; a product of matrices: {self.flops / 1e12:,.1f} Tflop/s")
        self.add(self.row("ceilings", "torch", {}, {"bandwidth": self.bandwidth, "flops": self.flops}))

    def time(self, cases: Iterator[work.Case], only: str = "") -> None:
        for case in cases:
            if self.is_late(case.name):
                continue
            candidates = case.candidates()
            while True:
                try:  # making them takes memory too
                    candidate = next(candidates, None)
                except Exception as error:
                    say(f"{case.name}: {_line(error)}")
                    break
                if candidate is None:
                    break
                if only not in ("", candidate.name) or self.is_late(f"{case.name}: {candidate.name}"):
                    continue
                timing = self.timing(candidate)
                if isinstance(timing, str):
                    say(f"{case.name}: {candidate.name}: {timing}")
                    self.forget()
                    continue
                self.add(self.timed_row(case, candidate.name, timing))
                say(f"{case.name}: {candidate.name}: {self.rows[-1].rate:,.0f} a second")
            self.forget()

    def timing(self, candidate: Candidate) -> Timing | str:
        try:
            with self.within(), timed(candidate):
                return self.clock.time(candidate.work, self.repeats)
        except Exception as error:  # one that cannot is left out aloud; the others are measured
            return _line(error)

    def timed_row(self, case: work.Case, who: str, timing: Timing) -> Row:
        quality = {"peak_bytes": float(timing.peak_bytes)}
        if case.n_bytes and self.bandwidth:
            quality["share_of_bandwidth"] = case.n_bytes / timing.seconds / self.bandwidth
        if case.flops and self.flops:
            quality["share_of_flops"] = case.flops / timing.seconds / self.flops
        return self.row(case.name, who, {"rows": case.rows}, quality, seconds=timing.seconds, spread=timing.spread,
                        rate=case.rows / timing.seconds)  # fmt: skip

    def forget(self) -> None:
        """Let go of memory that nobody has any more."""
        if self.clock.device.type == "cuda":
            try:
                torch.cuda.empty_cache()
            except RuntimeError as error:  # an earlier failure of the device may show here; rows go on
                say(f"memory: {_line(error)}")


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def fastest(rows: Sequence[Row]) -> dict[str, str]:
    """Operation -> who made it fastest, '' for ours, of those that have makers."""
    found: dict[str, str] = {}
    for begin, operation in OPERATION.items():
        of_makers = [row for row in rows if row.case.startswith(begin) and row.candidate not in ("eager", "compile")]
        if of_makers:
            best = max(of_makers, key=lambda row: row.rate).candidate
            found[operation] = "" if best == "fieldforge" else best
    return found


def table(rows: Sequence[Row]) -> str:
    """Of what was timed, each beside eager PyTorch; and before it how long the goals took."""
    goal_cells = [
        [row.case, row.candidate, f"{row.seconds:.1f} s", f"{(row.quality or {})['psnr']:.2f} dB",
         f"{(row.quality or {}).get('frames_per_second', 0):.1f}", _memory(row)]
        for row in rows if "goal" in (row.quality or {})
    ]  # fmt: skip
    reached = markdown(["goal", "who", "training", "quality", "frames a second", "memory"], goal_cells) + "\n\n"
    eager = {row.case: row.rate for row in rows if row.candidate == "eager"}
    cells = [
        [
            row.case, row.candidate, f"{row.rate / 1e6:,.1f} M/s", f"{row.seconds * 1e3:.3f} ms",
            f"{row.rate / eager[row.case]:.2f}x" if row.case in eager else "", _percent(row, "share_of_bandwidth"),
            _percent(row, "share_of_flops"), _memory(row),
        ]
        for row in rows
        if row.seconds and "goal" not in (row.quality or {})
    ]  # fmt: skip
    headings = ["case", "who", "rate", "median", "beside eager", "of bandwidth", "of matrices", "memory"]
    return (reached if goal_cells else "") + markdown(headings, cells)


def _memory(row: Row) -> str:
    return f"{(row.quality or {}).get('peak_bytes', 0) / 2**20:,.0f} MiB"


def _percent(row: Row, name: str) -> str:
    share = (row.quality or {}).get(name)
    return "" if share is None else f"{share:.1%}"
