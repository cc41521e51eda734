"""Is every version of an operation that runs on the device the function: against the reference in float64.

Value, gradients in the inputs and gradients in the parameters, each as a vector: |found - expected| / |expected|.

Cases have no kinks within rounding of a point, where float32 may be on the other side of one than float64: tables of
2^k + 1 entries a side, so that places in them are exact; smooth activations; and ReLU of whole numbers, which float32
adds exactly in any order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fieldforge import backends
from fieldforge.backends import made_by, use_backend
from fieldforge.devices import seeded
from fieldforge.encodings.grid import Grid
from fieldforge.encodings.identity import Identity
from fieldforge.fields import fused
from fieldforge.fields.networks.mlp import MLP
from fieldforge.registry import build
from fieldforge.renderers.compositing import accumulate, composite, distortion
from fieldforge.renderers.marching import march
from fieldforge.renderers.occupancy import OccupancyGrid
from fieldforge.renderers.rays import intersect_box
from fieldforge.renderers.samples import Samples, row_offsets
from fieldforge.renderers.sampling import inverse_cdf, searchsorted
from fieldforge.renderers.scans import exclusive_prod, exclusive_sum, inclusive_prod, inclusive_sum

TOLERANCE = {torch.float32: 2e-4, torch.float16: 2e-2}
"""Of a vector as a whole; float32 sums of thousands of terms in any order keep four digits."""


@dataclass(frozen=True)
class Case:
    """An operation on some input.

    Args:
        operation: of `fieldforge.backends`.
        name: of the case.
        parts: modules whose parameters count.
        inputs: tensors, float32; each gets a gradient if it is floating point.
        run: inputs -> tensors to look at.
        precision: what the fast version computes in.
    """

    operation: str
    name: str
    parts: nn.Module
    inputs: tuple[Tensor, ...]
    run: Callable[..., tuple[Tensor, ...]]
    precision: torch.dtype = torch.float32


@dataclass(frozen=True)
class Verdict:
    """How far a version is from the reference in float64."""

    case: str
    maker: str
    error: float
    tolerance: float
    why_not: str = ""

    @property
    def is_right(self) -> bool:
        """A guest that is not there or refuses is nothing wrong; ours has to run."""
        return bool(self.why_not and self.maker) or self.error <= self.tolerance


def cases(n: int) -> Iterator[Case]:
    """Every operation, on n points or rays of the device where tensors are made."""
    draw = seeded(0)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=draw)

    for otype, keys in (
        ("HashGrid", {"n_levels": 6, "log2_hashmap_size": 12, "per_level_scale": 1.6}),
        ("DenseGrid", {"n_levels": 3, "base_resolution": 8, "per_level_scale": 1.5}),
        ("Frequency", {"n_frequencies": 6}), ("OneBlob", {"n_bins": 16}), ("SphericalHarmonics", {"degree": 4}),
        ("TriangleWave", {"n_frequencies": 6}), ("RandomFourier", {}),
        ("TriPlane", {"resolution": 129}), ("TensorCP", {"resolution": 129}),
    ):  # fmt: skip
        encoding: nn.Module = build("encoding", {"otype": otype, **keys}, n_input_dims=3, generator=_cpu())
        encoding = encoding.to(rand(1).device)
        operation = {"HashGrid": "grid", "DenseGrid": "grid", "Frequency": "frequency", "OneBlob": "one_blob",
                     "SphericalHarmonics": "spherical_harmonics", "TriangleWave": "triangle_wave",
                     "RandomFourier": "random_fourier", "TriPlane": "interpolation",
                     "TensorCP": "interpolation"}[otype]  # fmt: skip
        yield Case(operation, otype, encoding, (rand(n, 3),), lambda x, e=encoding: (e(x),))
    for width, activation in ((16, "Tanh"), (64, "SiLU"), (128, "Softplus")):
        encoding = Grid(3, n_levels=8, log2_hashmap_size=12, per_level_scale=1.5, generator=_cpu()).to(rand(1).device)
        network = MLP(16, 4, n_neurons=width, n_hidden_layers=2, activation=activation, generator=_cpu())
        yield _field(f"grid and MLP of {width}", encoding, network, rand(n, 3))
    yield _field("ReLU of whole numbers", Identity(3), _of_whole_numbers(64), (9 * rand(n, 3) - 4).floor())
    counts = torch.randint(0, 12, (max(1, n // 6),), generator=draw)
    offsets, n_samples = row_offsets(counts), int(counts.sum())
    rays = torch.repeat_interleave(torch.arange(len(counts)), counts)
    t0 = rand(n_samples) * 0.01 + (torch.arange(n_samples) - offsets[rays]) * 0.02
    samples = Samples.trusted(t0, t0 + 0.02, rays, offsets)
    for name, scan in (("inclusive_sum", inclusive_sum), ("exclusive_sum", exclusive_sum),
                       ("inclusive_prod", inclusive_prod), ("exclusive_prod", exclusive_prod)):  # fmt: skip
        yield Case("segmented_scan", name, nn.Module(), (rand(n_samples) + 0.5,),
                   lambda v, s=scan, o=offsets: (s(v, o),))  # fmt: skip

    def of_rays(density: Tensor, color: Tensor) -> tuple[Tensor, ...]:
        own = Samples.trusted(t0.to(density), (t0 + 0.02).to(density), rays, offsets)
        return tuple(composite(own, density, color))

    yield Case("composite", "packed samples", nn.Module(), (rand(n_samples) * 60, rand(n_samples, 3)), of_rays)
    yield Case("accumulate", "packed samples", nn.Module(), (rand(n_samples), rand(n_samples, 5)),
               lambda w, v: (accumulate(w, v, offsets),))  # fmt: skip
    yield Case("distortion", "packed samples", nn.Module(), (rand(n_samples),),
               lambda w: (distortion(Samples.trusted(t0.to(w), (t0 + 0.02).to(w), rays, offsets), w),))  # fmt: skip
    where = OccupancyGrid.from_cells(rand(16, 16, 16) < 0.3, (0, 0, 0), (1, 1, 1))
    origins = rand(n // 4 + 1, 3) * 3 - 1
    directions = nn.functional.normalize(0.5 - origins + 0.3 * rand(n // 4 + 1, 3), dim=-1)

    def marched() -> tuple[Tensor, ...]:
        found = march(origins, directions, where, step=0.01)
        return found.t0, found.counts.float()

    yield Case("march", "one box", nn.Module(), (), marched)
    for operation, name, run in _of_places(n, rand, t0, offsets, where):
        yield Case(operation, name, nn.Module(), (), run)
    assert samples.n_samples == n_samples


def _field(name: str, encoding: nn.Module, network: MLP, x: Tensor) -> Case:
    parts = nn.ModuleList([encoding, network]).to(x.device)
    return Case("field", name, parts, (x,), lambda x: (fused.apply(encoding, network, x),))


def _of_whole_numbers(width: int) -> MLP:
    """A ReLU network from 3 to 4 numbers whose sums of small whole numbers are below 2^24."""
    network = MLP(3, 4, n_neurons=width, n_hidden_layers=2, activation="ReLU", generator=_cpu())
    draw = _cpu()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randint(-2, 3, parameter.shape, generator=draw, device="cpu"))
    return network


def _of_places(
    n: int, rand: Callable[..., Tensor], t0: Tensor, offsets: Tensor, where: OccupancyGrid
) -> list[tuple[str, str, Callable[[], tuple[Tensor, ...]]]]:
    """Operations that choose places and cells, which have no gradients and float32 only."""
    cdf, n_rays = rand(len(t0)).cumsum(0), len(offsets) - 1
    u = torch.cat([cdf, cdf.new_zeros(1)])[offsets[:-1]][:, None] + 3 * rand(n_rays, 5)
    each = torch.arange(n_rays + 1) * 5
    origins, directions, points = rand(n, 3) * 3 - 1, rand(n, 3) - 0.5, 2 * rand(n, 3) - 0.5
    cells, fresh = (rand(16**3) < 0.2).nonzero()[:, 0], 100 * rand(16**3)

    def searched() -> tuple[Tensor, ...]:
        left, right = searchsorted(cdf, offsets, u.flatten(), each)
        return left.float(), right.float()

    def updated() -> tuple[Tensor, ...]:
        grid = OccupancyGrid.from_cells(where.cells, (0, 0, 0), (1, 1, 1))
        grid.insert(cells, fresh[: len(cells)])
        return (grid.density,)

    def packed() -> tuple[Tensor, ...]:
        return (OccupancyGrid.from_cells(where.cells, (0, 0, 0), (1, 1, 1)).cells.float(),)

    return [
        ("inverse_cdf", "packed edges", lambda: (inverse_cdf(t0, cdf, offsets, u).nan_to_num(),)),
        ("searchsorted", "packed edges", searched),
        ("intersect_box", "one box", lambda: intersect_box(origins, directions, (0, 0, 0), (1, 1, 1), 0.1)),
        ("occupancy_lookup", "one box", lambda: (where.occupied(points).float(),)),
        ("occupancy_update", "one box", updated),
        ("occupancy_pack", "one box", packed),
    ]


def judge(case: Case, makers: list[str]) -> list[Verdict]:
    """Every maker's version of a case beside the reference in float64; one that refuses says why."""
    with use_backend("reference"):
        expected = _asked(case, torch.float64)
    verdicts = []
    for maker in makers:
        with ExitStack() as stack:
            stack.enter_context(made_by(case.operation, maker, alone=True))
            try:
                found = _asked(case, torch.float32)
            except Exception as error:  # a version that fails is a verdict, not the end of the others
                verdicts.append(Verdict(case.name, maker, float("inf"), 0.0, f"{type(error).__name__}: {error}"[:120]))
                continue
        verdicts.append(Verdict(case.name, maker, _distance(found, expected), TOLERANCE[case.precision]))
    return verdicts


def verdicts(case: Case, device_type: str) -> Iterator[Verdict]:
    """Of everyone who makes a case on the device; one that nobody makes is the reference's."""
    makers = backends.makers(case.operation, device_type)
    missing = {maker: backends.why_missing(case.operation, device_type, maker) for maker in makers}
    for maker, why in missing.items():
        if why is not None:
            yield Verdict(case.name, maker, math.inf, 0.0, why)
    if able := [maker for maker, why in missing.items() if why is None] or ([] if makers else [""]):
        yield from judge(case, able)


def _asked(case: Case, dtype: torch.dtype) -> list[Tensor]:
    """Values, and gradients of a fixed sum of them in inputs and parameters, as float64."""
    before = {name: tensor.detach().clone() for name, tensor in case.parts.state_dict().items()}
    try:
        case.parts.to(dtype)
        inputs = [one.to(dtype).requires_grad_() for one in case.inputs]
        values = case.run(*inputs)
        asked = [*inputs, *(one for one in case.parts.parameters() if one.requires_grad)]
        found = [value.detach().double() for value in values]
        if asked:
            total = torch.stack([
                (value * torch.cos(torch.arange(value.numel(), dtype=dtype)).view_as(value)).sum() for value in values
            ]).sum()  # fmt: skip
            grads = torch.autograd.grad(total, asked, allow_unused=True)
            found += [grad.double() for grad in grads if grad is not None]
        return found
    finally:
        case.parts.float()
        case.parts.load_state_dict(before)


def _distance(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest of the relative distances of vectors; infinite where one has another size."""
    if [tuple(one.shape) for one in found] != [tuple(one.shape) for one in expected]:
        return float("inf")
    apart = [
        torch.linalg.vector_norm(one - other) / torch.linalg.vector_norm(other).clamp(min=1e-12)
        for one, other in zip(found, expected, strict=True)
        if other.numel()
    ]
    return float(torch.stack(apart).max()) if apart else 0.0


def _cpu() -> torch.Generator:
    return torch.Generator("cpu").manual_seed(0)
