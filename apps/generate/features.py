"""Few numbers of a field, for the Fréchet distance of two sets of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fieldforge.apps.generate.looks import PictureLooks, Seen, SolidLooks

N_COMPONENTS = 32
N_BINS, N_PAIRS = 16, 4096


def features_of(
    looks: PictureLooks | SolidLooks, reference: Seen, training: Seen
) -> tuple[Callable[[Seen], Tensor], str]:
    """What gives (n, d) features of n fields that can be used, and a sentence: what they are.

    Args:
        looks: how fields are looked at.
        reference: held-out fields.
        training: some training fields.
    """
    n = len(reference.is_empty)
    if isinstance(looks, PictureLooks):
        k = max(1, min(N_COMPONENTS, n // 4, len(training.outputs) - 1, training.outputs.shape[1]))
        pixels = training.outputs
        mean = pixels.mean(0)
        _, _, directions = torch.linalg.svd((pixels - mean).double(), full_matrices=False)
        axes = directions[:k].T
        return (lambda seen: (seen.outputs - mean).double() @ axes), (
            f"{k} principal components of the pixels of {len(pixels)} training fields"
        )
    own = shape_features(reference.points)
    deviation = own.std(0)
    deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    return (lambda seen: shape_features(seen.points) / deviation), (
        f"{own.shape[1]} numbers of the points on a surface, in units of their deviation over held-out fields: mean, "
        "covariance, and a histogram of distances of pairs (D2; Osada et al. 2002)"
    )


def shape_features(points: Tensor | None) -> Tensor:
    """(n, p, 3) points to (n, 25): mean, covariance, and the D2 shape distribution in 16 bins up to √3."""
    assert points is not None
    points = points.double()
    mean = points.mean(1)
    centred = points - mean[:, None]
    covariance = centred.mT @ centred / points.shape[1]
    row, column = torch.triu_indices(3, 3)
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randint(points.shape[1], (2, N_PAIRS), generator=generator)
    distances = (points[:, pairs[0]] - points[:, pairs[1]]).square().sum(-1).sqrt()
    bins = (distances / 3**0.5 * N_BINS).long().clamp(0, N_BINS - 1)
    histogram = torch.zeros(len(points), N_BINS, dtype=torch.float64).scatter_add_(1, bins, torch.ones_like(distances))
    return torch.cat([mean, covariance[:, row, column], histogram / N_PAIRS], 1)
