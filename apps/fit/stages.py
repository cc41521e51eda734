"""Parts of a field that change by themselves while it is trained: knots that move, bases that are chosen, statistics.

Such a part has a method ``on_step(step, n_steps)``. The training loop calls it before each step, and for the length of
the step the part is in training mode (``part.training``); between steps, when the field is measured, shown or written,
it is in evaluation mode, and so it is when nobody trains it. What the part keeps besides parameters stands in buffers:
they are saved with every checkpoint and come back when a fit steps back from a bad loss, so that a fit that is resumed
ends with the same bits. `fieldforge.fields.networks.kan` moves its knots from the batch it sees in such a step.

It is the loop that calls, not a `Hook`: a hook sees losses, after the fact, and belongs to who asked for the fit, while
these changes belong to the field, whoever trains it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class Stages:
    """The parts of a module that want to know of each training step.

    Args:
        root: the field.
        carried: further live tensors that later steps depend on, of a step that remembers (INT, IGA), by name.
        told: what else has ``on_step`` and is no part of the field: a training step that changes on its way.

    Attributes:
        parts: all modules inside it that have ``on_step``, in their order.
        buffers: their buffers that a file holds, live, by name, and what is carried.
    """

    def __init__(
        self, root: nn.Module | None = None, carried: Mapping[str, Tensor] | None = None, told: Sequence[Any] = ()
    ) -> None:
        self.told = [one for one in told if callable(getattr(one, "on_step", None))]
        named = [] if root is None else list(root.named_modules())
        self.parts = [part for _, part in named if callable(getattr(part, "on_step", None))]
        inside = {id(module) for part in self.parts for module in part.modules()}
        self.buffers: dict[str, Tensor] = {
            f"{name}.{key}".lstrip("."): buffer
            for name, module in named
            if id(module) in inside
            for key, buffer in module.named_buffers(recurse=False)
            if key not in module._non_persistent_buffers_set
        }
        self.buffers |= {f"carried.{name}": tensor for name, tensor in (carried or {}).items()}

    @contextmanager
    def at(self, step: int, n_steps: int) -> Iterator[None]:
        """Around one step of so many."""
        for one in self.told:
            one.on_step(step, n_steps)
        for part in self.parts:
            part.train()
            part.on_step(step, n_steps)
        try:
            yield
        finally:
            for part in self.parts:
                part.eval()


def carried_by(step: object) -> dict[str, Tensor]:
    """What a training step, or the draw inside it, remembers from one step to the next: its ``carried``."""
    holders = (step, getattr(step, "draw", None))
    return {name: tensor for one in holders for name, tensor in getattr(one, "carried", {}).items()}


@contextmanager
def only_asked(root: nn.Module) -> Iterator[None]:
    """Inside the block nothing in a module is in training mode: whoever looks at a field in a step changes nothing."""
    training = [part for part in root.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True
