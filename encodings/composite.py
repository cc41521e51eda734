"""Composite: several encodings, each of some of the coordinates, joined (tiny-cuda-nn).

{"otype": "Composite", "reduction": "Concatenation", "nested": [
    {"otype": "HashGrid", "n_dims_to_encode": 3},
    {"otype": "SphericalHarmonics", "n_dims_to_encode": 3},
    {"otype": "Identity"}]}
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fieldforge.backends import offer, provide
from fieldforge.checks import expect_choice, expect_generator, expect_int, expect_points
from fieldforge.encodings.base import Encoding
from fieldforge.kernels import cpu_door, cpu_encodings
from fieldforge.registry import build, register, resolve

REDUCTIONS = ("Concatenation", "Sum", "Product")
PLACEMENT = ("n_dims_to_encode", "dims_to_encode_begin")
MAX_NESTED = 64
MAX_DEPTH = 8


@register("encoding", "Composite")
class Composite(Encoding):
    """Encodings of slices of x, side by side, added, or multiplied.

    A nested configuration may carry two keys beside its own:

    - ``n_dims_to_encode``: how many coordinates it takes. At most one may leave it out; that one takes what is
      left, n_input_dims less all others, which is only defined when no nested encoding says where it begins.
      One that gets 0 coordinates is left out.
    - ``dims_to_encode_begin``: its first coordinate; without it, the coordinate after the last one that the
      previous nested encoding took (0 for the first). Slices may overlap, and may leave coordinates unread.

    Unlike tiny-cuda-nn, no padding stands between the parts, and a slice that ends beyond the input is an error.

    Args:
        n_input_dims: number of coordinates.
        nested: configurations of the parts, at most 64, at most 8 composites deep.
        reduction: Concatenation, Sum or Product; the last two need parts of equal width.
        generator: draws the parameters of the parts, in order.

    Returns:
        (*batch, sum of widths) in the order of `nested`, or (*batch, the common width).

    Raises:
        ValueError: no part is left, or the rules above are broken.

    Example:
        >>> parts = [{"otype": "Identity", "n_dims_to_encode": 2}, {"otype": "OneBlob", "n_bins": 2}]
        >>> Composite(3, nested=parts)(torch.tensor([3.0, 4.0, 0.25]))
        tensor([3.0000, 4.0000, 0.7930, 0.2070])
    """

    otype = "Composite"
    domain = "unit cube"
    outside = "each part does what it says of itself"

    def __init__(
        self,
        n_input_dims: int,
        *,
        nested: Sequence[Mapping[str, Any]],
        reduction: Literal["Concatenation", "Sum", "Product"] = "Concatenation",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_input_dims = expect_int("n_input_dims", n_input_dims, 1)
        self.reduction = expect_choice("reduction", reduction, REDUCTIONS)
        expect_generator(generator)
        _expect_small(nested)
        self.slices: list[slice] = []  # of x, one per part
        self.parts = nn.ModuleList()
        self.nested: list[dict[str, Any]] = []
        for i, (config, (begin, n_dims)) in enumerate(zip(nested, _places(nested, n_input_dims), strict=True)):
            place = {key: config[key] for key in PLACEMENT if key in config}
            own = {key: value for key, value in config.items() if key not in PLACEMENT}
            if n_dims == 0:
                resolve("encoding", own, path=f"nested[{i}]")  # left out, but still held to its keys
                self.nested.append({**own, **place})
                continue
            part = build("encoding", own, path=f"nested[{i}]", n_input_dims=n_dims, generator=generator)
            self.parts.append(part)
            self.slices.append(slice(begin, begin + n_dims))
            self.nested.append({**part.config(), **place})
        widths = [part.n_output_dims for part in self._encodings()]
        if not widths:
            raise ValueError("nested: expected at least one encoding with at least one coordinate, got none")
        if self.reduction != "Concatenation" and len(set(widths)) > 1:
            raise ValueError(f"nested: reduction {self.reduction} needs parts of equal width, got {widths}")
        self.n_output_dims = sum(widths) if self.reduction == "Concatenation" else widths[0]
        self.smoothness = min(part.smoothness for part in self._encodings())
        cells = [part.finest_cell for part in self._encodings() if part.finest_cell is not None]
        self.finest_cell = min(cells, default=None)

    def forward(self, x: Tensor) -> Tensor:
        expect_points(x, self.n_input_dims, owner=self)
        return at_once(self, x)

    def one_by_one(self, x: Tensor) -> Tensor:
        """Each part by itself, then joined; this defines the encoding."""
        return combine(
            [part(x[..., where]) for part, where in zip(self.parts, self.slices, strict=True)], self.reduction
        )

    def channel_order(self) -> Tensor | None:
        """Each part's own order; a part without one counts as coarse. None for Sum and Product of unlike orders."""
        orders = [part.channel_order() for part in self._encodings()]
        known = [order for order in orders if order is not None]
        if not known:
            return None
        if self.reduction == "Concatenation":
            coarse = [torch.zeros(part.n_output_dims, dtype=torch.long) for part in self._encodings()]
            return torch.cat([zero if order is None else order for zero, order in zip(coarse, orders, strict=True)])
        is_common = len(known) == len(orders) and all(torch.equal(order, known[0]) for order in known)
        return known[0] if is_common else None

    def _encodings(self) -> list[Encoding]:
        return [part for part in self.parts if isinstance(part, Encoding)]


def combine(features: list[Tensor], reduction: str) -> Tensor:
    """Join features of shape (*batch, F) by one of `REDUCTIONS`."""
    if reduction == "Concatenation":
        return torch.cat(features, -1)
    return functools.reduce(torch.add if reduction == "Sum" else torch.mul, features)


def at_once(encoding: Encoding, x: Tensor) -> Tensor:
    """All parts of an encoding in one call where a backend has that, else `encoding.one_by_one(x)`."""
    run = offer("composite_encoding", x.device, dtype=x.dtype, encoding=encoding)
    if run is None:
        return _one_by_one(encoding, x)
    features: Tensor = run(encoding, x.reshape(-1, x.shape[-1]))
    return features.view(*x.shape[:-1], encoding.n_output_dims)


@provide("composite_encoding", "reference")
def _one_by_one(encoding: Any, x: Tensor) -> Tensor:
    features: Tensor = encoding.one_by_one(x)
    return features


@provide(
    "composite_encoding",
    "cpu",
    missing=cpu_door.missing,
    refuses=cpu_encodings.refuses_joined,
    note=cpu_door.description,
)
def _at_once_on_cpu(encoding: Encoding, x: Tensor) -> Tensor:
    return cpu_encodings.encode(encoding, x)


def _places(nested: Sequence[Mapping[str, Any]], n_input_dims: int) -> list[tuple[int, int]]:
    """(first coordinate, number of coordinates) of each nested encoding."""
    counts: list[int | None] = []
    for i, config in enumerate(nested):
        n_dims, begin = (config.get(key) for key in PLACEMENT)
        if n_dims is not None:
            expect_int(f"nested[{i}].n_dims_to_encode", n_dims, 0, n_input_dims)
        elif begin is not None:
            raise ValueError(f"nested[{i}].dims_to_encode_begin: also needs the key n_dims_to_encode")
        if begin is not None:
            expect_int(f"nested[{i}].dims_to_encode_begin", begin, 0, n_input_dims)
        counts.append(n_dims)
    free = [i for i, count in enumerate(counts) if count is None]
    if len(free) > 1:
        raise ValueError(f"nested[{free[1]}].n_dims_to_encode: only one may leave it out, and nested[{free[0]}] does")
    if free and any("dims_to_encode_begin" in config for config in nested):
        raise ValueError(f"nested[{free[0]}].n_dims_to_encode: needed, as another part says dims_to_encode_begin")
    taken = sum(count for count in counts if count is not None)
    places, begin = [], 0
    for i, (config, count) in enumerate(zip(nested, counts, strict=True)):
        begin = config.get("dims_to_encode_begin", begin)
        n_dims = n_input_dims - taken if count is None else count
        if n_dims < 0 or begin + n_dims > n_input_dims:
            end = begin + n_dims if n_dims >= 0 else taken
            raise ValueError(f"nested[{i}]: the parts reach coordinate {end} of {n_input_dims}; take fewer dims")
        places.append((begin, n_dims))
        begin += n_dims
    return places


def _expect_small(nested: Any, depth: int = 1) -> None:
    """Refuse, before anything is built, what is no list of tables, too long, or too deep."""
    if isinstance(nested, str) or not isinstance(nested, Sequence) or not all(isinstance(c, Mapping) for c in nested):
        raise TypeError(f"nested: expected a list of tables, got {type(nested).__name__}")
    if len(nested) > MAX_NESTED or depth > MAX_DEPTH:
        raise ValueError(f"nested: expected at most {MAX_NESTED} parts and {MAX_DEPTH} composites deep")
    for config in nested:
        if str(config.get("otype")).lower() == "composite" and "nested" in config:
            _expect_small(config["nested"], depth + 1)
