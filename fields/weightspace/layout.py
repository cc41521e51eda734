"""Layout: which number of a vector is which parameter of a field.

A field of a collection is one vector, its parameters one after another in the order of the layout, each row-major. As
JSON a layout is a list of pairs, the `param_config` of fit-a-nef and Neural Field Arena::

    [["layers.0.weight", [8, 2]], ["layers.0.bias", [8]], ["layers.1.weight", [1, 8]], ["layers.1.bias", [1]]]
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

MAX_NUMBERS = 2**30


@dataclass(frozen=True)
class Layout:
    """Names and shapes of the parameters of a field, in the order of its vector.

    Attributes:
        tensors: (name, shape) of each.

    Raises:
        ValueError: a name is empty or comes twice, a size is not a whole number of at least 1, or there are none.

    Example:
        >>> layout = Layout.of({"weight": torch.zeros(3, 2), "bias": torch.zeros(3)})
        >>> layout.to_json()
        '[["weight", [3, 2]], ["bias", [3]]]'
        >>> layout.n_parameters
        9
    """

    tensors: tuple[tuple[str, tuple[int, ...]], ...]

    def __post_init__(self) -> None:
        if not self.tensors:
            raise ValueError("layout: expected at least one tensor, got none")
        for name, shape in self.tensors:
            if not isinstance(name, str) or not name:
                raise ValueError(f"layout: expected the name of a tensor, got {name!r}")
            if not all(isinstance(size, int) and not isinstance(size, bool) and size >= 1 for size in shape):
                raise ValueError(f"layout: {name}: expected whole numbers of at least 1 as its shape, got {shape!r}")
        names = [name for name, _ in self.tensors]
        twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
        if twice is not None:
            raise ValueError(f"layout: expected different names, got {twice!r} twice")
        if self.n_parameters > MAX_NUMBERS:
            raise ValueError(f"layout: at most {MAX_NUMBERS:,} numbers are allowed, got {self.n_parameters:,}")

    @classmethod
    def of(cls, parameters: Mapping[str, Tensor]) -> Layout:
        """The layout of one field's parameters, in the order they come in."""
        return cls(tuple((name, tuple(tensor.shape)) for name, tensor in parameters.items()))

    @classmethod
    def from_json(cls, text: str | Sequence[Any]) -> Layout:
        """Read the list of pairs, as text or already parsed.

        Raises:
            ValueError: it is something else.
        """
        try:
            pairs: Any = json.loads(text) if isinstance(text, str) else text
            return cls(tuple((name, tuple(shape)) for name, shape in pairs))
        except (TypeError, ValueError, RecursionError) as error:
            if str(error).startswith("layout: "):
                raise
            raise ValueError(f"layout: expected a JSON list of [name, shape] pairs, got {str(text)[:80]!r}") from error

    def pairs(self) -> list[list[Any]]:
        """The list of [name, shape] pairs; `from_json` gives the same layout again."""
        return [[name, list(shape)] for name, shape in self.tensors]

    def to_json(self) -> str:
        """The same as one line of JSON."""
        return json.dumps(self.pairs())

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape by name."""
        return dict(self.tensors)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """How many numbers each tensor has."""
        return tuple(math.prod(shape) for _, shape in self.tensors)

    @property
    def n_parameters(self) -> int:
        """Length of a field's vector."""
        return sum(self.sizes)

    def flatten(self, parameters: Mapping[str, Tensor], *, name: str = "parameters") -> Tensor:
        """One field's tensors, or a batch's with axes in front, to (*batch, n_parameters).

        Args:
            parameters: by name; others beside those of the layout are not looked at.
            name: what to call the field in a message.

        Raises:
            ValueError: a tensor is missing or has another shape.
        """
        rows = []
        for key, shape in self.tensors:
            if key not in parameters:
                raise ValueError(f"{name}: expected a tensor {key} of shape {list(shape)}, got none of that name")
            tensor = parameters[key]
            n_batch_axes = tensor.ndim - len(shape)
            if n_batch_axes < 0 or tuple(tensor.shape[n_batch_axes:]) != shape:
                raise ValueError(f"{name}: {key}: expected shape (..., {list(shape)}), got {list(tensor.shape)}")
            rows.append(tensor.reshape(*tensor.shape[:n_batch_axes], math.prod(shape)))
        if len({row.shape[:-1] for row in rows}) > 1:
            raise ValueError(f"{name}: expected tensors of one batch, got {[list(row.shape[:-1]) for row in rows]}")
        return torch.cat(rows, -1)

    def unflatten(self, vectors: Tensor) -> dict[str, Tensor]:
        """(*batch, n_parameters) to views of shape (*batch, *shape) by name.

        Raises:
            ValueError: the last axis has another length.
        """
        self.expect(vectors)
        parts = vectors.split(self.sizes, -1)
        batch = vectors.shape[:-1]
        return {name: part.reshape(*batch, *shape) for (name, shape), part in zip(self.tensors, parts, strict=True)}

    def stack(self, fields: Sequence[Mapping[str, Tensor]], names: Sequence[str] | None = None) -> Tensor:
        """The vectors of many fields, (n, n_parameters).

        Args:
            fields: the parameters of each.
            names: what to call each in a message; None: "field 0", "field 1", ...

        Raises:
            ValueError: a field has another architecture, or numbers that are not finite; the message names it.
        """
        names = [f"field {index}" for index in range(len(fields))] if names is None else names
        rows = []
        for name, field in zip(names, fields, strict=True):
            other = [key for key in field if key not in self.shapes]
            if other:
                raise ValueError(f"{name}: expected the tensors {', '.join(self.shapes)}, got also {', '.join(other)}")
            row = self.flatten(field, name=name)
            if row.ndim != 1:
                raise ValueError(f"{name}: expected the tensors of one field, got a batch of {list(row.shape[:-1])}")
            if not bool(torch.isfinite(row).all()):
                raise ValueError(
                    f"{name}: expected finite numbers, got {int((~torch.isfinite(row)).sum())} that are not"
                )
            rows.append(row)
        return torch.stack(rows) if rows else torch.zeros(0, self.n_parameters)

    def expect(self, vectors: Tensor, *, name: str = "vectors") -> Tensor:
        """Require (*batch, n_parameters) floating-point numbers.

        Raises:
            TypeError, ValueError: they are not; the message begins with `name`.
        """
        if not isinstance(vectors, Tensor) or not vectors.is_floating_point():
            what = vectors.dtype if isinstance(vectors, Tensor) else type(vectors).__name__
            raise TypeError(f"{name}: expected a tensor of floating-point numbers, got {what}")
        if vectors.ndim < 1 or vectors.shape[-1] != self.n_parameters:
            raise ValueError(f"{name}: expected (..., {self.n_parameters}) numbers, got {list(vectors.shape)}")
        return vectors


def expect_layout(value: Layout | str | Sequence[Any]) -> Layout:
    """A layout, or its JSON."""
    return value if isinstance(value, Layout) else Layout.from_json(value)
