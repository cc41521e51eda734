"""PINs: levels of detail of one network."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import exposure as loops
from reference import networks as network_loops
from torch import Tensor, nn

from fieldforge.apps.cli import main
from fieldforge.contracts.network import NETWORK_CHECKS
from fieldforge.fields.file import load_field, save_field
from fieldforge.fields.kinds.image import ImageField
from fieldforge.fields.networks.pins import PINs
from fieldforge.registry import ConfigError

SMALL: dict[str, Any] = {"n_levels": 3, "n_neurons": 5, "n_hidden_layers": 2}


def made(**keys: Any) -> PINs:
    return PINs(6, 2, **(SMALL | keys), generator=torch.Generator().manual_seed(0))


def with_heads(network: PINs) -> PINs:
    """In float64, with heads that are not 0."""
    for head in network.heads:
        nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(2))
    return network.double()


@pytest.mark.parametrize("check", NETWORK_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("head", ["residual", "independent"])
def test_contract(head: str, check: Any) -> None:
    check(lambda: with_heads(made(head=head, activation="Tanh")).float())


@pytest.mark.parametrize("head", ["residual", "independent"])
def test_levels_are_the_loop(head: str) -> None:
    order = torch.tensor([2, 0, 1, 1, 0, 2])
    network = with_heads(made(head=head, channel_order=order))
    x = torch.rand(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) - 0.5
    parts = [[1, 4], [2, 3], [0, 5]]

    def linear(layer: nn.Module, h: Any) -> list[float]:
        return network_loops.linear(layer.weight.tolist(), layer.bias.tolist(), h)

    def level(layers: nn.ModuleList) -> Any:
        def run(h: Any) -> list[float]:
            for layer in layers:
                h = [max(z, 0.0) for z in linear(layer, h)]
            return h

        return run

    heads = [lambda h, one=one: linear(one, h) for one in network.heads]
    expected = [
        loops.pins([[point[i] for i in part] for part in parts], [level(one) for one in network.levels], heads,
                   head == "residual")
        for point in x.tolist()
    ]  # fmt: skip
    found = torch.stack(network.forward_levels(x), 1)
    torch.testing.assert_close(found.tolist(), expected, rtol=1e-10, atol=1e-12)
    assert torch.equal(network(x), found[:, -1])
    for last in (1, 2, 3):
        assert torch.equal(network(x, max_level=last), found[:, last - 1])


def test_the_untrained_stack_is_its_coarsest_level() -> None:
    network = made()
    first, *others = network.forward_levels(torch.rand(5, 6))
    assert all(torch.equal(first, other) for other in others)
    independent = made(head="independent").forward_levels(torch.rand(5, 6))
    assert not torch.equal(independent[0], independent[1])


def test_a_coarse_level_knows_nothing_of_fine_features() -> None:
    network = with_heads(made())
    x = torch.rand(5, 6, dtype=torch.float64)
    other = x.clone()
    other[:, 4:] = 0
    for level, is_same in ((1, True), (2, True), (3, False)):
        assert torch.equal(network(x, max_level=level), network(other, max_level=level)) == is_same


def test_locked_levels_add_nothing() -> None:
    network = with_heads(made(progressive=True))
    x = torch.rand(5, 6, dtype=torch.float64)
    assert torch.equal(network(x), network(x, max_level=1))
    network.opened.fill_(2.5)
    first, second, third = network.forward_levels(x)
    network.opened.fill_(3.0)
    _, _, full = network.forward_levels(x)
    torch.testing.assert_close(third - second, 0.5 * (full - second))
    assert not torch.equal(first, second)


def test_levels_unlock_in_half_of_the_steps() -> None:
    network = made(n_levels=4, progressive=True)
    assert [float(network.weight_of(level)) for level in range(4)] == [1, 0, 0, 0]
    seen = {}
    for step in range(40):
        network.on_step(step, 80)
        seen[step + 1] = [float(network.weight_of(level)) for level in range(4)]
    assert seen[15] == pytest.approx([1.0, 0.5, 0.0, 0.0])
    assert seen[40] == [1, 1, 1, 1]
    fixed = made(n_levels=4)
    fixed.on_step(0, 80)
    assert float(fixed.opened) == 4


@pytest.mark.parametrize(
    ("order", "n_levels", "ends"),
    [
        (torch.arange(8), 4, [2, 4, 6, 8]),
        (torch.arange(8).repeat(2), 3, [6, 10, 16]),
        (torch.tensor([0] * 9 + [1, 2, 3]), 3, [9, 10, 12]),
        (torch.tensor([0, 1, 2] + [3] * 9), 3, [2, 3, 12]),
    ],
)
def test_levels_end_between_ranks(order: Tensor, n_levels: int, ends: list[int]) -> None:
    assert PINs(len(order), 1, n_levels=n_levels, n_neurons=4, channel_order=order).ends == ends


def test_drawn_frequencies_are_sorted_into_levels_and_come_back_from_a_file(tmp_path: Path) -> None:
    encoding = {"otype": "RandomFourier", "n_features": 12}
    generator = torch.Generator().manual_seed(5)
    field = ImageField(encoding=encoding, network={"otype": "PINs", **SMALL}, width=4, height=4, generator=generator)
    length = field.encoding.frequencies.norm(dim=-1).repeat(2)[field.network.channels]
    parts = [part for part in length.tensor_split(field.network.ends[:-1])]
    assert all(float(a.max()) <= float(b.min()) for a, b in itertools.pairwise(parts))
    for head in field.network.heads:
        nn.init.normal_(head.weight, generator=generator)
    save_field(tmp_path / "pins.field", field)
    loaded, _ = load_field(tmp_path / "pins.field")
    points = torch.rand(9, 2) * 4
    assert torch.equal(loaded(points), field(points))


@pytest.mark.parametrize(
    ("encoding", "keys", "message"),
    [
        ("Identity", {}, "network.otype: PINs does not fit here: channel_order: PINs need an encoding whose channels"),
        ({"otype": "Frequency", "n_frequencies": 2}, {}, "network.n_levels: 3 levels need as many ranks of features"),
        ("Frequency", {"head": "none"}, "network.head: expected one of residual, independent"),
        ("Frequency", {"head": "independent", "progressive": True}, "network.progressive: levels fade in by their"),
        ("Frequency", {"n_levels": 0}, "network.n_levels: expected an integer from 1 to 64, got 0"),
        ("Frequency", {"n_neurons": 10**9}, "network.n_neurons: at most 1,073,741,824"),
        (
            {"otype": "SAPE", "nested": "Frequency"},
            {},
            "network.otype: PINs does not fit here: channel_order: PINs need an encoding",
        ),
    ],
)
def test_a_bad_key_is_named(encoding: Any, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ImageField(encoding=encoding, network={"otype": "PINs", **SMALL, **keys}, width=4, height=4)
    assert str(caught.value).startswith(message)


def test_a_level_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^max_level: expected an integer from 1 to 3, got 4"):
        made()(torch.rand(2, 6), max_level=4)


def test_a_file_is_rendered_up_to_a_level(tmp_path: Path) -> None:
    encoding = {"otype": "Frequency", "n_frequencies": 3}
    field = ImageField(encoding=encoding, network={"otype": "PINs", **SMALL}, width=6, height=4)
    for head in field.network.heads:
        nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(2))
    save_field(tmp_path / "pins.field", field)
    pictures = []
    for extra in ([], ["--max-level", "3"], ["--max-level", "1"]):
        path = tmp_path / f"{len(pictures)}.png"
        assert main(["render", str(tmp_path / "pins.field"), "-o", str(path), "--quiet", *extra]) == 0
        pictures.append(path.read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]
    with pytest.raises(ValueError, match=r"^max_level: expected an integer from 1 to 3, got 4"):
        field.show_level(4)
    with pytest.raises(ValueError, match=r"^max_level: the network MLP has no levels of detail; PINs has"):
        ImageField(encoding="Identity", network="MLP", width=4, height=4).show_level(1)
