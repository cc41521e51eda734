"""What a network on weights is: the vectors of a batch of fields in, numbers about each field out.

Vectors go through the network's codec first, so that whoever has a collection needs to know nothing else. To write
one, subclass `WeightNetwork` (or `MLPNetwork`, which reads matrices and biases and lets hidden units change places),
keep every constructor keyword as an attribute of the same name, and run `fieldforge.contracts.check_weight_network`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor, nn

from fieldforge.checks import expect_int
from fieldforge.fields.weightspace.chain import Chain, WeightBatch
from fieldforge.fields.weightspace.codecs.base import WeightCodec, expect_permutable
from fieldforge.fields.weightspace.codecs.weights import Weights
from fieldforge.fields.weightspace.layout import Layout, expect_layout
from fieldforge.registry import build, config_of

Code = TypeVar("Code")


class WeightNetwork(nn.Module, ABC, Generic[Code]):
    """Fields to numbers.

    Class attributes: ``otype``, the name in a configuration; ``invariance``: what may be done to the weights without
    changing the answer: "none", "permutations" of hidden units, "rows" of the code or "channels" of planes.

    Attributes: ``layout``, ``n_output_dims``, ``codec``.

    Args:
        layout: of the vectors.
        n_output_dims: numbers about each field (classes, say).
        codec: configuration of the codec whose codes the network reads, or the codec.
    """

    otype: ClassVar[str]
    invariance: ClassVar[str] = "none"
    codec_name: ClassVar[str]
    """The only codec whose codes the network reads."""

    def __init__(self, layout: Layout, n_output_dims: int, codec: str | Mapping[str, Any] | WeightCodec[Code]) -> None:
        super().__init__()
        self.layout = expect_layout(layout)
        self.n_output_dims = expect_int("n_output_dims", n_output_dims, 1)
        self.codec: WeightCodec[Code] = expect_codec(codec, self.layout, self.codec_name, self.otype)

    def forward(self, vectors: Tensor) -> Tensor:
        """(batch, n_parameters) to (batch, n_output_dims).

        Raises:
            TypeError, ValueError: `vectors` are not of the layout.
        """
        return self.read(self.codec.encode(vectors))

    def fit(self, vectors: Tensor) -> None:
        """Take the codec's statistics from a training set (n, n_parameters), before the network is trained."""
        self.codec.fit(vectors)

    @abstractmethod
    def read(self, code: Code) -> Tensor:
        """Codes of the codec to (batch, n_output_dims)."""

    def config(self) -> dict[str, Any]:
        """The configuration that rebuilds this network beside its layout and size."""
        return config_of(self)


class MLPNetwork(WeightNetwork[WeightBatch]):
    """A network on matrices and biases: equivariant features of every entry, then an invariant head.

    Args:
        layout: an MLP's matrices and biases.
        n_output_dims: numbers about each field.
        codec: configuration of a `Weights` codec.
    """

    invariance = "permutations"
    codec_name = "Weights"

    def __init__(
        self, layout: Layout, n_output_dims: int, codec: str | Mapping[str, Any] | WeightCodec[WeightBatch]
    ) -> None:
        super().__init__(layout, n_output_dims, codec)
        expect_permutable(self.codec, self.otype)
        assert isinstance(self.codec, Weights)
        self.chain: Chain = self.codec.chain

    @abstractmethod
    def features(self, batch: WeightBatch) -> WeightBatch:
        """Features of every entry; units that change places in the field change places here."""

    @abstractmethod
    def pool(self, features: WeightBatch) -> Tensor:
        """Features to (batch, n_output_dims), whatever the order of the hidden units."""

    def read(self, code: WeightBatch) -> Tensor:
        return self.pool(self.features(code))


def expect_codec(value: Any, layout: Layout, name: str, owner: str) -> WeightCodec[Any]:
    """Build the codec a network reads, or take one that was made for the same layout."""
    codec: WeightCodec[Any] = (
        value if isinstance(value, WeightCodec) else build("codec", value, path="codec", layout=layout)
    )
    if codec.otype != name:
        raise ValueError(f"codec: {owner} reads codes of {name}, got {codec.otype}")
    if codec.layout != layout:
        raise ValueError(f"codec: expected one for the network's layout, got one for {codec.layout.to_json()}")
    return codec
