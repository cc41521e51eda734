"""AudioField: seconds outside, the unit interval inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fieldforge.contracts.field import FIELD_CHECKS
from fieldforge.fields.kinds.audio import MAX_SAMPLES, AudioField

LINEAR: dict[str, Any] = {"otype": "MLP", "n_hidden_layers": 0}


def sound(**changes: Any) -> AudioField:
    options = {"encoding": "Identity", "network": LINEAR, "n_samples": 8, "sample_rate": 4} | changes
    return AudioField(**options, generator=torch.Generator().manual_seed(0))


FIELDS: dict[str, Callable[[], AudioField]] = {
    "identity": sound,
    "hash grid, stereo": lambda: sound(
        encoding={"otype": "HashGrid", "n_levels": 3, "log2_hashmap_size": 4},
        network={"otype": "MLP", "n_neurons": 8, "n_hidden_layers": 2},
        n_channels=2,
        peak=0.3,
        n_samples=441,
        sample_rate=44100,
    ),
    "SIREN": lambda: sound(
        encoding={"otype": "Identity", "scale": 2.0, "offset": -1.0},
        network={"otype": "MLP", "n_neurons": 8, "n_hidden_layers": 2, "activation": "Sine", "has_bias": True},
    ),
}


@pytest.mark.parametrize("check", FIELD_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", FIELDS)
def test_it_keeps_the_promises_of_a_field(name: str, check: Callable[[Callable[[], AudioField]], None]) -> None:
    check(FIELDS[name])


def test_the_clip_becomes_the_unit_interval_and_its_ends_go_on() -> None:
    field = sound(peak=0.5)
    field.network.layers[0].weight.data.fill_(1.0)  # the amplitude is half the place in the clip
    times = torch.tensor([[-3.0], [0.0], [1.0], [2.0], [99.0]])
    assert field.duration == 2.0
    assert field.amplitude(times).flatten().tolist() == [0.0, 0.0, 0.25, 0.5, 0.5]


def test_the_last_samples_of_the_longest_clip_are_told_apart() -> None:
    field = sound(n_samples=MAX_SAMPLES, sample_rate=44100)
    times = (torch.arange(MAX_SAMPLES - 5, MAX_SAMPLES, dtype=torch.float64) + 0.5) / 44100
    assert bool((field.to_unit(times[:, None]).float().diff(dim=0) > 0).all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_samples": MAX_SAMPLES + 1}, "n_samples: expected an integer from 1 to 8388608"),
        ({"sample_rate": 0}, "sample_rate: expected an integer from 1"),
        ({"n_channels": 9}, "n_channels: expected an integer from 1 to 8"),
        ({"peak": 0.0}, "peak: expected a finite number above 0"),
        ({"encoding": {"otype": "Identity", "scal": 2}}, "encoding.scal: Identity has no such key; did you mean scale"),
    ],
)
def test_a_wrong_option_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        sound(**change)
