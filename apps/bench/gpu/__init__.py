"""``fieldforge bench gpu``: is every CUDA version of an operation right, and how fast is it; one command, no network.

First each is held against the reference in float64; then encoding, networks, both, a picture and a render are timed
with CUDA events against eager PyTorch, torch.compile, and tinycudann and nerfacc where they are installed. Figures are
medians; beside them stand memory, and the share of the bandwidth of a copy and of the speed of a product of matrices
that were measured in the same run. Who was fastest is kept for `fieldforge.backends`. The table comes last. A case that
would begin after `SECONDS` is left out aloud.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from fieldforge.apps.bench.gpu import correct, work
from fieldforge.apps.bench.gpu.clock import Clock, CudaClock, Timing
from fieldforge.apps.bench.gpu.work import SMALL, Candidate, Sizes, timed
from fieldforge.apps.bench.harness import Row, markdown, save, say
from fieldforge.devices import working_on
from fieldforge.kernels import guests

SECONDS = 8.5 * 60
REPEATS = 20
OPERATION = {"hash grid, forward and backward": "grid", "render": "march"}
"""Case -> the operation whose fastest maker is kept. Half-precision fields have one of their own: they are another
function."""


def run(folder: Path, data: Path | None, *, is_quick: bool) -> int:
    """Measure, print, and keep the rows unless `is_quick`; returns the exit code.

    Args:
        folder: of the rows.
        data: not read; everything is made here.
        is_quick: small sizes.
    """
    if not torch.cuda.is_available():
        built = "was built without CUDA" if torch.version.cuda is None else "sees no CUDA device"
        print(f"fieldforge: bench gpu: needs a CUDA device, and PyTorch {torch.__version__} {built}", file=sys.stderr)
        return 1
    device = torch.device("cuda", torch.cuda.current_device())
    found, is_right = measure(CudaClock(device), SMALL if is_quick else Sizes(), name=about(device))
    if not is_quick:
        say(f"rows: {save(folder, 'gpu', found)}")
        guests.remember(torch.cuda.get_device_name(device), fastest(found))
    say(table(found))
    return 0 if is_right else 1


def about(device: torch.device) -> str:
    """Card, memory, versions: 'NVIDIA H200, 140 GiB, CUDA 12.8, Triton 3.7.1'."""
    properties: Any = torch.cuda.get_device_properties(device)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"


def measure(
    clock: Clock,
    sizes: Sizes,
    *,
    name: str,
    seconds: float = SECONDS,
    repeats: int = REPEATS,
    compile_: Callable[[Any], Any] | None = torch.compile,
) -> tuple[list[Row], bool]:
    """All rows, and whether every version was right."""
    begun, rows, is_right = time.monotonic(), list[Row](), True
    say(name)
    with working_on(clock.device):
        for operation, verdict in correct.verdicts_of(sizes.n_correct, "cuda"):
            is_right &= verdict.is_right
            word = verdict.why_not or f"{verdict.error:.1e} off" + ("" if verdict.is_right else ", WRONG")
            say(f"{operation:16} {verdict.case:18} {verdict.maker or 'fieldforge':12} {word}")
            rows.append(Row("gpu", f"correct: {operation}, {verdict.case}", verdict.maker or "fieldforge",
                            {"n": sizes.n_correct}, 0.0, 0.0, 0.0, {"error": verdict.error}, "cuda", name))  # fmt: skip
        (copy, n_bytes), (product, flops) = work.ceilings(sizes)
        bandwidth = n_bytes / clock.time(copy, repeats).seconds
        peak = flops / clock.time(product, repeats).seconds
        del copy, product
        say(f"a copy: {bandwidth / 1e9:,.0f} GB/s; a product of matrices: {peak / 1e12:,.1f} Tflop/s")
        rows.append(
            Row("gpu", "ceilings", "torch", {}, 0.0, 0.0, 0.0, {"bandwidth": bandwidth, "flops": peak}, "", name)
        )
        for case in work.cases(sizes, compile_):
            if time.monotonic() - begun > seconds:
                say(f"{case.name}: left out, {seconds:.0f} s are over")
                continue
            for candidate in case.candidates():
                timing = _timed(clock, candidate, repeats)
                if isinstance(timing, str):
                    say(f"{case.name}: {candidate.name}: {timing}")
                    continue
                rows.append(_row(case, candidate.name, timing, bandwidth, peak, name))
                say(f"{case.name}: {candidate.name}: {rows[-1].rate:,.0f} a second")
    return rows, is_right


def _timed(clock: Clock, candidate: Candidate, repeats: int) -> Timing | str:
    try:
        with timed(candidate):
            return clock.time(candidate.work, repeats)
    except Exception as error:  # one that cannot is left out aloud; the others are measured
        return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _row(case: work.Case, candidate: str, timing: Timing, bandwidth: float, peak: float, name: str) -> Row:
    quality = {"peak_bytes": float(timing.peak_bytes)}
    if case.n_bytes:
        quality["share_of_bandwidth"] = case.n_bytes / timing.seconds / bandwidth
    if case.flops:
        quality["share_of_flops"] = case.flops / timing.seconds / peak
    rate = case.rows / timing.seconds
    return Row(
        "gpu", case.name, candidate, {"rows": case.rows}, timing.seconds, timing.spread, rate, quality, "cuda", name
    )


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
    """Of what was timed, each beside eager PyTorch."""
    eager = {row.case: row.rate for row in rows if row.candidate == "eager"}
    cells = [
        [
            row.case, row.candidate, f"{row.rate / 1e6:,.1f} M/s", f"{row.seconds * 1e3:.3f} ms",
            f"{row.rate / eager[row.case]:.2f}x" if row.case in eager else "", _percent(row, "share_of_bandwidth"),
            _percent(row, "share_of_flops"), f"{(row.quality or {}).get('peak_bytes', 0) / 2**20:,.0f} MiB",
        ]
        for row in rows
        if row.seconds
    ]  # fmt: skip
    headings = ["case", "who", "rate", "median", "beside eager", "of bandwidth", "of matrices", "memory"]
    return markdown(headings, cells)


def _percent(row: Row, name: str) -> str:
    share = (row.quality or {}).get(name)
    return "" if share is None else f"{share:.1%}"
