"""FoldedPhases: any network on weights, behind a step that takes a sine's phases out of them.

    {"otype": "FoldedPhases", "activation": {"otype": "Sine", "omega": 10.0}, "nested": {"otype": "OddGraph"}}

A bias of sin(omega (w x + b)) may move by half periods (`symmetries.fold_phases`), so that one wave has many biases.
Folded, it has one; what is left are the order of the units and, where a unit has the bias 0, its sign. On digits with
random initialisations this is worth far more than any choice of network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fieldforge.checks import expect_int
from fieldforge.fields.activations.base import Activation
from fieldforge.fields.activations.sine import Sine
from fieldforge.fields.weightspace.chain import Chain, WeightBatch
from fieldforge.fields.weightspace.codecs.base import WeightCodec
from fieldforge.fields.weightspace.layout import Layout, expect_layout
from fieldforge.fields.weightspace.networks.base import WeightNetwork
from fieldforge.fields.weightspace.symmetries import fold_phases
from fieldforge.registry import build, register


@register("weight_network", "FoldedPhases")
class FoldedPhases(WeightNetwork[Any]):
    """A network that sees weights with folded phases.

    Args:
        layout: a sine MLP's matrices and biases.
        n_output_dims: numbers about each field.
        activation: the fields' sine, for its frequencies.
        nested: configuration of the network, or the network.
        generator: source of the parameters.

    Attributes:
        chain: the MLP in the layout.
        invariance, codec: those of `nested`.
    """

    otype = "FoldedPhases"

    def __init__(
        self,
        layout: Layout,
        n_output_dims: int,
        *,
        activation: str | Mapping[str, Any] | Activation = "Sine",
        nested: str | Mapping[str, Any] | WeightNetwork[Any] = "OddGraph",
        generator: torch.Generator | None = None,
    ) -> None:
        nn.Module.__init__(self)  # the codec is the nested network's
        self.layout, self.n_output_dims = expect_layout(layout), expect_int("n_output_dims", n_output_dims, 1)
        self.activation: Activation = (
            activation if isinstance(activation, Activation) else build("activation", activation, path="activation")
        )
        if not isinstance(self.activation, Sine):
            raise ValueError(f"activation: only a Sine has phases to fold, got {self.activation.otype}")
        self.chain = Chain.find(self.layout)
        context = {"layout": self.layout, "n_output_dims": n_output_dims, "generator": generator}
        made: WeightNetwork[Any] = (
            nested if isinstance(nested, WeightNetwork) else build("weight_network", nested, path="nested", **context)
        )
        self.nested = made
        self.invariance = made.invariance  # type: ignore[misc]

    @property
    def codec(self) -> WeightCodec[Any]:  # type: ignore[override]
        """That of the nested network; it comes behind the folding."""
        return self.nested.codec

    def forward(self, vectors: Tensor) -> Tensor:
        out: Tensor = self.nested(self.folded(vectors))
        return out

    def fit(self, vectors: Tensor) -> None:
        self.nested.fit(self.folded(vectors))

    def folded(self, vectors: Tensor) -> Tensor:
        """(batch, n_parameters) to other weights of the same functions."""
        assert isinstance(self.activation, Sine)
        return fold_phases(vectors, self.chain, self.activation)

    def read(self, code: Any) -> Tensor:
        return self.nested.read(code)

    def features(self, batch: WeightBatch) -> WeightBatch:
        """Those of the nested network, where it has such."""
        found: WeightBatch = self.nested.features(batch)  # type: ignore[operator]
        return found
