"""Networks of products: values, initial laws, and BACON's band limits."""

from __future__ import annotations

import math

import pytest
import torch
from reference import networks as loops
from torch import Tensor

from fieldforge.fields.networks.bacon import BACON
from fieldforge.fields.networks.mfn import FourierMFN, GaborMFN
from fieldforge.registry import ConfigError, build


def weights_and_biases(layers: torch.nn.ModuleList) -> tuple[list[list[list[float]]], list[list[float]]]:
    biases = [[0.0] * len(layer.weight) if layer.bias is None else layer.bias.tolist() for layer in layers]
    return [layer.weight.tolist() for layer in layers], biases


def points(n: int, n_dims: int) -> Tensor:
    return torch.rand(n, n_dims, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) - 0.5


@pytest.mark.parametrize("has_bias", [True, False])
def test_a_fourier_network_is_the_loop(generator: torch.Generator, has_bias: bool) -> None:
    network = FourierMFN(2, 3, n_neurons=5, n_hidden_layers=2, has_bias=has_bias, generator=generator).double()
    weights, biases = weights_and_biases(network.layers)
    for x in points(4, 2):
        filters = [loops.fourier_filter(x.tolist(), g.frequency.tolist(), g.phase.tolist()) for g in network.filters]
        z = loops.products(filters, weights[:-1], biases[:-1])[-1]
        torch.testing.assert_close(network(x).tolist(), loops.linear(weights[-1], biases[-1], z), rtol=1e-9, atol=1e-11)


def test_a_gabor_network_is_the_loop(generator: torch.Generator) -> None:
    network = GaborMFN(2, 3, n_neurons=5, n_hidden_layers=2, generator=generator).double()
    weights, biases = weights_and_biases(network.layers)
    for x in points(4, 2):
        filters = [
            loops.gabor_filter(
                x.tolist(), g.wave.frequency.tolist(), g.wave.phase.tolist(), g.center.tolist(), g.gamma.tolist()
            )
            for g in network.filters
        ]
        z = loops.products(filters, weights[:-1], biases[:-1])[-1]
        torch.testing.assert_close(network(x).tolist(), loops.linear(weights[-1], biases[-1], z), rtol=1e-9, atol=1e-11)


def test_bacon_is_the_loop_at_every_output(generator: torch.Generator) -> None:
    network = BACON(2, 3, n_neurons=5, n_hidden_layers=3, output_layers=[1, 3], generator=generator).double()
    weights, biases = weights_and_biases(network.layers)
    head_weights, head_biases = weights_and_biases(network.heads)
    for x in points(4, 2):
        filters = [
            loops.fourier_filter(x.tolist(), (2 * math.pi * g.cycles).tolist(), g.phase.tolist())
            for g in network.filters
        ]
        z = loops.products(filters, weights, biases)
        expected = [loops.linear(w, b, z[at]) for w, b, at in zip(head_weights, head_biases, (1, 3), strict=True)]
        levels = [level.tolist() for level in network.forward_levels(x)]
        torch.testing.assert_close(levels, expected, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(network(x).tolist(), expected[-1], rtol=1e-9, atol=1e-11)


def energy_beyond(band: int, values: Tensor) -> float:
    """Share of the energy of a periodic picture, (n, n), beyond `band` cycles on either axis."""
    energy = torch.fft.fft2(values).abs().square()
    cycles = torch.fft.fftfreq(len(values), 1 / len(values)).abs()
    outside = (cycles[:, None] > band + 0.5) | (cycles[None, :] > band + 0.5)
    return float(energy[outside].sum() / energy.sum())


def test_no_output_of_bacon_leaves_its_band(generator: torch.Generator) -> None:
    """With random weights, at every head; and each head uses its band: half of it would not do."""
    network = BACON(
        2, 1, n_neurons=32, resolution=32, scales=[1 / 8, 1 / 8, 1 / 4, 1 / 4, 1 / 4], output_layers=[1, 2, 4],
        generator=generator,
    ).double()  # fmt: skip
    assert network.bands == [4, 8, 16]
    axis = torch.arange(64, dtype=torch.float64) / 64 - 0.5
    x = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    with torch.no_grad():
        levels = network.forward_levels(x)
    for band, level in zip(network.bands, levels, strict=True):
        assert energy_beyond(band, level[..., 0]) < 1e-20
        assert energy_beyond(band // 2, level[..., 0]) > 1e-2


def test_bacon_in_float32_keeps_its_band_to_a_millionth(generator: torch.Generator) -> None:
    network = BACON(1, 1, n_neurons=64, resolution=64, generator=generator)
    x = (torch.arange(512) / 512 - 0.5)[:, None]
    with torch.no_grad():
        levels = network.forward_levels(x)
    for band, level in zip(network.bands, levels, strict=True):
        energy = torch.fft.rfft(level[:, 0].double()).abs().square()
        assert float(energy[band + 1 :].sum() / energy.sum()) < 1e-6


def test_bacon_repeats_with_period_one(generator: torch.Generator) -> None:
    network = BACON(2, 1, n_neurons=16, generator=generator).double()
    x = points(10, 2)
    torch.testing.assert_close(network(x + torch.tensor([1.0, -2.0])), network(x))


def test_bacon_reaches_the_nyquist_frequency_when_the_scales_sum_to_one() -> None:
    assert BACON(1, 1, n_hidden_layers=4, resolution=256, scales=[1 / 8, 1 / 8, 1 / 4, 1 / 4, 1 / 4]).bands[-1] == 128
    assert BACON(1, 1, n_hidden_layers=3, resolution=256).bands == [64, 96, 128]


def test_bacon_frequencies_are_whole_and_not_trained(generator: torch.Generator) -> None:
    network = BACON(3, 1, n_neurons=64, n_hidden_layers=3, resolution=64, generator=generator)
    for g in network.filters:
        assert torch.equal(g.cycles, g.cycles.round())
        assert (int(g.cycles.min()), int(g.cycles.max())) == (-8, 8)
        assert float(g.phase.detach().abs().max()) <= math.pi
    assert not any("cycles" in name for name, _ in network.named_parameters())
    assert sum("cycles" in name for name in network.state_dict()) == 4


def test_bacon_draws_its_weights_from_the_released_law(generator: torch.Generator) -> None:
    network = BACON(2, 3, n_neurons=96, n_hidden_layers=2, generator=generator)
    for layer in (*network.layers, *network.heads):
        weight, bound = layer.weight.detach(), math.sqrt(6 / 96)
        assert 0.9 * bound < float(weight.abs().max()) <= bound
        assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.12)


def test_filter_frequencies_share_the_input_scale(generator: torch.Generator) -> None:
    """U(±input_scale / √((L + 1) d)); hidden weights U(±√(weight_scale / n))."""
    network = FourierMFN(
        2, 1, n_neurons=256, n_hidden_layers=3, input_scale=100.0, weight_scale=2.0, generator=generator
    )
    bound = 100 / math.sqrt(4 * 2)
    for g in network.filters:
        assert 0.9 * bound < float(g.frequency.detach().abs().max()) <= bound
    for layer in network.layers[:-1]:
        assert 0.9 * math.sqrt(2 / 256) < float(layer.weight.detach().abs().max()) <= math.sqrt(2 / 256)
    assert float(network.layers[-1].weight.detach().abs().max()) <= 1 / 16


def test_gabor_widths_have_the_gamma_law(generator: torch.Generator) -> None:
    """Gamma(alpha / (L + 1), beta): mean alpha / (L + 1) / beta, variance mean / beta; Omega grows with √gamma."""
    network = GaborMFN(2, 1, n_neurons=4000, n_hidden_layers=0, alpha=6.0, beta=2.0, generator=generator)
    gamma = network.filters[0].gamma.detach()
    assert float(gamma.mean()) == pytest.approx(3.0, rel=0.05)
    assert float(gamma.var()) == pytest.approx(1.5, rel=0.1)
    ratio = network.filters[0].wave.frequency.detach() / gamma.sqrt()[:, None]
    assert float(ratio.abs().max()) == pytest.approx(256 / math.sqrt(2), rel=0.01)
    assert float(network.filters[0].center.detach().abs().max()) <= 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"scales": [0.5, 0.5]}, "scales: expected 5 numbers, one for each filter, got 2"),
        (
            {"scales": [0.5, 0.5, 0.5, 0.5, 2.0]},
            "scales: expected a finite number of at least 0 and at most 1, got 2.0",
        ),
        ({"output_layers": [1, 2]}, "output_layers: expected ascending layers, the last 4, got [1, 2]"),
        ({"output_layers": [2, 1, 4]}, "output_layers: expected ascending layers, the last 4, got [2, 1, 4]"),
        ({"output_layers": []}, "output_layers: expected ascending layers, the last 4, got []"),
        ({"output_layers": [0, 4]}, "output_layers: expected an integer from 1 to 4, got 0"),
        ({"n_hidden_layers": 10**9}, "n_hidden_layers: expected an integer from 1 to 1024"),
        ({"n_neurons": 10**8}, "n_neurons: at most 1,073,741,824 parameters"),
        ({"resolution": 10**9}, "resolution: expected an integer from 1 to"),
    ],
)
def test_a_bad_key_is_named(config: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build("network", {"otype": "BACON", **config}, n_input_dims=2, n_output_dims=1)
    assert str(caught.value).startswith(message)
