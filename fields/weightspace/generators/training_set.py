"""Jitter and Subset: what copying the training set would score.

    {"otype": "Jitter", "deviation": 0.3}            {"otype": "Subset"}

Subset is the ceiling: fields of the training set themselves. Jitter adds noise of a part of each number's deviation to
them; it is not new, and yet its 1-NNA may be better than that of models that are. So a 1-NNA is read beside both, and
beside the distance to the nearest training field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fieldforge.checks import expect_float
from fieldforge.fields.weightspace.generators.base import Generator, draw_like
from fieldforge.fields.weightspace.layout import Layout
from fieldforge.registry import register


@register("generator", "Subset")
class Subset(Generator):
    """Fields of the training set, each at most once as long as there are enough.

    Args:
        layout: of the vectors.

    Attributes:
        members: (n, d), the training set.
    """

    otype = "Subset"

    members: Tensor

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        self.register_buffer("members", torch.zeros(0, self.layout.n_parameters))

    @torch.no_grad()
    def fit(self, vectors: Tensor) -> None:
        self.members = self.expect_training_set(vectors, 1).to(self.members)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        return self.members[drawn(n, len(self.members), generator)]

    def make_room(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        _make_room(self, shapes.get("members"))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        _make_room(self, tuple(getattr(state_dict.get(f"{prefix}members"), "shape", ())))
        super()._load_from_state_dict(state_dict, prefix, *rest)


@register("generator", "Jitter")
class Jitter(Generator):
    """Fields of the training set and noise.

    Args:
        layout: of the vectors.
        deviation: of the noise, in units of each number's deviation over the training set.

    Attributes:
        members: (n, d), the training set. scale: (d,).
    """

    otype = "Jitter"

    members: Tensor
    scale: Tensor

    def __init__(self, layout: Layout, *, deviation: float = 0.3) -> None:
        super().__init__(layout)
        self.deviation = expect_float("deviation", deviation, 0.0)
        self.register_buffer("members", torch.zeros(0, self.layout.n_parameters))
        self.register_buffer("scale", torch.zeros(self.layout.n_parameters))

    @torch.no_grad()
    def fit(self, vectors: Tensor) -> None:
        x = self.expect_training_set(vectors, 2)
        self.members = x.to(self.members)
        self.scale.copy_(x.std(0))

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        one = self.members[drawn(n, len(self.members), generator)]
        noise = draw_like(n, self.members, generator, self.layout.n_parameters)
        return one + self.deviation * self.scale * noise

    def make_room(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        _make_room(self, shapes.get("members"))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        _make_room(self, tuple(getattr(state_dict.get(f"{prefix}members"), "shape", ())))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def drawn(n: int, n_fields: int, generator: torch.Generator | None) -> Tensor:
    """`n` numbers of fields in random order, each as often as any other or once more.

    Raises:
        ValueError: there are no fields to draw from.
    """
    if n and not n_fields:
        raise ValueError("sample: there is no training set yet; call fit first")
    device = torch.device("cpu") if generator is None else generator.device
    rounds = [torch.randperm(n_fields, generator=generator, device=device) for _ in range(-(-n // max(n_fields, 1)))]
    return torch.cat([torch.zeros(0, dtype=torch.int64, device=device), *rounds])[:n].cpu()


def _make_room(owner: Subset | Jitter, shape: tuple[int, ...] | None) -> None:
    """A training set of another length may be loaded."""
    if shape is not None and len(shape) == 2 and shape[1] == owner.layout.n_parameters:
        owner.members = owner.members.new_empty(shape)
