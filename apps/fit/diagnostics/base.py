"""What a diagnostic is: a field and a lattice of the signal in, plain numbers and lists out.

To write one, subclass `Diagnostic`, keep every constructor keyword as an attribute of the same name, and
`@register("diagnostic", ...)` it. It moves no parameter and leaves no gradient; `watching.py` keeps the random state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from fieldforge.apps.fit.slices import Slice, answers
from fieldforge.backends import use_backend
from fieldforge.fields.kinds.base import Field
from fieldforge.fields.networks.base import Network
from fieldforge.registry import config_of


class Diagnostic(ABC):
    """Something to know of a field.

    Class attributes: ``otype``; ``headline``, the key of its most telling number; ``unit``, what that is.
    """

    otype: ClassVar[str]
    headline: ClassVar[str]
    unit: ClassVar[str]

    @abstractmethod
    def __call__(self, field: Field, grid: Slice) -> dict[str, Any]:
        """Numbers, and lists of numbers, by name.

        Raises:
            ValueError: the field or the lattice has not what it asks for.
        """

    def config(self) -> dict[str, Any]:
        """The configuration that rebuilds this diagnostic."""
        return config_of(self)


def picture(field: Field, grid: Slice, owner: Diagnostic) -> tuple[Tensor, Tensor]:
    """What the field says on a lattice of two axes and what it should: (h, w, c) float64 each.

    Raises:
        ValueError: the lattice has another number of axes.
    """
    if grid.points.ndim != 3:
        raise ValueError(f"{owner.otype}: needs a lattice of rows and columns, not of {grid.points.ndim - 1} axis")
    with torch.no_grad():
        said = answers(field, grid.points)
    return said.double().cpu(), grid.values.double().cpu()


def hidden(field: Field, points: Tensor, owner: Diagnostic) -> tuple[list[Tensor], list[Tensor]]:
    """Before and after the activation of each hidden layer, (n, width) each, at world points (n, d).

    Raises:
        ValueError: the field is made of others, or its network has no hidden layers with one activation.
    """
    network = getattr(field, "network", None)
    activation = getattr(network, "activation", None)
    if not isinstance(network, Network) or activation is None or not hasattr(field, "encoding"):
        raise ValueError(f"{owner.otype}: needs a field with one network of hidden layers, and {field.otype} has none")
    before: list[Tensor] = []

    def keep(index: int, z: Tensor) -> Tensor:
        before.append(z)
        return z

    unit = field.to_unit(points).clamp(0, 1).to(next(network.parameters()).dtype)  # of a sound, moments in float64
    with torch.no_grad(), use_backend("reference"):
        network(field.encoding(unit), modulate=keep)
        after = [activation(z, is_first=index == 0) for index, z in enumerate(before)]
    if not before:
        raise ValueError(f"{owner.otype}: the network has no hidden layer")
    return [_real(z) for z in before], [_real(h) for h in after]


def some(points: Tensor, n: int) -> Tensor:
    """Indices of n of the points of a flat lattice, spread without order, the same every time."""
    count = len(points)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return order[: min(n, count)].sort().values


def _real(z: Tensor) -> Tensor:
    return torch.view_as_real(z).flatten(-2) if z.is_complex() else z
