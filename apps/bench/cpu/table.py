"""The table of a run, made from its rows alone: printed at the end of a run, and in the README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fieldforge.apps.bench.cpu.work import DEFAULT, FUSED, GATE, OURS, passes

Rows = Sequence[Mapping[str, Any]]

HEADINGS = (
    "work",
    "plain PyTorch, ms: fused Adam / default",
    "ours, ms",
    "ratio",
    "target, gate",
    "of the floor",
    "target, gate",
    "±",
    "2 threads",
    "beside it",
)


def lines(rows: Rows) -> list[list[str]]:
    """Headings, then the cells of each case, in the order of the rows."""
    cases = dict.fromkeys(row["case"] for row in rows if row["candidate"] == OURS)
    return [list(HEADINGS), *([case, *_cells([row for row in rows if row["case"] == case])] for case in cases)]


def failures(rows: Rows) -> list[str]:
    """What stays below its gate, a sentence each."""
    found = []
    for row in rows:
        figures = row["quality"] if row["candidate"] == OURS else None
        for name, text in (("ratio", "{:.3g}x plain PyTorch"), ("fraction", "{:.2f} of the floor")):
            target = (figures or {}).get(f"target_{name}")
            if figures and target is not None and not passes(figures[name], target):
                found.append(f"{row['case']}: {text.format(figures[name])}, gate {text.format(GATE * target)}")
    return found


def limits_line(row: Mapping[str, Any]) -> str:
    """The machine's limits in one line."""
    one = row["sizes"]
    half = f", bfloat16 dot {one['bfloat16_dot'] / 1e9:.0f}" if one["bfloat16_dot"] else ""
    random = [
        f"{int(size) / 2**20:g} MB {one['gathers'][size] / 1e9:.2f} / {one['scatter_adds'][size] / 1e9:.2f}"
        for size in one["gathers"]
    ]
    return (
        f"One core: multiply-add {one['multiply_add'] / 1e9:.0f} GFLOP/s{half}; DRAM read "
        f"{one['dram_read'] / 1e9:.0f}, update {one['dram_update'] / 1e9:.0f}, L3 {one['l3_read'] / 1e9:.0f}, "
        f"L2 {one['l2_read'] / 1e9:.0f} GB/s; gathers / scatter-adds of 8 bytes, {', '.join(random)} G/s."
    )


def memory_line(row: Mapping[str, Any]) -> str:
    """What a fit keeps at most, against its bound."""
    figures = row["quality"]
    return (
        f"{row['case']}: {figures['peak_mib']:.0f} MiB above the program's "
        f"{figures['program_mib']:.0f}; bound {figures['bound_mib']:.0f} MiB (4 x parameters, encodings of a batch, "
        f"64 MiB): {'kept' if figures['peak_mib'] <= figures['bound_mib'] else 'NOT kept'}."
    )


def _cells(rows: Rows) -> list[str]:
    by_name = {row["candidate"]: row for row in rows}
    ours, figures = by_name[OURS], by_name[OURS]["quality"]
    plain = _milliseconds(by_name[FUSED])
    if DEFAULT in by_name:
        plain += f" / {_milliseconds(by_name[DEFAULT])}"
    ratio = f"{figures['ratio']:.3g}x"
    if "ratio_default_adam" in figures:
        ratio += f" / {figures['ratio_default_adam']:.3g}x"
    beside = [
        f"{name.removeprefix('plain PyTorch, ')}: {_milliseconds(row)} ms, {row['seconds'] / ours['seconds']:.3g}x"
        for name, row in by_name.items()
        if name not in (FUSED, DEFAULT, OURS)
    ]
    if "floor_seconds" in figures:
        beside.append(f"ratio of the floor itself: {by_name[FUSED]['seconds'] / figures['floor_seconds']:.3g}x")
    if "ratio_after_start_up" in figures:
        beside.append(
            f"start-up: plain {figures['start_up_plain']:.2g} s, ours {figures['start_up']:.2g} s; "
            f"after it {figures['ratio_after_start_up']:.3g}x"
        )
    if "psnr" in figures:
        beside.append(f"{figures['psnr']:.2f} dB, plain {figures['psnr_plain']:.2f} dB")
    return [
        plain,
        _milliseconds(ours),
        ratio,
        _gate(figures, "ratio", "x"),
        f"{figures['fraction']:.2f}" if "fraction" in figures else "",
        _gate(figures, "fraction", ""),
        f"{50 * figures['noise']:.0f} %",
        f"{figures['two_threads']:.2f}x" if "two_threads" in figures else "",
        "; ".join(beside),
    ]


def _milliseconds(row: Mapping[str, Any]) -> str:
    milliseconds = 1e3 * row["seconds"]
    return f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def _gate(figures: Mapping[str, float], name: str, unit: str) -> str:
    target = figures.get(f"target_{name}")
    if target is None:
        return ""
    return f"{target:g}{unit}, {'met' if passes(figures[name], target) else 'MISSED'}"
