"""What a codec is: the vector of a field's weights in the form that some network reads, and back.

A codec only rearranges numbers, so it has an exact inverse. Statistics, if asked for, are subtracted and divided out
before and put back after, which is exact up to rounding. To write one, subclass `WeightCodec`, keep every constructor
keyword as an attribute of the same name, and run `fieldforge.contracts.check_codec` on it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from fieldforge.checks import expect_choice
from fieldforge.fields.weightspace.layout import Layout, expect_layout
from fieldforge.registry import config_of

Code = TypeVar("Code")

Statistics = Literal["none", "layer", "magnitude", "entry"]
Initialization = Literal["unknown", "shared", "random"]


class WeightCodec(nn.Module, ABC, Generic[Code]):
    """Vectors (batch, n_parameters) to codes and back.

    Class attribute: ``otype``, the name in a configuration.

    Attributes: ``layout``; ``mean`` and ``scale`` (n_parameters,), the statistics, kept in the state.

    Args:
        layout: names and shapes of the parameters.
        statistics: "none"; "layer": one mean and one deviation for each tensor of the layout, which hidden units may
            change places under; "magnitude": nothing is subtracted, and each tensor is divided by its root mean
            square, which they may also change their signs under; "entry": a mean and a deviation for each number, for
            fields that share their initialisation.
        initialization: where the fits that made the fields began: all at the same numbers ("shared"), or each at its
            own ("random"). Recorded for whoever reads the file; nothing is computed from it.

    Raises:
        ValueError: the layout does not suit the codec, or a word is none of these.
    """

    otype: ClassVar[str]

    mean: Tensor
    scale: Tensor

    def __init__(
        self, layout: Layout, *, statistics: Statistics = "none", initialization: Initialization = "unknown"
    ) -> None:
        super().__init__()
        self.layout = expect_layout(layout)
        self.statistics: Statistics = expect_choice("statistics", statistics, ("none", "layer", "magnitude", "entry"))
        self.initialization: Initialization = expect_choice(
            "initialization", initialization, ("unknown", "shared", "random")
        )
        n_numbers = 0 if self.statistics == "none" else self.layout.n_parameters
        self.register_buffer("mean", torch.zeros(n_numbers))
        self.register_buffer("scale", torch.ones(n_numbers))

    @abstractmethod
    def arrange(self, vectors: Tensor) -> Code:
        """(batch, n_parameters) to the code; numbers are moved, not changed."""

    @abstractmethod
    def restore(self, code: Code) -> Tensor:
        """The exact inverse of `arrange`."""

    def encode(self, vectors: Tensor) -> Code:
        """(batch, n_parameters) to the code.

        Raises:
            TypeError, ValueError: `vectors` are not such numbers.
        """
        self.expect(vectors)
        return self.arrange(self.standardize(vectors))

    def decode(self, code: Code) -> Tensor:
        """The inverse of `encode`: exact without statistics, to rounding with them."""
        return self.unstandardize(self.restore(code))

    def expect(self, vectors: Tensor) -> Tensor:
        """Require (batch, n_parameters) floating-point numbers."""
        self.layout.expect(vectors)
        if vectors.ndim != 2:
            raise ValueError(f"vectors: expected (batch, {self.layout.n_parameters}), got {list(vectors.shape)}")
        return vectors

    def standardize(self, vectors: Tensor) -> Tensor:
        """(vectors - mean) / scale."""
        return vectors if self.statistics == "none" else (vectors - self.mean) / self.scale

    def unstandardize(self, vectors: Tensor) -> Tensor:
        """vectors * scale + mean."""
        return vectors if self.statistics == "none" else vectors * self.scale + self.mean

    @torch.no_grad()
    def fit(self, vectors: Tensor) -> None:
        """Take the statistics from the fields of a training set; nothing to do where there are none.

        A number, or a tensor, that is the same in all of them keeps the scale 1.

        Args:
            vectors: (n, n_parameters), n of at least 2.

        Raises:
            ValueError: there are fewer, or a number is not finite.
        """
        self.expect(vectors)
        if self.statistics == "none":
            return
        if len(vectors) < 2 or not bool(torch.isfinite(vectors).all()):
            raise ValueError(f"vectors: expected finite numbers of at least 2 fields, got {len(vectors)} fields")
        vectors = vectors.double()
        parts = [part.flatten()[:, None] for part in vectors.split(self.layout.sizes, -1)]
        groups, sizes = ([vectors], (1,)) if self.statistics == "entry" else (parts, self.layout.sizes)
        if self.statistics == "magnitude":
            means = [group.new_zeros(1) for group in groups]
            scales = [group.square().mean(0).sqrt() for group in groups]
        else:
            means, scales = [group.mean(0) for group in groups], [group.std(0) for group in groups]
        mean = torch.cat([one.repeat(size) for one, size in zip(means, sizes, strict=True)])
        scale = torch.cat([one.repeat(size) for one, size in zip(scales, sizes, strict=True)])
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(scale > 1e-12, scale, torch.ones_like(scale)))

    def config(self) -> dict[str, Any]:
        """The configuration that rebuilds this codec beside its layout."""
        return config_of(self)


def expect_permutable(codec: WeightCodec[Any], owner: str) -> None:
    """Refuse statistics of single numbers where hidden units are to change places."""
    if codec.statistics == "entry":
        raise ValueError(
            f"codec.statistics: {owner} lets hidden units change places, which means and deviations of single "
            "numbers do not; 'layer' does"
        )
