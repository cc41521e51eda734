"""Shifted Gaussians and random Fourier features of the matched width (Zheng, Ramasinghe and Lucey 2021).

    rank    the stable rank of Gaussians against 1 / (2 √π width), with the ends of the interval treated in three ways
    1-D     linear heads on every second pixel of lines of a picture, solved, and trained as in the authors' notebook
    2-D     linear heads of codes that are built alike, axis by axis, and of frequencies in the plane; small networks

Widths are of the unit interval. In two dimensions it is such that samples stand as close as in the notebook, 1.28 of
them to a width. Its own networks there have 256 x 4 units and train on 256² pixels; these 64 x 4, on 128². The rate
of a network is the best on another picture.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fieldforge.apps.bench.harness import Row, folder_of, markdown, say
from fieldforge.apps.bench.methods.small import square
from fieldforge.apps.bench.methods.training import Signal, best_of, best_rate, of_picture, train, with_optimizer
from fieldforge.apps.fit.optimizers.base import Optimizer, Parameters
from fieldforge.apps.fit.recipe import Config, adam
from fieldforge.apps.images import Picture, read_image
from fieldforge.encodings.base import Encoding
from fieldforge.encodings.diagnostics import ridge, ridge_kronecker, stable_rank
from fieldforge.encodings.random_fourier import RandomFourier
from fieldforge.encodings.shifted_basis import ShiftedBasis, psi
from fieldforge.registry import build

WIDTHS = (0.1, 0.05, 0.01, 0.005)
N_SAMPLES = 1000
LINES = (158, 329, 47, 344, 257, 410, 426, 199, 295)
"""Of the picture, those of the notebook."""
LINE_WIDTH, PLANE_WIDTH = 0.005, 0.01
SIZES = (100, 200, 500, 1000, 4000)
N_DRAWS = 3
PICTURES = ("camera.png", "astronaut.png")
TUNED_ON = "coffee.png"
SIDE = 256
N_STEPS = 800
HEAD: Config = {"otype": "MLP", "n_neurons": 64, "n_hidden_layers": 4, "has_bias": True, "output_activation": "Sigmoid"}


def matched(width: float) -> float:
    """Standard deviation of the frequencies whose kernel is that of Gaussians of a width, exp(-d² / (4 width²))."""
    return 1 / (2 * math.sqrt(2) * math.pi * width)


def measure(part: str, data: Path | None, *, is_quick: bool) -> Iterator[list[Row]]:
    """Ranks, lines, planes."""
    if is_quick:
        pixels = Picture.from_array(np.random.default_rng(0).integers(0, 255, (16, 16), np.uint8))
        yield ranks((0.1,), 40)
        yield lines("noise", pixels.values(torch.arange(256)).view(16, 16), (0, 1), (8,), 2)
        yield planes("noise", pixels, (8,), {kind: 1e-3 for kind in ENCODINGS}, 2)
        return
    yield ranks(WIDTHS, N_SAMPLES)
    folder = folder_of(data) / "images/skimage"
    grey = read_image(folder / PICTURES[0])
    values = grey.values(torch.arange(grey.width * grey.height)).view(grey.height, grey.width)
    yield lines("camera", values, LINES, SIZES, 2000)
    rates = tuned(square(read_image(folder / TUNED_ON), SIDE))
    for name in PICTURES:
        yield planes(Path(name).stem, square(read_image(folder / name), SIDE), (100, 500, 1000), rates, N_STEPS)


def ranks(widths: Sequence[float], n: int) -> list[Row]:
    """Stable rank of as many samples as shifts, by what happens at the ends."""
    x = torch.linspace(0, 1, n, dtype=torch.float64)[:, None]
    around = torch.arange(n, dtype=torch.float64) / n
    rows = []
    for width in widths:
        apart = around[:, None] - around
        n_wide = round(n * (1 + 12 * width))
        generator = torch.Generator().manual_seed(0)
        features = {
            "shifts end at 0 and 1": ShiftedBasis(1, width=width, n_shifts=n)(x),
            "shifts 6 widths past the ends": ShiftedBasis(1, width=width, n_shifts=n_wide, margin=6 * width)(x),
            "around a circle": psi(apart - apart.round(), "Gaussian", width),
            "random Fourier": RandomFourier(1, n_features=n, sigma=matched(width), generator=generator)(x),
        }
        rule = 1 / (2 * math.sqrt(math.pi) * width)
        for ends, matrix in features.items():
            start = time.process_time()
            found = {"rank": stable_rank(matrix), "rule": rule}
            seconds = time.process_time() - start
            off = found["rank"] / rule - 1
            say(f"bases rank {width:6g} {ends:30} {found['rank']:8.3f}, rule {rule:8.3f}: {off:+.2%}")
            rows.append(Row("methods", "bases: rank", ends, {"width": width, "n": n}, seconds, 0.0, 0.0, quality=found))
    return rows


def lines(name: str, values: Tensor, wanted: Sequence[int], sizes: Sequence[int], n_steps: int) -> list[Row]:
    """Every second pixel of lines known, the others asked for: mean PSNR over lines and draws."""
    n = values.shape[1]
    x = torch.arange(n)[:, None] / n
    signals = values[list(wanted)].T.contiguous()  # (n, lines)
    rows = []
    for size in sizes:
        for kind in ("Gaussians", "random Fourier"):
            found: dict[str, list[float]] = {"solved": [], "trained": []}
            start = time.process_time()
            for draw in range(N_DRAWS if kind != "Gaussians" else 1):
                generator = torch.Generator().manual_seed(draw)
                features = _code(kind, size, LINE_WIDTH, generator)(x)
                known, asked = features[::2], features[1::2]
                one = torch.ones(len(known), 1)
                head = ridge(torch.cat([known, one], 1), signals[::2])
                found["solved"].append(_mean_psnr(torch.cat([asked, one], 1) @ head, signals[1::2]))
                layer = trained_layer(known, signals[::2], n_steps, generator)
                found["trained"].append(_mean_psnr(layer(asked), signals[1::2]))
            quality = {what: statistics.mean(draws) for what, draws in found.items()}
            say(f"bases lines {size:5} {kind:16} " + ", ".join(f"{what} {db:.2f} dB" for what, db in quality.items()))
            about = {"features": size, "width": LINE_WIDTH, "lines": list(wanted), "draws": found}
            rows.append(Row("methods", f"bases: lines of {name}", kind, about, time.process_time() - start, 0.0, 0.0,
                            quality=quality))  # fmt: skip
    return rows


def trained_layer(features: Tensor, values: Tensor, n_steps: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer by Adam at 1e-3 on all samples in each step, as in the notebook; a column for each signal."""
    layer = nn.Linear(features.shape[1], values.shape[1])
    with torch.no_grad():
        for parameter in layer.parameters():
            bound = 1 / math.sqrt(features.shape[1])
            parameter.uniform_(-bound, bound, generator=generator)
    parameters = Parameters.of(layer, [layer])
    optimizer: Optimizer = build("optimizer", adam(1e-3, l2_reg=1e-8), parameters=parameters)
    for _ in range(n_steps):
        optimizer.zero_grad()
        loss = (layer(features) - values).square().mean(0).sum()  # each signal by itself
        loss.backward()
        optimizer.step()
    return layer


ENCODINGS: dict[str, Any] = {
    "Gaussians": lambda size: {"otype": "ShiftedBasis", "width": PLANE_WIDTH, "n_shifts": size // 2},
    "random Fourier": lambda size: {"otype": "RandomFourier", "n_features": size // 2, "sigma": matched(PLANE_WIDTH)},
}
"""What networks read: Gaussians of both axes side by side, or frequencies in the plane; so many numbers."""


def tuned(picture: Picture) -> dict[str, float]:
    """The best rate of each kind, with 500 numbers."""
    signal, found = halved("coffee", picture), {}
    for kind, encoding in ENCODINGS.items():
        config = {"encoding": encoding(500), "network": HEAD}

        def score(rate: float, config: Config = config) -> float:
            return signal.decibels(train(signal, with_optimizer(config, adam(1.0), rate), N_STEPS, seed=1).field)

        found[kind] = best_rate(best_of(score, 1e-3))
        say(f"bases tune {kind:16} rate {found[kind]:g}")
    return found


def planes(name: str, picture: Picture, sizes: Sequence[int], rates: dict[str, float], n_steps: int) -> list[Row]:
    """Every second pixel each way known, those between both ways asked for."""
    signal, rows = halved(name, picture), []
    side = picture.width

    def row(head: str, kind: str, size: int, db: float, seconds: float, about: dict[str, Any]) -> None:
        say(f"bases {name:10} {head:22} {size:5} {kind:26} {db:6.2f} dB  {seconds:5.1f} s")
        about |= {"head": head, "features": size, "width": PLANE_WIDTH, "side": side}
        rows.append(Row("methods", f"bases: plane of {name}", kind, about, seconds, 0.0, 0.0, quality={"psnr": db}))

    index = torch.arange(side)
    at = ((index + 0.5) / side)[:, None]
    middle = signal.train[1].mean(0)  # what heads are solved for is the rest, as none of them has a bias
    grid = signal.train[1].view(side // 2, side // 2, -1) - middle
    true = signal.test[1].view(side // 2, side // 2, -1)
    for size in sizes:
        for kind in ENCODINGS:
            start, along = time.process_time(), []
            for axis in range(2):  # frequencies of each axis by themselves
                code = _code(kind, size // 2, PLANE_WIDTH, torch.Generator().manual_seed(axis))
                along.append(code(at))
            known, asked = ([code[first::2] for code in along] for first in (0, 1))
            said = asked_sum(known, asked, grid)
            row("linear, side by side", kind, size, _psnr(middle + said, true), time.process_time() - start, {})
            start = time.process_time()
            head = ridge_kronecker(known[0], known[1], grid)
            said = torch.einsum("jg,igc->ijc", asked[1], torch.einsum("if,fgc->igc", asked[0], head))
            row("linear, products", kind, size, _psnr(middle + said, true), time.process_time() - start, {})
        start = time.process_time()
        code = RandomFourier(2, n_features=size // 2, sigma=matched(PLANE_WIDTH),
                             generator=torch.Generator().manual_seed(0))  # fmt: skip
        head = ridge(code(signal.train[0] / side), signal.train[1] - middle)
        said = middle + code(signal.test[0] / side) @ head
        row("linear, plane", "random Fourier", size, _psnr(said, signal.test[1]), time.process_time() - start, {})
        for kind, encoding in ENCODINGS.items():
            config = with_optimizer({"encoding": encoding(size), "network": HEAD}, adam(1.0), rates[kind])
            trained = train(signal, config, n_steps)
            row("network", kind, size, signal.decibels(trained.field), trained.seconds, {"rate": rates[kind]})
    return rows


def asked_sum(known: Sequence[Tensor], asked: Sequence[Tensor], grid: Tensor) -> Tensor:
    """What the linear head of two codes side by side, a function of y plus one of x, says; solved on a grid (n, m, c).

    On a grid codes without their means are orthogonal: each side is solved alone, for the means of rows or of columns.
    """
    mean, parts = grid.mean((0, 1)), []
    for features, one, means in zip(known, asked, (grid.mean(1), grid.mean(0)), strict=True):
        middle = features.mean(0)
        parts.append((one - middle) @ ridge(features - middle, means - mean))
    return mean + parts[0][:, None] + parts[1][None]


def halved(name: str, picture: Picture) -> Signal:
    """Pixels of even columns and rows to train on, those of odd ones to be measured at."""
    whole = of_picture(name, picture)
    places, values = whole.train
    index = places.floor().long()
    is_known, is_asked = ((index % 2 == parity).all(-1) for parity in (0, 1))
    return replace(whole, train=(places[is_known], values[is_known]), test=(places[is_asked], values[is_asked]))


def _code(kind: str, size: int, width: float, generator: torch.Generator) -> Encoding:
    """So many numbers of one coordinate."""
    if kind == "Gaussians":
        return ShiftedBasis(1, width=width, n_shifts=size)
    return _Unit(1, n_features=size // 2, sigma=matched(width), generator=generator)


class _Unit(RandomFourier):
    """Of length 1, as the notebook divides by the largest length."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / math.sqrt(self.n_features)


@torch.no_grad()
def _psnr(said: Tensor, true: Tensor) -> float:
    error = float((said.clamp(0, 1) - true).double().square().mean())
    return -10 * math.log10(max(error, 1e-12))


def _mean_psnr(said: Tensor, true: Tensor) -> float:
    """Over the columns."""
    return statistics.mean(_psnr(said[:, i], true[:, i]) for i in range(true.shape[1]))


def table(part: str, rows: Sequence[dict[str, Any]]) -> str:
    """Ranks beside the rule; lines; planes."""
    return "\n\n".join([_ranks(rows), _lines(rows), _planes(rows)])


def _ranks(rows: Sequence[dict[str, Any]]) -> str:
    of_rank = [row for row in rows if row["case"] == "bases: rank"]
    found = {(row["sizes"]["width"], row["candidate"]): row["quality"] for row in of_rank}
    ways = list(dict.fromkeys(row["candidate"] for row in of_rank))
    cells = []
    for width in dict.fromkeys(row["sizes"]["width"] for row in of_rank):
        rule = found[width, ways[0]]["rule"]
        said = [f"{found[width, way]['rank']:.3f} ({found[width, way]['rank'] / rule - 1:+.1%})" for way in ways]
        cells.append([f"{width:g}", f"{rule:.3f}", *said])
    return markdown(["width", "rule", *ways], cells)


def _lines(rows: Sequence[dict[str, Any]]) -> str:
    of_lines = [row for row in rows if row["case"].startswith("bases: lines")]
    found = {(row["sizes"]["features"], row["candidate"]): row["quality"] for row in of_lines}
    cells = []
    for size in dict.fromkeys(row["sizes"]["features"] for row in of_lines):
        cell = [str(size)]
        for what in ("solved", "trained"):
            a, b = (found[size, kind][what] for kind in ("Gaussians", "random Fourier"))
            cell += [f"{a:.2f} dB", f"{b:.2f} dB", f"{b - a:+.2f}"]
        cells.append(cell)
    return markdown(["numbers", "solved: Gaussians", "random Fourier", "difference", "trained: Gaussians",
                     "random Fourier", "difference"], cells)  # fmt: skip


def _planes(rows: Sequence[dict[str, Any]]) -> str:
    of_plane = [row for row in rows if row["case"].startswith("bases: plane")]
    names = list(dict.fromkeys(row["case"].removeprefix("bases: plane of ") for row in of_plane))
    found = {
        (row["case"].removeprefix("bases: plane of "), row["sizes"]["head"], row["sizes"]["features"],
         row["candidate"]): row["quality"]["psnr"]
        for row in of_plane
    }  # fmt: skip
    cells = []
    for head, size in dict.fromkeys((row["sizes"]["head"], row["sizes"]["features"]) for row in of_plane):
        cell = [head, str(size)]
        for name in names:
            a, b = (found.get((name, head, size, kind), math.nan) for kind in ("Gaussians", "random Fourier"))
            cell += ["" if math.isnan(a) else f"{a:.2f} dB", f"{b:.2f} dB", "" if math.isnan(a) else f"{b - a:+.2f}"]
        cells.append(cell)
    cells.sort(key=lambda cell: list(dict.fromkeys(row["sizes"]["head"] for row in of_plane)).index(cell[0]))
    headings = [one for name in names for one in (f"{name}: Gaussians", "random Fourier", "difference")]
    return markdown(["head", "numbers", *headings], cells)
