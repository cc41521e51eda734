"""What the units and the matrices of a network do (Lazzari and Liu 2023, arXiv 2301.05816)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fieldforge.apps.fit.diagnostics.base import Diagnostic, hidden
from fieldforge.apps.fit.slices import Slice
from fieldforge.checks import expect_int
from fieldforge.fields.kinds.base import Field
from fieldforge.fields.networks.base import ComplexLinear
from fieldforge.registry import register


@register("diagnostic", "ActivationPatterns")
class ActivationPatterns(Diagnostic):
    """Regions of a lattice on which every unit keeps its sign, and how fast the signs change.

    Args:
        n_patches: 3 x 3 patches, all 36 pairs in each.
        n_pairs: pairs of samples from anywhere.
    """

    otype = "ActivationPatterns"
    headline = "n_regions"
    unit = "distinct sign patterns"

    def __init__(self, *, n_patches: int = 100, n_pairs: int = 10_000) -> None:
        self.n_patches = expect_int("n_patches", n_patches, 1, 10_000)
        self.n_pairs = expect_int("n_pairs", n_pairs, 1, 10**6)

    def __call__(self, field: Field, grid: Slice) -> dict[str, Any]:
        before, _ = hidden(field, grid.points.flatten(0, -2), self)
        signs = torch.cat(before, -1) > 0  # (n, units)
        shape, drawn = grid.points.shape[:-1], torch.Generator().manual_seed(0)
        starts = [torch.randint(max(1, n - 2), (self.n_patches,), generator=drawn) for n in shape]
        steps = torch.cartesian_prod(*(torch.arange(min(3, n)) for n in shape)).view(-1, len(shape))
        at = torch.zeros(self.n_patches, len(steps), dtype=torch.int64)
        for axis, n in enumerate(shape):
            at = at * n + starts[axis][:, None] + steps[:, axis]
        first, second = torch.triu_indices(len(steps), len(steps), 1)
        local = _differ(signs, at[:, first].ravel(), at[:, second].ravel())
        pairs = torch.randint(len(signs), (2, self.n_pairs), generator=drawn)
        distant = _differ(signs, *pairs)
        return {
            "n_regions": len(torch.unique(_hash(signs), dim=0)),
            "n_samples": len(signs),
            "local_hamming": local,
            "random_hamming": distant,
            "local_to_random": local / distant if distant else 0.0,
        }


@register("diagnostic", "SpectralNorms")
class SpectralNorms(Diagnostic):
    """The largest singular value of each matrix of the network; their product bounds its slope where activations do."""

    otype = "SpectralNorms"
    headline = "product"
    unit = "product of the layers' norms"

    def __call__(self, field: Field, grid: Slice) -> dict[str, Any]:
        network = getattr(field, "network", None)
        layers = [] if network is None else [
            one for one in network.modules() if isinstance(one, (torch.nn.Linear, ComplexLinear))
        ]  # fmt: skip
        if not layers:
            raise ValueError(f"{self.otype}: needs a network of linear layers, and {field.otype} has none")
        norms = [float(torch.linalg.matrix_norm(layer.weight.detach(), 2)) for layer in layers]
        product = 1.0
        for norm in norms:
            product *= norm
        return {"layers": norms, "product": product}


@register("diagnostic", "DeadUnits")
class DeadUnits(Diagnostic):
    """The share of hidden units that say the same at every sample; of ReLUs those that are never active."""

    otype = "DeadUnits"
    headline = "share"
    unit = "of the hidden units"

    def __call__(self, field: Field, grid: Slice) -> dict[str, Any]:
        _, after = hidden(field, grid.points.flatten(0, -2), self)
        dead = [float((h.amax(0) == h.amin(0)).double().mean()) for h in after]
        count = sum(h.shape[1] for h in after)
        share = sum(one * h.shape[1] for one, h in zip(dead, after, strict=True)) / count
        return {"layers": dead, "share": share}


def _differ(signs: Tensor, first: Tensor, second: Tensor) -> float:
    """Mean share of units whose sign differs."""
    return float((signs[first] ^ signs[second]).double().mean()) if len(first) else 0.0


def _hash(signs: Tensor) -> Tensor:
    """(n, units) booleans to (n, words) int64, 32 units a word: nothing is lost."""
    padded = torch.nn.functional.pad(signs.long(), (0, -signs.shape[1] % 32))
    return (padded.view(len(signs), -1, 32) << torch.arange(32)).sum(-1)
