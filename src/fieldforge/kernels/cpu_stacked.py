"""Stacks of small networks as native calls: values, first derivatives, and whole training steps.

A stack is `n_networks` networks of one shape whose parameters lie side by side; each has points of its own, and the
points of a batch are sorted by network. The kernels of a single network do the work, one network after another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fieldforge.checks import expect_bool, expect_choice, expect_float, expect_int
from fieldforge.kernels.cpu_door import address, expect_contiguous, expect_rows, expect_tensor, n_threads, native
from fieldforge.kernels.cpu_ops import MlpShape, addresses_of, native_mlp, parameter_shapes
from fieldforge.kernels.cpu_second import recorded
from fieldforge.kernels.cpu_training import LOSSES
from fieldforge.kernels.spare import empty_gradient


def stacked_mlp(
    x: Tensor,
    offsets: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    shape: MlpShape,
    *,
    reference: Callable[[Tensor, Tensor, Sequence[Tensor], Sequence[Tensor]], Tensor],
) -> Tensor:
    """Every network on the points of its own; hidden layers are computed again in the backward pass.

    Args:
        x: (N, widths[0]) float32 on the CPU, sorted by network.
        offsets: (n_networks + 1,) int64 on the CPU: network i takes the rows offsets[i] up to offsets[i + 1].
        weights: (n_networks, widths[i + 1], widths[i]) each.
        biases: (n_networks, widths[i + 1]) each, or none at all.
        shape: widths and activations of one network.
        reference: (x, offsets, weights, biases) -> the same in PyTorch, for second derivatives.

    Returns:
        (N, widths[-1]).

    Raises:
        ValueError: offsets do not begin with 0, fall, or do not end with N; a tensor has another shape.
        TypeError: a tensor is not float32, or offsets are not int64.
    """
    out: Tensor = _Stack.apply(x, offsets, shape, reference, *weights, *biases)
    return out


def expect_offsets(offsets: Tensor, n_points: int, n_networks: int | None = None) -> Tensor:
    """(n_networks + 1,) int64 from 0 to `n_points`, never falling; contiguous, on the CPU.

    Raises:
        TypeError, ValueError: it is not; the message names the value.
    """
    length = n_networks + 1 if n_networks is not None else max(2, offsets.shape[0] if offsets.ndim else 2)
    offsets = expect_tensor("offsets", offsets, (length,), torch.int64).contiguous()
    if offsets[0] != 0 or offsets[-1] != n_points:
        raise ValueError(f"offsets: expected to go from 0 to the {n_points} rows of x, "
                         f"got {int(offsets[0])} to {int(offsets[-1])}")  # fmt: skip
    falls = offsets[1:] < offsets[:-1]
    if falls.any():
        i = int(falls.nonzero()[0])
        raise ValueError(f"offsets: expected never to fall, got {int(offsets[i])} before {int(offsets[i + 1])}")
    return offsets


class _Stack(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor, offsets: Tensor, shape: MlpShape, reference: Callable[..., Tensor], *parameters: Tensor
    ) -> Tensor:
        call = _StackCall(x, offsets, shape, parameters)
        out = call.x.new_empty(call.x.shape[0], shape.widths[-1])
        native().stack_forward(*call.stack, call.x.data_ptr(), out.data_ptr(), n_threads())
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, offsets, ctx.shape, ctx.reference, *parameters = inputs
        ctx.save_for_backward(x, offsets, *parameters)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, offsets, *parameters = ctx.saved_tensors
        needs_x, _, _, _, *needs = ctx.needs_input_grad
        if torch.is_grad_enabled():
            n_layers = ctx.shape.n_layers

            def reference(x: Tensor, *parameters: Tensor) -> Tensor:
                out: Tensor = ctx.reference(x, offsets, parameters[:n_layers], parameters[n_layers:])
                return out

            grad_x, *grads = recorded(reference, (x, *parameters), (needs_x, *needs), (grad,))
            return grad_x, None, None, None, *grads
        call = _StackCall(x, offsets, ctx.shape, parameters)
        grad = expect_tensor("grad", grad, (call.x.shape[0], ctx.shape.widths[-1])).contiguous()
        grad_x = torch.empty_like(call.x) if needs_x else None
        grads = [empty_gradient(p) if wanted else None for p, wanted in zip(call.parameters, needs, strict=True)]
        native().stack_backward(
            *call.stack, call.x.data_ptr(), grad.data_ptr(), addresses_of(ctx.shape, (None, *grads)), address(grad_x),
            n_threads(),
        )  # fmt: skip
        return grad_x, None, None, None, *grads


class _StackCall:
    """Checked and contiguous tensors of a call, and the native arguments that describe the stack."""

    def __init__(self, x: Tensor, offsets: Tensor, shape: MlpShape, parameters: Sequence[Tensor]) -> None:
        self.x = expect_rows("x", x, shape.widths[0])
        self.offsets = expect_offsets(offsets, self.x.shape[0])
        n_networks = self.offsets.shape[0] - 1
        self.parameters = [
            expect_tensor(name, parameter, shape).contiguous()
            for parameter, (name, shape) in zip(parameters, stack_shapes(shape, n_networks), strict=True)
        ]
        addresses = addresses_of(shape, (None, *self.parameters))
        self.stack = (native_mlp(shape), addresses, n_networks, self.offsets.data_ptr())


def stack_shapes(shape: MlpShape, n_networks: int) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all weights, then all biases, of a stack."""
    return [(name, (n_networks, *one)) for name, one in parameter_shapes(shape)]


class StackedAdamStep:
    """Training steps of a stack of networks, each a single native call: run, compare, go back, update.

    A network is updated while its parameters are in the cache; the gradient of the whole stack never exists. Adam is
    that of `cpu_training.Rule`, and dense: networks without points in a batch move as their moments say.

    Args:
        weights, biases, shape: the stack, as for `stacked_mlp`; contiguous float32 CPU tensors, updated in place.
        loss: one of `cpu_training.LOSSES`, the mean over all points and channels of the batch.
        of_each: minimise the mean over each network's own points instead, so that a network moves as it would move by
            itself, whoever stands beside it.
        huber_delta: where the Huber loss goes on as a straight line.
        betas, epsilon, l2: Adam's.
        moments: (first, second) moments to update in place, each in the order weights, biases; None: zeros.

    Attributes:
        parameters, first_moments, second_moments: in that order.
        n_steps: how many were taken, for the bias correction; may be set.

    Raises:
        ValueError: a tensor has another shape, or is not contiguous; a number is out of range.
        TypeError: a tensor is not float32.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        shape: MlpShape,
        *,
        loss: str = "L2",
        huber_delta: float = 1.0,
        of_each: bool = False,
        betas: tuple[float, float] = (0.9, 0.99),
        epsilon: float = 1e-15,
        l2: float = 0.0,
        moments: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None,
    ) -> None:
        self.shape = shape
        self.loss = expect_choice("loss", loss, LOSSES)
        self.huber_delta = expect_float("huber_delta", huber_delta, 0.0, open_low=True)
        self.of_each = expect_bool("of_each", of_each)
        self.betas = (expect_float("betas", betas[0], 0.0, 1.0), expect_float("betas", betas[1], 0.0, 1.0))
        self.epsilon, self.l2 = expect_float("epsilon", epsilon, 0.0), expect_float("l2", l2, 0.0)
        self.n_steps = 0
        if len(weights) != shape.n_layers or len(biases) != shape.n_layers * shape.has_bias:
            raise ValueError(f"weights: expected one tensor for each of {shape.n_layers} layers, and biases too "
                             f"only if has_bias; got {len(weights)} and {len(biases)}")  # fmt: skip
        self.n_networks = expect_int("n_networks", weights[0].shape[0] if weights[0].ndim else 0, 1)
        self.parameters = [
            expect_contiguous(name, expect_tensor(name, parameter, expected)).detach()
            for parameter, (name, expected) in zip(
                (*weights, *biases), stack_shapes(shape, self.n_networks), strict=True
            )
        ]
        if moments is None:
            moments = ([torch.zeros_like(p) for p in self.parameters], [torch.zeros_like(p) for p in self.parameters])
        self.first_moments, self.second_moments = list(moments[0]), list(moments[1])
        for of_all in (self.first_moments, self.second_moments):
            for moment, parameter in zip(of_all, self.parameters, strict=True):
                expect_contiguous("moments", expect_tensor("moments", moment, tuple(parameter.shape)))

    def on_points(
        self,
        x: Tensor,
        offsets: Tensor,
        target: Tensor,
        learning_rate: float,
        *,
        squared_errors: Tensor | None = None,
        is_corrected: bool = False,
    ) -> tuple[float, float]:
        """One step on given points.

        Args:
            x: (N, widths[0]) float32, sorted by network.
            offsets: (n_networks + 1,) int64: network i takes the rows offsets[i] up to offsets[i + 1].
            target: (N, widths[-1]) float32.
            learning_rate: Adam's.
            squared_errors: (n_networks,) float64 to be filled with each network's mean squared error before the step;
                NaN where it has no points.
            is_corrected: whether Adam's bias corrections are in the learning rate already, as in that of a `Rule`.

        Returns:
            Mean loss and mean squared error, over all points, before the step. A network whose own loss is not finite
            stays as it is, with its moments; all others move.
        """
        x, target = expect_rows("x", x, self.shape.widths[0]), expect_rows("target", target, self.shape.widths[-1])
        expect_int("n", x.shape[0], 1)
        if x.shape[0] != target.shape[0]:
            raise ValueError(f"target: expected {x.shape[0]} rows, as many as x has, got {target.shape[0]}")
        offsets = expect_offsets(offsets, x.shape[0], self.n_networks)
        if squared_errors is not None:
            expect_tensor("squared_errors", squared_errors, (self.n_networks,), torch.float64)
            expect_contiguous("squared_errors", squared_errors)
        t = self.n_steps + 1
        correction = 1.0 if is_corrected else math.sqrt(1 - self.betas[1] ** t) / (1 - self.betas[0] ** t)
        rate = learning_rate * correction
        everything = (self.parameters, self.first_moments, self.second_moments)
        loss, squared_error = native().stack_train_step(
            native_mlp(self.shape), *(addresses_of(self.shape, (None, *tensors)) for tensors in everything),
            self.n_networks, offsets.data_ptr(), rate, *self.betas, self.epsilon, self.l2, x.data_ptr(),
            target.data_ptr(), self.loss, self.huber_delta, self.of_each, address(squared_errors), n_threads(),
        )  # fmt: skip
        self.n_steps = t
        return loss, squared_error
