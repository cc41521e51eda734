"""Every registered encoding keeps the promises of `fieldforge.contracts.encoding`, and the checks can fail."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fieldforge import registry
from fieldforge.checks import expect_points
from fieldforge.contracts import check_encoding
from fieldforge.contracts.encoding import ENCODING_CHECKS, encoding_checks
from fieldforge.encodings.base import Encoding
from fieldforge.registry import available, build

LATTICE = {"n_levels": 3, "base_resolution": 4, "log2_hashmap_size": 6, "per_level_scale": 1.6}
SMALL: dict[str, dict[str, Any]] = {
    "Composite": {
        "nested": [
            {"otype": "HashGrid", "n_dims_to_encode": 2, **LATTICE},
            {"otype": "Frequency", "n_frequencies": 3},
        ]
    },
    "DenseGrid": LATTICE,
    "Grid": LATTICE,
    "HashGrid": LATTICE,
    "NeuRBF": {"n_centers": 30, "n_features": 6, "high_frequency": 8.0, "resolution": 7},
    "KPlanes": {"resolution": 8, "n_features": 3, "time_resolution": 5},
    "PREF": {"resolution": 6, "n_features": 2},
    "RandomFourier": {"n_features": 16},
    "SAPE": {"nested": {"otype": "Frequency", "n_frequencies": 3}, "resolution": 8},
    "TensorCP": {"resolution": 8, "n_components": 4},
    "TensorVM": {"resolution": 8, "n_components": 4},
    "TiledGrid": LATTICE,
    "TriPlane": {"resolution": 8, "n_features": 3},
}
"""Configurations for those whose defaults are large or that need keys; all others are taken as they come."""
N_INPUT_DIMS = {"NRC": 9, "OneBlobFrequency": 9}
"""Those that take more than 3."""
VARIANTS: dict[str, dict[str, Any]] = {
    "Grid, Smoothstep": {"otype": "Grid", "interpolation": "Smoothstep", **LATTICE},
    "Grid, Nearest": {"otype": "Grid", "interpolation": "Nearest", **LATTICE},
    "PREF, Dilated": {"otype": "PREF", "n_reduced": 3, "sampling": "Dilated", "resolution": 5, "n_features": 2},
    "PREF, Complex": {"otype": "PREF", "parts": "Complex", "initial": "Zero", "resolution": 6, "n_features": 2},
    "ShiftedBasis, Kronecker": {"otype": "ShiftedBasis", "n_shifts": 4, "width": 0.2, "reduction": "Kronecker"},
    "ShiftedBasis, Triangle": {"otype": "ShiftedBasis", "kind": "Triangle", "width": [0.3, 0.1], "n_shifts": 6},
    "ShiftedBasis, Impulse": {"otype": "ShiftedBasis", "kind": "Impulse", "n_shifts": 6, "width": 0.1},
    "ShiftedBasis, Square": {"otype": "ShiftedBasis", "kind": "Square", "n_shifts": 6, "width": 0.5},
    "SAPE, Global": {"otype": "SAPE", "nested": {"otype": "DenseGrid", **LATTICE}, "scope": "Global"},
    "SAPE, bare": {"otype": "SAPE", "nested": "RandomFourier", "resolution": 8, "has_identity": False},
    "TriPlane, Product": {"otype": "TriPlane", "reduction": "Product", **SMALL["TriPlane"]},
}
"""Other settings worth the whole suite."""
CONFIGS = {name: {"otype": name, **SMALL.get(name, {})} for name in available("encoding")} | VARIANTS
CHECKS = dict(encoding_checks())


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", CONFIGS)
def test_every_registered_encoding_keeps_the_contract(name: str, check: str) -> None:
    def make(generator: torch.Generator) -> Encoding:
        n_input_dims = N_INPUT_DIMS.get(name, 3)
        encoding: Encoding = build("encoding", CONFIGS[name], n_input_dims=n_input_dims, generator=generator)
        return encoding

    CHECKS[check](make)


class Wave(Encoding):
    """A sound encoding, from which each broken one differs in one thing."""

    otype = "test.Wave"
    domain = "reals"
    outside = "the same formula holds everywhere"
    smoothness: float = math.inf

    def __init__(
        self, n_input_dims: int, *, n_features: int = 6, gain: float = 1.0, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.n_input_dims, self.n_output_dims = n_input_dims, n_features
        self.n_features, self.gain = n_features, gain
        self.weight = nn.Parameter(torch.empty(n_input_dims, n_features))
        self.draw(generator)

    def draw(self, generator: torch.Generator | None) -> None:
        if not self.weight.is_meta:
            nn.init.normal_(self.weight, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(expect_points(x, self.n_input_dims, owner=self))

    def features(self, x: Tensor) -> Tensor:
        return self.gain * torch.sin((x[..., None] * self.weight).sum(-2))


class Unstated(Wave):
    outside = " "


class WiderThanItSays(Wave):
    def features(self, x: Tensor) -> Tensor:
        return super().features(x).repeat_interleave(2, -1)


class ReadsMemoryInOrder(Wave):
    def features(self, x: Tensor) -> Tensor:
        return super().features(x.as_strided(x.shape, (x.shape[-1], 1)) if x.ndim == 2 else x)


class WritesToItsArgument(Wave):
    def features(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x += 1
        return super().features(x)


class TakesAnything(Wave):
    def forward(self, x: Tensor) -> Tensor:
        return self.features(x[..., : self.n_input_dims])


class LooksAround(Wave):
    def features(self, x: Tensor) -> Tensor:
        return super().features(x - x.mean(0) if x.ndim > 1 else x)


class ThrowsDice(Wave):
    def features(self, x: Tensor) -> Tensor:
        return torch.nn.functional.dropout(super().features(x), 0.5)


class IgnoresItsGenerator(Wave):
    def draw(self, generator: torch.Generator | None) -> None:
        super().draw(None)


class ForgetsAKey(Wave):
    def __init__(self, n_input_dims: int, *, n_features: int = 6, generator: torch.Generator | None = None) -> None:
        super().__init__(n_input_dims, n_features=n_features + 1, generator=generator)


class KeepsATensor(Wave):
    def __init__(self, n_input_dims: int, *, gain: Any = 1.0, generator: torch.Generator | None = None) -> None:
        super().__init__(n_input_dims, generator=generator)
        self.gain = torch.tensor(1.0)  # type: ignore[assignment]


class SinglePrecision(Wave):
    def features(self, x: Tensor) -> Tensor:
        return super().features(x).float()


class NeedsMemory(Wave):
    def draw(self, generator: torch.Generator | None) -> None:
        self.weight = nn.Parameter(torch.randn(self.weight.shape, generator=generator, device="cpu"))


class Untrainable(Wave):
    def features(self, x: Tensor) -> Tensor:
        return self.gain * torch.sin(x @ self.weight.detach())


class WrongSlope(Wave):
    def features(self, x: Tensor) -> Tensor:
        right = super().features(x)
        return right + 0.1 * (right - right.detach())


class SineWithoutSecondDerivative(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z.sin()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return grad * z.detach().cos()


class WrongCurvature(Wave):
    def features(self, x: Tensor) -> Tensor:
        features: Tensor = SineWithoutSecondDerivative.apply((x[..., None] * self.weight).sum(-2))
        return features


class Jumps(Wave):
    def features(self, x: Tensor) -> Tensor:
        return super().features(x) + (3 * x).floor().sum(-1, keepdim=True)


class HasCorners(Wave):
    smoothness = 1

    def features(self, x: Tensor) -> Tensor:
        return super().features(x).abs()


class CurvesAbruptly(Wave):
    smoothness = 2

    def features(self, x: Tensor) -> Tensor:
        wave = super().features(x)
        return wave * wave.abs()


class UndefinedBeyondTheCube(Wave):
    domain = "unit cube"

    def features(self, x: Tensor) -> Tensor:
        return super().features(x.sqrt())


class RanksTooFew(Wave):
    def channel_order(self) -> Tensor:
        return torch.arange(self.n_output_dims - 1)


BROKEN: dict[str, list[type[Wave]]] = {
    "attributes_are_stated": [Unstated],
    "outputs_have_the_stated_shape": [WiderThanItSays],
    "layout_of_memory_does_not_matter": [ReadsMemoryInOrder, WritesToItsArgument],
    "wrong_points_are_refused": [TakesAnything],
    "points_are_independent": [LooksAround],
    "forward_repeats": [ThrowsDice],
    "seed_decides_parameters": [IgnoresItsGenerator],
    "config_rebuilds": [ForgetsAKey, KeepsATensor],
    "precision_follows_the_module": [SinglePrecision],
    "builds_without_memory": [NeedsMemory],
    "gradients_exist": [Untrainable],
    "first_derivatives_are_true": [WrongSlope],
    "second_derivatives_are_true": [WrongCurvature],
    "smoothness_is_true": [Jumps, HasCorners, CurvesAbruptly],
    "outside_is_harmless": [UndefinedBeyondTheCube],
    "channels_are_ordered": [RanksTooFew],
}


@pytest.fixture
def enter(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[Wave]], None]:
    """Puts a class into the registry for one test."""

    def enter(factory: type[Wave]) -> None:
        entry = registry.Entry("encoding", factory.otype, factory)
        monkeypatch.setitem(registry._entries["encoding"], factory.otype.lower(), entry)

    return enter


def test_a_sound_encoding_passes(enter: Callable[[type[Wave]], None]) -> None:
    enter(Wave)
    check_encoding(lambda generator: Wave(2, generator=generator))
    check_encoding(lambda: Wave(3), n_points=16)


def test_every_check_has_an_encoding_that_fails_it() -> None:
    assert list(BROKEN) == [check.__name__ for check in ENCODING_CHECKS]


@pytest.mark.parametrize(
    ("check", "broken"), [(check, broken) for check, all_of_it in BROKEN.items() for broken in all_of_it]
)
def test_a_broken_promise_is_named(check: str, broken: type[Wave], enter: Callable[[type[Wave]], None]) -> None:
    enter(broken)
    with pytest.raises(AssertionError, match=f"^{check}: "):
        CHECKS[check](lambda generator: broken(2, generator=generator))
    with pytest.raises(AssertionError, match=r"^\w+: "):
        check_encoding(lambda generator: broken(2, generator=generator))


def test_an_encoding_that_is_not_registered_cannot_be_rebuilt() -> None:
    with pytest.raises(
        AssertionError, match=r"^config_rebuilds: ConfigError: otype: no encoding is called 'test.Wave'"
    ):
        check_encoding(lambda: Wave(2))


def test_checks_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    CHECKS["forward_repeats"](lambda: Wave(2))
    assert torch.equal(before, torch.get_rng_state())
