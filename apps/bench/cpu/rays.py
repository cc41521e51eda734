"""W5: what happens along rays: compositing of packed samples, and marching through an occupancy grid."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fieldforge.apps.bench.cpu import floors
from fieldforge.apps.bench.cpu.fields import without_gradients
from fieldforge.apps.bench.cpu.work import Work
from fieldforge.apps.bench.peers import plain_composite, plain_march
from fieldforge.backends import use_backend
from fieldforge.renderers.compositing import composite
from fieldforge.renderers.marching import march
from fieldforge.renderers.occupancy import OccupancyGrid
from fieldforge.renderers.samples import Samples

COMPOSITING = {"inference": (15.0, None), "step": (20.0, None)}
MARCH = (20.0, None)


def composite_work(direction: str, n_rays: int, n: int) -> Work:
    """Colour, opacity and depth of rays with different numbers of samples; 'step' is forward and backward."""
    generator = torch.Generator().manual_seed(0)
    share = torch.rand(n_rays, generator=generator) + 0.2
    counts = torch.multinomial(share, n, replacement=True, generator=generator).bincount(minlength=n_rays)
    ends = counts.cumsum(0)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), ends])
    ray_index = torch.repeat_interleave(torch.arange(n_rays), counts)
    t0 = 0.02 * (torch.arange(n) - offsets[ray_index])
    samples = Samples.from_offsets(t0, t0 + 0.02, offsets)
    density, color = 5 * torch.rand(n, generator=generator), torch.rand(n, 3, generator=generator)
    pull, pull_opacity = torch.rand(n_rays, 3, generator=generator), torch.rand(n_rays, generator=generator)
    sizes = {"n_samples": n, "n_rays": n_rays}

    def ours(density: Tensor, color: Tensor) -> tuple[Tensor, Tensor]:
        with use_backend("cpu"):
            rendered = composite(samples, density, color)
        return rendered.color, rendered.opacity

    def plain(density: Tensor, color: Tensor) -> tuple[Tensor, Tensor]:
        rays, opacity, _ = plain_composite(density, color, t0, samples.t1, offsets, ray_index)
        return rays, opacity

    if direction == "inference":
        return Work(
            n, sizes, COMPOSITING[direction], without_gradients(lambda: plain(density, color)[0]),
            without_gradients(lambda: ours(density, color)[0]), phases=floors.compositing(n, has_backward=False),
        )  # fmt: skip

    inputs = density.requires_grad_(), color.requires_grad_()

    def back(forward: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        return torch.autograd.grad(forward(*inputs), inputs, (pull, pull_opacity))[0]

    return Work(
        n, sizes, COMPOSITING[direction], lambda: back(plain), lambda: back(ours),
        phases=floors.compositing(n, has_backward=True),
    )  # fmt: skip


def march_work(n_rays: int, resolution: int) -> Work:
    """Rays through a spherical shell that fills about a twentieth of the cube; results are counted."""
    axis = torch.linspace(-1, 1, resolution)
    radius = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).norm(dim=-1)
    occupied = (radius - 0.6).abs() < 0.06
    grid = OccupancyGrid.from_cells(occupied, (0, 0, 0), (1, 1, 1))
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(n_rays, 3, generator=generator), dim=1)
    origins = 0.5 - 1.5 * directions + 0.1 * torch.randn(n_rays, 3, generator=generator)
    n_steps = 8 * resolution
    step = math.sqrt(3) / n_steps

    def ours() -> float:
        with use_backend("cpu"):
            return float(march(origins, directions, grid, step=step).n_samples)

    return Work(
        n_rays, {"n_rays": n_rays, "resolution": resolution, "step": step}, MARCH,
        lambda: float(len(plain_march(origins, directions, occupied, step, n_steps)[0])), ours, tolerance=0.02,
    )  # fmt: skip
