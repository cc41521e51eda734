"""A training step of a field whose cells have networks of their own, as one native call after the sorting.

Points are sorted by cell and encoded; then every network runs, compares, goes back and moves while its parameters are
in the cache, so that a gradient of all of them, as large as all of them, never exists. The function is that of
`fieldforge.apps.fit.loop.PlainStep`; a test holds the two together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fieldforge.apps.fit.loop import Hook
from fieldforge.apps.fit.losses.base import Loss
from fieldforge.apps.fit.losses.robust import Huber
from fieldforge.apps.fit.optimizers.base import Optimizer
from fieldforge.backends import offer, provide
from fieldforge.fields.kinds.base import Field
from fieldforge.fields.networks.stacked import StackedMLP, describe
from fieldforge.fields.partitions.stacks import StackedEncoding, StackedNetwork, encode
from fieldforge.kernels import cpu_door
from fieldforge.kernels.cpu_ops import MlpShape
from fieldforge.kernels.cpu_stacked import StackedAdamStep
from fieldforge.kernels.cpu_training import LOSSES, Mover, Rule


class CellsStep:
    """One native call a step; made by `cells_step`.

    Args:
        field: with a partition, a stack of MLPs and an encoding without parameters; on the CPU, in float32.
        draw: step number -> (points (n, d) in world units, targets (n, c)).
        loss: one that the kernels know.
        optimizer: whose rule is plain Adam's; its moments and counters are kept up.
    """

    def __init__(
        self, field: Field, draw: Callable[[int], tuple[Tensor, Tensor]], loss: Loss, optimizer: Optimizer
    ) -> None:
        stack = _stack(field)
        assert isinstance(stack, StackedMLP), stack
        shape, moved, rule = describe(stack), optimizer.moved(), _rule(optimizer)
        assert isinstance(shape, MlpShape), shape
        assert isinstance(rule, Rule), rule
        assert not isinstance(moved, str), moved
        place = {id(parameter): i for i, parameter in enumerate(optimizer.parameters)}
        beside = [moved[place[id(one)]] for one in (*stack.weights, *stack.biases)]
        self.field, self.draw, self.optimizer = field, draw, optimizer
        self.native = StackedAdamStep(
            list(stack.weights), list(stack.biases), shape, loss="Huber" if isinstance(loss, Huber) else loss.otype,
            huber_delta=getattr(loss, "delta", 1.0), betas=(rule.beta1, rule.beta2), epsilon=rule.epsilon, l2=rule.l2,
            moments=([_of(one.first) for one in beside], [_of(one.second) for one in beside]),
        )  # fmt: skip

    def __call__(self, step: int, factor: float) -> tuple[float, float]:
        self.optimizer.set_learning_rate_factor(factor)
        rule = _rule(self.optimizer)
        assert isinstance(rule, Rule), rule
        points, target = self.draw(step)
        assert self.field.partition is not None
        with torch.no_grad():
            cells = self.field.partition.sort(self.field.to_unit(points).clamp(0, 1).float())
            del points
            features, target = encode(self.field.encoding, cells), cells.arrange(target)
        loss, error = self.native.on_points(features, cells.offsets, target, rule.rate, is_corrected=True)
        if math.isfinite(loss):  # otherwise the loop goes back to before the step
            self.optimizer.count_outside_step()
        return loss, error


def cells_step(
    field: Field,
    draw: Callable[[int], tuple[Tensor, Tensor]],
    loss: Loss,
    optimizer: Optimizer,
    hooks: Sequence[Hook],
) -> CellsStep | str:
    """The native step of a field with cells, or the reason why its parts do not allow one."""
    device = next(field.parameters()).device
    run = offer("step_in_cells", device, field=field, loss=loss, optimizer=optimizer, hooks=hooks)
    if run is None:
        reason = cpu_door.missing() or _refuses(field=field, loss=loss, optimizer=optimizer, hooks=hooks)
        return reason or "another backend was asked for"
    made: CellsStep = run(field, draw, loss, optimizer)
    return made


def _refuses(*, field: Field, loss: Loss, optimizer: Optimizer, hooks: Sequence[Hook]) -> str | None:
    stack = _stack(field)
    if isinstance(stack, str):
        return stack
    shape, rule = describe(stack), _rule(optimizer)
    for found in (shape, rule):
        if isinstance(found, str):
            return found
    if loss.otype not in LOSSES and not isinstance(loss, Huber):
        return f"the loss {loss.otype} is not among {', '.join(LOSSES)}"
    if any(scale != 1.0 for scale in field.output_scale) or any(field.output_offset):
        return "the field scales what its networks give"
    if hooks:
        return "hooks look at the loss of each sample, which the native step in cells does not give"
    if {id(one) for one in optimizer.parameters} != {id(one) for one in stack.parameters()}:
        return "some parameters are held still"
    return None


def _stack(field: Field) -> StackedMLP | str:
    network = field.network
    if not isinstance(network, StackedNetwork) or network.mlp is None:
        return f"the cells have a {getattr(network, 'otype', type(network).__name__)}, not of plain MLPs"
    if isinstance(field.encoding, StackedEncoding):
        return "each cell has an encoding with parameters of its own"
    if any(parameter.dtype != torch.float32 for parameter in network.parameters()):
        return "it is in float32 only"
    return network.mlp


def _rule(optimizer: Optimizer) -> Rule | str:
    """Plain Adam's, the same for all parameters; or why there is none."""
    moved = optimizer.moved()
    if isinstance(moved, str):
        return moved
    rules = set(optimizer.rules())
    if len(rules) != 1 or any(one.average is not None for one in moved):
        return "parameters move by different rules, or have averages, and all cells move by one"
    (rule,) = rules
    plain = Rule(Mover.ADAM, rule.rate, rule.beta1, rule.beta2, rule.epsilon, rule.l2)
    return rule if rule == plain else f"the optimizer {optimizer.otype} moves otherwise than by plain Adam"


def _of(moment: Tensor | None) -> Tensor:
    assert moment is not None
    return moment


@provide("step_in_cells", "reference")
def _plainly(*_: object) -> str:
    """The plain step defines it, and whoever asks for this one makes it."""
    return "the reference was asked for"


provide("step_in_cells", "cpu", missing=cpu_door.missing, refuses=_refuses, note=cpu_door.description)(CellsStep)
