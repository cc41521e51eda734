"""NeuralGraph: an MLP as a graph, messages along its edges (Kofinas et al., ICLR 2024, "Graph Neural Networks for
Learning Equivariant Representations of Neural Networks").

    {"otype": "NeuralGraph", "n_channels": 32, "n_layers": 4, "n_frequencies": 128, "deviation": 3.0,
     "aggregators": ["mean", "min", "max", "deviation"], "is_bidirectional": true, "has_edge_updates": true,
     "readout": "outputs"}

Nodes are neurons and carry their biases, edges are weights. A learned vector says which input or which output a node
is, and for hidden ones only which layer: they may change places. Messages are a node's channels, scaled and shifted by
the edge; a node takes their mean, least, largest and deviation (PNA; Corso et al. 2020), an edge then looks at its
ends.

The authors run the layers on sparse graphs of single edges; here each layer of the MLP is one dense tensor, the same
sums. Edges against the direction of the MLP are an option there (`rev_edge_features`), with features that are summed
over both; here they have weights of their own. Normalisation is by layer (LayerNorm), not over the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fieldforge.checks import expect_bool, expect_choice, expect_float, expect_generator, expect_int
from fieldforge.fields.weightspace.chain import WeightBatch
from fieldforge.fields.weightspace.codecs.base import WeightCodec
from fieldforge.fields.weightspace.layout import Layout
from fieldforge.fields.weightspace.networks.base import MLPNetwork
from fieldforge.fields.weightspace.networks.blocks import FourierFeatures, Perceptron, linear, normal
from fieldforge.registry import register

Readout = Literal["outputs", "mean"]

Aggregator = Literal["mean", "min", "max", "deviation"]
AGGREGATORS: tuple[Aggregator, ...] = ("mean", "min", "max", "deviation")

SMALLEST_VARIANCE = 1e-5


class GraphInput(nn.Module):
    """Biases and weights to nodes and edges.

    Args:
        widths: (d_0, ..., d_M) of the MLPs.
        n_node_channels, n_edge_channels: of what comes out.
        n_frequencies: random Fourier features of each number; 0: the number itself.
        deviation: of their frequencies.
        generator: source of the parameters.
    """

    def __init__(
        self,
        widths: Sequence[int],
        n_node_channels: int,
        n_edge_channels: int,
        n_frequencies: int,
        deviation: float,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.fourier = FourierFeatures(1, n_frequencies, deviation, generator) if n_frequencies else None
        n_in = 2 * n_frequencies if n_frequencies else 1
        self.of_biases, self.of_weights = (
            linear(n_in, n_node_channels, generator),
            linear(n_in, n_edge_channels, generator),
        )
        sizes = [widths[0], *[1] * (len(widths) - 2), widths[-1]]
        self.positions = nn.ParameterList(normal(size, n_node_channels, generator=generator) for size in sizes)

    def forward(self, batch: WeightBatch) -> tuple[list[Tensor], list[Tensor]]:
        """Nodes (batch, d_m, n) for m = 0 to M, and edges (batch, d_m, d_{m-1}, n) for m = 1 to M."""
        inputs = batch.biases[0].new_zeros(len(batch.biases[0]), self.widths[0], 1)  # inputs have no bias
        nodes = [self.of_biases(self._seen(bias)) for bias in (inputs, *batch.biases)]
        nodes = [node + position for node, position in zip(nodes, self.positions, strict=True)]
        return nodes, [self.of_weights(self._seen(weight)) for weight in batch.weights]

    def _seen(self, x: Tensor) -> Tensor:
        return x if self.fourier is None else self.fourier(x)


class Messages(nn.Module):
    """Node channels, scaled and shifted by the edge, and what a node hears of those that arrive.

    Args:
        width: channels of nodes and edges.
        aggregators: what it hears.
        generator: source of the parameters.
    """

    def __init__(self, width: int, aggregators: Sequence[Aggregator], generator: torch.Generator | None) -> None:
        super().__init__()
        self.aggregators = aggregators
        self.of_node, self.of_edge = linear(width, width, generator), linear(width, 2 * width, generator)

    def forward(self, senders: Tensor, edges: Tensor, axis: int) -> Tensor:
        """Senders (batch, n, width) along `axis` of edges (batch, d_m, d_{m-1}, width) to (batch, n', k width)."""
        scale, shift = self.of_edge(edges).chunk(2, -1)
        sent = self.of_node(senders).unsqueeze(1 if axis == 2 else 2)
        message = sent * (1 + scale) + shift
        mean = message.mean(axis)
        heard = {
            "mean": lambda: mean,
            "min": lambda: message.amin(axis),
            "max": lambda: message.amax(axis),
            "deviation": lambda: ((message - mean.unsqueeze(axis)).square().mean(axis) + SMALLEST_VARIANCE).sqrt(),
        }
        return torch.cat([heard[name]() for name in self.aggregators], -1)


class EdgeUpdate(nn.Module):
    """Two linear layers with ReLU on [edge, source, target], the first of them in three parts: what it makes of a node
    is computed once for all edges of the node."""

    def __init__(self, width: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.of_edge = linear(width, 2 * width, generator)
        self.of_source, self.of_target = (linear(width, 2 * width, generator, has_bias=False) for _ in range(2))
        self.out = linear(2 * width, width, generator)

    def forward(self, edges: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
        """(batch, d_m, d_{m-1}, width), (batch, d_{m-1}, width) and (batch, d_m, width) to the shape of edges."""
        h = self.of_edge(edges) + self.of_source(sources)[:, None] + self.of_target(targets)[:, :, None]
        out: Tensor = self.out(torch.relu(h))
        return out


class GraphLayer(nn.Module):
    """One round: messages, nodes, edges.

    Args:
        width: channels of nodes and edges.
        aggregators: what a node hears of its messages.
        is_bidirectional: whether nodes also hear from the layer after them.
        has_edge_updates: whether edges change.
        generator: source of the parameters.
    """

    def __init__(
        self,
        width: int,
        aggregators: Sequence[Aggregator],
        *,
        is_bidirectional: bool,
        has_edge_updates: bool,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.n_heard = width * len(aggregators)
        self.forth = Messages(width, aggregators, generator)
        self.back = Messages(width, aggregators, generator) if is_bidirectional else None
        n_in = width + self.n_heard * (1 + is_bidirectional)
        self.update = Perceptron((n_in, 2 * width, width), generator)
        self.norm = nn.LayerNorm(width)
        self.edge_update = EdgeUpdate(width, generator) if has_edge_updates else None
        self.edge_norm = nn.LayerNorm(width) if has_edge_updates else None

    def forward(self, nodes: list[Tensor], edges: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Nodes and edges of the same shapes."""
        last = len(nodes) - 1
        heard = []
        for m, node in enumerate(nodes):
            silence = node.new_zeros(*node.shape[:2], self.n_heard)
            parts = [node, self.forth(nodes[m - 1], edges[m - 1], 2) if m else silence]
            if self.back is not None:
                parts.append(self.back(nodes[m + 1], edges[m], 1) if m < last else silence)
            heard.append(torch.cat(parts, -1))
        nodes = [self.norm(node + self.update(all_parts)) for node, all_parts in zip(nodes, heard, strict=True)]
        if self.edge_update is None or self.edge_norm is None:
            return nodes, edges
        changed = [
            self.edge_norm(edge + self.edge_update(edge, source, target))
            for edge, source, target in zip(edges, nodes[:-1], nodes[1:], strict=True)
        ]
        return nodes, changed


class GraphNetwork(MLPNetwork):
    """What networks on neural graphs share: the way in and the head. Abstract; see `NeuralGraph`.

    The head reads the nodes of the outputs one after another, or the mean over the nodes behind all biases.
    """

    def __init__(
        self,
        layout: Layout,
        n_output_dims: int,
        codec: str | Mapping[str, Any] | WeightCodec[WeightBatch],
        *,
        widths: tuple[int, int],
        n_frequencies: int,
        deviation: float,
        readout: Readout,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__(layout, n_output_dims, codec)
        self.n_frequencies = expect_int("n_frequencies", n_frequencies, 0)
        self.deviation = expect_float("deviation", deviation, 0.0, open_low=True)
        self.readout: Readout = expect_choice("readout", readout, ("outputs", "mean"))
        expect_generator(generator)
        self.inputs = GraphInput(self.chain.widths, *widths, n_frequencies, self.deviation, generator)
        n_read = widths[0] * (self.chain.widths[-1] if self.readout == "outputs" else 1)
        self.head = Perceptron((n_read, widths[0], widths[0], n_output_dims), generator)

    def pool(self, features: WeightBatch) -> Tensor:
        nodes = features.biases
        read = nodes[-1].flatten(1) if self.readout == "outputs" else torch.cat(nodes, 1).mean(1)
        out: Tensor = self.head(read)
        return out


@register("weight_network", "NeuralGraph")
class NeuralGraph(GraphNetwork):
    """Message passing on the graph of an MLP.

    Args:
        layout: an MLP's matrices and biases.
        n_output_dims: numbers about each field.
        n_channels: of nodes and edges.
        n_layers: rounds of messages.
        n_frequencies: random Fourier features of each number; 0: the number itself.
        deviation: of their frequencies.
        aggregators: what a node hears of its messages: some of "mean", "min", "max", "deviation", or all (the authors).
        is_bidirectional: whether messages also go against the direction of the MLP.
        has_edge_updates: whether edges change from round to round.
        has_final_edge_update: whether they do after the last, for whoever wants `features`; the head does not read it.
        readout: "outputs": the nodes of the MLP's outputs; "mean": the mean over all nodes but the inputs.
        codec: configuration of a `Weights` codec.
        generator: source of the parameters.
    """

    otype = "NeuralGraph"

    def __init__(
        self,
        layout: Layout,
        n_output_dims: int,
        *,
        n_channels: int = 32,
        n_layers: int = 4,
        n_frequencies: int = 128,
        deviation: float = 3.0,
        aggregators: Sequence[Aggregator] = AGGREGATORS,
        is_bidirectional: bool = True,
        has_edge_updates: bool = True,
        has_final_edge_update: bool = False,
        readout: Readout = "outputs",
        codec: str | Mapping[str, Any] | WeightCodec[WeightBatch] = "Weights",
        generator: torch.Generator | None = None,
    ) -> None:
        width = expect_int("n_channels", n_channels, 1)
        super().__init__(
            layout, n_output_dims, codec, widths=(width, width), n_frequencies=n_frequencies,
            deviation=deviation, readout=readout, generator=generator,
        )  # fmt: skip
        self.n_channels, self.n_layers = n_channels, expect_int("n_layers", n_layers, 1, 1000)
        self.aggregators = [expect_choice(f"aggregators[{i}]", name, AGGREGATORS) for i, name in enumerate(aggregators)]
        if not self.aggregators:
            raise ValueError(f"aggregators: expected some of {', '.join(AGGREGATORS)}, got none")
        self.is_bidirectional = expect_bool("is_bidirectional", is_bidirectional)
        self.has_edge_updates = expect_bool("has_edge_updates", has_edge_updates)
        self.has_final_edge_update = expect_bool("has_final_edge_update", has_final_edge_update)
        last = n_layers - 1
        self.layers = nn.ModuleList(
            GraphLayer(
                n_channels,
                self.aggregators,
                is_bidirectional=is_bidirectional and (index < last or self.readout == "mean"),  # outputs are last
                has_edge_updates=has_edge_updates and (index < last or has_final_edge_update),
                generator=generator,
            )
            for index in range(n_layers)
        )

    def features(self, batch: WeightBatch) -> WeightBatch:
        nodes, edges = self.inputs(batch)
        for layer in self.layers:
            nodes, edges = layer(nodes, edges)
        return WeightBatch(tuple(edges), tuple(nodes[1:]))
