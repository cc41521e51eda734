"""Networks on weights answer alike for all weights of one field, and layers are every equivariant map, no fewer."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from fieldforge.contracts.weight_network import WEIGHT_NETWORK_CHECKS, seeded
from fieldforge.fields.kinds.shape import SDFField
from fieldforge.fields.networks.mlp import MLP
from fieldforge.fields.weightspace.chain import Chain, WeightBatch
from fieldforge.fields.weightspace.layout import Layout
from fieldforge.fields.weightspace.networks.dws import DWS, DWSLayer
from fieldforge.fields.weightspace.networks.graph import NeuralGraph
from fieldforge.fields.weightspace.networks.nfn import NFN, NFLayer
from fieldforge.fields.weightspace.networks.row_encoder import FieldDecoder, RowEncoder
from fieldforge.registry import ConfigError, available, build


def layout_of(*widths: int) -> Layout:
    tensors: list[tuple[str, tuple[int, ...]]] = []
    for index, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
        tensors += [(f"{index}.weight", (n_out, n_in)), (f"{index}.bias", (n_out,))]
    return Layout(tuple(tensors))


DIGITS, DEEP = layout_of(2, 8, 8, 1), layout_of(3, 5, 6, 4, 2)
PLANES = Layout((("encoding.planes", (3, 4, 4, 3)), *layout_of(3, 4, 1).tensors))
GRAPH: dict[str, Any] = {"n_layers": 2, "n_frequencies": 4}
CASES: dict[str, tuple[dict[str, Any], Layout]] = {
    "NFN HNP": ({"otype": "NFN", "n_channels": 8, "n_frequencies": 4, "head_widths": [8]}, DEEP),
    "NFN HNP one hidden layer": ({"otype": "NFN", "n_channels": 8, "n_frequencies": 0, "head_widths": []},
                                 layout_of(3, 5, 2)),
    "NFN NP": ({"otype": "NFN", "variant": "NP", "n_channels": 8, "n_frequencies": 4, "head_widths": [8]}, DIGITS),
    "DWS as released": ({"otype": "DWS", "n_channels": 8, "n_hidden_layers": 1, "n_heads": 4}, DIGITS),
    "DWS of the theorem": ({"otype": "DWS", "n_channels": 8, "n_hidden_layers": 1, "reduction": "mean",
                            "set_layer": "linear"}, DEEP),
    "DWS sums near the diagonal": ({"otype": "DWS", "n_channels": 8, "n_hidden_layers": 0, "reduction": "sum",
                                    "is_diagonal": True, "has_norm": False, "n_heads": 2}, DIGITS),
    "NeuralGraph": ({"otype": "NeuralGraph", "n_channels": 8, "n_layers": 3, "n_frequencies": 4,
                     "has_final_edge_update": True, "readout": "mean"}, DEEP),
    "NeuralGraph of digits": ({"otype": "NeuralGraph", "n_channels": 8, "n_layers": 3, "n_frequencies": 4}, DIGITS),
    "NeuralGraph forward": ({"otype": "NeuralGraph", "n_channels": 8, "is_bidirectional": False, "n_layers": 4,
                             "has_edge_updates": False, "readout": "mean", "n_frequencies": 0,
                             "aggregators": ["mean", "max"]}, DIGITS),
    "NeuralGraphTransformer": ({"otype": "NeuralGraphTransformer", "n_node_channels": 8, "n_edge_channels": 4,
                                "n_heads": 2, **GRAPH}, DEEP),
    "OddGraph": ({"otype": "OddGraph", "n_channels": 8, "n_layers": 2, "n_frequencies": 4}, DEEP),
    "OddGraph one hidden layer": ({"otype": "OddGraph", "n_channels": 8, "n_layers": 1, "n_frequencies": 0},
                                  layout_of(3, 5, 2)),
    "FoldedPhases": ({"otype": "FoldedPhases", "activation": {"otype": "Sine", "omega": 9.0},
                      "nested": {"otype": "OddGraph", "n_channels": 8, "n_layers": 2, "n_frequencies": 4}}, DIGITS),
    "RowEncoder": ({"otype": "RowEncoder", "row_widths": [8, 8], "n_embedding": 8, "head_widths": [8]}, DEEP),
    "RowEncoder of one start": ({"otype": "RowEncoder", "row_widths": [8], "n_embedding": 8, "has_row_vectors": True},
                                DIGITS),
    "RowEncoder hidden": ({"otype": "RowEncoder", "row_widths": [8], "n_embedding": 8, "part": "hidden"}, DIGITS),
    "ChannelTransformer": ({"otype": "ChannelTransformer", "width": 8, "n_layers": 2, "n_heads": 2, "crop": 2}, PLANES),
    "FlatMLP": ({"otype": "FlatMLP", "widths": [8]}, DIGITS),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("check", WEIGHT_NETWORK_CHECKS, ids=lambda check: check.__name__)
def test_networks_keep_their_promises(check: Any, case: str) -> None:
    config, layout = CASES[case]
    check(lambda: build("weight_network", config, layout=layout, n_output_dims=3, generator=seeded(0)))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_networks_learn_sixteen_fields_by_heart(case: str) -> None:
    config, layout = CASES[case]
    network = build("weight_network", config, layout=layout, n_output_dims=2, generator=seeded(0))
    vectors, labels = torch.randn(16, layout.n_parameters, generator=seeded(1)) * 0.5, torch.arange(16) % 2
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = functional.cross_entropy(network(vectors), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses) < 0.3 * losses[0], losses[::15]


def test_every_network_is_checked() -> None:
    assert set(available("weight_network")) == {config["otype"] for config, _ in CASES.values()}


class Blind(NFN):
    """Its features look at the number of the unit."""

    def features(self, batch: WeightBatch) -> WeightBatch:
        weights = [w * torch.linspace(1, 2, w.shape[1])[:, None, None] for w in batch.weights]
        return super().features(WeightBatch(tuple(weights), batch.biases))


def test_the_contract_can_see() -> None:
    checks = {check.__name__: check for check in WEIGHT_NETWORK_CHECKS}
    for name in ("answers_are_invariant", "features_are_equivariant"):
        with pytest.raises(AssertionError, match=r"move"):
            checks[name](lambda: Blind(DIGITS, 2, n_channels=4, n_frequencies=0, generator=seeded(0)))


def group_elements(widths: tuple[int, ...], has_fixed_ends: bool) -> list[Tensor]:
    """Every permutation of an MLP's numbers, as where each comes from, in the order W_1, b_1, W_2, ..."""
    free = [1 if has_fixed_ends and m in (0, len(widths) - 1) else w for m, w in enumerate(widths)]
    elements = []
    for orders in itertools.product(*(itertools.permutations(range(n)) for n in free)):
        full = [torch.arange(w) if has_fixed_ends and m in (0, len(widths) - 1) else torch.tensor(orders[m])
                for m, w in enumerate(widths)]  # fmt: skip
        numbers, start = [], 0
        for m in range(1, len(widths)):
            matrix = start + torch.arange(widths[m] * widths[m - 1]).view(widths[m], widths[m - 1])
            start += matrix.numel()
            bias = start + torch.arange(widths[m])
            start += widths[m]
            numbers += [matrix[full[m]][:, full[m - 1]].flatten(), bias[full[m]]]
        elements.append(torch.cat(numbers))
    return elements


def dimension(widths: tuple[int, ...], has_fixed_ends: bool) -> int:
    """Of the space of equivariant linear maps: the mean over the group of (fixed numbers)² (Burnside)."""
    elements = group_elements(widths, has_fixed_ends)
    squares = sum(int((element == torch.arange(len(element))).sum()) ** 2 for element in elements)
    assert squares % len(elements) == 0
    return squares // len(elements)


def matrix_of(layer: Callable[[WeightBatch], WeightBatch], widths: tuple[int, ...]) -> Tensor:
    """The matrix of a linear layer of one channel, in the order W_1, b_1, W_2, ..."""
    layout = layout_of(*widths)
    chain = Chain.find(layout)
    basis = torch.eye(layout.n_parameters, dtype=torch.float64)

    def flat(x: Tensor) -> Tensor:
        return chain.join(layer(chain.split(x)))

    return flat(basis) - flat(torch.zeros_like(basis))


LAYERS: dict[str, tuple[Callable[..., nn.Module], bool]] = {
    "HNP": (lambda widths: NFLayer(widths, 1, 1, generator=seeded(0)), True),
    "NP": (lambda widths: NFLayer(widths, 1, 1, has_fixed_ends=False, generator=seeded(0)), False),
    "DWS mean": (lambda widths: DWSLayer(widths, 1, 1, generator=seeded(0)), True),
    "DWS sum": (lambda widths: DWSLayer(widths, 1, 1, reduction="sum", generator=seeded(0)), True),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("widths", [(2, 3, 2), (2, 2, 3, 2)], ids=str)
def test_a_layer_is_every_equivariant_linear_map(name: str, widths: tuple[int, ...]) -> None:
    """As many independent maps as the group allows (counted by Burnside), each parameter a map of its own."""
    make, has_fixed_ends = LAYERS[name]
    layer = make(widths).double().requires_grad_(False)
    matrices = [parameter for key, parameter in layer.named_parameters() if "maps" in key and parameter.ndim == 2]
    assert sum(matrix.numel() for matrix in matrices) == dimension(widths, has_fixed_ends)
    for parameter in layer.parameters():
        parameter.zero_()
    maps = []
    for matrix in matrices:
        for index in range(matrix.numel()):
            matrix.view(-1)[index] = 1
            maps.append(matrix_of(layer, widths).flatten())
            matrix.view(-1)[index] = 0
    assert int(torch.linalg.matrix_rank(torch.stack(maps))) == len(maps)
    element = group_elements(widths, has_fixed_ends)[-1]
    order = torch.argsort(element)
    some = torch.stack(maps).T @ torch.randn(len(maps), dtype=torch.float64, generator=seeded(1))
    some = some.view(len(element), -1)
    torch.testing.assert_close(some[order][:, order], some, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layer", [NFLayer, DWSLayer], ids=lambda layer: layer.__name__)
def test_hidden_widths_cost_no_parameters(layer: Any) -> None:
    def count(*widths: int) -> int:
        return sum(parameter.numel() for parameter in layer(widths, 3, 4).parameters())

    assert count(2, 5, 6, 1) == count(2, 32, 32, 1)
    assert count(2, 5, 6, 1) < count(4, 5, 6, 1)
    assert count(2, 5, 6, 1) < count(2, 5, 6, 6, 1)


def test_heads_read_what_the_papers_pool() -> None:
    """DWSNets: f (2 M - 3 + d_0 + 2 d_M) numbers; so does HNP's, whose group is the same; NP's is f 2 M."""
    layout = layout_of(2, 32, 32, 32, 3)
    for network in (DWS(layout, 5, n_channels=8), NFN(layout, 5, n_channels=8, head_widths=[])):
        head = network.head if isinstance(network.head, nn.Linear) else network.head[0]
        assert isinstance(head, nn.Linear)
        assert head.in_features == 8 * (2 * 4 - 3 + 2 + 2 * 3)
    np_head = NFN(layout, 5, variant="NP", n_channels=8, head_widths=[]).head[0]
    assert isinstance(np_head, nn.Linear)
    assert np_head.in_features == 8 * 2 * 4


def test_np_needs_its_embeddings_to_tell_inputs_apart(generator: torch.Generator) -> None:
    layer = NFLayer((2, 4, 1), 1, 3, has_fixed_ends=False, generator=generator)
    chain = Chain.find(layout_of(2, 4, 1))
    one = chain.split(torch.randn(1, chain.layout.n_parameters, generator=generator))
    swapped = WeightBatch((one.weights[0].flip(2), one.weights[1]), one.biases)
    torch.testing.assert_close(layer(swapped).biases[1], layer(one).biases[1])
    fixed = NFLayer((2, 4, 1), 1, 3, generator=generator)
    assert not torch.allclose(fixed(swapped).biases[1], fixed(one).biases[1])


def test_a_graph_hears_its_inputs_from_the_far_end(generator: torch.Generator) -> None:
    """Without edges back, the first matrix reaches the outputs after as many rounds as there are layers."""
    for n_rounds, reaches in ((1, False), (3, True)):
        network = NeuralGraph(DIGITS, 1, n_channels=4, n_layers=n_rounds, n_frequencies=0, is_bidirectional=False,
                              generator=generator)  # fmt: skip
        vectors = torch.randn(1, DIGITS.n_parameters, generator=generator)
        other = vectors.clone()
        other[:, :16] += 1
        assert torch.equal(network(vectors), network(other)) != reaches


def test_the_mask_of_zero_weights_is_not_repeated(generator: torch.Generator) -> None:
    """A weight of 0 is a weight: moving it from 0 moves the answer continuously."""
    network = NeuralGraph(DIGITS, 1, n_channels=4, generator=generator, **GRAPH).double()
    vectors = torch.randn(1, DIGITS.n_parameters, generator=generator).double()
    vectors[0, 20] = 0
    moved = vectors.clone()
    moved[0, 20] = 1e-9
    assert 0 < float((network(moved) - network(vectors)).detach().abs().max()) < 1e-6


def test_a_decoder_is_one_network_for_all_fields(generator: torch.Generator) -> None:
    encoder = RowEncoder(DIGITS, 1, row_widths=[16], n_embedding=8, generator=generator).eval()
    decoder = FieldDecoder(8, 2, 1, n_neurons=16, n_frequencies=3, generator=generator)
    embedding = encoder.embed(torch.randn(3, DIGITS.n_parameters, generator=generator))
    points = torch.rand(3, 7, 2, generator=generator) * 2 - 1
    out = decoder(embedding, points)
    assert out.shape == (3, 7, 1)
    torch.testing.assert_close(decoder(embedding[1:2], points[1:2])[0], out[1])
    with pytest.raises(ValueError, match=r"^points: expected \(batch, n, 2\)"):
        decoder(embedding, points[0])


def test_inr2vecs_decoder_has_two_and_two_layers() -> None:
    """512 wide, ten octaves and the place itself, a 1024 embedding: 1024 + 3 + 60 inputs."""
    decoder = FieldDecoder(1024, 3, 1)
    n_in = 1024 + 63
    expected = (n_in + 1) * 512 + 513 * 512 + (n_in + 1) * 512 + 513 * 512 + 513
    assert sum(parameter.numel() for parameter in decoder.parameters()) == expected


@pytest.mark.parametrize(("config", "layout", "message"), [
    ({"otype": "NFN", "codec": "FlatVector"}, DIGITS, r"codec: NFN reads codes of Weights, got FlatVector"),
    ({"otype": "NFN"}, PLANES, r"codec\.otype: Weights does not fit here: layout: Weights reads an MLP's matrices"),
    ({"otype": "DWS", "n_channels": 6, "n_heads": 4}, DIGITS, r"n_heads: expected a divisor of the width 6, got 4"),
    ({"otype": "DWS", "reduction": "median"}, DIGITS, r"reduction: expected one of max, mean, sum"),
    ({"otype": "RowEncoder", "part": "hidden"}, layout_of(2, 4, 1), r"part: 'hidden' needs a layout of at least two"),
    ({"otype": "ChannelTransformer"}, DIGITS, r"codec\.otype: PlaneChannels does not fit here: layout: Plane"),
    ({"otype": "FlatMLP", "widths": [0]}, DIGITS, r"widths\[0\]: expected an integer of at least 1"),
])  # fmt: skip
def test_bad_configurations_are_named(config: dict[str, Any], layout: Layout, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("weight_network", config, layout=layout, n_output_dims=2)


def test_a_field_goes_in_as_its_vector(generator: torch.Generator) -> None:
    mlps = [MLP(2, 1, n_neurons=8, n_hidden_layers=2, activation="Sine", has_bias=True) for _ in range(3)]
    layout = Layout.of(mlps[0].state_dict())
    network = NeuralGraph(layout, 10, n_channels=8, generator=generator, **GRAPH)
    assert network(layout.stack([mlp.state_dict() for mlp in mlps])).shape == (3, 10)


def test_a_tri_planes_channels_have_no_order(generator: torch.Generator) -> None:
    """Another order of channels, and of the columns that read them, is the same field and has the same answer."""
    field = SDFField(
        encoding={"otype": "TriPlane", "resolution": 4, "n_features": 3},
        network={"otype": "MLP", "n_neurons": 4, "n_hidden_layers": 1, "has_bias": True}, generator=generator,
    )  # fmt: skip
    layout = Layout.of(field.state_dict())
    order = torch.tensor([2, 0, 1])
    changed = {name: tensor.clone() for name, tensor in field.state_dict().items()}
    changed["encoding.planes"] = changed["encoding.planes"][..., order]
    changed["network.layers.0.weight"] = changed["network.layers.0.weight"][:, order]
    points = torch.rand(20, 3, generator=generator) * 2 - 1
    torch.testing.assert_close(functional_call(field, changed, (points,)), field(points), rtol=0, atol=1e-6)
    network = build(
        "weight_network", CASES["ChannelTransformer"][0], layout=layout, n_output_dims=3, generator=generator
    )
    one, other = network(layout.stack([field.state_dict(), changed]))
    torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)
