"""Fourier reparameterisation with and without the control that it needs (Shi, Zhou and Gu, CVPR 2024).

Three backbones of four hidden layers of 128 units on pictures of 128 pixels a side. Arms:

    plain              as it is
    reparameterised    coefficients of a fixed basis are trained, W = coefficients basis
    plain, same pace   plain, and the hidden layers that would be reparameterised learn so many times as fast
    plain, same start  plain, begun with the matrices that the reparameterised network begins with (He's law, no bias)

The last two are controls, of what reparameterisation brings along. Adam moves each coefficient by itself, so that
alpha, the amplitude of the basis, acts as a factor on the learning rate of these layers. The factor is measured: how
far the first step of Adam moves the matrices of either network, on the same points. Every arm has the learning rate
that is best on another picture after half of the steps; of the reparameterised one two alphas are tried there too, the
authors' number, and the one with which alpha M / √(π n), about the factor, is that of their larger basis of M = 8192
rows and n = 256 columns.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fieldforge.apps.bench.harness import Row, folder_of, markdown, say
from fieldforge.apps.bench.methods.training import (
    Signal,
    best_of,
    noise,
    picture,
    train,
    with_optimizer,
)
from fieldforge.apps.fit.job import materialise
from fieldforge.apps.fit.recipe import Config, adam
from fieldforge.fields.kinds.base import Field
from fieldforge.fields.networks.mlp import MLP

PICTURES = ("skimage/astronaut.png", "skimage/camera.png", "kodak/kodim01.png")
TUNED_ON = "skimage/coffee.png"
SIDE = 128
N_STEPS = 600
WIDTH = 128
BASIS: Config = {"otype": "Fourier", "n_low": 64, "n_high": 64, "n_phases": 4}
M = (64 + 64) * 4
AUTHORS_M, AUTHORS_WIDTH = 8192, 256
PACED, STARTED = "plain, same pace", "plain, same start"
ARMS = ("plain", "reparameterised", PACED, STARTED)


@dataclass(frozen=True)
class Backbone:
    """A network without reparameterisation, the authors' alpha for it, and where its learning rate is looked for."""

    config: Config
    alpha: float
    rate: float


def _backbone(encoding: Config, activation: Any, alpha: float, rate: float) -> Backbone:
    network = {"otype": "MLP", "n_neurons": WIDTH, "n_hidden_layers": 4, "activation": activation, "has_bias": True}
    return Backbone({"encoding": encoding, "network": network}, alpha, rate)


PLACES: Config = {"otype": "Identity", "scale": 2.0, "offset": -1.0}
BACKBONES = {
    "ReLU": _backbone(PLACES, "ReLU", 0.05, 1e-3),
    "PE": _backbone({"otype": "Frequency", "n_frequencies": 6}, "ReLU", 0.05, 1e-3),
    "SIREN": _backbone(PLACES, {"otype": "Sine", "omega": 30.0}, 0.01, 1e-3),
}


@dataclass(frozen=True)
class Setting:
    """What an arm is trained with: the rate of all, alpha and the factor on hidden layers that it stands for."""

    rate: float
    alpha: float = 0.0
    factor: float = 1.0


def alphas(backbone: Backbone) -> tuple[float, float]:
    """The authors' own, and the one whose factor is that of their basis and width."""
    pace = backbone.alpha * AUTHORS_M / math.sqrt(math.pi * AUTHORS_WIDTH)
    return backbone.alpha, float(f"{pace * math.sqrt(math.pi * WIDTH) / M:.3g}")


def measure(part: str, data: Path | None, *, is_quick: bool) -> Iterator[list[Row]]:
    """The three arms of each backbone on each picture, after their settings were found on another."""
    if is_quick:
        signal = noise(16)
        yield compared("PE", signal, dict.fromkeys(ARMS, Setting(1e-3, 0.05, 2.0)), {}, 2)
        return
    images = folder_of(data) / "images"
    other = picture(images / TUNED_ON, SIDE)
    for name in BACKBONES:
        settings, tried = tuned(name, other)
        for one in PICTURES:
            yield compared(name, picture(images / one, SIDE), settings, tried, N_STEPS)


def tuned(name: str, signal: Signal) -> tuple[dict[str, Setting], dict[str, Any]]:
    """The setting of each arm with the best figure on a picture, and all that were tried."""
    backbone = BACKBONES[name]
    found: dict[str, Setting] = {}
    tried: dict[str, Any] = {}
    for arm in ARMS:
        settings = [Setting(0.0)]
        if arm == "reparameterised":
            settings = [Setting(0.0, alpha) for alpha in alphas(backbone)]
        elif arm == PACED:
            alpha = found["reparameterised"].alpha
            settings = [Setting(0.0, alpha, pace(name, alpha, signal))]
        scores: dict[Setting, float] = {}
        for setting in settings:

            def score(rate: float, arm: str = arm, setting: Setting = setting) -> float:
                one = replace(setting, rate=rate)
                return signal.decibels(_trained(name, arm, one, signal, N_STEPS // 2, seed=1)[0])

            by_rate = best_of(score, backbone.rate)
            scores |= {replace(setting, rate=rate): db for rate, db in by_rate.items()}
            told = ", ".join(f"{rate:g}: {db:.2f}" for rate, db in sorted(by_rate.items()))
            say(f"reparameterisation tune {name:6} {arm:18} alpha {setting.alpha:g} x {setting.factor:.2f}  {told}")
        found[arm] = max(scores, key=lambda one: scores[one])
        tried[arm] = [[one.rate, one.alpha, round(one.factor, 3), round(db, 3)] for one, db in scores.items()]
    return found, tried


def compared(
    name: str, signal: Signal, settings: Mapping[str, Setting], tried: Mapping[str, Any], n_steps: int
) -> list[Row]:
    """A row for each arm."""
    rows = []
    for arm, setting in settings.items():
        field, seconds = _trained(name, arm, setting, signal, n_steps)
        quality = {"psnr": signal.decibels(field), "rate": setting.rate, "alpha": setting.alpha}
        quality["factor"] = setting.factor
        say(f"reparameterisation {name:6} {signal.name:10} {arm:18} {quality['psnr']:6.2f} dB  {seconds:5.1f} s")
        sizes = {"tried": tried.get(arm, []), "n_steps": n_steps, "backbone": name}
        case = f"reparameterisation: {name}, {signal.name}" + (", start" if arm == STARTED else "")
        rows.append(Row("methods", case, arm, sizes, seconds, 0.0, 0.0, quality=quality))
    return rows


def config_of_arm(name: str, arm: str, alpha: float) -> Config:
    """Encoding and network; where a network begins does not depend on alpha."""
    config = BACKBONES[name].config
    if arm not in ("reparameterised", STARTED):
        return config
    return config | {"network": config["network"] | {"reparameterisation": BASIS | {"alpha": alpha or 1.0}}}


def pace(name: str, alpha: float, signal: Signal) -> float:
    """How many times as far the first step moves the matrices between hidden layers if these are reparameterised."""
    moved = {}
    for arm in ("plain", "reparameterised"):
        config = with_optimizer(config_of_arm(name, arm, alpha), adam(1.0), 1e-6)
        before: list[Tensor] = []

        def keep(field: Field, before: list[Tensor] = before) -> None:
            before += [weight.detach().clone() for weight in hidden_weights(field)]

        after = hidden_weights(train(signal, config, 1, prepare=keep).field)
        moved[arm] = statistics.mean(
            float((a.detach() - b).square().mean().sqrt()) for a, b in zip(after, before, strict=True)
        )
    return moved["reparameterised"] / moved["plain"]


@torch.no_grad()
def hidden_weights(field: Field) -> list[Tensor]:
    """The matrices between hidden layers, as they are or as they are computed."""
    return [layer.weight for layer in hidden_layers(field)]


def hidden_layers(field: Field) -> list[Any]:
    """The layers between hidden layers."""
    network = field.network
    assert isinstance(network, MLP)
    return list(network.layers)[1:-1]


def quicken(field: Field, factor: float) -> None:
    """Let the matrices between hidden layers learn so many times as fast."""
    for layer in hidden_layers(field):
        assert isinstance(layer, nn.Linear)
        layer.learning_rate_factors = {"weight": factor}  # type: ignore[assignment]  # read by `Parameters.of`


def _trained(name: str, arm: str, setting: Setting, signal: Signal, n_steps: int, seed: int = 0) -> tuple[Field, float]:
    def prepare(field: Field) -> None:
        if arm == PACED:
            quicken(field, setting.factor)
        elif arm == STARTED:
            materialise(field)

    config = with_optimizer(config_of_arm(name, arm, setting.alpha), adam(1.0), setting.rate)
    trained = train(signal, config, n_steps, seed, prepare)
    return trained.field, trained.seconds


def table(part: str, rows: Sequence[dict[str, Any]]) -> str:
    """PSNR by picture; then what reparameterisation has over each of the plain arms."""
    cases = [row["case"].removeprefix("reparameterisation: ").split(", ")[:2] for row in rows]
    found = {(*case, row["candidate"]): row for case, row in zip(cases, rows, strict=True)}
    pictures = list(dict.fromkeys(name for _, name in cases))
    controls = [arm for arm in ("plain", PACED, STARTED) if any(row["candidate"] == arm for row in rows)]
    cells, differences = [], []
    for backbone in dict.fromkeys(name for name, _ in cases):
        psnr = {}
        for arm in ARMS:
            of_arm = [found[backbone, name, arm] for name in pictures if (backbone, name, arm) in found]
            if not of_arm:  # the last arm can be measured alone
                continue
            psnr[arm] = [row["quality"]["psnr"] for row in of_arm]
            q = of_arm[0]["quality"]
            paced = f"{q['factor']:.2f}" if arm == PACED else ""
            cells.append([backbone, arm, f"{q['rate']:g}", f"{q['alpha']:g}" if arm == "reparameterised" else "",
                          paced, *(f"{value:.2f} dB" for value in psnr[arm]),
                          f"{statistics.median(row['seconds'] for row in of_arm):.1f} s"])  # fmt: skip
        line = [backbone]
        for control in controls:
            over = [a - b for a, b in zip(psnr["reparameterised"], psnr.get(control, []), strict=False)]
            said = ", ".join(f"{value:+.2f}" for value in over)
            line.append(f"{statistics.median(over):+.2f} dB ({said})" if over else "")
        differences.append(line)
    first = markdown(["network", "arm", "rate", "alpha", "hidden layers learn faster", *pictures, "CPU"], cells)
    second = markdown(["network", *(f"reparameterised over {control}" for control in controls)], differences)
    return f"{first}\n\n{second}"
