"""Kinds of networks at equal parameters, after equal steps and after equal time.

A picture of 128 pixels a side behind the same Fourier features for all, or behind the same small grid for the two heads
that need one, and two functions of two numbers that have a formula. Sizes are chosen so that numbers of parameters
agree; the learning rate is the best of three on another picture, or another function; all run as plain PyTorch
modules, on one thread. A run goes on until both its steps and its CPU seconds are over, and is looked at when each is:
learning rates are constant, so that both looks are fair. The looks themselves are not in the time.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fieldforge.apps.bench.harness import Row, markdown, say
from fieldforge.apps.fit.loop import PlainStep
from fieldforge.apps.fit.optimizers.base import Parameters
from fieldforge.apps.fit.recipe import adam
from fieldforge.apps.fit.stages import Stages
from fieldforge.apps.images import read_image
from fieldforge.registry import build

DATA = Path("../shared/data")
SIDE = 128
BATCH = 1024
RATES = (1e-3, 3e-3, 1e-2)
N_SEEDS = 3
Config = dict[str, Any]
FEATURES: Config = {"otype": "RandomFourier", "n_features": 32, "sigma": 6.0}
GRID: Config = {"otype": "HashGrid", "n_levels": 8, "log2_hashmap_size": 10, "base_resolution": 8}
GRID |= {"per_level_scale": 1.4}
RAW: Config = {"otype": "Identity", "scale": 2.0, "offset": -1.0}


@dataclass(frozen=True)
class Arm:
    """A network, and the key that is moved until its parameters are as many as wanted."""

    config: Config
    key: str = "n_neurons"
    encoding: Config = field(default_factory=lambda: FEATURES)


def _networks(n_hidden_layers: int, d_wide: int, d_narrow: int, activation: str) -> dict[str, Arm]:
    """What is compared everywhere."""
    layers = {"n_hidden_layers": n_hidden_layers}
    blocks = {"otype": "ResidualMLP", "n_blocks": 2}
    return {
        "MLP": Arm({"otype": "MLP", "activation": activation, "has_bias": True, **layers}),
        "FAN": Arm({"otype": "FAN", **layers}),
        "KAN": Arm({"otype": "KAN", "n_hidden_layers": 1, "update_every": 20, "update_until": 50}),
        "SplineMLP, noise": Arm({"otype": "SplineMLP", **layers}),
        "SplineMLP, SiLU": Arm({"otype": "SplineMLP", "initial": "silu", **layers}),
        "conventional": Arm({**blocks, "n_neurons": d_narrow}, "n_inner"),
        "hourglass": Arm({**blocks, "n_neurons": d_wide}, "n_inner"),
    }


OF_PICTURES = _networks(2, 80, 32, "ReLU") | {
    "grid + MLP": Arm({"otype": "MLP", "has_bias": True, "n_hidden_layers": 2}, encoding=GRID),
    "grid + RBF": Arm({"otype": "RBF"}, encoding=GRID),
    "grid + RBF, spread": Arm({"otype": "RBF", "initial": "spread", "feature_std": 0.1}, encoding=GRID),
}
OF_FUNCTIONS = {name: Arm(arm.config, arm.key, RAW) for name, arm in _networks(2, 40, 12, "GELU").items()}
FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "exp(sin πx + y²)": lambda x, y: torch.exp(torch.sin(math.pi * x) + y**2),
    "x y": lambda x, y: x * y,
    "sin(2x) cos(y) / (1 + x²)": lambda x, y: torch.sin(2 * x) * torch.cos(y) / (1 + x**2),
}
TUNED_ON = "sin(2x) cos(y) / (1 + x²)"


@dataclass(frozen=True)
class Work:
    """What is fitted: values at points of the unit cube, to train on and to be measured at."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    arms: dict[str, Arm]
    target: int
    """Parameters."""
    steps: int
    seconds: float


@dataclass(frozen=True)
class Look:
    """Mean squared error after the steps and after the time, how many steps the time was, how many parameters."""

    at_steps: float
    at_time: float
    steps_in_time: int
    n_parameters: int


def picture(path: Path, side: int, steps: int, seconds: float) -> Work:
    """A picture, averaged down to so many pixels a side; measured where it is trained."""
    pixels = torch.from_numpy(read_image(path).rows(0, 10**6)).float()
    small = functional.interpolate(pixels.permute(2, 0, 1)[None, :3], size=(side, side), mode="area")[0]
    at = (torch.arange(side) + 0.5) / side
    places = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1).view(-1, 2)
    both = places, small.permute(1, 2, 0).reshape(-1, 3).contiguous()
    return Work(both, both, OF_PICTURES, 8500, steps, seconds)


def function(name: str, steps: int, seconds: float) -> Work:
    """A function on [-1, 1]², values brought to mean 0 and variance 1; measured on a lattice of its own."""
    of = FUNCTIONS[name]
    generator = torch.Generator().manual_seed(0)
    train = torch.rand(4096, 2, generator=generator)
    at = torch.linspace(0.005, 0.995, 50)
    test = torch.cartesian_prod(at, at)
    values = [of(*(2 * x - 1).unbind(-1))[:, None] for x in (train, test)]
    mean, std = values[0].mean(), values[0].std()
    first, second = ((value - mean) / std for value in values)
    return Work((train, first), (test, second), OF_FUNCTIONS, 1000, steps, seconds)


def sized(arm: Arm, n_in: int, n_out: int, target: int) -> Config:
    """The configuration whose number of parameters is nearest to the target."""

    def count(n: int) -> int:
        with torch.device("meta"):
            network = build("network", arm.config | {arm.key: n}, n_input_dims=n_in, n_output_dims=n_out)
        return sum(parameter.numel() for parameter in network.parameters())

    low = 4 if arm.config["otype"] == "FAN" else 1
    high = low
    while count(high) < target:
        high *= 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < target else (low, middle)
    best = min((low, high), key=lambda n: abs(count(n) - target))
    return arm.config | {arm.key: best}


def train(work: Work, arm: Arm, rate: float, seed: int) -> Look:
    """One run."""
    generator = torch.Generator().manual_seed(seed)
    points, values = work.train
    encoding = build("encoding", arm.encoding, n_input_dims=2, generator=generator)
    sizes = {"n_input_dims": encoding.n_output_dims, "n_output_dims": values.shape[1]}
    config = sized(arm, encoding.n_output_dims, values.shape[1], work.target)
    network = build("network", config, generator=generator, **sizes)
    whole = nn.Sequential(encoding, network)
    optimizer = build("optimizer", adam(rate), parameters=Parameters.of(whole, [network]))

    def draw(step: int) -> tuple[Tensor, Tensor]:
        index = torch.randint(len(points), (BATCH,), generator=generator)
        return points[index], values[index]

    def error() -> float:
        with torch.no_grad():
            return float((whole(work.test[0]) - work.test[1]).square().mean())

    step = PlainStep(query=whole, draw=draw, loss=build("loss", "L2"), optimizer=optimizer)
    stages, spent, n_done = Stages(whole), 0.0, 0
    at_steps = at_time = math.nan
    steps_in_time = 0
    while n_done < work.steps or not steps_in_time:
        start = time.process_time()
        with stages.at(n_done, work.steps):
            step(n_done, 1.0)
        spent, n_done = spent + time.process_time() - start, n_done + 1
        if n_done == work.steps:
            at_steps = error()
        if spent >= work.seconds and not steps_in_time:
            at_time, steps_in_time = error(), n_done
    return Look(at_steps, at_time, steps_in_time, sum(one.numel() for one in network.parameters()))


def tuned(work: Work, arm: Arm, rates: Sequence[float]) -> float:
    """The rate with the least error after the steps; a failure counts as the worst."""
    errors = {rate: train(work, arm, rate, 0).at_steps for rate in rates}
    return min(errors, key=lambda rate: errors[rate] if math.isfinite(errors[rate]) else math.inf)


def compared(name: str, work: Work, rates: dict[str, float], is_quick: bool) -> list[Row]:
    """All networks on one work, with the rates that another one likes."""
    rows = []
    decibels = work.target > 4000  # of a picture; of a function the root of the mean square
    for candidate, arm in work.arms.items():
        rate = rates[candidate]
        looks = [train(work, arm, rate, seed) for seed in range(1 if is_quick else N_SEEDS)]
        quality: dict[str, float] = {"parameters": looks[0].n_parameters, "rate": rate}
        for when in ("at_steps", "at_time"):
            errors = [getattr(look, when) for look in looks]
            figures = [-10 * math.log10(e) if decibels else math.sqrt(e) for e in errors]
            quality |= {when: round(statistics.median(figures), 5)}
            quality |= {f"{when}_low": round(min(figures), 5), f"{when}_high": round(max(figures), 5)}
        pace = statistics.median(look.steps_in_time for look in looks)
        quality["steps_in_time"] = pace
        sizes = {"steps": work.steps, "seconds": work.seconds, "unit": "dB" if decibels else "rmse"}
        one_step, pixels = work.seconds / pace, BATCH * pace / work.seconds
        rows.append(Row("methods", f"networks: {name}", candidate, sizes, one_step, 0.0, pixels, quality=quality))
        say(f"{name:18} {candidate:20} {quality['at_steps']:8.4g} after {work.steps} steps  "
            f"{quality['at_time']:8.4g} after {work.seconds} s ({pace:.0f} steps)  rate {rate:g}, "
            f"{looks[0].n_parameters} parameters")  # fmt: skip
    return rows


def measure(part: str, data: Path | None, *, is_quick: bool) -> Iterator[list[Row]]:
    """All networks on each work; rates are tuned on `coffee.png` of images/skimage, and on a function of their own."""
    steps, seconds = (2, 0.001) if is_quick else (300, 4.0)
    own = Path("data/images/astronaut.png")
    other = own if is_quick else (data or DATA) / "images/skimage/coffee.png"
    side = 16 if is_quick else SIDE
    works = {name: function(name, steps, 0.5 * seconds) for name in FUNCTIONS if name != TUNED_ON}
    works |= {"picture": picture(own, side, steps, seconds)}
    tune = {"function": function(TUNED_ON, steps, 0.0), "picture": picture(other, side, steps, 0.0)}
    rates: dict[str, dict[str, float]] = {}
    for name in ("picture", "x y") if is_quick else works:
        kind = "picture" if name == "picture" else "function"
        if kind not in rates:
            rates[kind] = {
                candidate: RATES[0] if is_quick else tuned(tune[kind], arm, RATES)
                for candidate, arm in tune[kind].arms.items()
            }
        yield compared(name, works[name], rates[kind], is_quick)


def table(part: str, rows: Sequence[dict[str, Any]]) -> str:
    """A table for each work: after equal steps, after equal time, in the order of the latter."""
    lines: list[str] = []
    for case in dict.fromkeys(row["case"] for row in rows):
        of_case = [row for row in rows if row["case"] == case]
        sizes = of_case[0]["sizes"]
        of_picture = sizes["unit"] == "dB"
        figure = "PSNR" if of_picture else "root of the mean square error"
        headings = [case.removeprefix("networks: "), "parameters", "rate", f"{figure} after {sizes['steps']} steps",
                    f"after {sizes['seconds']:g} s of CPU time", "steps in that time"]  # fmt: skip
        cells = []
        for row in sorted(of_case, key=lambda row: row["quality"]["at_time"] * (-1 if of_picture else 1)):
            q = row["quality"]
            said = [
                (f"{q[when]:.2f} dB ({q[f'{when}_low']:.2f} to {q[f'{when}_high']:.2f})" if of_picture
                 else f"{q[when]:.3g} ({q[f'{when}_low']:.3g} to {q[f'{when}_high']:.3g})")
                for when in ("at_steps", "at_time")
            ]  # fmt: skip
            cells.append([row["candidate"], f"{q['parameters']:,}", f"{q['rate']:g}", *said,
                          f"{q['steps_in_time']:.0f}"])  # fmt: skip
        lines += [markdown(headings, cells), ""]
    return "\n".join(lines[:-1])
