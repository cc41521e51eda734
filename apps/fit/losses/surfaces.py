"""Losses for surfaces of which only points are known: SIREN's and IGR's.

    {"otype": "SIREN", "slope": "autodiff"}    {"otype": "IGR", "eikonal": 0.1}

Neither knows a distance anywhere: the field is to be 0 at the points, to have slope 1 (the eikonal equation), and to
rise along the normals. Without normals, ``normals = 0``, nothing tells inside from outside but the start
(`fields/geometric.py`). IGR's loss keeps it; SIREN's forgets it and draws sheets through the inside. So a cloud without
normals is given estimated ones, and ``loss.normals=0`` is for who wants none.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from fieldforge.apps.fit.losses.shape_base import SlopeLoss, SurfaceSamples, length
from fieldforge.checks import expect_float
from fieldforge.fields.kinds.base import Field
from fieldforge.registry import register


@register("loss", "SIREN")
class SIREN(SlopeLoss):
    """3000 |f| + 100 (1 - cos(∇f, n)) on the surface, 100 exp(-100 |f|) off it, 50 ||∇f| - 1| everywhere.

    Sitzmann et al. 2020, section 4.2, with the weights of their code, which the paper leaves out. The paper has
    1 - <∇f, n> for normals, the code the cosine; the paper's α of exp(-α |f|) is "much larger than 1". All terms are
    means over the whole batch, as in the code, so half of the points on the surface halves what is written here.

    Args:
        surface: weight of |f| on the surface; f in half sides of the cube.
        elsewhere: weight of exp(-sharpness |f|) off it.
        normals: weight of the angle; points without a normal do not count.
        eikonal: weight of ||∇f| - 1|.
        sharpness: α.
        slope, step: how the gradient is taken, see `SlopeLoss`.
    """

    otype = "SIREN"
    reads = "surface"

    def __init__(
        self,
        *,
        surface: float = 3e3,
        elsewhere: float = 1e2,
        normals: float = 1e2,
        eikonal: float = 5e1,
        sharpness: float = 1e2,
        slope: str = "autodiff",
        step: float | None = None,
    ) -> None:
        super().__init__(slope=slope, step=step)
        self.surface = expect_float("surface", surface, 0.0)
        self.elsewhere = expect_float("elsewhere", elsewhere, 0.0)
        self.normals = expect_float("normals", normals, 0.0)
        self.eikonal = expect_float("eikonal", eikonal, 0.0)
        self.sharpness = expect_float("sharpness", sharpness, 0.0, open_low=True)

    def per_sample(self, field: Field, samples: SurfaceSamples) -> Tensor:
        value, slope = self.value_and_slope(field, samples.points)
        off = (-self.sharpness * value.abs()).exp()
        angle = (1 - cosine_similarity(slope, samples.normal, dim=-1)) * (samples.normal != 0).any(-1)
        on = self.surface * value.abs() + self.normals * angle
        return on.where(samples.is_on, self.elsewhere * off) + self.eikonal * (length(slope) - 1).abs()


@register("loss", "IGR")
class IGR(SlopeLoss):
    """mean |f| + normals · mean ‖∇f - n‖ on the surface, eikonal · mean (|∇f| - 1)² off it (Gropp et al. 2020).

    As in their code, each mean is over its own points, and the eikonal term looks off the surface only; normals weigh
    1 where there are any.

    Args:
        eikonal: the paper's λ.
        normals: the paper's τ; points without a normal do not count.
        slope, step: how the gradient is taken, see `SlopeLoss`.
    """

    otype = "IGR"
    reads = "surface"

    def __init__(
        self, *, eikonal: float = 0.1, normals: float = 1.0, slope: str = "autodiff", step: float | None = None
    ) -> None:
        super().__init__(slope=slope, step=step)
        self.eikonal = expect_float("eikonal", eikonal, 0.0)
        self.normals = expect_float("normals", normals, 0.0)

    def per_sample(self, field: Field, samples: SurfaceSamples) -> Tensor:
        value, slope = self.value_and_slope(field, samples.points)
        n, n_on = len(value), samples.is_on.sum(dtype=torch.float64)  # which nobody waits for
        of_on, of_off = ((n / count.clamp(min=1)).to(value.dtype) for count in (n_on, n - n_on))
        turned = length(slope - samples.normal) * (samples.normal != 0).any(-1)
        on = (value.abs() + self.normals * turned) * of_on
        return on.where(samples.is_on, self.eikonal * (length(slope) - 1) ** 2 * of_off)
