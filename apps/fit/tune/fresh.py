"""``--tune fresh``: a run configuration with the setting whose untrained field has the signal's spectrum.

For networks of coordinates (SIREN, FINER, Gaussian Fourier features), which is what Kania et al. tuned; a grid is
refused, see `settings`.

How many frequencies count decides what is chosen. The paper takes 128 (64 for SIREN) of pictures of 512 and more
samples a side, a quarter of them or less; beyond that a photo has edges and noise, and with as many bins as samples
every family is given too high a frequency (`data/studies/methods.md`). So at most a quarter of the samples count here.
For the same reason slices stay as large as they are as long as possible, and initialisations are what is saved: their
spectra differ less than the candidates do.
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

SHARE = 0.05
"""Of the forward passes of a training that choosing may take, a step counted as three of them. Making fields and
transforming their answers costs as much again in small networks."""
SMALLEST, LARGEST = 32, 1024
"""Samples along an axis; the paper resamples pictures to at most 1024."""
BINS = 4
"""Samples along an axis for each frequency that counts."""
FEWEST = 3
"""Initialisations of a candidate that may be the nearest."""
Make = Callable[[Config, int], Callable[[Tensor], Tensor]]
"""(configuration, seed) -> an untrained field."""


@dataclass(frozen=True)
class Tuned:
    """A configuration with its setting chosen.

    Attributes:
        config: the configuration.
        setting, choice: what could be chosen and what was.
        side: samples along an axis of the slices.
        n_bins: frequencies that counted.
        form: of the spectra.
    """

    config: Config
    setting: Setting
    choice: Choice
    side: int
    n_bins: int
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
        n = len(self.setting.values)
        if self.value == self.setting.present:
            return (
                f"fresh: {self.setting.name} stays {self.value:g} ({self.distance:.3g} bins from the signal's "
                f"spectrum; none of {n} candidates is clearly nearer)"
            )
        return (
            f"fresh: {self.setting.name} {self.value:g} is nearest to the signal's spectrum ({self.distance:.3g} bins; "
            f"the preset's {self.setting.present:g}: {was.mean:.3g}), of {n} candidates"
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
            "n_bins": self.n_bins,
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
    n_init: int | None = None,
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
        full_side: samples that the signal itself has along its longest axis.
        n_values: candidates.
        n_init: initialisations of each; None: 10, or as many as keep choosing below `SHARE` of the training.
        n_bins: frequencies that count; None: the paper's for that kind of field, and at most a quarter of the samples.
        side: samples along an axis; None: as many as keep choosing below `SHARE`.
        form: of the spectra, "classic" or "folded".
        seed: same seed, same choice.

    Raises:
        ConfigError, ValueError: nothing to choose, or a signal that is the same everywhere.
    """
    if config["fit"].get("sphere"):
        raise ConfigError(
            "tune: the untrained field is a sphere whatever its frequencies, so spectra say nothing; --set fit.sphere=0"
        )
    sample = slices(SMALLEST)
    n_axes = sample[0].values.ndim - 1
    setting = setting_of(config, n_values, full_side if n_axes == 1 else None)
    n_points = SHARE * 3 * config["fit"]["n_steps"] * config["fit"]["batch_size"] / len(sample)
    if side is None:
        side = affordable_side(n_points / _passes(len(setting.values), n_init or FEWEST), n_axes)
    found = slices(side)
    side = found[0].values.shape[0]
    if n_init is None:
        n_init = next(
            (n for n in range(10, FEWEST, -1) if _passes(len(setting.values), n) * side**n_axes <= n_points), FEWEST
        )
    if n_bins is None:
        n_bins = side // 2 if n_axes == 1 else min(setting.n_bins, max(1, side // BINS))

    def untrained(value: float, seed: int) -> Callable[[Tensor], Tensor]:
        return make(setting.put(config, value), seed)

    choice = choose_by_spectrum(
        untrained, setting.values, found, n_init=n_init, n_bins=n_bins, form=form, seed=seed,
        present=setting.values.index(setting.present),
    )  # fmt: skip
    return Tuned(setting.put(config, setting.values[choice.best]), setting, choice, side, n_bins, form)


def affordable_side(n_points: float, n_axes: int) -> int:
    """Samples along an axis of a slice of so many points, between `SMALLEST` and `LARGEST`, or for one axis as many as
    a sixteenth of the largest square has."""
    most = LARGEST if n_axes == 2 else LARGEST**2 // 16
    return int(min(most, max(SMALLEST, n_points ** (1 / n_axes))))


def _passes(n_values: int, n_init: int) -> int:
    """Forward passes of a choice: most candidates drop out after the first."""
    return n_values + math.ceil(n_values / 3) * (n_init - 1)


def _short(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None
