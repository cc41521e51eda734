"""``--tune fresh``: a run configuration with the setting whose untrained field has the signal's spectrum.

For networks of coordinates (SIREN, FINER, Gaussian Fourier features), which is what Kania et al. tuned. A grid can be
asked too, and should not be: its untrained tables say nothing of what they can hold. The coarsest grid comes nearest to
each of three photos; on the astronaut at 128 px, preset balanced and 300 steps, it ends at 28.0 instead of 40.1 dB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fieldforge.apps.fit.recipe import Config
from fieldforge.apps.fit.slices import Slice
from fieldforge.apps.fit.tune.choose import Choice, choose_by_spectrum
from fieldforge.apps.fit.tune.settings import Setting, setting_of
from fieldforge.registry import ConfigError

SHARE = 0.06
"""Of the forward passes of a training that choosing may take, a step counted as three of them."""
SMALLEST, LARGEST = 32, 1024
"""Samples along an axis; the paper resamples pictures to at most 1024."""
Make = Callable[[Config, int], Callable[[Tensor], Tensor]]
"""(configuration, seed) -> an untrained field."""


@dataclass(frozen=True)
class Tuned:
    """A configuration with its setting chosen.

    Attributes:
        config: the configuration.
        setting, choice: what could be chosen and what was.
        side: samples along an axis of the slices.
        form: of the spectra.
    """

    config: Config
    setting: Setting
    choice: Choice
    side: int
    form: str

    @property
    def value(self) -> float:
        """The value chosen."""
        return self.setting.values[self.choice.best]

    @property
    def distance(self) -> float:
        """Of the setting chosen, in bins."""
        return self.choice.distances[self.choice.best].mean

    def sentence(self) -> str:
        """For people."""
        at = self.setting.values.index(self.setting.present)
        was = self.choice.distances[at]
        return (
            f"fresh: {self.setting.name} {self.value:g} is nearest to the signal's spectrum ({self.distance:.3g} bins; "
            f"the preset's {self.setting.present:g}: {was.mean:.3g}), of {len(self.setting.values)} candidates"
        )

    def record(self) -> dict[str, Any]:
        """For the header of the file; same seed, same record."""
        return {
            "method": "fresh",
            "key": self.setting.key,
            "name": self.setting.name,
            "chosen": self.value,
            "instead_of": self.setting.present,
            "spectrum": self.form,
            "n_bins": self.setting.n_bins,
            "side": self.side,
            "candidates": [
                {"value": value, "distance": _short(one.mean), "error": _short(one.error), "n_init": one.n_init}
                for value, one in zip(self.setting.values, self.choice.distances, strict=True)
            ],
        }


def tune(
    make: Make,
    config: Config,
    slices: Callable[[int], Sequence[Slice]],
    full_side: int,
    *,
    n_values: int = 20,
    n_init: int = 10,
    n_bins: int | None = None,
    side: int | None = None,
    form: str = "classic",
    seed: int = 0,
) -> Tuned:
    """Choose the setting of a configuration by the spectra of untrained fields.

    Args:
        make: (configuration, seed) -> an untrained field.
        config: with encoding, network and fit.
        slices: samples along an axis -> slices of the signal, of at most that many.
        full_side: samples that the signal itself has along its longest axis; bounds the resolution of grids.
        n_values: candidates.
        n_init: initialisations of each.
        n_bins: frequencies that count; None: the paper's for that kind of field.
        side: samples along an axis; None: as many as keep choosing below `SHARE` of the training.
        form: of the spectra, "classic" or "folded".
        seed: same seed, same choice.

    Raises:
        ConfigError, ValueError: nothing to choose, or a signal that is the same everywhere.
    """
    if config["fit"].get("sphere"):
        raise ConfigError(
            "tune: the untrained field is a sphere whatever its frequencies, so spectra say nothing; --set fit.sphere=0"
        )
    setting = setting_of(config, n_values, full_side)
    if side is None:
        side = affordable_side(config, len(setting.values), n_init, slices(SMALLEST))
    found = slices(side)

    def untrained(value: float, seed: int) -> Callable[[Tensor], Tensor]:
        return make(setting.put(config, value), seed)

    choice = choose_by_spectrum(
        untrained, setting.values, found, n_init=n_init, n_bins=n_bins or setting.n_bins, form=form, seed=seed
    )
    return Tuned(setting.put(config, setting.values[choice.best]), setting, choice, found[0].values.shape[0], form)


def affordable_side(config: Config, n_values: int, n_init: int, slices: Sequence[Slice]) -> int:
    """Samples along an axis that keep choosing below `SHARE` of the training, between `SMALLEST` and `LARGEST`.

    Args:
        config: with the section fit.
        n_values, n_init: candidates, and initialisations of each.
        slices: of any size; how many and of how many axes is what counts.
    """
    n_passes = 2 * n_values + math.ceil(n_values / 3) * max(0, n_init - 2)  # most candidates drop out after two
    n_points = SHARE * 3 * config["fit"]["n_steps"] * config["fit"]["batch_size"] / (n_passes * len(slices))
    n_axes = slices[0].values.ndim - 1
    most = LARGEST if n_axes == 2 else LARGEST**2 // 16
    return int(min(most, max(SMALLEST, n_points ** (1 / n_axes))))


def _short(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None
