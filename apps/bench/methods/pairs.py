"""PREF, CAM, RBF heads and PINs, each beside its own baselines at equal parameters.

    PREF    spectra of a plane or of three, against the same plane or volume kept as values, and a hash grid
    CAM     scales and shifts by place, against the plain network of the same random frequencies; and halves of CAM
    RBF     one layer of Gaussians behind a hash grid, against an MLP behind the same one
    PINs    a stack of networks of more and more octaves, against one network of all octaves

On five pictures and two shapes, after equal steps. Every arm has as many parameters as the hash grid with its MLP, as
far as whole sizes allow; of an RBF head and an MLP the grid is the same and the heads are equal. The learning rate of
each arm is the best on another picture, or another shape, after half of the steps: of three, and of more beyond an end
of them if that is the best. Half of PREF's numbers say nothing, as what they stand for is real: an arm with twice as
many is as free as the others.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fieldforge.apps.bench.harness import Row, folder_of, markdown, say
from fieldforge.apps.bench.methods.training import (
    Signal,
    Trained,
    best_of,
    best_rate,
    noise,
    picture,
    shape,
    train,
    with_optimizer,
)
from fieldforge.apps.compare.methods import Method
from fieldforge.apps.compare.size import parameters_of, sized
from fieldforge.apps.fit.recipe import Config, adam
from fieldforge.fields.networks.pins import PINs

PICTURES = ("skimage/astronaut.png", "skimage/camera.png", "skimage/chelsea.png", "kodak/kodim01.png",
            "kodak/kodim20.png")  # fmt: skip
TUNED_ON = "skimage/coffee.png"
SHAPES = ("torus", "spot.obj")
SHAPE_TUNED_ON = "fandisk.obj"
SIDE = 128
N_POINTS = 2**15
N_STEPS = 500
OF_GRIDS, OF_NETWORKS = adam(1e-2, beta2=0.99, epsilon=1e-15), adam(3e-3)
HEAD: Config = {"otype": "MLP", "n_neurons": 64, "n_hidden_layers": 2}
WIDE: Config = {"otype": "MLP", "n_neurons": 64, "n_hidden_layers": 3, "has_bias": True}
Grows = tuple[str, tuple[int, int]]
IN_WIDTH: Grows = ("network.n_neurons", (4, 512))
STANDARD = "hash grid, MLP"
"""The arm whose number of parameters the others have."""
PAIRS: dict[str, tuple[str, ...]] = {
    "PREF": ("dense grid", STANDARD),
    "PREF, twice the numbers": ("dense grid", STANDARD),
    "CAM": ("Fourier features", "norm only"),
    "CAM without norm": ("Fourier features",),
    "hash grid, RBF": (STANDARD,),
    "hash grid, RBF spread": (STANDARD,),
    "PINs": ("all octaves",),
    "PINs, one by one": ("all octaves",),
}
"""Method -> what it is held against."""


@dataclass(frozen=True)
class Arm:
    """Sections of a configuration, and the key that makes it larger; times how many of the standard's parameters."""

    config: Config
    size: str
    sizes: tuple[int, int]
    times: float


def arms_of(n_dims: int) -> dict[str, Arm]:
    """All arms for pictures (2) or shapes (3)."""
    is_flat = n_dims == 2
    levels = {"n_levels": 8, "log2_hashmap_size": 10 if is_flat else 11, "base_resolution": 8 if is_flat else 4}
    hashed = {"otype": "HashGrid", "n_features_per_level": 2, "per_level_scale": 1.4} | levels
    dense = {"otype": "DenseGrid", "n_levels": 1, "base_resolution": 16, "n_features_per_level": 4}
    phasors = {"otype": "PREF", "resolution": 16, "n_features": 4, "n_reduced": 1 if is_flat else 4}
    features = {"otype": "RandomFourier", "n_features": 64, "sigma": 10.0 if is_flat else 3.0}
    octaves = {"otype": "Frequency", "n_frequencies": 7 if is_flat else 6}
    modulation = {"otype": "CAM", "resolution": 16 if is_flat else 8}
    still = {"otype": "CAM", "resolution": 2, "learning_rate_factor": 0.0}  # scales of 1 and shifts of 0 that stay
    stack = {"otype": "PINs", "n_levels": 4 if is_flat else 3, "n_neurons": 48, "n_hidden_layers": 2}

    def of(encoding: Config, network: Config, optimizer: Config, grows: Grows = IN_WIDTH, times: float = 1.0) -> Arm:
        return Arm({"encoding": encoding, "network": network, "optimizer": optimizer}, *grows, times)

    cells, side = ("encoding.base_resolution", (2, 256)), ("encoding.resolution", (2, 256))
    return {
        STANDARD: of(hashed, HEAD, OF_GRIDS, ("network.n_neurons", (64, 64))),
        "dense grid": of(dense, HEAD, OF_GRIDS, cells),
        "PREF": of(phasors, HEAD, OF_GRIDS, side),
        "PREF, twice the numbers": of(phasors, HEAD, OF_GRIDS, side, 2.0),
        "Fourier features": of(features, WIDE, OF_NETWORKS),
        "norm only": of(features, WIDE | {"modulation": still}, OF_NETWORKS),
        "CAM without norm": of(features, WIDE | {"modulation": modulation | {"norm": "none"}}, OF_NETWORKS),
        "CAM": of(features, WIDE | {"modulation": modulation}, OF_NETWORKS),
        "hash grid, RBF": of(hashed, {"otype": "RBF", "n_neurons": 64}, OF_GRIDS),
        "hash grid, RBF spread": of(
            hashed, {"otype": "RBF", "n_neurons": 64, "initial": "spread", "feature_std": 0.1}, OF_GRIDS
        ),
        "all octaves": of(octaves, WIDE | {"n_hidden_layers": 4}, OF_NETWORKS),
        "PINs": of(octaves, stack, OF_NETWORKS),
        "PINs, one by one": of(octaves, stack | {"progressive": True}, OF_NETWORKS),
    }  # fmt: skip


def measure(part: str, data: Path | None, *, is_quick: bool) -> Iterator[list[Row]]:
    """All arms on each picture and shape, after rates were found on another."""
    if is_quick:
        for signal in (noise(16), shape("torus", 256)):
            yield compared(signal, {arm: {1e-3: 0.0} for arm in arms_of(2)}, 2)
        return
    folder = folder_of(data)
    images, meshes = folder / "images", folder / "meshes"
    rates = tuned(picture(images / TUNED_ON, SIDE))
    for name in PICTURES:
        yield compared(picture(images / name, SIDE), rates, N_STEPS)
    rates = tuned(shape(meshes / SHAPE_TUNED_ON, N_POINTS))
    for name in SHAPES:
        yield compared(shape(meshes / name if "." in name else name, N_POINTS), rates, N_STEPS)


def sized_arms(signal: Signal) -> dict[str, Config]:
    """The configuration of every arm, as large as the standard one."""
    arms = arms_of(signal.train[0].shape[-1])
    wanted = parameters_of(signal, arms[STANDARD].config)
    return {
        name: sized(signal, arm.config, Method("", size=arm.size, sizes=arm.sizes), round(arm.times * wanted))
        for name, arm in arms.items()
    }


def tuned(signal: Signal) -> dict[str, dict[float, float]]:
    """Decibels by learning rate, for each arm."""
    found = {}
    for name, config in sized_arms(signal).items():

        def score(rate: float, config: Config = config) -> float:
            trained = train(signal, with_optimizer(config, config["optimizer"], rate), N_STEPS // 2, seed=1)
            return signal.decibels(trained.field)

        found[name] = best_of(score, config["optimizer"]["learning_rate"])
        told = ", ".join(f"{rate:g}: {value:.2f}" for rate, value in sorted(found[name].items()))
        say(f"pairs tune {signal.name:10} {name:24} {told}")
    return found


def compared(signal: Signal, rates: Mapping[str, Mapping[float, float]], n_steps: int) -> list[Row]:
    """A row for each arm, and of PINs also what the levels say."""
    rows = []
    for name, config in sized_arms(signal).items():
        rate = best_rate(rates[name])
        config = with_optimizer(config, config["optimizer"], rate)
        trained = train(signal, config, n_steps)
        figures = {"decibels": signal.decibels(trained.field), "rate": rate}
        figures["parameters"] = parameters_of(signal, config)
        if not signal.is_picture:
            figures["iou"] = overlap(signal.answers(trained.field), signal.test[1])
        elif name.startswith("PINs"):
            figures |= levels_of(signal, trained)
        sizes = {"config": config, "n_steps": n_steps, "is_picture": signal.is_picture,
                 "rates": {f"{tried:g}": round(value, 3) for tried, value in rates[name].items()}}  # fmt: skip
        say(f"pairs {signal.name:10} {name:24} {figures['decibels']:6.2f} dB  {figures['parameters']:7,} parameters  "
            f"rate {rate:g}  {trained.seconds:6.2f} s {'' if trained.why_plain else 'native'}")  # fmt: skip
        backend = "plain" if trained.why_plain else "native"
        rows.append(Row("methods", f"pairs: {signal.name}", name, sizes, trained.seconds, 0.0, 0.0, quality=figures,
                        backend=backend))  # fmt: skip
    return rows


def overlap(said: Tensor, true: Tensor) -> float:
    """Of the points that either calls inside, the share that both do; 1 of none."""
    inside, truly = said < 0, true < 0
    either = int((inside | truly).sum())
    return int((inside & truly).sum()) / either if either else 1.0


@torch.no_grad()
def levels_of(signal: Signal, trained: Trained) -> dict[str, float]:
    """Of each level of a stack: decibels to the picture, and to the picture without what lies above the octaves that
    the level has been given; and the share of its own power that lies above them."""
    field, places = trained.field, signal.test[0]
    network = field.network
    assert isinstance(network, PINs)
    order = field.encoding.channel_order()
    assert order is not None
    height, width = signal.kind["height"], signal.kind["width"]
    true = signal.test[1].view(height, width, -1)
    figures: dict[str, float] = {}
    for level, said in enumerate(network.forward_levels(field.encoding(field.to_unit(places)))):
        octave = int(order[network.channels[: network.ends[level]]].max())
        cycles, values = 2.0 ** (octave - 1), said.view(height, width, -1)  # sin(2^k πx) turns 2^(k - 1) times
        smooth, own = low_passed(true, cycles), low_passed(values, cycles)
        spread = float((values - values.mean((0, 1))).square().sum())
        for what, target in (("picture", true), ("low_passed", smooth)):
            error = float((values - target).square().mean())
            figures[f"level_{level + 1}_{what}"] = float(-10 * torch.tensor(max(error, 1e-12)).log10())
        figures[f"level_{level + 1}_above"] = float((values - own).square().sum()) / max(spread, 1e-30)
        figures[f"level_{level + 1}_cycles"] = cycles
    return figures


def low_passed(values: Tensor, cycles: float) -> Tensor:
    """(height, width, c) without what turns more often than so many times along a side, borders mirrored."""
    height, width, _ = values.shape
    doubled = torch.cat([values, values.flip(0)])
    doubled = torch.cat([doubled, doubled.flip(1)], 1)
    spectrum = torch.fft.fft2(doubled, dim=(0, 1))
    y, x = (torch.fft.fftfreq(2 * n, 1 / (2 * n)).abs() / 2 for n in (height, width))  # of twice the side
    kept = (y[:, None] <= cycles) & (x <= cycles)
    found: Tensor = torch.fft.ifft2(spectrum * kept[..., None], dim=(0, 1)).real[:height, :width]
    return found


def table(part: str, rows: Sequence[dict[str, Any]]) -> str:
    """Pairs: differences, median and wins; arms: size, rate, time, decibels; levels of PINs."""
    return "\n\n".join([_pairs(rows), _arms(rows), _levels(rows)])


def _signals(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[str]]:
    names = dict.fromkeys((row["case"].removeprefix("pairs: "), row["sizes"]["is_picture"]) for row in rows)
    return [name for name, is_picture in names if is_picture], [name for name, is_picture in names if not is_picture]


def _by_arm(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["candidate"], row["case"].removeprefix("pairs: ")): row for row in rows}


def _pairs(rows: Sequence[dict[str, Any]]) -> str:
    pictures, shapes = _signals(rows)
    found = _by_arm(rows)
    cells = []
    for method, controls in PAIRS.items():
        for control in controls:
            by_signal = {
                name: found[method, name]["quality"]["decibels"] - found[control, name]["quality"]["decibels"]
                for name in (*pictures, *shapes)
            }
            over = [by_signal[name] for name in pictures]
            wins = f"{sum(value > 0 for value in over)} of {len(over)}"
            cells.append([method, control, f"{statistics.median(over):+.2f} dB", wins,
                          *(f"{value:+.2f}" for value in by_signal.values())])  # fmt: skip
    return markdown(["method", "held against", "median over pictures", "wins", *pictures, *shapes], cells)


def _arms(rows: Sequence[dict[str, Any]]) -> str:
    pictures, shapes = _signals(rows)
    found = _by_arm(rows)
    cells = []
    for arm in dict.fromkeys(row["candidate"] for row in rows):
        cell = [arm]
        for names in (pictures, shapes):
            of_arm = [found[arm, name] for name in names]
            first = of_arm[0]["quality"]
            decibels = [f"{row['quality']['decibels']:.1f}" for row in of_arm]
            cell += [f"{first['parameters']:,}", f"{first['rate']:g}", ", ".join(decibels),
                     f"{statistics.median(row['seconds'] for row in of_arm):.1f} s"]  # fmt: skip
        ious = ", ".join(f"{found[arm, name]['quality']['iou']:.3f}" for name in shapes)
        cells.append([*cell, ious, of_arm[0]["backend"]])
    headings = ["arm", "parameters", "rate", "PSNR of the pictures", "CPU", "of shapes: parameters", "rate",
                "decibels", "CPU", "volume IoU", "steps"]  # fmt: skip
    return markdown(headings, cells)


def _levels(rows: Sequence[dict[str, Any]]) -> str:
    """Medians over the pictures."""
    cells = []
    for arm in ("PINs", "PINs, one by one"):
        of_arm = [row["quality"] for row in rows if row["candidate"] == arm and row["sizes"]["is_picture"]]
        for level in range(1, 1 + sum(key.endswith("_above") for key in of_arm[0])):
            middle = {
                what: statistics.median(q[f"level_{level}_{what}"] for q in of_arm)
                for what in ("cycles", "picture", "low_passed", "above")
            }
            cells.append([arm, str(level), f"{middle['cycles']:g}", f"{middle['picture']:.2f} dB",
                          f"{middle['low_passed']:.2f} dB", f"{middle['above']:.1%}"])  # fmt: skip
    headings = ["stack", "level", "cycles along a side", "to the picture", "to the low-passed picture",
                "own power above"]  # fmt: skip
    return markdown(headings, cells)
