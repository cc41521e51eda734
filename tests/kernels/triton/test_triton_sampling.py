"""Search in packed edges on a GPU finds the very rows and positions of the plain version."""

from __future__ import annotations

import math

import pytest
import torch
from interpreted import DEVICE, needs_triton
from reference import rendering as loops
from torch import Tensor

from fieldforge.kernels.triton import sampling as on_gpu
from fieldforge.renderers import sampling
from fieldforge.renderers.samples import row_offsets

pytestmark = needs_triton
COUNTS = [5, 0, 1, 40, 2, 0]


def packed(counts: list[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Numbers that never decrease along a ray, some the same, and where each ray has its own."""
    steps = torch.rand(sum(counts), generator=generator)
    steps[1::3] = 0.0
    return steps.cumsum(0).to(DEVICE), row_offsets(torch.tensor(counts, dtype=torch.int64)).to(DEVICE)


@pytest.mark.parametrize(
    ("counts", "n_values"), [(COUNTS, [0, 3, 2, 150, 0, 1]), ([3], [1]), ([], []), ([0], [2]), ([4], [0])]
)
def test_values_lie_between_the_same_rows(counts: list[int], n_values: list[int], generator: torch.Generator) -> None:
    edges, offsets = packed(counts, generator)
    values, value_offsets = packed(n_values, generator)
    values = (values * 0.3 + edges.sum() / max(1, len(edges)) - 1)[torch.randperm(len(values), generator=generator)]
    if len(edges) and len(values):
        values[-1] = edges[-1]  # an edge belongs to the bin on its right
    found = on_gpu.searchsorted(edges, offsets, values, value_offsets)
    for one, other in zip(found, sampling.searchsorted_plain(edges, offsets, values, value_offsets), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("counts", "n"), [(COUNTS, 33), ([2], 1), ([], 3), ([0], 2), ([3], 0)])
def test_positions_have_the_same_bits(counts: list[int], n: int, generator: torch.Generator) -> None:
    edges, offsets = packed(counts, generator)
    cdf, _ = packed(counts, generator)
    u = (1.2 * torch.rand(len(counts), n, generator=generator) - 0.1).to(DEVICE) * float(cdf.sum() / max(1, len(cdf)))
    found, expected = on_gpu.inverse_cdf(edges, cdf, offsets, u), sampling.inverse_cdf_plain(edges, cdf, offsets, u)
    assert torch.equal(found.nan_to_num(-9.0), expected.nan_to_num(-9.0))
    assert found[[count == 0 for count in counts]].isnan().all()


def test_positions_are_those_of_the_loop_in_float64(generator: torch.Generator) -> None:
    edges, offsets = packed([9], generator)
    cdf = torch.rand(9, generator=generator).cumsum(0).to(DEVICE)
    u = (cdf[-1] * torch.rand(1, 20, generator=generator).to(DEVICE)).clamp_min(cdf[0])
    expected = [loops.inverse_cdf(edges.tolist(), cdf.tolist(), one) for one in u[0].tolist()]
    assert on_gpu.inverse_cdf(edges, cdf, offsets, u)[0].tolist() == pytest.approx(expected, abs=2e-6)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("where", ["u", "first", "last"])
def test_nan_in_nan_out(where: str, generator: torch.Generator) -> None:
    edges, offsets = packed([4, 4], generator)
    cdf = edges.clone()
    u = cdf[4] + torch.rand(2, 3, generator=generator).to(DEVICE)
    if where == "u":
        u[1, 1] = math.nan
    else:
        cdf[4 if where == "first" else 7] = math.nan
    found, expected = on_gpu.inverse_cdf(edges, cdf, offsets, u), sampling.inverse_cdf_plain(edges, cdf, offsets, u)
    assert found.isnan().tolist() == expected.isnan().tolist()
    assert found[1].isnan().any()
    assert not found[0].isnan().any()


def test_the_door_names_what_is_wrong(generator: torch.Generator) -> None:
    edges, offsets = packed([3, 2], generator)
    with pytest.raises(TypeError, match="edges: expected float32 on a CUDA device"):
        on_gpu.searchsorted(edges.double(), offsets, edges, offsets)
    with pytest.raises(ValueError, match="value_offsets: expected 2 rays as the edges have, got 1"):
        on_gpu.searchsorted(edges, offsets, edges, offsets[::2])
    with pytest.raises(ValueError, match=r"u: expected shape \(2, 4\), got \(3, 4\)"):
        on_gpu.inverse_cdf(edges, edges, offsets, torch.zeros(3, 4, device=DEVICE))
    with pytest.raises(ValueError, match=r"cdf: expected shape \(5,\), got \(4,\)"):
        on_gpu.inverse_cdf(edges, edges[1:], offsets, torch.zeros(2, 4, device=DEVICE))
