"""RowEncoder: each row of the weights by itself, then the maximum over rows; and a decoder from that to the field
(inr2vec; De Luigi et al., ICLR 2023; nf2vec; Ramirez et al. 2024).

    {"otype": "RowEncoder", "row_widths": [512, 512, 1024, 1024], "n_embedding": 1024, "part": "all", "head_widths": []}

    encoder.embed(vectors)                 # (batch, n_embedding)
    FieldDecoder(1024, 3, 1)(embedding, points)

The encoder is nf2vec's: linear layers, batch normalisation over all rows of the batch, ReLU, and a last linear layer;
inr2vec's reads the hidden layers alone (`part="hidden"`). It means something where all fields began at the same
numbers: with initialisations of their own it tells 39.1 % of ShapeNet10 (Zhou et al. 2023). Trained with the decoder
to reproduce the fields, the embedding is what other networks read; `head_widths` and `n_output_dims` make such a head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fieldforge.checks import expect_bool, expect_choice, expect_generator, expect_int, expect_points
from fieldforge.encodings.frequency import Frequency
from fieldforge.fields.weightspace.codecs.base import WeightCodec
from fieldforge.fields.weightspace.codecs.rows import Rows
from fieldforge.fields.weightspace.layout import Layout
from fieldforge.fields.weightspace.networks.base import WeightNetwork
from fieldforge.fields.weightspace.networks.blocks import Perceptron, linear, normal
from fieldforge.registry import register


@register("weight_network", "RowEncoder")
class RowEncoder(WeightNetwork[Tensor]):
    """Rows to an embedding, whatever the order of the rows, and a head on it.

    Args:
        layout: an MLP's matrices and biases.
        n_output_dims: numbers about each field that the head gives.
        row_widths: hidden widths of what reads a row.
        n_embedding: numbers of the embedding.
        part: "all" rows, or those of "hidden" layers alone, which takes two hidden layers.
        head_widths: hidden widths of the head.
        has_row_vectors: whether a learned vector says which row it is, where all fields have the same start; then the
            order of rows matters. The papers have none.
        pooling: over rows: "max" (the papers), or "mean".
        codec: configuration of a `Rows` codec.
        generator: source of the parameters.
    """

    otype = "RowEncoder"
    invariance = "rows"
    codec_name = "Rows"

    def __init__(
        self,
        layout: Layout,
        n_output_dims: int,
        *,
        row_widths: Sequence[int] = (512, 512, 1024, 1024),
        n_embedding: int = 1024,
        part: Literal["all", "hidden"] = "all",
        head_widths: Sequence[int] = (),
        has_row_vectors: bool = False,
        pooling: Literal["max", "mean"] = "max",
        codec: str | Mapping[str, Any] | WeightCodec[Tensor] = "Rows",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(layout, n_output_dims, codec)
        expect_generator(generator)
        self.row_widths = [expect_int(f"row_widths[{i}]", width, 1) for i, width in enumerate(row_widths)]
        self.n_embedding = expect_int("n_embedding", n_embedding, 1)
        self.part: Literal["all", "hidden"] = expect_choice("part", part, ("all", "hidden"))
        self.head_widths = [expect_int(f"head_widths[{i}]", width, 1) for i, width in enumerate(head_widths)]
        assert isinstance(self.codec, Rows)
        self._rows = self.codec.hidden if self.part == "hidden" else slice(None)
        if not range(self.codec.n_rows)[self._rows]:
            raise ValueError("part: 'hidden' needs a layout of at least two hidden layers")
        self.has_row_vectors = expect_bool("has_row_vectors", has_row_vectors)
        self.pooling: Literal["max", "mean"] = expect_choice("pooling", pooling, ("max", "mean"))
        layers: list[nn.Module] = []
        n_in = self.codec.width
        for width in self.row_widths:
            layers += [linear(n_in, width, generator), nn.BatchNorm1d(width), nn.ReLU()]
            n_in = width
        self.of_row = nn.Sequential(*layers, linear(n_in, self.n_embedding, generator))
        self.row_vectors: nn.Parameter | None = None
        if self.has_row_vectors:
            n_rows, n_first = len(range(self.codec.n_rows)[self._rows]), [*self.row_widths, self.n_embedding][0]
            self.row_vectors = normal(n_rows, n_first, generator=generator)
            self.invariance = "none"  # type: ignore[misc]
        self.head = Perceptron((self.n_embedding, *self.head_widths, n_output_dims), generator)

    def learned(self) -> list[nn.Parameter]:
        """The parameters that an embedding depends on: all but the head's."""
        head = {id(parameter) for parameter in self.head.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in head]

    def embed(self, vectors: Tensor) -> Tensor:
        """(batch, n_parameters) to (batch, n_embedding)."""
        return self.embed_rows(self.codec.encode(vectors))

    def embed_rows(self, rows: Tensor) -> Tensor:
        """Codes (batch, n_rows, width) to (batch, n_embedding)."""
        rows = rows[:, self._rows]
        first = self.of_row[0](rows)
        if self.row_vectors is not None:
            first = first + self.row_vectors
        seen: Tensor = self.of_row[1:](first.flatten(0, 1))
        seen = seen.view(len(rows), rows.shape[1], self.n_embedding)
        return seen.amax(1) if self.pooling == "max" else seen.mean(1)

    def read(self, code: Tensor) -> Tensor:
        out: Tensor = self.head(self.embed_rows(code))
        return out


class FieldDecoder(nn.Module):
    """One network for all fields: (embedding, place) to the field's value there.

    Linear layers with ReLU on [embedding, code of the place]; after `n_layers` of them a projection of the same input
    is added, and as many follow (inr2vec: two and two, 512 wide; nf2vec: 1024).

    Args:
        n_embedding: numbers of the embedding.
        n_input_dims: coordinates of a place, in [-1, 1] or the unit cube.
        n_output_dims: numbers of the field's value.
        n_neurons: width.
        n_layers: linear layers before the projection, and after it.
        n_frequencies: of the code of the place; the place itself stands beside it.
        generator: source of the parameters.
    """

    def __init__(
        self,
        n_embedding: int,
        n_input_dims: int,
        n_output_dims: int,
        *,
        n_neurons: int = 512,
        n_layers: int = 2,
        n_frequencies: int = 10,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_input_dims = n_input_dims
        self.place = Frequency(n_input_dims, n_frequencies=n_frequencies)
        n_in = n_embedding + n_input_dims + self.place.n_output_dims
        widths = [expect_int("n_neurons", n_neurons, 1)] * expect_int("n_layers", n_layers, 1, 1000)
        self.before = Perceptron((n_in, *widths), generator)
        self.again = linear(n_in, n_neurons, generator)
        self.after = Perceptron((n_neurons, *widths[:-1], n_output_dims), generator)

    def forward(self, embedding: Tensor, points: Tensor) -> Tensor:
        """(batch, n_embedding) and (batch, n, n_input_dims) to (batch, n, n_output_dims)."""
        expect_points(points, self.n_input_dims, name="points", owner=self)
        if points.ndim != 3 or embedding.ndim != 2 or len(points) != len(embedding):
            raise ValueError(
                f"points: expected (batch, n, {self.n_input_dims}) beside embeddings (batch, n_embedding), "
                f"got {list(points.shape)} and {list(embedding.shape)}"
            )
        x = torch.cat([embedding[:, None].expand(-1, points.shape[1], -1), points, self.place(points)], -1)
        out: Tensor = self.after(torch.relu(self.before(x) + self.again(x)))
        return out
