"""Every registered denoiser and generator keeps the promises of its contract; the way back to noise is a way back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fieldforge.contracts.generator import DENOISER_CHECKS, GENERATOR_CHECKS, seeded
from fieldforge.fields.weightspace.diffusion import Diffusion
from fieldforge.fields.weightspace.layout import Layout
from fieldforge.registry import available, build

LAYOUT = Layout.from_json([["0.weight", [5, 2]], ["0.bias", [5]], ["1.weight", [1, 5]], ["1.bias", [1]]])
SMALL: dict[str, dict[str, Any]] = {
    "TokenTransformer": {"width": 8, "n_layers": 1, "n_heads": 2},
    "ResidualMLP": {"width": 8, "n_layers": 2},
    "WeightDiffusion": {"denoiser": {"otype": "ResidualMLP", "width": 8, "n_layers": 1}, "n_sampling_steps": 5},
    "PCAGaussian": {"n_components": 4},
}


@pytest.mark.parametrize("check", DENOISER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("n_classes", [0, 3])
@pytest.mark.parametrize("name", available("denoiser"))
def test_denoiser(name: str, n_classes: int, check: Any) -> None:
    config = {"otype": name, "n_classes": n_classes, **SMALL.get(name, {})}
    check(lambda: build("denoiser", config, layout=LAYOUT, generator=seeded(0)))


@pytest.mark.parametrize("check", GENERATOR_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", available("generator"))
def test_generator(name: str, check: Any) -> None:
    config = {"otype": name, **SMALL.get(name, {})}
    check(lambda: build("generator", config, layout=LAYOUT, generator=seeded(0)))


@pytest.mark.parametrize("check", GENERATOR_CHECKS, ids=lambda check: check.__name__)
def test_diffusion_of_components(check: Any) -> None:
    config = {"otype": "WeightDiffusion", "n_components": 4, **SMALL["WeightDiffusion"]}
    check(lambda: build("generator", config, layout=LAYOUT, generator=seeded(0)))


def test_components_hold_what_vectors_of_their_span_are() -> None:
    span = torch.randn(3, LAYOUT.n_parameters, generator=seeded(1))
    vectors = torch.randn(30, 3, generator=seeded(2)) @ span + 2.0
    model = build(
        "generator", {"otype": "WeightDiffusion", "n_components": 3, **SMALL["WeightDiffusion"]}, layout=LAYOUT
    )
    model.fit(vectors)
    code = model.encode(vectors)
    assert code.shape == (30, 3)
    torch.testing.assert_close(model.decode(code), vectors, rtol=1e-4, atol=1e-4)
    assert float(code.var(0).mean()) == pytest.approx(1.0, rel=1e-3)
    assert float(code.var(0)[0]) > float(code.var(0)[2])
    with pytest.raises(ValueError, match="vectors: WeightDiffusion needs at least 4 fields, got 3"):
        model.fit(vectors[:3])


@pytest.mark.parametrize("prediction", ["x0", "v"])
@pytest.mark.parametrize("is_zero", [False, True])
def test_the_noise_that_inverting_finds_gives_the_vectors_again(prediction: Any, is_zero: bool) -> None:
    process = Diffusion({"otype": "CosineNoise", "n_steps": 100, "has_zero_terminal": is_zero}, prediction)
    deviation = torch.linspace(0.3, 2.0, 6, dtype=torch.float64)

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        """The best answer where numbers are normal with these deviations."""
        signal, spread = process.factors(t, x_t)
        x_0 = signal * deviation**2 * x_t / (signal**2 * deviation**2 + spread**2)
        return process.target(x_0, t, (x_t - signal * x_0) / spread.clamp_min(1e-300))

    x = torch.randn(4, 6, generator=seeded(0), dtype=torch.float64) * deviation
    *_, noise = process.inverting(network, x, n_steps=50)
    again = process.sample(network, x.shape, n_steps=50, start=noise)
    torch.testing.assert_close(again, x, rtol=1e-3, atol=1e-3)
    *_, once = process.inverting(network, x, n_steps=50, n_repeats=1)
    worse = process.sample(network, x.shape, n_steps=50, start=once)
    assert float((worse - x).abs().max()) > 3 * float((again - x).abs().max())
