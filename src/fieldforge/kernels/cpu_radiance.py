"""Volume rendering of a radiance field as single native calls: pictures, and whole training steps.

A call takes rays and the samples that `fieldforge.renderers.marching.march` found on them. Density is computed at every
sample, colour where light still arrives, and neither features nor colours of the samples are written to Python's
tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fieldforge.checks import expect_choice, expect_float, expect_int
from fieldforge.kernels.cpu_door import (
    address,
    expect_contiguous,
    expect_rows,
    expect_tensor,
    n_threads,
    native,
)
from fieldforge.kernels.cpu_ops import (
    GridShape,
    MlpShape,
    addresses_of,
    expect_table,
    native_grid,
    native_mlp,
    parameter_shapes,
)
from fieldforge.kernels.cpu_training import LOSSES, Moved, Rule, expect_movable

MOST_SAMPLES_OF_A_RAY = 4096


class SamplesLike(Protocol):
    """What `fieldforge.renderers.samples.Samples` says about intervals."""

    @property
    def t0(self) -> Tensor: ...
    @property
    def t1(self) -> Tensor: ...
    @property
    def offsets(self) -> Tensor: ...


@dataclass(frozen=True)
class RadianceShape:
    """A radiance field without its parameters.

    Args:
        grid: encoding of places: three coordinates, or four, of which the last belongs to the ray.
        density: network behind it; the density is its first output.
        color: network that reads all outputs of `density` and then the code of the ray; three outputs.
        low, extent: the box, its lowest corner and its sides.
        per_length: density = activation(first output) * per_length.
        density_activation: "exponential", exp(min(x, 15)) with itself as its slope; or "softplus".
        contraction: of what is beyond the box: "", none; "inf", by the largest coordinate; "2", by the length.
    """

    grid: GridShape
    density: MlpShape
    color: MlpShape
    low: tuple[float, float, float]
    extent: tuple[float, float, float]
    per_length: float
    density_activation: str
    contraction: str = ""

    @property
    def n_code(self) -> int:
        return self.color.widths[0] - self.density.widths[-1]


class Sights(NamedTuple):
    """Rays and their samples.

    origins, directions: (R, 3) float32, directions of unit length; code: (R, n_code), of the directions and of what
    else the colours along a ray depend on; background: (R, 3), behind each ray; early_stop: least transmittance in
    front of a sample that counts; fourth: (R,) in [0, 1], where a ray is on the fourth axis of a grid that has one.
    """

    samples: SamplesLike
    origins: Tensor
    directions: Tensor
    code: Tensor
    background: Tensor
    early_stop: float = 1e-4
    fourth: Tensor | None = None


class Seen(NamedTuple):
    """color (R, 3); depth (R,), the sum of weight * t_mid; opacity (R,); and how many samples were seen."""

    color: Tensor
    depth: Tensor
    opacity: Tensor
    n_evaluated: int


class RadianceStepResult(NamedTuple):
    """Mean loss and squared error over rays and channels before the step; whether it was made; samples seen."""

    loss: float
    squared_error: float
    has_moved: bool
    n_evaluated: int


class RadianceRenderer:
    """A field of radiance for the native renderer, and for training with it.

    Args:
        shape: of the field.
        table: of its grid.
        density, color: weights, then biases, of both networks. All contiguous float32 tensors on the CPU; a training
            step updates them in place.
        moved: what is kept beside each of (table, density, color), for training; updated in place.

    Attributes:
        parameters: in that order.

    Raises:
        TypeError, ValueError: a tensor is not float32 or contiguous, has another shape, or shares memory with another.
    """

    def __init__(
        self,
        shape: RadianceShape,
        table: Tensor,
        density: Sequence[Tensor],
        color: Sequence[Tensor],
        *,
        moved: Sequence[Moved] | None = None,
    ) -> None:
        expect_choice("density_activation", shape.density_activation, ("exponential", "softplus"))
        expect_choice("contraction", shape.contraction, ("", "inf", "2"))
        self.shape = shape
        named = [("table", expect_table(table, shape.grid, copy=False))]
        for which, mlp, tensors in (("density", shape.density, density), ("color", shape.color, color)):
            expected = parameter_shapes(mlp)
            if len(tensors) != len(expected):
                raise ValueError(f"{which}: expected {len(expected)} weights and biases, got {len(tensors)}")
            named += [
                (f"{which}.{name}", expect_tensor(f"{which}.{name}", tensor, size))
                for tensor, (name, size) in zip(tensors, expected, strict=True)
            ]
        self.parameters = [tensor.detach() for _, tensor in named]
        self.moved = list(moved or ())
        expect_movable(named, moved)
        grid, networks = native_grid(shape.grid), (native_mlp(shape.density), native_mlp(shape.color))
        of_density, of_color = self._where(self.parameters)
        self._native = native().Radiance(
            grid, networks[0], of_density, networks[1], of_color, list(shape.low), list(shape.extent),
            shape.contraction, shape.per_length, shape.density_activation == "softplus",
        )  # fmt: skip
        if self.moved:
            places = [self._where([beside[kind] for beside in self.moved]) for kind in range(3)]
            self._native.keep_moves(
                grid, *networks, [density for density, _ in places], [color for _, color in places]
            )  # fmt: skip

    def render(self, sights: Sights) -> Seen:
        """What is seen along rays; no gradient."""
        given, alive = self._sights(sights)
        n_rays = alive[0].shape[0]
        color, (depth, opacity) = torch.empty(n_rays, 3), torch.empty(2, n_rays).unbind()
        n = self._native.render(given, address(color), address(depth), address(opacity), n_threads())
        return Seen(color, depth, opacity, n)

    def train(
        self,
        sights: Sights,
        target: Tensor,
        rules: Sequence[Rule],
        *,
        loss: str = "L2",
        huber_delta: float = 1.0,
        ray_loss: Tensor | None = None,
        grad_background: Tensor | None = None,
        grad_code: Tensor | None = None,
        may_move: Callable[[], bool] | None = None,
    ) -> RadianceStepResult:
        """One step towards the colours that rays should have: render, compare, go back, update.

        Args:
            sights: at least one ray.
            target: (R, 3) float32.
            rules: how each parameter moves, in the order of `parameters`.
            loss: one of `cpu_training.LOSSES`, the mean over rays and channels.
            huber_delta: where the Huber loss goes on as a straight line.
            ray_loss: (R,) float32, filled with each ray's loss, or None.
            grad_background: (R, 3) float32, filled with the gradient of the mean loss in the backgrounds, or None.
            grad_code: (R, n) float32, filled with the gradient in the last n numbers of each code, or None.
            may_move: asked before the update, when `ray_loss` is known; None: always.

        Returns:
            The loss before the step. Nothing moves when it is not finite, or when `may_move` says no.
        """
        expect_choice("loss", loss, LOSSES)
        expect_float("huber_delta", huber_delta, 0.0, open_low=True)
        given, alive = self._sights(sights)
        n_rays = expect_int("n_rays", alive[0].shape[0], 1)
        target = expect_tensor("target", target, (n_rays, 3)).contiguous()
        n_learned = 0 if grad_code is None else expect_int("grad_code", grad_code.shape[-1], 0, self.shape.n_code)
        for name, filled, size in (
            ("ray_loss", ray_loss, (n_rays,)),
            ("grad_background", grad_background, (n_rays, 3)),
            ("grad_code", grad_code, (n_rays, n_learned)),
        ):
            if filled is not None:
                expect_contiguous(name, expect_tensor(name, filled, size))
        return RadianceStepResult(
            *self._native.train(
                rules,
                given,
                address(target),
                loss,
                huber_delta,
                address(ray_loss),
                address(grad_background),
                address(grad_code),
                n_learned,
                may_move,
                n_threads(),
            )
        )

    def _sights(self, sights: Sights) -> tuple[Any, tuple[Tensor, ...]]:
        """What the native module is told, and the tensors that it points to."""
        samples = sights.samples
        origins = expect_rows("origins", sights.origins, 3)
        n_rays = origins.shape[0]
        directions = expect_tensor("directions", sights.directions, (n_rays, 3)).contiguous()
        code = expect_tensor("code", sights.code, (n_rays, self.shape.n_code)).contiguous()
        background = expect_tensor("background", sights.background, (n_rays, 3)).contiguous()
        offsets = expect_tensor("offsets", samples.offsets, (n_rays + 1,), torch.int64).contiguous()
        n_samples = samples.t0.shape[0]
        t0 = expect_tensor("t0", samples.t0, (n_samples,)).contiguous()
        t1 = expect_tensor("t1", samples.t1, (n_samples,)).contiguous()
        alive: tuple[Tensor, ...] = (origins, directions, code, background, offsets, t0, t1)
        fourth = None
        if self.shape.grid.n_dims == 4:
            if sights.fourth is None:
                raise ValueError("fourth: the grid has four axes; expected a place on the last one for each ray")
            fourth = expect_tensor("fourth", sights.fourth, (n_rays,)).contiguous()
            alive = (*alive, fourth)
        early_stop = expect_float("early_stop", sights.early_stop, 0.0, 1.0)
        given = native().Sights(
            address(offsets), address(t0), address(t1), address(origins), address(directions), address(code),
            address(background), address(fourth), n_rays, n_samples, early_stop,
        )  # fmt: skip
        return given, alive

    def _where(self, tensors: Sequence[Tensor | None]) -> tuple[Any, Any]:
        """Addresses of (table, density network), and of the colour network."""
        n = len(parameter_shapes(self.shape.density)) + 1
        return addresses_of(self.shape.density, tensors[:n]), addresses_of(self.shape.color, (None, *tensors[n:]))
