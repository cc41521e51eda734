"""What gradients say of a field: its tangent kernel, and whether samples pull the parameters apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fieldforge.apps.fit.diagnostics.base import Diagnostic, some
from fieldforge.apps.fit.slices import Slice
from fieldforge.apps.fit.tangent import jacobian, parameters_of, tangent_kernel
from fieldforge.checks import expect_int
from fieldforge.fields.kinds.base import Field
from fieldforge.registry import register

MOST = 2**26
"""Numbers in a Jacobian, 256 MiB; fields of many parameters are looked at in fewer points."""


@register("diagnostic", "NTK")
class NTK(Diagnostic):
    """Eigenvalues of the empirical neural tangent kernel on some points (Jacot et al. 2018; IGA, Shi et al. 2025).

    The error along an eigenvector shrinks at the rate of its eigenvalue; the smallest are the details that wait.

    Args:
        n_points: at most 256.
    """

    otype = "NTK"
    headline = "effective_rank"
    unit = "(Σ λ)² / Σ λ²"

    def __init__(self, *, n_points: int = 256) -> None:
        self.n_points = expect_int("n_points", n_points, 2, 256)

    def __call__(self, field: Field, grid: Slice) -> dict[str, Any]:
        points = grid.points.flatten(0, -2)
        points = points[some(points, _few(field, self.n_points))]
        values = torch.linalg.eigvalsh(tangent_kernel(field, points)).flip(0).clamp_min(0)
        square = float((values**2).sum())
        rank = float(values.sum()) ** 2 / square if square else 0.0
        return {"eigenvalues": values.tolist(), "effective_rank": rank, "n_points": len(points)}


@register("diagnostic", "GradientConfusion")
class GradientConfusion(Diagnostic):
    """Cosines between the loss gradients of single samples: neighbours, and pairs from anywhere.

    Low or negative is confusion (Sankararaman et al. 2020); encodings bring neighbours near 0, raw coordinates leave
    them alike (Lazzari and Liu 2023). The loss is the squared error.

    Args:
        n_pairs: of each sort.
    """

    otype = "GradientConfusion"
    headline = "local_mean"
    unit = "mean cosine of neighbours"

    def __init__(self, *, n_pairs: int = 64) -> None:
        self.n_pairs = expect_int("n_pairs", n_pairs, 1, 1024)

    def __call__(self, field: Field, grid: Slice) -> dict[str, Any]:
        flat, values = grid.points.flatten(0, -2), grid.values.flatten(0, -2)
        count = len(flat)
        if count < 2:
            raise ValueError(f"{self.otype}: needs a lattice of at least 2 samples, got {count}")
        first = some(flat, max(1, _few(field, 3 * self.n_pairs) // 3))
        beside = torch.where(first + 1 < count, first + 1, first - 1)  # the next sample of the scan
        far = first.flip(0).roll(1) if len(first) > 1 else beside
        index = torch.cat([first, beside, far])

        def loss(said: Tensor, true: Tensor) -> Tensor:
            return ((said - true) ** 2).sum()

        rows = jacobian(field, flat[index], loss, values[index].to(flat.dtype)).double()
        rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-300)
        here, near, away = rows.chunk(3)
        local, distant = (here * near).sum(1), (here * away).sum(1)
        distant = distant[first != far] if bool((first != far).any()) else distant
        return {
            "local_mean": float(local.mean()),
            "local_min": float(local.min()),
            "random_mean": float(distant.mean()),
            "random_min": float(distant.min()),
        }


def _few(field: Field, n: int) -> int:
    """As many points as the size of the field allows."""
    size = sum(parameter.numel() for parameter in parameters_of(field).values())
    return max(3, min(n, MOST // max(1, size)))
