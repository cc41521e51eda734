"""CAM: scales and shifts of hidden layers, read from grids over coordinates."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference import exposure as loops
from reference import networks as network_loops

from fieldforge.apps.fit.image.job import fit
from fieldforge.apps.fit.optimizers.base import Parameters
from fieldforge.contracts import check_field
from fieldforge.fields import fused
from fieldforge.fields.file import load_field
from fieldforge.fields.kinds.image import ImageField
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.fields.kinds.shape import SDFField
from fieldforge.fields.modulation import CAM, azimuth_and_elevation
from fieldforge.fields.networks.mlp import MLP
from fieldforge.registry import ConfigError, build

SIZES = [3, 4]


def moved(network: MLP) -> MLP:
    """In float64, with grids that are no identity."""
    network = network.double()
    with torch.no_grad():
        network.modulation.table += torch.randn(
            network.modulation.table.shape, generator=torch.Generator().manual_seed(1)
        )
    return network


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("norm", ["layer", "none"])
def test_a_modulated_network_is_the_loop(per_channel: bool, norm: str) -> None:
    cam = {"otype": "CAM", "resolution": SIZES, "dims": [2, 0], "per_channel": per_channel, "norm": norm}
    network = moved(
        MLP(5, 2, n_neurons=6, n_hidden_layers=2, activation="Tanh", has_bias=True, modulation=cam, n_coordinates=3)
    )
    features, x = torch.rand(4, 5).double(), torch.rand(4, 3).double()
    grids = network.modulation.table.detach().view(*SIZES, 2, 2, -1)
    expected = []
    for point, place in zip(features.tolist(), x.tolist(), strict=True):
        h = point
        for index, layer in enumerate(network.layers[:-1]):
            z = network_loops.linear(layer.weight.tolist(), layer.bias.tolist(), h)
            scale, shift = (
                [
                    loops.between(
                        {c: float(grids[(*c, index, kind, channel)]) for c in itertools.product(range(3), range(4))},
                        [place[2], place[0]],
                        SIZES,
                    )
                    for channel in range(grids.shape[-1])
                ]
                for kind in (0, 1)
            )
            h = [math.tanh(v) for v in loops.cam(z, scale, shift, norm == "layer")]
        last = network.layers[-1]
        expected.append(network_loops.linear(last.weight.tolist(), last.bias.tolist(), h))
    found = fused.read(network, features, x)
    torch.testing.assert_close(found.tolist(), expected, rtol=1e-10, atol=1e-12)


def test_without_a_norm_it_begins_as_the_plain_network() -> None:
    keys: dict[str, Any] = {"n_neurons": 16, "n_hidden_layers": 3}
    plain = MLP(5, 2, **keys, generator=torch.Generator().manual_seed(0))
    cam = {"otype": "CAM", "norm": "none"}
    network = MLP(5, 2, **keys, modulation=cam, n_coordinates=2, generator=torch.Generator().manual_seed(0))
    features = torch.rand(9, 5)
    torch.testing.assert_close(fused.read(network, features, torch.rand(9, 2)), plain(features))


class Read(torch.nn.Module):
    """`fused.read` as a module, so that parameters can be swapped."""

    def __init__(self, network: MLP) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return fused.read(self.network, features, x)


def test_gradients_agree_with_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    keys: dict[str, Any] = {"n_neurons": 8, "n_hidden_layers": 2, "activation": "Tanh", "n_coordinates": 2}
    network = moved(MLP(3, 2, **keys, modulation={"otype": "CAM", "resolution": 5}, generator=generator))
    features = torch.rand(3, 3, dtype=torch.float64, generator=generator)
    x = torch.rand(3, 2, dtype=torch.float64, generator=generator).requires_grad_()

    def output(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(Read(network), {"network.modulation.table": table}, (features, x))

    assert torch.autograd.gradcheck(output, (x, network.modulation.table), fast_mode=True)


def test_few_bits_are_few_values_and_gradients_pass() -> None:
    cam = CAM(2, [8, 8], resolution=16, bits=2)
    with torch.no_grad():
        cam.table.normal_(generator=torch.Generator().manual_seed(0))
    corners = torch.cartesian_prod(torch.linspace(0, 1, 16), torch.linspace(0, 1, 16))
    modulate = cam.at(corners)
    shifts = modulate(1, torch.zeros(256, 8))[:, 0]
    assert len(torch.unique((shifts * 1e4).round())) == 4
    shifts.sum().backward()
    assert (cam.table.grad.view(-1, 2, 2)[:, 1, 1] - 1).abs().max() < 1e-5
    fine = CAM(2, [8, 8], resolution=16, bits=16)
    fine.load_state_dict(cam.state_dict())
    plain = CAM(2, [8, 8], resolution=16)
    plain.load_state_dict(cam.state_dict())
    z = torch.rand(256, 8)
    torch.testing.assert_close(fine.at(corners)(0, z), plain.at(corners)(0, z), rtol=0, atol=1e-3)


def test_angles_of_known_directions() -> None:
    v = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1], [0.6, 0, 0.8]])
    found = azimuth_and_elevation((v + 1) / 2)
    elevation = [0.5, 0.5, 0.5, 1.0, 0.0, 0.5 + math.atan2(0.8, 0.6) / math.pi]
    torch.testing.assert_close(found[:, 1], torch.tensor(elevation))
    torch.testing.assert_close(found[[0, 1, 2, 5], 0], torch.tensor([0.5, 0.75, 0.25, 0.5]))


NETWORK = {"otype": "MLP", "n_neurons": 16, "n_hidden_layers": 2, "has_bias": True}
MODULATED = NETWORK | {"modulation": {"otype": "CAM", "resolution": 4}}


@pytest.mark.parametrize(
    "make",
    [
        lambda: ImageField(encoding="Identity", network=MODULATED, width=5, height=4),
        lambda: SDFField(encoding="Identity", network=MODULATED | {"activation": "Softplus"}),
    ],
    ids=["image", "shape"],
)
def test_a_modulated_field_keeps_the_contract(make: Any) -> None:
    check_field(make)


def test_grids_over_view_directions_change_colours_alone() -> None:
    turned = NETWORK | {"modulation": {"otype": "CAM", "resolution": [10, 3], "angles": True}}
    field = RadianceField(encoding="Identity", network=MODULATED, rgb_network=turned)
    points, directions = torch.rand(6, 3) - 0.5, torch.nn.functional.normalize(torch.randn(6, 3), dim=-1)
    density, color = field.radiance(points, directions)
    with torch.no_grad():
        field.rgb_network.modulation.table += 1.0
    other_density, other_color = field.radiance(points, directions)
    assert torch.equal(density, other_density)
    assert not torch.equal(color, other_color)


def test_grids_learn_at_ten_times_the_rate() -> None:
    network = MLP(3, 1, n_neurons=4, n_hidden_layers=1, modulation="CAM", n_coordinates=2)
    before = [p.detach().clone() for p in (network.modulation.table, network.layers[0].weight)]
    optimizer = build("optimizer", {"otype": "Adam", "learning_rate": 1e-3, "l2_reg": 0.0},
                      parameters=Parameters.of(network, [network]))  # fmt: skip
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    after = [network.modulation.table, network.layers[0].weight]
    steps = [float((b - a).detach().mean()) for a, b in zip(after, before, strict=True)]
    assert steps == pytest.approx([1e-2, 1e-3], rel=1e-4)


@pytest.mark.parametrize("nested", ["EMA", "Lookahead", "Average"])
def test_wrapped_optimizers_keep_the_factor(nested: str) -> None:
    network = MLP(3, 1, n_neurons=4, n_hidden_layers=1, modulation="CAM", n_coordinates=2)
    config = {"otype": nested, "nested": {"otype": "SGD", "learning_rate": 0.5, "l2_reg": 0.0}}
    optimizer = build("optimizer", config, parameters=Parameters.of(network, [network]))
    before = network.modulation.table.detach().clone()
    network.modulation.table.grad = torch.ones_like(before)
    optimizer.step()
    torch.testing.assert_close(before - network.modulation.table, torch.full_like(before, 5.0))


def test_a_fit_improves_and_its_file_is_the_same_field(tmp_path: Path) -> None:
    picture = (np.random.default_rng(0).random((16, 12, 3)) * 255).astype(np.uint8)
    config = {"encoding": {"otype": "Frequency", "n_frequencies": 4}, "network": MODULATED}
    path = tmp_path / "cam.field"
    result = fit(picture, config=config, steps=60, overrides=["fit.batch_size=192"], output=path, progress="quiet")
    assert result.training_step == "PyTorch, as the native network has no modulation, and this one has CAM"
    assert result.state.history[-1]["psnr"] > result.state.history[0]["psnr"] + 1
    loaded, _ = load_field(path)
    points = torch.rand(9, 2) * 12
    assert torch.equal(loaded(points), result.field(points))


def test_alone_it_asks_for_the_places() -> None:
    network = MLP(3, 1, modulation="CAM", n_coordinates=2)
    with pytest.raises(ValueError, match=r"^modulate: .* give modulate=network.modulation.at\(x\)"):
        network(torch.rand(4, 3))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"modulation": {"otype": "CAM", "dims": [2]}}, "network.modulation.dims[0]: expected an integer from 0 to 1"),
        ({"modulation": {"otype": "CAM", "dims": [0, 0]}}, "network.modulation.dims: expected one to four"),
        ({"modulation": {"otype": "CAM", "resolution": [4]}}, "network.modulation.resolution: expected 2 numbers"),
        (
            {"modulation": {"otype": "CAM", "resolution": 1}},
            "network.modulation.resolution: expected an integer from 2",
        ),
        ({"modulation": {"otype": "CAM", "angles": True}}, "network.modulation.angles: are of directions"),
        ({"modulation": {"otype": "CAM", "resolution": 60000}}, "network.modulation.resolution: 60000 makes"),
        ({"modulation": "CAN"}, "network.modulation.otype: no modulation is called 'CAN'; did you mean CAM?"),
        ({"modulation": "CAM", "activation": "WIRE"}, "network.modulation: is of real activations, not of WIRE"),
        (
            {"modulation": "CAM", "n_hidden_layers": 0},
            "network.modulation.n_hidden_layers: a modulation changes hidden",
        ),
    ],
)
def test_a_bad_key_is_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ImageField(encoding="Identity", network={"otype": "MLP", **keys}, width=4, height=4)
    assert str(caught.value).startswith(message)
