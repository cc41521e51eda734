"""Fine-tune a fitted shape so that its own derivative is right (Chetan et al., CVPR 2025, arXiv 2312.05984).

    state = finetune_derivatives(field, points_on_its_surface)

A frozen copy T of the field F teaches it: values stay, and the unit gradient that autodiff finds comes nearer to the
one of a polynomial fitted to T around the point,

    loss = mean (F - T)² / c²  +  weight * mean |∇F/|∇F| - g|²,    g = fitted ∇T / |fitted ∇T|

with c the field's finest cell. The second term needs the derivative of ∇F in the parameters.

Where we differ from the released code: it has no c, and at its weight nothing holds the values of our grids; the mean
over coordinates is a sum; and the fit is centred (fields/operators.py). data/studies/derivatives.md says where this
helps and where it does harm.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fieldforge.apps.fit.loop import Budget, Figure, Progress, State, train
from fieldforge.apps.fit.optimizers.base import Optimizer, Parameters
from fieldforge.apps.fit.recipe import adam
from fieldforge.apps.fit.samplers import ShuffledIndices
from fieldforge.checks import expect_float, expect_int, expect_points
from fieldforge.devices import seeded
from fieldforge.fields import operators
from fieldforge.fields.kinds.shape import ShapeField
from fieldforge.registry import build

ANGLE = Figure(
    "degrees", "normals {:.3g}° off", lambda loss, error: math.degrees(2 * math.asin(min(1.0, error**0.5 / 2)))
)
"""Root mean square of the angle between the gradient and its teacher's."""


def finetune_derivatives(
    fitted: ShapeField,
    points: Tensor,
    *,
    weight: float = 1.0,
    sigma: float = 2.0,
    n_samples: int = 64,
    spread: float = 0.25,
    n_steps: int = 400,
    batch_size: int = 2**14,
    learning_rate: float = 2e-3,
    seed: int = 0,
    observe: Callable[[Progress], None] = lambda progress: None,
) -> State:
    """Move a field's parameters, in place, until autodiff gives the gradients of a polynomial fit.

    Args:
        fitted: signed, and not made of steps.
        points: (n, 3) on its surface, all over it, in world units.
        weight: of the gradients' term.
        sigma: deviation of the fit's samples, in finest cells of the field.
        n_samples: of the fit, for each point.
        spread: each step moves its points by normal deviates of so many finest cells, so that no two steps see the
            same ones. Gradients at fixed points are learnt by heart: between them they get worse.
        n_steps: training steps.
        batch_size: points a step.
        learning_rate: of Adam, falling to 0 along a cosine.
        seed: of the order of the points and of the deviates.
        observe: told of progress, with rate and time left.

    Returns:
        The state; its history has the column ``degrees``. If a signal (Ctrl-C) stopped it, ``stopped_by`` is 'signal',
        and the field is what it was before, as it is when an error is raised.

    Raises:
        ValueError: the field has no normals to learn, or numbers are out of range.
        NonFiniteError: the loss was not finite again and again.
    """
    if not fitted.is_signed:
        raise ValueError(f"field: {fitted.otype} has no normals on its sheet; only signed fields can be fine-tuned")
    if fitted.smoothness < 0:
        raise ValueError("field: it is made of steps, whose derivative is 0; interpolation 'Linear' has one to tune")
    expect_points(points, 3, name="points")
    if not points.numel():
        raise ValueError("points: expected at least one, got none")
    expect_float("weight", weight, 0.0)
    expect_float("sigma", sigma, 0.0, open_low=True)
    expect_float("spread", spread, 0.0)
    expect_int("n_steps", n_steps, 1)
    expect_int("batch_size", batch_size, 1, 2**24)
    cell = fitted.finest_cell / fitted.side
    teacher = copy.deepcopy(fitted).requires_grad_(False)
    required = [parameter.requires_grad for parameter in fitted.parameters()]
    is_done = False
    try:
        parameters = Parameters.of(fitted.requires_grad_(), [fitted.network])
        table = adam(learning_rate, beta2=0.99, epsilon=1e-15)
        optimizer: Optimizer = build("optimizer", table, path="optimizer", parameters=parameters)
        unit = fitted.to_unit(points.reshape(-1, 3)).to(next(fitted.parameters()))
        draw = _Draw(unit, batch_size, spread * cell, seed)
        advance = _Step(fitted, _Teacher(teacher, sigma * cell, n_samples), draw, optimizer, weight, cell)
        schedule = build("schedule", {"otype": "Cosine"}, path="schedule")
        state = train(
            advance, optimizer, schedule, Budget(n_steps), batch_size=batch_size, figure=ANGLE, observe=observe
        )
        is_done = state.stopped_by != "signal"
    finally:
        if not is_done:
            fitted.load_state_dict(teacher.state_dict())
        for parameter, is_required in zip(fitted.parameters(), required, strict=True):
            parameter.requires_grad_(is_required)
    return state


@dataclass
class _Draw:
    """The points of a step: some of a set in shuffled order, each moved a little."""

    unit: Tensor
    batch_size: int
    spread: float
    seed: int
    indices: ShuffledIndices = field(init=False)

    def __post_init__(self) -> None:
        self.indices = ShuffledIndices(len(self.unit), batch_size=self.batch_size, seed=self.seed)

    def __call__(self, step: int) -> Tensor:
        generator = seeded(self.seed * 2**32 + step)
        moves = torch.randn(self.batch_size, 3, generator=generator) * self.spread
        return (self.unit[self.indices(step).to(self.unit.device)] + moves.to(self.unit)).clamp(0, 1)


@dataclass
class _Teacher:
    """Values and fitted unit gradients of a frozen field."""

    frozen: ShapeField
    sigma: float
    n_samples: int

    @torch.no_grad()
    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        level = self.frozen.level_in_cube
        # from samples in pairs, a plane has the gradient of a quadratic
        slope = operators.gradient(level, x, "plane", sigma=self.sigma, n_samples=self.n_samples)
        return level(x), normalize(slope, dim=-1)


@dataclass
class _Step:
    """One step of training; see `fieldforge.apps.fit.loop.Step`."""

    fitted: ShapeField
    teach: _Teacher
    draw: _Draw
    optimizer: Optimizer
    weight: float
    cell: float

    def __call__(self, step: int, factor: float) -> tuple[float, float]:
        x = self.draw(step)
        value, normal = self.teach(x)
        found = self.fitted.level_in_cube(x.requires_grad_())
        (slope,) = torch.autograd.grad(found.sum(), x, create_graph=True)
        turned = (normalize(slope, dim=-1) - normal).square().sum(-1).mean()
        loss = ((found - value) / self.cell).square().mean() + self.weight * turned
        result = float(loss.detach())
        if math.isfinite(result):
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.set_learning_rate_factor(factor)
            self.optimizer.step()
        return result, float(turned.detach())
