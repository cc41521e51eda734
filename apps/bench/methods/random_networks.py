"""The mean frequency of networks that nobody has trained (Neural Redshift; Teney et al., CVPR 2024).

Functions of the square [-1, 1]², four hidden layers of 64 units, all weights and biases from U(-a, a): the same numbers
for each activation. The released mean frequency counts borders that do not match and misses one of the diagonals; the
windowed and the folded one repair that (`fieldforge.apps.fit.diagnostics.spectra`). What each says of a plain ramp is
its floor, and of white noise the ceiling.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fieldforge.apps.bench.harness import Row, markdown, say
from fieldforge.apps.fit.diagnostics.spectra import FREQUENCIES, mean_frequency
from fieldforge.fields.kinds.image import ImageField

SIDE = 96
N_SEEDS = 10
AMPLITUDES = (0.3, 1.0, 3.0, 10.0)
STANDARD = 3.0
"""The amplitude of the comparison."""
ACTIVATIONS: dict[str, Any] = {
    "ReLU": "ReLU",
    "tanh": "Tanh",
    "Gaussian": {"otype": "Gaussian", "scale": 1.0},
    "sine": {"otype": "Sine", "omega": 1.0},
}
"""In the order of the paper, from low to high."""


def measure(part: str, data: Path | None, *, is_quick: bool) -> Iterator[list[Row]]:
    """Every activation at every amplitude, and the ends of the scale."""
    side, n_seeds = (12, 2) if is_quick else (SIDE, N_SEEDS)
    for amplitude in AMPLITUDES:
        rows = []
        for name, activation in ACTIVATIONS.items():
            start = time.process_time()
            found = [mean_frequencies(random_picture(activation, amplitude, seed, side)) for seed in range(n_seeds)]
            rows.append(_row(f"redshift: {amplitude:g}", name, found, side, time.process_time() - start))
        yield rows
    ramp, noise = np.broadcast_to(np.linspace(-1, 1, side), (side, side)), np.random.default_rng(0)
    ends = {"plain ramp": [ramp], "white noise": [noise.standard_normal((side, side)) for _ in range(n_seeds)]}
    yield [
        _row("redshift: ends", name, [mean_frequencies(one) for one in values], side, 0.0)
        for name, values in ends.items()
    ]


@torch.no_grad()
def random_picture(activation: Any, amplitude: float, seed: int, side: int) -> np.ndarray:
    """(side, side): a network with weights and biases from U(-amplitude, amplitude), on pixel centres of [-1, 1]²."""
    network = {"otype": "MLP", "n_neurons": 64, "n_hidden_layers": 4, "activation": activation, "has_bias": True}
    encoding = {"otype": "Identity", "scale": 2.0, "offset": -1.0}
    field = ImageField(encoding=encoding, network=network, width=side, height=side, n_channels=1)
    drawn = torch.Generator().manual_seed(seed)
    for parameter in field.parameters():
        parameter.uniform_(-amplitude, amplitude, generator=drawn)
    index = torch.arange(side * side)
    places = torch.stack([index % side, index // side], -1) + 0.5
    values: np.ndarray = field.color(places).view(side, side).numpy()
    return values


def mean_frequencies(values: np.ndarray) -> dict[str, float]:
    """By each of the three ways."""
    return {way: mean_frequency(values, way) for way in FREQUENCIES}


def _row(case: str, name: str, found: Sequence[dict[str, float]], side: int, seconds: float) -> Row:
    by_way = {way: [round(one[way], 5) for one in found] for way in FREQUENCIES}
    means = {way: statistics.mean(values) for way, values in by_way.items()}
    say(f"{case:14} {name:12} " + "  ".join(f"{way} {value:.3f}" for way, value in means.items()))
    return Row("methods", case, name, {"side": side, "seeds": by_way}, seconds, 0.0, 0.0, quality=means)


def table(part: str, rows: Sequence[dict[str, Any]]) -> str:
    """Three measures at the standard amplitude, with the deviation over seeds; the folded one at the others."""
    found = {(row["case"].removeprefix("redshift: "), row["candidate"]): row for row in rows}
    others = [amplitude for amplitude in AMPLITUDES if amplitude != STANDARD]
    headings = ["activation", *(f"{way}, a = {STANDARD:g}" for way in FREQUENCIES),
                *(f"folded, a = {amplitude:g}" for amplitude in others)]  # fmt: skip
    cells = []
    for name in ACTIVATIONS:
        seeds = found[f"{STANDARD:g}", name]["sizes"]["seeds"]
        cell = [f"{statistics.mean(seeds[way]):.3f} ± {statistics.stdev(seeds[way]):.3f}" for way in FREQUENCIES]
        cell += [f"{found[f'{amplitude:g}', name]['quality']['folded']:.3f}" for amplitude in others]
        cells.append([name, *cell])
    for name in ("plain ramp", "white noise"):
        quality = found["ends", name]["quality"]
        cells.append([name, *(f"{quality[way]:.3f}" for way in FREQUENCIES), *([""] * len(others))])
    seeds = {name: found[f"{STANDARD:g}", name]["sizes"]["seeds"] for name in ACTIVATIONS}
    counts = {way: orders([seeds[name][way] for name in ACTIVATIONS]) for way in FREQUENCIES}
    n_seeds = len(seeds["ReLU"]["folded"])
    said = ", ".join(f"{way} in {count}" for way, count in counts.items())
    return f"{markdown(headings, cells)}\n\nThe whole order holds of {n_seeds} seeds: {said}."


def orders(columns: Sequence[Sequence[float]]) -> int:
    """In how many places each column is above the one before.

    Example:
        >>> orders([[1, 1], [2, 0], [3, 3]])
        1
    """
    return sum(all(a < b for a, b in pairwise(values)) for values in zip(*columns, strict=True))
