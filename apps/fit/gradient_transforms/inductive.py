"""IGA: inductive gradient adjustment (Shi, Chen, Zhang, Gu; ICML 2025, arXiv 2410.13271).

    [gradient_transform]
    otype = "IGA"
    end = 20
    patch = 8

Residuals r move as dr/dt = -K r, with K the tangent kernel: slowly along eigenvectors of small eigenvalues, which are
the details. Here r' = S r, with

    S = I - Σ_{start <= i < end} (1 - λ_end / λ_i) v_i v_iᵀ

makes the largest eigenvalues of S K all λ_end; it only damps, so a larger learning rate is stable, and whoever compares
gives it to both sides. K of all pixels is too large: the picture is cut into n patches, K (n x n) is that of one
representative of each, and S acts on the pixels at each place inside the patches alike.

"argmax": the representative is the pixel with the largest error, as the text has it. "patch_sum": the released image
script indexes so that, for each patch, the gradients at all n chosen places are added up; K is of these sums. Patches
that reach over the border have no residual there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fieldforge.apps.fit.gradient_transforms.base import GradientTransform, TransformedStep
from fieldforge.apps.fit.loop import Hook, allowed
from fieldforge.apps.fit.optimizers.base import Optimizer
from fieldforge.apps.fit.stages import only_asked
from fieldforge.apps.fit.tangent import LARGEST, jacobian, parameters_of
from fieldforge.apps.images import Picture
from fieldforge.checks import expect_choice, expect_int
from fieldforge.fields.kinds.image import ImageField
from fieldforge.registry import ConfigError, register

MOST_PATCHES = 1024
MOST_PIXELS = 2**20
"""All go through the network at once."""


def adjustment(kernel: Tensor, end: int, start: int = 0) -> Tensor:
    """The matrix S of a kernel, float64.

    Args:
        kernel: (n, n), symmetric.
        end: index of the eigenvalue, descending from 0, that the larger ones from `start` on become; below n.
        start: the first of them.

    Example:
        >>> S = adjustment(torch.diag(torch.tensor([8.0, 4.0, 1.0])), end=1)
        >>> S.diagonal()
        tensor([0.5000, 1.0000, 1.0000], dtype=torch.float64)
    """
    values, vectors = torch.linalg.eigh(kernel.double())
    values, vectors = values.flip(0), vectors.flip(1)
    found = torch.eye(len(values), dtype=torch.float64)
    level = max(0.0, float(values[end]))
    for i in range(start, end):
        if values[i] <= 0:
            break
        found -= (1 - level / values[i]) * torch.outer(vectors[:, i], vectors[:, i])
    return found


@register("gradient_transform", "IGA")
class IGA(GradientTransform):
    """Residuals with the leading eigenvalues of their tangent kernel levelled.

    Args:
        end: index of the eigenvalue that the larger ones become; the paper's 15 to 25 for pictures.
        start: index of the first that is lowered.
        patch: side of a patch in pixels; there may be 1024 patches.
        representative: "argmax" or "patch_sum".
        refresh: steps between kernels; the paper's is 1.
    """

    otype = "IGA"

    def __init__(
        self,
        *,
        end: int = 20,
        start: int = 0,
        patch: int = 8,
        representative: Literal["argmax", "patch_sum"] = "argmax",
        refresh: int = 1,
    ) -> None:
        self.end = expect_int("end", end, 0, MOST_PATCHES)
        self.start = expect_int("start", start, 0, end)
        self.patch = expect_int("patch", patch, 1, 4096)
        self.representative = expect_choice("representative", representative, ("argmax", "patch_sum"))
        self.refresh = expect_int("refresh", refresh, 1, 10**9)

    def step(self, field: ImageField, picture: Picture, optimizer: Optimizer, hooks: Sequence[Hook]) -> TransformedStep:
        return _InductiveStep(self, field, picture, optimizer, hooks)


class _InductiveStep(TransformedStep):
    def __init__(
        self, rule: IGA, field: ImageField, picture: Picture, optimizer: Optimizer, hooks: Sequence[Hook]
    ) -> None:
        height, width, n_channels = picture.pixels.shape
        side = rule.patch
        n_down, n_across = math.ceil(height / side), math.ceil(width / side)
        n = n_down * n_across
        path = "gradient_transform"
        if height * width > MOST_PIXELS:
            raise ConfigError(f"{path}.otype: IGA takes all pixels at once, and {width}x{height} are more than 2^20")
        if n > MOST_PATCHES:
            raise ConfigError(f"{path}.patch: {side} makes {n} patches of {width}x{height} pixels, more than "
                              f"{MOST_PATCHES}; a larger one will do")  # fmt: skip
        if rule.end >= n:
            raise ConfigError(f"{path}.end: expected less than the number of patches, {n}, got {rule.end}; a smaller "
                              "patch will do")  # fmt: skip
        size = sum(parameter.numel() for parameter in parameters_of(field).values())
        if n * size > LARGEST:
            raise ConfigError(f"{path}.patch: the Jacobian of {n} patches in {size:,} parameters is too large; a "
                              "larger patch or a smaller field will do")  # fmt: skip
        self.rule, self.field, self.optimizer, self.hooks = rule, field, optimizer, hooks
        down, across = torch.arange(n_down * side), torch.arange(n_across * side)
        y, x = torch.meshgrid(down, across, indexing="ij")

        def in_patches(plane: Tensor) -> Tensor:
            return plane.view(n_down, side, n_across, side).transpose(1, 2).reshape(n, side * side)

        y, x = in_patches(y), in_patches(x)
        self.is_inside = (y < height) & (x < width)  # (n, p)
        y, x = y.clamp(max=height - 1), x.clamp(max=width - 1)
        self.points = torch.stack([x, y], -1) + 0.5  # (n, p, 2)
        self.values = picture.values(y * width + x)  # (n, p, c)
        self.n_values = height * width * n_channels
        self.carried = {"adjustment": torch.eye(n, dtype=torch.float64)}

    def __call__(self, step: int, factor: float) -> tuple[float, float]:
        self.optimizer.zero_grad()
        said = self.field.color(self.points.flatten(0, 1)).view(self.values.shape)
        residual = (said.detach() - self.values) * self.is_inside[..., None]
        loss = float((residual**2).sum()) / self.n_values
        if not math.isfinite(loss):
            return loss, loss
        if step % self.rule.refresh == 0:
            with only_asked(self.field):
                kernel = self._kernel(residual)
            self.carried["adjustment"].copy_(adjustment(kernel, self.rule.end, self.rule.start))
        changed = self.carried["adjustment"].to(residual.dtype) @ residual.flatten(1)  # along the patches
        changed = changed.view(residual.shape) * self.is_inside[..., None]
        ((2 / self.n_values) * (said * changed).sum()).backward()
        per_sample = (residual**2).mean(-1)[self.is_inside]
        if allowed(self.hooks, step, per_sample):
            self.optimizer.set_learning_rate_factor(factor)
            self.optimizer.step()
        return loss, loss

    def _kernel(self, residual: Tensor) -> Tensor:
        """(n, n) of the representatives, by their residuals (n, p, c)."""
        size = residual.abs().sum(-1)
        worst = size.masked_fill(~self.is_inside, -1.0).argmax(1)
        if self.rule.representative == "argmax":
            places = self.points[torch.arange(len(worst)), worst]  # (n, 2)
        else:
            places = self.points[:, torch.unique(worst)]
            counts = torch.bincount(worst, minlength=self.points.shape[1])
            return self._of_sums(places, counts[counts > 0])
        rows = jacobian(self.field, places).double()
        return rows @ rows.T

    def _of_sums(self, places: Tensor, counts: Tensor) -> Tensor:
        """The kernel of sums over places (n, m, 2) of each patch, each as often as it was chosen."""
        weight = counts.to(places.dtype)

        def total(said: Tensor, _: Tensor) -> Tensor:
            return (said.sum(-1) / math.sqrt(said.shape[-1]) * weight).sum()

        rows = jacobian(self.field, places, total).double()
        return rows @ rows.T
