"""``fieldforge bench cpu``: the machine's limits, and every native CPU kernel against plain PyTorch and its floor.

Each work is done by idiomatic PyTorch (`peers.py`) and by the native kernels, on one thread, taking turns; a figure is
the median of the CPU time of the process. Ratios are against Adam(fused=True), and beside it torch's default Adam. The
fraction of the floor (`floors.py`) says how far the kernel is from what this core could do at all. A figure below 60 %
of its target misses its gate, and the command ends with exit code 1.

± is half the range of the ratio over the turns; a work where it is more than 12.5 % is measured again, and the quieter
of the two runs counts.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from fieldforge.apps.bench.cpu.fields import Targets, grid_work, network_work
from fieldforge.apps.bench.cpu.rays import composite_work, march_work
from fieldforge.apps.bench.cpu.stacks import stack_work
from fieldforge.apps.bench.cpu.table import failures, limits_line, lines, memory_line
from fieldforge.apps.bench.cpu.work import OURS, Work, measure
from fieldforge.apps.bench.harness import Row, one_thread, save, say
from fieldforge.checks import expect_choice
from fieldforge.kernels import cpu_door, cpu_limits

WORKS = ("W1", "W2", "W3", "W4", "W5", "astronaut")
BOTH = ("inference", "step")
W1: Targets = {"inference": (30, 0.75), "step": (18, 0.70)}
W1_LARGE: Targets = {"inference": (20, None), "step": (20, None)}
W2: Targets = {"inference": (45, 0.65), "step": (30, 0.60)}
W3: Targets = {"inference": (4, 0.90), "step": (3.5, 0.82)}
W3_BFLOAT16: Targets = {"inference": (8, None), "step": (6, None)}
W4: Targets = {"inference": (15, 0.55), "step": (12, 0.60)}

Case = tuple[str, Callable[[], Work]]
"""What it is called, and what makes it."""


def run(folder: Path, *, is_quick: bool, only: Sequence[str] = (), repeats: int | None = None) -> int:
    """Measure and print; a whole run of full size appends its rows.

    Returns:
        The exit code: 1 if a figure misses its gate (quick runs have none), else 0.

    Raises:
        ValueError: an unknown work in `only`; or ours and plain PyTorch do not compute the same.
        RuntimeError: there are no native kernels here.
    """
    rows = rows_of_run(is_quick=is_quick, only=only, repeats=repeats)
    if not is_quick and not only:
        say(f"rows: {save(folder, 'cpu', rows)}")
    missed = failures([asdict(row) for row in rows])
    for sentence in missed:
        say(f"gate missed: {sentence}")
    return 1 if missed else 0


def rows_of_run(*, is_quick: bool, only: Sequence[str] = (), repeats: int | None = None) -> list[Row]:
    """Measure, print as it goes and the table at the end."""
    wanted = [expect_choice("only", name, WORKS) for name in only] or list(WORKS)
    cpu_door.native()
    repeats = repeats or (2 if is_quick else 5)
    rows: list[Row] = []
    with one_thread():
        limits = cpu_limits.measure(seconds=0.002, repeats=1) if is_quick else cpu_limits.measure()
        sizes = asdict(limits) | {"instruction_set": cpu_door.native().instruction_set(), "load": os.getloadavg()}
        rows.append(Row("cpu", "limits", "this processor", sizes, 0.0, 0.0, 0.0))
        say(limits_line(asdict(rows[0])))
        for name, make in cases(is_quick=is_quick):
            if name.split()[0] not in wanted:
                continue
            found = measure(
                name, make(), limits, repeats=repeats, n_runs=1 if is_quick else 2, has_targets=not is_quick
            )
            _say_case(found)
            rows += found
        if "astronaut" in wanted:
            from fieldforge.apps.bench.cpu.astronaut import rows_of_fit

            found = rows_of_fit(is_quick=is_quick)
            _say_case(found)
            rows += found
    _say_table(rows)
    return rows


def cases(*, is_quick: bool) -> list[Case]:
    """All but the astronaut, in the order of the table; bfloat16 where the processor multiplies in it."""
    has_bf16 = cpu_door.native().has_bf16()
    small, large, table, large_table = (2**9, 2**10, 10, 12) if is_quick else (2**16, 2**18, 17, 19)
    few, many = (8, 64) if is_quick else (512, 4096)
    wide = (64, 64, 3) if is_quick else (256, 256, 256, 256, 3)
    found: list[Case] = []
    for n, log2_size, targets in ((small, table, W1), (large, table, W1), (small, large_table, W1_LARGE)):
        for one in BOTH:
            made = _later(grid_work, one, 2, log2_size, n, 3, targets)
            found.append((f"W1 {one}, 2-D, T={_power(log2_size)}, N={_power(n)}", made))
    for one in BOTH:
        made = _later(grid_work, one, 3, table, small, 16, W2)
        found.append((f"W2 {one}, 3-D, T={_power(table)}, N={_power(small)}", made))
    for activation in ("ReLU", "Sine"):
        for one in BOTH:
            name = f"W3 {one}, {activation}, N={_power(small)}"
            found.append((name, _later(network_work, one, activation, wide, small, W3)))
            if has_bf16:
                half = _later(network_work, one, activation, wide, small, W3_BFLOAT16, "bfloat16")
                found.append((f"{name}, bfloat16", half))
    for n_networks in (few, many):
        for one in BOTH:
            made = _later(stack_work, one, n_networks, large, W4)
            found.append((f"W4 {one}, {n_networks} networks, N={_power(large)}", made))
    n_rays = 64 if is_quick else 4096
    for one in BOTH:
        found.append((f"W5 {_COMPOSITING[one]}, {_power(large)} samples", _later(composite_work, one, n_rays, large)))
    found.append((f"W5 march, {n_rays} rays", _later(march_work, n_rays, 16 if is_quick else 128)))
    return found


_COMPOSITING = {"inference": "compositing", "step": "compositing and back"}


def _later(make: Callable[..., Work], *arguments: object) -> Callable[[], Work]:
    return lambda: make(*arguments)


def _power(n: int) -> str:
    """2^n where it is one (a table's size comes as its logarithm)."""
    return f"2^{n.bit_length() - 1}" if n > 64 else f"2^{n}"


def _say_case(rows: Sequence[Row]) -> None:
    for cells in lines([asdict(row) for row in rows])[1:]:
        say("  ".join(cell for cell in cells if cell))


def _say_table(rows: Sequence[Row]) -> None:
    as_mappings = [asdict(row) for row in rows]
    cells = lines(as_mappings)
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    say("")
    for row in cells:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for mapping in as_mappings:
        if mapping["candidate"] == "memory":
            say(memory_line(mapping))
    noises = [row.quality["noise"] for row in rows if row.candidate == OURS and row.quality]
    if noises:
        say(f"± of the ratios: {50 * statistics.median(noises):.1f} % in the middle, {50 * max(noises):.0f} % at worst")
