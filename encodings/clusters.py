"""Weighted k-means and the covariances of its clusters, for encodings whose centres follow a signal."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_by_weight(weights: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    """(n,) different numbers, drawn one after another with probabilities in proportion to (n_points,) weights.

    By the exponential races of Efraimidis and Spirakis (2006); at least n weights are above 0.
    """
    drawn = torch.empty(len(weights), dtype=torch.float64).exponential_(generator=generator)
    return torch.topk(drawn / weights.double(), n, largest=False).indices


def k_means(points: Tensor, weights: Tensor, centers: Tensor, n_iterations: int) -> tuple[Tensor, Tensor]:
    """Lloyd's iterations: each centre goes to the mean of the points that are nearest to it.

    Args:
        points: (n, d) float64 on the CPU.
        weights: (n,) >= 0.
        centers: (n_centers, d), where they begin; those without points stay where they are.
        n_iterations: how often they move.

    Returns:
        centres, and which of them each point is nearest to, (n,) int64.
    """
    from scipy.spatial import cKDTree

    centers = centers.double().clone()
    label = torch.from_numpy(cKDTree(centers.numpy()).query(points.numpy())[1]).long()
    for _ in range(n_iterations):
        total = _sums(weights, label, len(centers))
        means = torch.stack([_sums(weights * axis, label, len(centers)) for axis in points.unbind(-1)], -1)
        centers = torch.where(total[:, None] > 0, means / total[:, None].clamp_min(1e-300), centers)
        label = torch.from_numpy(cKDTree(centers.numpy()).query(points.numpy())[1]).long()
    return centers, label


def covariances(points: Tensor, weights: Tensor, centers: Tensor, label: Tensor) -> Tensor:
    """(n_centers, d, d) weighted means of (x - c) (x - c)^T over the points of each centre; NaN for one without."""
    offset = points - centers[label]
    total = _sums(weights, label, len(centers))
    n = points.shape[1]
    products = [_sums(weights * offset[:, i] * offset[:, j], label, len(centers)) for i in range(n) for j in range(n)]
    return (torch.stack(products, -1) / total[:, None]).view(-1, n, n)


def _sums(values: Tensor, label: Tensor, n: int) -> Tensor:
    return torch.bincount(label, values, n)  # adds in order, whatever the number of threads
