"""Gradients of native operations that can be differentiated again.

The backward pass of an operation is recorded as an operation of its own where a loss looks at spatial derivatives (an
eikonal loss, a normal): its forward is the native backward, and its backward, from the gradient in the first input's
gradient, is native too. All else goes through the reference in plain PyTorch: third derivatives, and losses on
gradients of parameters.

A loss that looks at values and at spatial derivatives would go through the network twice, once for either. So an
operation has a second output, the link, which holds nothing: the recorded backward pass sends its cotangent along it to
the operation's own backward pass, which the engine runs once, after both have arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Derivatives(Protocol):
    """What an operation gives besides its value; inputs are all its tensors, the differentiated coordinates first."""

    def reference(self, *inputs: Any) -> Tensor:
        """The same operation in PyTorch."""

    def first(self, inputs: Any, grad: Tensor, needed: Sequence[bool]) -> tuple[Tensor | None, ...]:
        """Gradients in the inputs, None where not needed, from the one in the output."""

    def second(
        self, inputs: Any, grad: Tensor, cotangent: Tensor, gradient: Tensor | None, needed: Sequence[bool]
    ) -> tuple[Tensor | None, ...]:
        """Gradients in `grad` and the inputs, from the one in what `first` gives for the first input.

        To those of the inputs comes the share of `gradient`, the one in the output, unless that is None.
        """


def link(x: Tensor) -> Tensor:
    """The second output of an operation: of the shape of x, without memory."""
    return x.new_zeros(()).expand(x.shape)


def keep(ctx: Any, derivatives: Derivatives, link: Tensor, inputs: Sequence[Tensor | None]) -> None:
    """What an autograd function's `setup_context` does."""
    ctx.derivatives, ctx.linked = derivatives, None
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(link, *inputs)


def gradients(ctx: Any, grad: Tensor | None, cotangent: Tensor | None) -> tuple[Tensor | None, ...]:
    """What its backward returns for its tensors, differentiable where that is recorded.

    Args:
        ctx: the function's context after `keep`.
        grad: gradient in the output.
        cotangent: gradient in the link.
    """
    link, *inputs = ctx.saved_tensors
    needed = executed(ctx, inputs)
    found: tuple[Tensor | None, ...]
    if cotangent is not None:
        _, *found = ctx.derivatives.second(inputs, ctx.linked, cotangent, grad, (False, *needed))
        return tuple(found)
    if grad is None:
        return (None,) * len(inputs)
    if not torch.is_grad_enabled():
        return ctx.derivatives.first(inputs, grad, needed)
    if ctx.linked is None:  # the link serves one recorded pass, with the gradient in the output that it began with
        ctx.linked = grad.detach()
    else:
        link = None
    found = _Gradient.apply(ctx.derivatives, needed, grad, link, *inputs)
    return found


def executed(ctx: Any, inputs: Sequence[Tensor | None]) -> list[bool]:
    """Which of a function's inputs want their gradient in this backward pass.

    ``needs_input_grad`` tells which ones require a gradient at all: parameters do, also in a call of
    `torch.autograd.grad` that asks for the coordinates alone. The engine knows which it will go on with.
    """
    following = iter(ctx.next_functions)  # one for each tensor among the arguments
    return [tensor is not None and _will_execute(next(following)[0]) for tensor in inputs]


def _will_execute(node: Any) -> bool:
    if node is None:
        return False
    ask = getattr(torch._C, "_will_engine_execute_node", None)  # not public: without it, all that may be wanted is
    if ask is None:
        return True
    try:
        return bool(ask(node))
    except RuntimeError:  # a leaf that `torch.autograd.grad` asks for
        return True


class _Gradient(torch.autograd.Function):
    @staticmethod
    def forward(
        derivatives: Derivatives, needed: Sequence[bool], grad: Tensor, link: Tensor | None, *inputs: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        return derivatives.first(inputs, grad, needed)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        ctx.derivatives, _, grad, link, *others = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad, link, *others)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, _, *inputs = ctx.saved_tensors
        needs_grad, needs_link, *needed = executed(ctx, ctx.saved_tensors)
        cotangent, *others = cotangents
        if torch.is_grad_enabled() or any(other is not None for other in others):
            to_grad, *found = _second_of_reference(ctx.derivatives, (grad, *inputs), cotangents, (needs_grad, *needed))
        elif cotangent is None or (needs_link and not needs_grad):
            return None, None, None, cotangent, *(None for _ in inputs)
        else:
            to_grad, *found = ctx.derivatives.second(inputs, grad, cotangent, None, (needs_grad, *needed))
        return None, None, to_grad, None, *found


def _second_of_reference(
    derivatives: Derivatives,
    tensors: Sequence[Tensor | None],
    cotangents: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Gradients in the gradient of the output and in the inputs, recorded where the caller is."""
    is_recorded = torch.is_grad_enabled()

    def tracked(tensor: Tensor) -> Tensor:
        # a view: where one input was computed from another, each has only its own share
        return tensor.view_as(tensor) if is_recorded else tensor.detach().requires_grad_()

    with torch.enable_grad():
        grad, *inputs = (None if tensor is None else tracked(tensor) for tensor in tensors)
        pairs = [
            (tensor, cotangent)
            for tensor, cotangent in zip(inputs, cotangents, strict=True)
            if tensor is not None and cotangent is not None
        ]
        out = derivatives.reference(*inputs)
        first = torch.autograd.grad(out, [tensor for tensor, _ in pairs], grad, create_graph=True, allow_unused=True)
        ends = [
            (gradient, cotangent)
            for gradient, (_, cotangent) in zip(first, pairs, strict=True)
            if gradient is not None and gradient.requires_grad
        ]
        if not ends:
            return (None,) * len(tensors)
        found = iter(
            torch.autograd.grad(
                [gradient for gradient, _ in ends],
                [
                    tensor
                    for tensor, wanted in zip((grad, *inputs), needed, strict=True)
                    if wanted and tensor is not None
                ],
                [cotangent for _, cotangent in ends],
                create_graph=is_recorded,
                allow_unused=True,
            )
        )
    return tuple(next(found) if is_needed else None for is_needed in needed)


def is_transformed() -> str | None:
    """Why the reference has to run: inside `torch.func` and forward-mode derivatives tensors have no memory."""
    if torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0:
        return "torch.func and forward-mode derivatives need the reference"
    return None


def needs_reference(*grads: Tensor | None) -> bool:
    """Whether a backward pass belongs to `recorded`: it is itself recorded, or has gradients without memory."""
    if torch.is_grad_enabled() or is_transformed():
        return True
    # those of `torch.autograd.grad(..., is_grads_batched=True)`
    return any(grad is not None and torch._C._functorch.is_legacy_batchedtensor(grad) for grad in grads)


def recorded(
    reference: Callable[..., Any],
    inputs: Sequence[Tensor | None],
    needed: Sequence[bool],
    grads: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Gradients that can be differentiated again, through the reference, for operations without a native second pass.

    Args:
        reference: the operation in PyTorch; one output, or a tuple of them.
        inputs: its tensors, None where there is none.
        needed: which of them want their gradient; more entries than inputs are not looked at.
        grads: the gradient in each output, None where there is none.
    """
    # views: where one input was computed from another, each has only its own share
    tracked = [None if tensor is None else tensor.view_as(tensor) for tensor in inputs]
    out = reference(*tracked)
    pairs = zip(out if isinstance(out, tuple) else (out,), grads, strict=True)
    kept = [(output, grad) for output, grad in pairs if grad is not None]
    if not kept:
        return [None] * len(inputs)
    wanted = {
        place: tensor
        for place, (tensor, is_needed) in enumerate(zip(tracked, needed[: len(inputs)], strict=True))
        if is_needed and tensor is not None
    }
    outputs, kept_grads = zip(*kept, strict=True)
    found = torch.autograd.grad(outputs, list(wanted.values()), kept_grads, create_graph=True, allow_unused=True)
    by_place = dict(zip(wanted, found, strict=True))
    return [by_place.get(place) for place in range(len(inputs))]
