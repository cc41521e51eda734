"""NeuRBF: features of radial functions whose centres stand where the signal needs them (Chen et al. 2023, "NeuRBF: A
Neural Fields Representation with Adaptive Radial Basis Functions", ICCV).

    {"otype": "NeuRBF", "n_centers": 1024, "n_features": 32, "n_neighbors": 4, "low_frequency": 0.125,
     "high_frequency": 4096.0, "placement": "Signal", "resolution": null}

Of the centres c_i nearest to x each has an anisotropic inverse quadratic kernel, and its share is composed with sines
of frequencies m_1 < m_2 < ..., one for each feature:

    phi_i = 1 / (1 + (x - c_i)^T S_i (x - c_i)),  feature_j(x) = sum_i w_ij sin(m_j phi_i / sum_k phi_k)

Weights w are learnt; centres and shapes are not. With the placement "Signal" a fit places them before its first step
(`place`): centres by weighted k-means of points of the signal, shapes from the covariance of each cluster. Until then,
and with the placement "Even" for good, they stand on a lattice. The authors put a small hash grid beside it:

    {"otype": "Composite", "nested": [{"otype": "NeuRBF", "n_dims_to_encode": 2}, {"otype": "HashGrid", "n_levels": 2,
     "n_dims_to_encode": 2, "dims_to_encode_begin": 0}]}

Neighbours come from a lattice of cells: they are the centres nearest to the middle of the cell that x is in, found once
(SciPy's k-d tree) and then looked up. The authors do so for the pixels they train on, and search again elsewhere. Where
neighbours change the features jump. Their decoder's first layer has sines of its own, which is not here, and the
gradient of the sum of kernels, which they leave out, goes into x here: centres and shapes stay as they are anyway.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from fieldforge.checks import expect_choice, expect_float, expect_generator, expect_int, expect_points
from fieldforge.encodings.base import Encoding
from fieldforge.encodings.clusters import covariances, draw_by_weight, k_means
from fieldforge.encodings.interpolation import expect_affordable, table
from fieldforge.registry import register

ALPHA = 0.5
"""What covariances of clusters are divided by (the authors')."""
INITIAL = 1e-4
"""Weights begin evenly within."""
MOST_CELLS = 2**24


@register("encoding", "NeuRBF")
class NeuRBF(Encoding):
    """Weights of the nearest centres, times sines of their shares.

    Args:
        n_input_dims: number of coordinates d, up to 6.
        n_centers: number of centres.
        n_features: features, each with a frequency of its own.
        n_neighbors: centres that a point reads.
        low_frequency, high_frequency: m of the first feature and of the last, in equal ratios between.
        placement: "Signal": a fit places the centres by its signal; "Even": they stay on the lattice.
        resolution: cells along a side of which each knows its nearest centres; None: 2^18 cells in all.
        generator: draws the weights.

    Attributes:
        weights: (n_centers, n_features) parameter.
        centers: (n_centers, d), a buffer. shapes: S, (n_centers, d, d), a buffer.

    Returns:
        (*batch, n_features).

    Raises:
        ValueError: a number is out of range, or there are fewer centres than neighbours.

    Example:
        >>> NeuRBF(2, n_centers=16, n_features=8)(torch.rand(5, 2)).shape
        torch.Size([5, 8])
    """

    otype = "NeuRBF"
    domain = "unit cube"
    outside = "the neighbours are those of the nearest point of the border; their kernels go on, and features fade"
    smoothness = -1

    centers: Tensor
    shapes: Tensor

    def __init__(
        self,
        n_input_dims: int,
        *,
        n_centers: int = 1024,
        n_features: int = 32,
        n_neighbors: int = 4,
        low_frequency: float = 0.125,
        high_frequency: float = 4096.0,
        placement: Literal["Signal", "Even"] = "Signal",
        resolution: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_input_dims = expect_int("n_input_dims", n_input_dims, 1, 6)
        self.n_centers = expect_int("n_centers", n_centers, 1, 2**24)
        self.n_features = self.n_output_dims = expect_int("n_features", n_features, 1, 2**16)
        self.n_neighbors = expect_int("n_neighbors", n_neighbors, 1, 64)
        if n_neighbors > n_centers:
            raise ValueError(f"n_neighbors: {n_neighbors} of {n_centers} centres cannot be read; take more centres")
        self.low_frequency = expect_float("low_frequency", low_frequency, 0.0, 1e6, open_low=True)
        self.high_frequency = expect_float("high_frequency", high_frequency, self.low_frequency, 1e6)
        self.placement = expect_choice("placement", placement, ("Signal", "Even"))
        self.resolution = None if resolution is None else expect_int("resolution", resolution, 1, MOST_CELLS)
        self._side = resolution or round(2 ** (18 / n_input_dims))
        if self._side**n_input_dims * n_neighbors > MOST_CELLS:
            raise ValueError(f"resolution: {self._side} cells a side and {n_neighbors} neighbours are more than "
                             f"{MOST_CELLS:,} entries; take fewer")  # fmt: skip
        expect_affordable("n_centers", n_centers, n_centers * (n_features + n_input_dims * (1 + n_input_dims)))
        expect_generator(generator)
        self.register_buffer("centers", torch.empty(n_centers, n_input_dims))
        self.register_buffer("shapes", torch.empty(n_centers, n_input_dims, n_input_dims))
        self.weights = table((n_centers, n_features), lambda t: t.uniform_(-INITIAL, INITIAL, generator=generator))
        if not self.centers.is_meta:
            centers, interval = lattice(n_centers, n_input_dims)
            self.centers.copy_(centers)
            self.shapes.copy_((torch.eye(n_input_dims) * (2 / interval) ** 2).expand(self.shapes.shape))
        self._known: tuple[object, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        expect_points(x, self.n_input_dims, owner=self)
        near = self.neighbors(x)  # (*batch, k)
        n = self.n_input_dims
        offset = x[..., None, :] - functional.embedding(near, self.centers)  # (*batch, k, d)
        shape = functional.embedding(near, self.shapes.flatten(1)).unflatten(-1, (n, n))
        distance = ((offset[..., None, :] @ shape)[..., 0, :] * offset).sum(-1)  # (*batch, k)
        kernel = 1 / (1 + distance)
        share = kernel / (kernel.sum(-1, keepdim=True) + 1e-8)
        waves = torch.sin(share[..., None] * self.frequencies(x))  # (*batch, k, n_features)
        return (waves * functional.embedding(near, self.weights)).sum(-2)

    def frequencies(self, like: Tensor) -> Tensor:
        """(n_features,) m, of a tensor's dtype and device."""
        low, high = math.log2(self.low_frequency), math.log2(self.high_frequency)
        return torch.linspace(low, high, self.n_features, dtype=like.dtype, device=like.device).exp2()

    def neighbors(self, x: Tensor) -> Tensor:
        """(*batch, n_neighbors) int64 numbers of the centres that points read."""
        cell = (x.detach().nan_to_num(0.5).clamp(0, 1) * self._side).long().clamp_max(self._side - 1)
        flat = cell[..., 0]
        for axis in range(1, self.n_input_dims):
            flat = flat * self._side + cell[..., axis]
        return functional.embedding(flat, self._cells()).long()

    def channel_order(self) -> Tensor:
        return torch.arange(self.n_features)

    @torch.no_grad()
    def place(
        self, points: Tensor, weights: Tensor, *, n_iterations: int = 10, generator: torch.Generator | None = None
    ) -> None:
        """Move the centres to where points of a signal weigh most, and give each the shape of its cluster.

        Centres begin at points drawn by their weights. A point stands for as much of the cube as there is for each, so
        no cluster is thinner than that. Centres for which there are no points keep their places of the lattice, and
        those left without by the iterations get the mean shape.

        Args:
            points: (n, d) in the unit cube.
            weights: (n,) at least 0; if all are 0, all count alike.
            n_iterations: of k-means.
            generator: draws where centres begin.

        Raises:
            ValueError: there are no points, or numbers that do not fit these shapes, or are negative or not finite.
        """
        expect_points(points, self.n_input_dims, name="points", owner=self)
        points, weights = points.detach().cpu().double(), weights.detach().cpu().double()
        if points.ndim != 2 or not len(points) or weights.shape != points.shape[:1]:
            raise ValueError(f"points, weights: expected (n, {self.n_input_dims}) and (n,) with n above 0, got "
                             f"{tuple(points.shape)} and {tuple(weights.shape)}")  # fmt: skip
        if not (points.isfinite().all() and weights.isfinite().all() and (weights >= 0).all()):
            raise ValueError("points, weights: expected finite numbers, and weights of at least 0")
        least = len(points) ** (-2 / self.n_input_dims) / 12  # the variance of a cube of one point's size
        if not bool(weights.any()):
            weights = torch.ones_like(weights)
        points, weights = points[weights > 0], weights[weights > 0]
        centers = lattice(self.n_centers, self.n_input_dims)[0].double()
        n_drawn = min(self.n_centers, len(points))
        centers[:n_drawn] = points[draw_by_weight(weights, n_drawn, generator)]
        centers, label = k_means(points, weights, centers, n_iterations)
        spread = covariances(points, weights, centers, label)
        is_alone = spread.isnan().any(-1).any(-1)
        spread[is_alone] = spread[~is_alone].mean(0)
        spread = spread + least * torch.eye(self.n_input_dims, dtype=torch.float64)
        self.centers.copy_(centers)
        self.shapes.copy_(torch.linalg.inv(spread / ALPHA))

    def _cells(self) -> Tensor:
        """(cells, n_neighbors) int32 numbers of the centres nearest to the middle of each; found when centres are
        others than before."""
        centers = self.centers
        key = (centers.data_ptr(), centers._version, centers.device)
        if self._known is None or self._known[0] != key:
            from scipy.spatial import cKDTree

            tree = cKDTree(centers.detach().cpu().double().numpy())
            middle = (torch.arange(self._side, dtype=torch.float64, device="cpu") + 0.5) / self._side
            cells = torch.cartesian_prod(*[middle] * self.n_input_dims).view(-1, self.n_input_dims)
            near = tree.query(cells.numpy(), k=range(1, self.n_neighbors + 1))[1]
            self._known = key, torch.from_numpy(near).to(centers.device, torch.int32)
        return self._known[1]


def lattice(n: int, n_dims: int) -> tuple[Tensor, float]:
    """(n, n_dims) places of a regular lattice that reaches the borders, and its interval.

    All of it where n is a power of n_dims; else of the next larger one, places left out at equal distances.
    """
    side = next(side for side in range(1, n + 1) if side**n_dims >= n)
    if side == 1:
        return torch.full((1, n_dims), 0.5), 1.0
    number = torch.arange(n, device="cpu") * side**n_dims // n
    axes = [number // side**axis % side for axis in range(n_dims)]
    return torch.stack(axes, -1) / (side - 1), 1 / (side - 1)
