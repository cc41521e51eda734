"""NeuralGraphTransformer: relational attention among the neurons of an MLP (Kofinas et al., ICLR 2024; the layer is
Diao and Loynd's relational transformer, ICLR 2023).

    {"otype": "NeuralGraphTransformer", "n_node_channels": 64, "n_edge_channels": 32, "n_layers": 4, "n_heads": 8,
     "n_frequencies": 128, "deviation": 1.0, "readout": "outputs"}

Every neuron attends to every other. Query, key and value of a pair are those of the nodes plus those of the edge
between them, and the value is also scaled by the edge (`modulate_v`). Edges then look at themselves, at the edge the
other way and at both ends. Between neurons of layers that are not neighbours the number 0 stands for the edge; the
authors compute a mask of edges that are not 0 and do not use it either.

Here a node attends to what it reads: its edge with another is the weight by which it reads it. The authors' nodes
attend to what reads them. All pairs are kept, so that memory grows with the square of the number of neurons.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fieldforge.checks import expect_bool, expect_int
from fieldforge.fields.activations.base import draw_uniform
from fieldforge.fields.networks.base import empty_linear
from fieldforge.fields.weightspace.chain import WeightBatch
from fieldforge.fields.weightspace.codecs.base import WeightCodec
from fieldforge.fields.weightspace.layout import Layout
from fieldforge.fields.weightspace.networks.blocks import expect_heads
from fieldforge.fields.weightspace.networks.graph import GraphNetwork, Readout
from fieldforge.registry import register


def xavier(n_in: int, n_out: int, generator: torch.Generator | None, *, has_bias: bool = True) -> nn.Linear:
    """A linear layer of Glorot's uniform weights and biases of 0, the authors' choice."""
    layer = empty_linear(n_in, n_out, has_bias=has_bias)
    assert isinstance(layer, nn.Linear)
    draw_uniform(layer.weight, math.sqrt(6 / (n_in + n_out)), generator)
    if has_bias:
        nn.init.zeros_(layer.bias)
    return layer


class RelationalLayer(nn.Module):
    """Nodes attend through edges, then edges look at their ends; normalised after each sum.

    Args:
        n_nodes, n_edges: channels of a node and of an edge; the attention is as wide as a node.
        n_heads: heads, which share the nodes' channels evenly.
        has_edge_updates: the last layer of a network that reads nodes needs none.
        generator: source of the parameters.
    """

    def __init__(
        self, n_nodes: int, n_edges: int, n_heads: int, *, has_edge_updates: bool, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        expect_heads(n_nodes, n_heads)
        self.n_heads, self.width = n_heads, n_nodes
        self.of_node = xavier(n_nodes, 3 * n_nodes, generator, has_bias=False)
        self.of_edge = xavier(n_edges, 4 * n_nodes, generator, has_bias=False)
        self.gather, self.mix = xavier(n_nodes, n_nodes, generator), xavier(n_nodes, n_nodes, generator)
        self.node_in = xavier(n_nodes, 2 * n_nodes, generator, has_bias=False)
        self.node_out = xavier(2 * n_nodes, n_nodes, generator)
        self.norms = nn.ModuleList(nn.LayerNorm(n_nodes) for _ in range(2))
        self.has_edge_updates = has_edge_updates
        if has_edge_updates:
            self.of_pair = xavier(2 * n_edges, 2 * n_edges, generator)
            self.of_source, self.of_target = (xavier(n_nodes, 2 * n_edges, generator) for _ in range(2))
            self.pair_out = xavier(2 * n_edges, n_edges, generator)
            self.edge_in = xavier(n_edges, 2 * n_edges, generator, has_bias=False)
            self.edge_out = xavier(2 * n_edges, n_edges, generator)
            self.edge_norms = nn.ModuleList(nn.LayerNorm(n_edges) for _ in range(2))

    def forward(self, nodes: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, n, n_nodes) and edges[:, i, j] from j to i, (batch, n, n, n_edges), to the same shapes."""
        nodes = self.norms[0](nodes + self.mix(self.gather(self._attend(nodes, edges))))
        nodes = self.norms[1](nodes + self.node_out(functional.gelu(self.node_in(nodes))))
        if not self.has_edge_updates:
            return nodes, edges
        pair = self.of_pair(torch.cat([edges, edges.transpose(1, 2)], -1))
        pair = pair + self.of_source(nodes)[:, None] + self.of_target(nodes)[:, :, None]
        edges = self.edge_norms[0](edges + self.pair_out(functional.gelu(pair)))
        edges = self.edge_norms[1](edges + self.edge_out(functional.gelu(self.edge_in(edges))))
        return nodes, edges

    def _attend(self, nodes: Tensor, edges: Tensor) -> Tensor:
        query, key, value = self.of_node(nodes).unflatten(-1, (3, self.n_heads, -1)).unbind(2)  # (batch, n, heads, d)
        of_query, of_key, shift, scale = self.of_edge(edges).unflatten(-1, (4, self.n_heads, -1)).unbind(3)
        score = ((query[:, :, None] + of_query) * (key[:, None] + of_key)).sum(-1) / math.sqrt(self.width)
        weight = score.softmax(2)[..., None]  # over j: (batch, i, j, heads, 1)
        return (weight * (value[:, None] * scale + shift)).sum(2).flatten(2)


@register("weight_network", "NeuralGraphTransformer")
class NeuralGraphTransformer(GraphNetwork):
    """Relational transformer on the graph of an MLP.

    Args:
        layout: an MLP's matrices and biases.
        n_output_dims: numbers about each field.
        n_node_channels, n_edge_channels: of nodes and edges.
        n_layers: how many.
        n_heads: of the attention.
        n_frequencies: random Fourier features of each number; 0: the number itself.
        deviation: of their frequencies.
        has_final_edge_update: whether edges change after the last layer too; the head does not read it.
        readout: "outputs": the nodes of the MLP's outputs; "mean": the mean over all nodes but the inputs.
        codec: configuration of a `Weights` codec.
        generator: source of the parameters.
    """

    otype = "NeuralGraphTransformer"

    def __init__(
        self,
        layout: Layout,
        n_output_dims: int,
        *,
        n_node_channels: int = 64,
        n_edge_channels: int = 32,
        n_layers: int = 4,
        n_heads: int = 8,
        n_frequencies: int = 128,
        deviation: float = 1.0,
        has_final_edge_update: bool = False,
        readout: Readout = "outputs",
        codec: str | Mapping[str, Any] | WeightCodec[WeightBatch] = "Weights",
        generator: torch.Generator | None = None,
    ) -> None:
        nodes, edges = (
            expect_int("n_node_channels", n_node_channels, 1),
            expect_int("n_edge_channels", n_edge_channels, 1),
        )
        super().__init__(
            layout, n_output_dims, codec, widths=(nodes, edges), n_frequencies=n_frequencies, deviation=deviation,
            readout=readout, generator=generator,
        )  # fmt: skip
        self.n_node_channels, self.n_edge_channels = nodes, edges
        self.n_layers, self.n_heads = expect_int("n_layers", n_layers, 1, 1000), expect_int("n_heads", n_heads, 1)
        self.has_final_edge_update = expect_bool("has_final_edge_update", has_final_edge_update)
        self.layers = nn.ModuleList(
            RelationalLayer(nodes, edges, n_heads, has_edge_updates=index < n_layers - 1 or has_final_edge_update,
                            generator=generator) for index in range(n_layers)
        )  # fmt: skip

    def features(self, batch: WeightBatch) -> WeightBatch:
        nodes, blocks = self.inputs(batch)
        widths = self.chain.widths
        starts = [sum(widths[:m]) for m in range(len(widths) + 1)]
        absent = self.inputs.of_weights(self.inputs._seen(batch.weights[0].new_zeros(1)))
        edges = absent.expand(len(nodes[0]), starts[-1], starts[-1], -1).clone()
        for m, block in enumerate(blocks):
            edges[:, starts[m + 1] : starts[m + 2], starts[m] : starts[m + 1]] = block
        joined = torch.cat(nodes, 1)
        for layer in self.layers:
            joined, edges = layer(joined, edges)
        weights = [edges[:, starts[m + 1] : starts[m + 2], starts[m] : starts[m + 1]] for m in range(len(blocks))]
        return WeightBatch(tuple(weights), joined.split(widths, 1)[1:])
