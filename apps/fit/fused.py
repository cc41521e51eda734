"""A whole training step as one native call, where the parts of a run allow it.

Draw, encode, run the network, compare, go back and update happen in the native kernels, the gradient of the grid's
table is used while it is in cache, and Python is entered once a step. The function is that of `PlainStep`; a test
holds the two together. Parameters and moments are the optimizer's own tensors, so checkpoints do not care which one
ran.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from fieldforge.apps.fit.exposure import exposed
from fieldforge.apps.fit.half import Half
from fieldforge.apps.fit.in_cells import CellsStep, cells_step
from fieldforge.apps.fit.loop import Hook, PlainStep, Step, allowed
from fieldforge.apps.fit.losses import absolute, distributions, occupancy, robust, squared
from fieldforge.apps.fit.losses.base import Loss
from fieldforge.apps.fit.on_device import Ahead, on_device
from fieldforge.apps.fit.optimizers.base import Optimizer, Parameters
from fieldforge.apps.fit.samplers import PixelDraw, RasterDraw
from fieldforge.backends import offer
from fieldforge.devices import device_of
from fieldforge.encodings.grid import Grid
from fieldforge.fields import fused
from fieldforge.fields.kinds.base import Field
from fieldforge.fields.kinds.image import ImageField
from fieldforge.kernels import cpu_door, cpu_encodings, cpu_ops, cpu_training
from fieldforge.registry import ConfigError, build

NATIVE_LOSSES: tuple[type[Loss], ...] = (
    squared.L2, squared.RelativeL2, squared.RelativeL2Luminance, absolute.L1, absolute.RelativeL1, absolute.MAPE,
    absolute.SMAPE, robust.Huber, robust.LogL1, distributions.CrossEntropy, distributions.Variance,
    occupancy.BinaryCrossEntropy,
)  # fmt: skip


class FusedStep:
    """One native call a step; made by `fused_step`.

    Args:
        field: an MLP after a Grid, a composite with grids, or an encoding without parameters to train; on the CPU, in
            float32.
        draw: step number -> (points (n, d) in world units, targets (n, c)); a `PixelDraw` or `RasterDraw` is made
            natively.
        loss: one of `NATIVE_LOSSES`.
        optimizer: one whose `moved` gives no reason against it; its moments, averages and counters are kept up.
        hooks: as in `PlainStep`.
    """

    def __init__(
        self,
        field: Field,
        draw: Callable[[int], tuple[Tensor, Tensor]],
        loss: Loss,
        optimizer: Optimizer,
        hooks: Sequence[Hook] = (),
    ) -> None:
        found = fused.shapes(field.encoding, field.network)
        assert not isinstance(found, str), found
        encoding_shape, mlp_shape = found
        if _is_frozen(field):
            encoding_shape = None  # its features are inputs like any other
        joined = encoding_shape if isinstance(encoding_shape, cpu_encodings.EncodingShape) else None
        grid_shape = encoding_shape if isinstance(encoding_shape, cpu_ops.GridShape) else None
        if any(scale != 1.0 for scale in field.output_scale) or any(field.output_offset):
            mlp_shape = replace(
                mlp_shape, output_scale=tuple(field.output_scale), output_offset=tuple(field.output_offset)
            )
        weights, biases = cpu_ops.parameters_of(field.network)
        table = field.encoding.table if grid_shape is not None and isinstance(field.encoding, Grid) else None
        tensors = [] if joined is None else list(cpu_encodings.tensors_of(field.encoding).values())
        tables = [tensor for tensor in tensors if isinstance(tensor, Parameter)] if table is None else [table]
        moving = [*tables, *weights, *biases]
        self.field, self.draw, self.optimizer, self.hooks = field, draw, optimizer, hooks
        self.encodes = encoding_shape is not None
        self.native_draw = _native_draw(draw, field)
        place = {id(parameter): i for i, parameter in enumerate(optimizer.parameters)}
        self.order = [place[id(parameter)] for parameter in moving]
        moved = optimizer.moved()
        assert not isinstance(moved, str), moved
        self.native = cpu_training.TrainingStep(
            weights,
            biases,
            mlp_shape,
            table=table,
            grid_shape=grid_shape,
            encoding=joined,
            tensors=tensors,
            moved=[moved[i] for i in self.order],
            loss="Huber" if isinstance(loss, robust.Huber) else loss.otype,  # it has an older name too
            huber_delta=getattr(loss, "delta", 1.0),
        )

    def __call__(self, step: int, factor: float) -> tuple[float, float]:
        self.optimizer.set_learning_rate_factor(factor)
        rules = self.optimizer.rules()
        rules = [rules[i] for i in self.order]
        if self.native_draw is not None and self.encodes:
            sample_loss = torch.empty(self.native_draw.batch_size) if self.hooks else None
            result = self.native.on_draw(
                self.native_draw, step, rules, sample_loss=sample_loss, may_move=self._asks(step, sample_loss)
            )
        else:
            x, target = self._inputs(step)
            sample_loss = torch.empty(len(x)) if self.hooks else None
            result = self.native.on_points(
                x, target, rules, sample_loss=sample_loss, may_move=self._asks(step, sample_loss)
            )
        if result.has_moved:
            self.optimizer.count_outside_step()
        return result.loss, result.squared_error

    def _inputs(self, step: int) -> tuple[Tensor, Tensor]:
        """What the grid, or the network alone, reads, and what it should answer."""
        if self.native_draw is not None:
            x, target = self.native_draw.batch(step)
        else:
            points, target = self.draw(step)
            x = self.field.to_unit(points).clamp(0, 1).float()  # world points may be finer
        if not self.encodes:
            with torch.no_grad():
                x = self.field.encoding(x)
        return x, target

    def _asks(self, step: int, sample_loss: Tensor | None) -> Callable[[], bool] | None:
        if sample_loss is None:
            return None
        return lambda: allowed(self.hooks, step, sample_loss)


def fused_step(
    field: Field,
    draw: Callable[[int], tuple[Tensor, Tensor]],
    loss: Loss,
    optimizer: Optimizer,
    hooks: Sequence[Hook],
) -> FusedStep | CellsStep | str:
    """The fused step of a run, or the reason why its parts do not allow one."""
    x = next(field.parameters())
    if x.device.type != "cpu":
        return f"the field is on {x.device}"
    if field.partition is not None:
        return cells_step(field, draw, loss, optimizer, hooks)
    if offer("field", x.device, encoding=field.encoding, network=field.network, x_dtype=x.dtype) is None:
        found = cpu_door.missing() or fused.shapes(field.encoding, field.network)
        return found if isinstance(found, str) else "another backend was asked for"
    found = fused.shapes(field.encoding, field.network)
    trained = [parameter.requires_grad for parameter in field.encoding.parameters()]
    if any(trained) and not isinstance(found, str) and found[0] is None:
        return f"the encoding {field.encoding.otype} has parameters to train"
    if any(trained) and not all(trained):
        return "some of the encoding's parameters are frozen"
    if type(loss) not in NATIVE_LOSSES:
        return f"the loss {loss.otype} is not among {', '.join(one.otype for one in NATIVE_LOSSES)}"
    if {id(one) for one in optimizer.parameters} != {id(one) for one in _trained(field)}:
        return "some parameters are held still"
    moved = optimizer.moved()
    if isinstance(moved, str):
        return moved
    return FusedStep(field, draw, loss, optimizer, hooks)


def make_step(
    fitted: Field,
    learner: Field,
    query: Callable[[Tensor], Tensor],
    config: Mapping[str, Any],
    draw: Callable[[int], tuple[Tensor, Tensor]],
    hooks: Sequence[Hook] = (),
    why_plain: str = "",
) -> tuple[Step, Optimizer, str]:
    """The training step of a configuration, the optimizer inside it, and why the step is not fused ('' if it is).

    Args:
        fitted: whose parameters are moved.
        learner: the field that reads what is drawn; has the same parameters.
        query: what it predicts there, differentiable.
        config: with the sections optimizer, loss and fit.
        draw: step number -> (points, targets).
        hooks: as in `PlainStep`.
        why_plain: a reason known beforehand why the step cannot be fused.
    """
    parameters = Parameters.of(fitted, [fitted.network])
    if not parameters.matrix and not parameters.other:
        raise ConfigError(
            f"network.otype: {fitted.network.otype} after the encoding {fitted.encoding.otype} has no parameters, so "
            "there is nothing to train; an encoding with tables, such as HashGrid, or a network such as MLP has some"
        )
    optimizer: Optimizer = build("optimizer", config["optimizer"], path="optimizer", parameters=parameters)
    loss = build("loss", config["loss"], path="loss")
    if not isinstance(loss, Loss):
        raise ConfigError(f"loss: {loss.otype} looks at the slopes or levels of a signed distance, and this is none")
    draw, hooks, optimizer = exposed(learner, draw, hooks, optimizer, config["fit"]["n_steps"])
    half = Half(config["fit"].get("precision", "float32"), device_of(fitted))
    step = why_plain or half.why_plain or fused_step(learner, draw, loss, optimizer, hooks)
    if isinstance(step, str):
        optimizer = half.guarded(optimizer)
        plain = PlainStep(query=half.query(query), draw=draw, loss=loss, optimizer=optimizer, hooks=hooks)
        has_fixed_shapes = type(draw) in (PixelDraw, RasterDraw, Ahead) and not fitted_changes(fitted)
        return on_device(plain, device_of(fitted), has_fixed_shapes=has_fixed_shapes), optimizer, step
    return step, optimizer, ""


def fitted_changes(field: Field) -> bool:
    """Whether parts of a field are told of each step, and do another thing then."""
    return any(hasattr(module, "on_step") for module in field.modules())


def _is_frozen(field: Field) -> bool:
    """Whether the encoding has parameters and none of them is trained."""
    trained = [parameter.requires_grad for parameter in field.encoding.parameters()]
    return bool(trained) and not any(trained)


def _trained(field: Field) -> list[Parameter]:
    frozen = {id(one) for one in field.encoding.parameters()} if _is_frozen(field) else set()
    return [parameter for parameter in field.parameters() if id(parameter) not in frozen]


def _native_draw(draw: Callable[[int], tuple[Tensor, Tensor]], field: Field) -> cpu_training.Draw | None:
    """The draw that the kernels make themselves; None where only Python knows it."""
    if type(draw) is RasterDraw and draw.box == field.box:
        return cpu_training.Draw(draw.values, draw.one, draw.batch_size, draw.seed)
    if type(draw) is not PixelDraw or not isinstance(field, ImageField):
        return None
    if (draw.picture.width, draw.picture.height) != (field.width, field.height):
        return None
    batch_size = draw.options.batch_size
    return cpu_training.Draw(draw.picture.pixels, draw.picture.one, batch_size, draw.seed, draw.n_moved)
