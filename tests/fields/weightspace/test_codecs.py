"""Codecs give every number back; layouts say which number is which, and refuse fields of another kind by name."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from fieldforge.contracts.codec import CODEC_CHECKS
from fieldforge.encodings.tri_plane import TriPlane
from fieldforge.fields.networks.mlp import MLP
from fieldforge.fields.weightspace.chain import Chain
from fieldforge.fields.weightspace.codecs.flat import FlatVector
from fieldforge.fields.weightspace.codecs.planes import PlaneChannels
from fieldforge.fields.weightspace.codecs.rows import Rows
from fieldforge.fields.weightspace.codecs.tokens import Tokens
from fieldforge.fields.weightspace.codecs.weights import Weights
from fieldforge.fields.weightspace.layout import Layout
from fieldforge.registry import available, build


def layout_of(*widths: int, has_bias: bool = True) -> Layout:
    tensors: list[tuple[str, tuple[int, ...]]] = []
    for index, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
        tensors += [(f"layers.{index}.weight", (n_out, n_in))] + [(f"layers.{index}.bias", (n_out,))] * has_bias
    return Layout(tuple(tensors))


PLANES = Layout((("encoding.planes", (3, 4, 4, 5)), *layout_of(5, 6, 1).tensors))
LAYOUTS = {
    "deep": layout_of(2, 7, 5, 6, 3),
    "no hidden": layout_of(3, 2),
    "no biases": layout_of(9, 4, 4, 1, has_bias=False),
}
CASES = [
    (f"{name} {label}", {"otype": name}, layout)
    for name in ("FlatVector", "Tokens", "Weights", "Rows")
    for label, layout in LAYOUTS.items()
] + [
    ("Tokens by layer", {"otype": "Tokens", "by": "layer"}, LAYOUTS["deep"]),
    ("Tokens of planes", {"otype": "Tokens"}, PLANES),
    ("PlaneChannels", {"otype": "PlaneChannels"}, PLANES),
    ("planes alone", {"otype": "PlaneChannels"}, Layout(PLANES.tensors[:1])),
]  # fmt: skip


@pytest.mark.parametrize(("config", "layout"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
@pytest.mark.parametrize("check", CODEC_CHECKS, ids=lambda check: check.__name__)
def test_codecs_keep_their_promises(check: Any, config: dict[str, Any], layout: Layout) -> None:
    check(lambda: build("codec", {"statistics": "none", **config}, layout=layout))


def test_every_codec_is_checked() -> None:
    assert set(available("codec")) == {config["otype"] for _, config, _ in CASES}


class Lossy(FlatVector):
    """Drops what a float16 does not hold."""

    def arrange(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors.half().to(vectors.dtype)


def test_the_contract_can_see() -> None:
    with pytest.raises(AssertionError, match=r"differs for a batch of 1"):
        CODEC_CHECKS[0](lambda: Lossy(LAYOUTS["deep"]))


def test_tokens_are_the_tensors_or_the_layers() -> None:
    layout = layout_of(27, 128, 128, 128, 1)
    assert Tokens(layout).sizes == (27 * 128, 128, 128 * 128, 128, 128 * 128, 128, 128, 1)
    assert Tokens(layout, by="layer").sizes == (28 * 128, 129 * 128, 129 * 128, 129)


@pytest.mark.parametrize(("widths", "n"), [
    ((27, 128, 128, 128, 1), 36_737), ((36, 128, 128, 128, 1), 37_889), ((2, 32, 32, 1), 1185), ((2, 8, 8, 1), 105),
])  # fmt: skip
def test_published_fields_have_their_published_sizes(widths: tuple[int, ...], n: int) -> None:
    """HyperDiffusion's shapes and animations, DWSNets' digits, the small digits."""
    assert layout_of(*widths).n_parameters == n


def test_rows_are_the_papers() -> None:
    """inr2vec: L (H + 1) rows of H between the first and the last layer; biases come after their matrices."""
    rows = Rows(layout_of(3, 512, 512, 512, 512, 1))
    hidden = range(rows.n_rows)[rows.hidden]
    assert (rows.width, len(hidden)) == (512, 3 * 513)
    mlp = MLP(2, 3, n_neurons=4, n_hidden_layers=2, has_bias=True)
    rows = Rows(Layout.of(mlp.state_dict()))
    code = rows.encode(rows.layout.flatten(mlp.state_dict())[None])[0]
    first, second, last = mlp.layers
    assert torch.equal(code[:2], first.weight.T)
    assert torch.equal(code[2], first.bias)
    assert torch.equal(code[rows.hidden], torch.cat([second.weight, second.bias[None]]))
    assert torch.equal(code[-4:-1], last.weight)
    assert torch.equal(code[-1], torch.cat([last.bias, torch.zeros(1)]))


def test_channels_are_the_planes_pictures(generator: torch.Generator) -> None:
    planes = TriPlane(resolution=4, n_features=5, generator=generator)
    codec = PlaneChannels(Layout.of(planes.state_dict()))
    channels = codec.encode(codec.layout.flatten(planes.state_dict())[None]).channels
    assert channels.shape == (1, 15, 4, 4)
    assert torch.equal(channels[0, 5 * 2 + 3], planes.planes[2, :, :, 3])


def test_statistics_of_layers_are_one_number_each(generator: torch.Generator) -> None:
    codec = Weights(layout_of(2, 8, 1))
    codec.fit(torch.randn(50, codec.layout.n_parameters, generator=generator))
    assert [len(part.unique()) for part in codec.scale.split(codec.layout.sizes)] == [1, 1, 1, 1]


def test_a_layout_is_fit_a_nefs_list() -> None:
    layout = Layout.from_json('[["a", [2, 3]], ["b", [4]]]')
    assert (layout.shapes, layout.n_parameters) == ({"a": (2, 3), "b": (4,)}, 10)
    assert Layout.from_json(layout.to_json()) == layout
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(4.0)}
    assert torch.equal(layout.flatten(tensors), torch.tensor([0.0, 1, 2, 3, 4, 5, 0, 1, 2, 3]))
    batch = {name: tensor.expand(2, 5, *tensor.shape) for name, tensor in tensors.items()}
    assert layout.flatten(batch).shape == (2, 5, 10)


@pytest.mark.parametrize("wrong", ["", "{}", "[[1, [2]]]", '[["a", [0]]]', '[["a", [1.5]]]', '[["a", 3]]', "[" * 9999,
                                   '[["a", [1]], ["a", [1]]]', "[]", '[["a", [100000, 100000]]]', '[["a", [true]]]',
                                   None, 3])  # fmt: skip
def test_strangers_layouts_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"^layout: "):
        Layout.from_json(wrong)


def test_fields_of_another_kind_are_named() -> None:
    one = MLP(2, 1, n_neurons=3, n_hidden_layers=1, has_bias=True).state_dict()
    layout = Layout.of(one)
    wider = MLP(2, 1, n_neurons=4, n_hidden_layers=1, has_bias=True).state_dict()
    deeper = MLP(2, 1, n_neurons=3, n_hidden_layers=2, has_bias=True).state_dict()
    broken = {name: tensor.clone() for name, tensor in one.items()}
    broken["layers.0.bias"][1] = torch.nan
    for other, message in (
        (wider, r"^seven\.field: layers\.0\.weight: expected shape"),
        (deeper, r"^seven\.field: .*got also layers\.2\.weight"),
        ({}, r"^seven\.field: expected a tensor layers\.0\.weight"),
        (broken, r"^seven\.field: expected finite numbers, got 1 that are not"),
    ):
        with pytest.raises(ValueError, match=message):
            layout.stack([one, other], ["six.field", "seven.field"])
    assert layout.stack([one, one]).shape == (2, layout.n_parameters)


def test_chains_are_found_and_broken_ones_refused() -> None:
    chain = Chain.find(Layout((("network.layers.10.weight", (1, 4)), ("network.layers.9.weight", (4, 4)),
                               ("network.layers.2.weight", (4, 2)), ("network.layers.2.bias", (4,)))))  # fmt: skip
    assert chain.widths == (2, 4, 4, 1)
    assert chain.biases == ("network.layers.2.bias", None, None)
    assert Chain.find(PLANES).rest == ("encoding.planes",)
    injected = MLP(3, 1, n_neurons=4, n_hidden_layers=3, input_injection="all").state_dict()
    for layout, message in (
        (Layout.of(injected), r"layers\.1\.weight: expected \(n_out, 4\)"),
        (Layout((("a", (3,)),)), r"expected the matrices of an MLP"),
        (Layout((("a.weight", (3, 2)), ("a.bias", (2,)))), r"a\.bias: expected \(3,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            Chain.find(layout)
    with pytest.raises(ValueError, match=r"Weights reads an MLP's matrices and biases, got also encoding\.planes"):
        Weights(PLANES)
    with pytest.raises(ValueError, match=r"PlaneChannels reads one tensor X\.planes"):
        PlaneChannels(LAYOUTS["deep"])
