"""Stacks of fields whose encodings learn too: planes of features, say, each field its own.

`look_up` reads the encodings of a stack. Plain, one field after another as `Encoding.forward` does it, for every
encoding; planes whose features are added are one sparse matrix on all features of the stack, some ten times as quick.
On a GPU all fields are asked at once: planes and grids as weighted sums of rows, which are known of points that stay
where they are, and other encodings mapped over the stack (`torch.func.vmap`), where that can be done.
The network behind is the stacked one (`steps.py`), and Adam moves both.

As there, no field knows of its neighbours, and any cut of a collection gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import scipy.sparse
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, vmap

from fieldforge.apps.fit.losses.base import Loss
from fieldforge.backends import choose, provide, use_backend
from fieldforge.encodings import grid
from fieldforge.encodings.base import Encoding
from fieldforge.encodings.interpolation import corners
from fieldforge.encodings.tri_plane import PLANES, TriPlane


def look_up(encoding: Encoding, points: Tensor) -> Callable[[Sequence[Tensor]], Tensor]:
    """What answers for points: parameters of the encodings -> features (n, n_points, n_features), differentiable.

    Args:
        encoding: what all of the stack are; their parameters come as (n, ...) each, in its own order.
        points: (n, n_points, n_input_dims) in the unit cube.
    """
    choice = choose("stacked_encoding", points.device, encoding=encoding)
    found: Callable[[Sequence[Tensor]], Tensor] = choice(encoding, points)
    return found


@provide("stacked_encoding", "reference")
def _one_by_one(encoding: Encoding, points: Tensor) -> Callable[[Sequence[Tensor]], Tensor]:
    names = [name for name, _ in encoding.named_parameters()]

    def features(parameters: Sequence[Tensor]) -> Tensor:
        fields = zip(*(parameter.unbind() for parameter in parameters), strict=True)
        return torch.stack([
            functional_call(encoding, dict(zip(names, field, strict=True)), (x,))
            for field, x in zip(fields, points, strict=True)
        ])  # fmt: skip

    return features


def _refuses(*, encoding: Encoding) -> str | None:
    if type(encoding) is not TriPlane or encoding.reduction != "Sum":
        return "only planes whose features are added are one matrix"
    return None


def _entries(encoding: TriPlane, points: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows of all planes of the stack (n, n_points, ...) are added, and their weights; a point each."""
    n, n_points, _ = points.shape
    n_planes, side = len(encoding.planes), encoding.resolution
    one = torch.empty(side, side, encoding.n_features, device="meta")
    flat = points.reshape(-1, points.shape[-1])
    found = [corners(one, flat[:, axes]) for axes in PLANES[:n_planes]]  # (n * n_points, 4) each
    first = torch.arange(n, dtype=torch.int32, device=points.device)[:, None].expand(n, n_points).reshape(-1, 1)
    rows = torch.cat([rows + (n_planes * first + plane) * side**2 for plane, (rows, _) in enumerate(found)], 1)
    return rows, torch.cat([weight for _, weight in found], 1)


def _has_bags(encoding: Encoding) -> bool:
    """Whether features are sums of rows of one table."""
    return type(encoding) is grid.Grid or _refuses(encoding=encoding) is None


def _refuses_together(*, encoding: Encoding) -> str | None:
    return None if _has_bags(encoding) else why_one_by_one(encoding) or None


@provide("stacked_encoding", "cuda", refuses=_refuses_together, note=lambda: "PyTorch, all fields at once")
def together(encoding: Encoding, points: Tensor) -> Callable[[Sequence[Tensor]], Tensor]:
    """`look_up` in as many operations as one field takes, however many there are."""
    return _as_bags(encoding, points) if _has_bags(encoding) else partial(_mapped, encoding, points)


def _as_bags(encoding: Encoding, points: Tensor) -> Callable[[Sequence[Tensor]], Tensor]:
    n, n_points, _ = points.shape
    if isinstance(encoding, TriPlane):
        rows, weights = _entries(encoding, points)
    else:
        assert isinstance(encoding, grid.Grid)
        each, shares = grid.bags(points.flatten(0, 1), encoding.levels, encoding.interpolation)
        first = torch.arange(n, device=points.device).repeat_interleave(n_points, output_size=n * n_points)
        rows = (each + len(encoding.table) * first[:, None, None]).flatten(0, 1)  # a bag for each level
        weights = shares.flatten(0, 1).to(encoding.table.dtype)

    def features(parameters: Sequence[Tensor]) -> Tensor:
        (table,) = parameters
        flat = table.reshape(-1, table.shape[-1])
        return F.embedding_bag(rows, flat, per_sample_weights=weights, mode="sum").view(n, n_points, -1)

    return features


def _mapped(encoding: Encoding, points: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    names = [name for name, _ in encoding.named_parameters()]
    with use_backend("reference"):  # kernels know nothing of an axis more
        out: Tensor = vmap(partial(functional_call, encoding))(dict(zip(names, parameters, strict=True)), (points,))
    return out


_why_not: WeakKeyDictionary[Encoding, str] = WeakKeyDictionary()


def why_one_by_one(encoding: Encoding) -> str:
    """Why a stack of an encoding cannot be mapped; '' if it can. Tried once."""
    if encoding not in _why_not:
        own = [parameter.detach().expand(2, *parameter.shape).requires_grad_() for parameter in encoding.parameters()]
        try:
            found = _mapped(encoding, own[0].new_zeros(2, 2, encoding.n_input_dims), own)
            torch.autograd.grad(found.sum(), own, allow_unused=True)
            _why_not[encoding] = ""
        except RuntimeError as error:  # what vmap raises of whatever it has no rule for
            _why_not[encoding] = f"it cannot be mapped over fields: {str(error).splitlines()[0]}"
    return _why_not[encoding]


@provide("stacked_encoding", "cpu", refuses=_refuses, note=lambda: "SciPy")
def _as_matrix(encoding: TriPlane, points: Tensor) -> Callable[[Sequence[Tensor]], Tensor]:
    n, n_points, _ = points.shape
    columns, weights = _entries(encoding, points)
    begins = np.arange(n * n_points + 1, dtype=np.int32) * columns.shape[1]
    shape = n * n_points, n * len(encoding.planes) * encoding.resolution**2
    matrix = scipy.sparse.csr_array((weights.flatten().numpy(), columns.flatten().numpy(), begins), shape=shape)

    def features(parameters: Sequence[Tensor]) -> Tensor:
        (planes,) = parameters
        product: Tensor = _Product.apply(planes.reshape(-1, encoding.n_features), matrix)
        return product.view(n, n_points, encoding.n_features)

    return features


class _Product(torch.autograd.Function):
    """A sparse matrix, which is constant, times a dense one."""

    @staticmethod
    def forward(ctx: Any, dense: Tensor, matrix: Any) -> Tensor:
        ctx.matrix = matrix
        return torch.from_numpy(matrix @ dense.detach().numpy())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return torch.from_numpy(ctx.matrix.T @ grad.contiguous().numpy()), None


class Adam:
    """Adam on a stack, each field by itself.

    Args:
        parameters: (n, ...) each, moved in place.
        options: beta1, beta2, epsilon and l2_reg.
    """

    def __init__(self, parameters: Sequence[Tensor], options: Mapping[str, float]) -> None:
        self._parameters, self._options = parameters, options
        self._m = [torch.zeros_like(p) for p in parameters]
        self._v = [torch.zeros_like(p) for p in parameters]
        self._n_steps = 0

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], moves: Tensor, learning_rate: float) -> None:
        """Move the fields of which `moves` (n,) says so; the others stay as they are."""
        beta1, beta2, self._n_steps = self._options["beta1"], self._options["beta2"], self._n_steps + 1
        rate = learning_rate * (1 - beta2**self._n_steps) ** 0.5 / (1 - beta1**self._n_steps)
        for p, g, m, v in zip(self._parameters, gradients, self._m, self._v, strict=True):
            if self._options["l2_reg"]:
                g = g + self._options["l2_reg"] * p
            is_moved = moves.view(-1, *[1] * (p.ndim - 1))
            m.copy_(torch.where(is_moved, beta1 * m + (1 - beta1) * g, m))
            v.copy_(torch.where(is_moved, beta2 * v + (1 - beta2) * g * g, v))
            p.copy_(torch.where(is_moved, p - rate * m / (v.sqrt() + self._options["epsilon"]), p))


class EncodedSteps:
    """Steps of encodings and networks together; "features" are points of the unit cube here.

    Args:
        parameters: (n, ...) each: of the encodings, then weights, then biases.
        encoding: what all of the stack are.
        run: (features, weights and biases) -> outputs (n, n_points, n_outputs), differentiable.
        loss: its mean over each field's own points is what the field minimises.
        adam: see `Adam`.
    """

    def __init__(
        self, parameters: list[Tensor], encoding: Encoding, run: Callable[[Tensor, Sequence[Tensor]], Tensor],
        loss: Loss, adam: Mapping[str, float],
    ) -> None:  # fmt: skip
        self.parameters, self._encoding, self._run, self._loss = parameters, encoding, run, loss
        self._n_own = sum(1 for _ in encoding.parameters())
        self._adam = Adam(parameters, adam)
        self._last: tuple[Tensor, Callable[[Sequence[Tensor]], Tensor]] | None = None

    def predict(self, features: Tensor) -> Tensor:
        with torch.no_grad():
            return self._outputs(features, self.parameters)

    def step(self, features: Tensor, target: Tensor, learning_rate: float) -> None:
        """A field whose own loss is not finite stays as it is."""
        leaves = [p.detach().requires_grad_() for p in self.parameters]
        each = self._loss.per_channel(self._outputs(features, leaves), target).mean((1, 2))
        gradients = torch.autograd.grad(each.sum(), leaves)
        self._adam.step(gradients, each.detach().isfinite(), learning_rate)

    def _outputs(self, points: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        own, rest = parameters[: self._n_own], parameters[self._n_own :]
        if self._last is None or self._last[0] is not points:  # a whole picture is the same points in every step
            self._last = points, look_up(self._encoding, points)
        return self._run(self._last[1](own), rest)
