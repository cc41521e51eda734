"""The tables of the suite 'weights'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

WORDS = {
    "ten": "10 starts of each digit", "three": "3 starts of each digit", "shared": "one start for all (control)",
    "preset": "`preset`, one start", "random": "small, starts of their own",
    "lazy": "8 x 8 pixels, one start, short fits",
}  # fmt: skip


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """Classification, then embeddings, in Markdown."""
    told = [row for row in rows if "accuracy" in row["quality"]]
    drawn = [row for row in rows if "gain" in row["quality"]]
    lines = [_line(["training set", "network", "seed", "right", "95 %", "permuted", "fields seen", "training"])]
    lines.append(_line(["---"] * 8))
    for row in told:
        q, sizes = row["quality"], row["sizes"]
        lines.append(
            _line([WORDS[row["case"]], row["candidate"], str(sizes["seed"]), f"{q['accuracy']:.1%}",
                   f"{q['low']:.1%} to {q['high']:.1%}", f"{q['permuted']:.1%}",
                   f"{sizes['n_training'] * sizes['epochs'] / 1000:.0f} k", f"{q['wall_seconds']:.0f} s"])
        )  # fmt: skip
    lines += ["", _line(["fields", "steps", "drawn again", "mean field", "gain", "nearest alike", "by raw weights"])]
    lines.append(_line(["---"] * 7))
    for row in drawn:
        q = row["quality"]
        what = "small, one start" if row["candidate"] == "shared" else WORDS[row["candidate"]]
        steps = row["sizes"].get("steps", 1500)
        lines.append(
            _line([what, str(steps), f"{q['psnr']:.2f} dB", f"{q['psnr_of_mean_field']:.2f} dB", f"{q['gain']:+.2f} dB",
                   f"{q['retrieval']:.1%}", f"{q['raw_weights']:.1%}"])
        )  # fmt: skip
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
