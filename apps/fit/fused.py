"""A whole training step as one native call, where the parts of a run allow it.

Encode, run the network, compare, go back and update happen in the native kernels, the gradient of the grid's table is
used while it is in cache, and Python is entered once a step. The function is that of `PlainStep`; a test holds the two
together. Parameters and moments are the optimizer's own tensors, so checkpoints do not care which one ran.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from fieldforge.apps.fit.losses.base import Loss
from fieldforge.apps.fit.optimizers.adam import Adam
from fieldforge.apps.fit.optimizers.base import Optimizer
from fieldforge.backends import offer
from fieldforge.encodings.grid import Grid
from fieldforge.fields import fused
from fieldforge.fields.kinds.image import ImageField
from fieldforge.kernels import cpu_door, cpu_encodings, cpu_ops, cpu_training


class FusedStep:
    """One native call a step; made by `fused_step`.

    Args:
        field: an MLP after a Grid, a composite with grids, or an encoding without parameters to train; on the CPU, in
            float32.
        draw: step number -> (points (n, 2) in world units, targets (n, c)).
        loss: one of `cpu_training.LOSSES`.
        optimizer: a plain Adam; its moments and counters are kept up.
    """

    def __init__(
        self, field: ImageField, draw: Callable[[int], tuple[Tensor, Tensor]], loss: Loss, optimizer: Adam
    ) -> None:
        found = fused.shapes(field.encoding, field.network)
        assert not isinstance(found, str), found
        encoding_shape, mlp_shape = found
        trained = [parameter.requires_grad for parameter in field.encoding.parameters()]
        if trained and not any(trained):
            encoding_shape = None  # frozen: its features are inputs like any other
        joined = encoding_shape if isinstance(encoding_shape, cpu_encodings.EncodingShape) else None
        grid_shape = encoding_shape if isinstance(encoding_shape, cpu_ops.GridShape) else None
        weights, biases = cpu_ops.parameters_of(field.network)
        table = field.encoding.table if grid_shape is not None and isinstance(field.encoding, Grid) else None
        tensors = [] if joined is None else list(cpu_encodings.tensors_of(field.encoding).values())
        tables = [tensor for tensor in tensors if isinstance(tensor, Parameter)] if table is None else [table]
        self.field, self.draw, self.optimizer = field, draw, optimizer
        self.encodes = encoding_shape is not None
        self.native = cpu_training.AdamStep(
            weights,
            biases,
            mlp_shape,
            table=table,
            grid_shape=grid_shape,
            encoding=joined,
            tensors=tensors,
            loss=loss.otype,
            huber_delta=getattr(loss, "delta", 1.0),
            betas=(optimizer.beta1, optimizer.beta2),
            epsilon=optimizer.epsilon,
            l2=optimizer.l2_reg,
            moments=optimizer.moments_of([*tables, *weights, *biases]),
        )

    def __call__(self, step: int, factor: float) -> tuple[float, float]:
        points, target = self.draw(step)
        self.optimizer.set_learning_rate_factor(factor)
        self.native.n_steps = self.optimizer.n_steps_done
        x = self.field.to_unit(points).clamp(0, 1)
        if not self.encodes:
            with torch.no_grad():
                x = self.field.encoding(x)
        result = self.native.on_points(x, target, self.optimizer.learning_rate * factor)
        if self.native.n_steps > self.optimizer.n_steps_done:
            self.optimizer.count_outside_step()
        return result


def fused_step(
    field: ImageField,
    draw: Callable[[int], tuple[Tensor, Tensor]],
    loss: Loss,
    optimizer: Optimizer,
    hooks: Sequence[object],
) -> FusedStep | str:
    """The fused step of a run, or the reason why its parts do not allow one."""
    x = next(field.parameters())
    if offer("field", x.device, encoding=field.encoding, network=field.network, x_dtype=x.dtype) is None:
        found = cpu_door.missing() or fused.shapes(field.encoding, field.network)
        return found if isinstance(found, str) else "another backend was asked for"
    found = fused.shapes(field.encoding, field.network)
    trained = [parameter.requires_grad for parameter in field.encoding.parameters()]
    if any(trained) and not isinstance(found, str) and found[0] is None:
        return f"the encoding {field.encoding.otype} has parameters to train"
    if any(trained) and not all(trained):
        return "some of the encoding's parameters are frozen"
    if hooks:
        return "hooks look into the step"
    if loss.otype not in cpu_training.LOSSES:
        return f"the loss {loss.otype} is not among {', '.join(cpu_training.LOSSES)}"
    if not isinstance(optimizer, Adam):
        return f"the optimizer is {optimizer.otype}, not Adam alone"
    if not optimizer.is_uniform():
        return "Adam has keys beyond the learning rate, betas, epsilon and l2_reg"
    if any(scale != 1.0 for scale in field.output_scale) or any(field.output_offset):
        return "the field scales its outputs"
    return FusedStep(field, draw, loss, optimizer)
