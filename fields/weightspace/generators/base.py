"""What a generator of weights is: fitted to the vectors of a training set, it makes new ones.

    gaussian = build("generator", "Gaussian", layout=layout)
    gaussian.fit(vectors)
    gaussian.sample(64, generator=torch.Generator().manual_seed(0))

All that a generator knows stands in its state, so that it is saved and loaded like a field. Those that are baselines
are fitted in closed form by `fit`; a diffusion model also needs its denoiser trained. To write one, subclass
`Generator`, register it, and run `fieldforge.contracts.check_generator` on it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fieldforge.fields.weightspace.layout import Layout, expect_layout
from fieldforge.registry import config_of


class Generator(nn.Module, ABC):
    """Vectors in, vectors of the same kind out.

    Class attribute: ``otype``.

    Args:
        layout: of the vectors.
    """

    otype: ClassVar[str]

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = expect_layout(layout)

    @abstractmethod
    def fit(self, vectors: Tensor) -> None:
        """Learn what is learnt in closed form from a training set (n, n_parameters).

        Raises:
            ValueError: there are too few fields, or numbers that are not finite.
        """

    @abstractmethod
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """(n, n_parameters) new vectors; the same ones for the same generator."""

    def make_room(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Let tensors of the state that may have any length take the shapes of a state that is to be loaded."""

    def config(self) -> dict[str, Any]:
        """The configuration that rebuilds this generator beside its layout."""
        return config_of(self)

    def expect_training_set(self, vectors: Tensor, at_least: int) -> Tensor:
        """Require (n, n_parameters) finite numbers of enough fields; gives them in float64."""
        self.layout.expect(vectors)
        if vectors.ndim != 2 or len(vectors) < at_least:
            n = len(vectors) if vectors.ndim == 2 else 0
            raise ValueError(f"vectors: {self.otype} needs at least {at_least} fields, got {n}")
        broken = (~torch.isfinite(vectors)).any(1).nonzero()
        if len(broken):
            raise ValueError(f"vectors: expected finite numbers, field {int(broken[0])} has others")
        return vectors.detach().double()


def draw_like(n: int, like: Tensor, generator: torch.Generator | None, n_numbers: int) -> Tensor:
    """(n, n_numbers) standard normal numbers of the dtype and on the device of `like`."""
    device = like.device if generator is None else generator.device
    return torch.randn(n, n_numbers, dtype=like.dtype, device=device, generator=generator).to(like.device)
