"""Training in half precision, guarded: a loss scale that finds its size, and no step from gradients that overflowed.

    half = Half("float16", device)
    query, optimizer = half.query(query), half.guarded(optimizer)

Networks multiply in half precision (`torch.autocast`, which the Triton kernels follow); encodings, losses, parameters
and moments stay float32. float16 ends at 65504 and loses what is below 6e-8, so gradients are computed of the loss
times a scale and divided afterwards (Micikevicius et al. 2018). A gradient that is not finite is not used, and halves
the scale; many good steps double it. bfloat16 has float32's range and needs no scale. A loss that is not finite itself
is the business of the loop, which goes back to the last good state (`fieldforge.apps.fit.loop.train`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fieldforge.apps.fit.optimizers.base import Optimizer
from fieldforge.backends import asked_for, use_backend
from fieldforge.checks import expect_choice, expect_float, expect_int
from fieldforge.registry import ConfigError

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
PRECISIONS = ("float32", *DTYPES)


class LossScale:
    """The factor on the loss; a power of two stays one, so that dividing by it loses nothing.

    Args:
        scale: at first; tiny-cuda-nn's is 128 for ever.
        patience: good steps after which it is doubled.
        least, most: it stays between these.
        device: of the parameters; nobody waits there for the factor itself.

    Attributes:
        factor: (), at present.

    Example:
        >>> scale = LossScale(128.0)
        >>> w = nn.Parameter(torch.ones(1))
        >>> scale.up(w.sum()).backward()
        >>> scale.take_off([w]), w.grad
        (True, tensor([1.]))
    """

    def __init__(
        self,
        scale: float = 1024.0,
        *,
        patience: int = 1000,
        least: float = 2.0**-14,
        most: float = 2.0**24,
        device: torch.device | None = None,
    ) -> None:
        self.least = expect_float("least", least, 0.0, open_low=True)
        self.most = expect_float("most", most, self.least)
        self.patience = expect_int("patience", patience, 1)
        self.factor = torch.full((), expect_float("scale", scale, self.least, self.most), device=device)
        self._counts = torch.zeros(2, dtype=torch.int64, device="cpu")  # good steps since it changed, steps not made

    @property
    def scale(self) -> float:
        """The factor as a number; waits for it."""
        return float(self.factor)

    @property
    def n_skipped(self) -> int:
        """Steps that were not made."""
        return int(self._counts[1])

    def up(self, numbers: Tensor) -> Tensor:
        """The numbers as they are; gradients that come back through them are multiplied by the factor."""
        out: Tensor = _Times.apply(numbers, self.factor)
        return out

    def take_off(self, parameters: Sequence[nn.Parameter]) -> bool:
        """Divide the gradients by the factor, in place; whether all of them are finite.

        Where they are not, they are forgotten and the factor is halved. Waits for the device once.
        """
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if grads and not bool(torch.stack([grad.isfinite().all() for grad in grads]).all()):
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.zero_()  # in place: a recorded step writes there again
            self._change(0.5)
            self._counts[1] += 1
            return False
        for grad in grads:
            grad.div_(self.factor)
        self._counts[0] += 1
        if int(self._counts[0]) == self.patience:
            self._change(2.0)
        return True

    def state(self) -> dict[str, Tensor]:
        """The live tensors that the next steps depend on."""
        return {"loss_scale": self.factor, "loss_scale_counts": self._counts}

    def _change(self, by: float) -> None:
        self.factor.mul_(by).clamp_(self.least, self.most)
        self._counts[0] = 0


class Guarded(Optimizer):
    """An optimizer whose gradients come with a loss scale, and that makes no step from those that overflowed.

    Args:
        optimizer: makes the steps.
        scale: what the gradients were multiplied by.
    """

    otype = "Guarded"

    def __init__(self, optimizer: Optimizer, scale: LossScale) -> None:
        super().__init__(optimizer.parameters)
        self.optimizer, self.scale = optimizer, scale
        self.inner["optimizer"] = optimizer

    def step(self) -> None:
        if self.scale.take_off(list(self.parameters)):
            super().step()

    def update(self) -> None:
        self.optimizer.step()

    def averaged(self) -> list[Tensor]:
        return self.optimizer.averaged()

    def own_state(self) -> dict[str, Tensor]:
        return self.scale.state()


class Half:
    """What a fit does differently in half precision; nothing where it is "float32".

    Args:
        precision: one of `PRECISIONS`.
        device: of the field. On the CPU networks run in plain PyTorch then, as the kernels there are of float32: to see
            what half precision does to a fit, not to save time.
        scale: of the loss; None: one for float16, and none for the others.

    Raises:
        ConfigError: the kernels of the CPU were asked for by name.
    """

    def __init__(self, precision: str, device: torch.device, scale: LossScale | None = None) -> None:
        self.precision, self.device = expect_choice("fit.precision", precision, PRECISIONS), device
        if self.is_on and device.type == "cpu" and asked_for() == "cpu":
            raise ConfigError(
                f"fit.precision: the backend cpu trains in float32, not {precision}; leave it out, or choose "
                "--backend auto or reference"
            )
        self.scale = LossScale(device=device) if scale is None and precision == "float16" else scale

    @property
    def is_on(self) -> bool:
        return self.precision != "float32"

    @property
    def why_plain(self) -> str:
        """Why no step is one native call; '' where this says nothing against it."""
        return f"networks multiply in {self.precision}" if self.is_on else ""

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Inside the block networks multiply in half precision."""
        if not self.is_on:
            yield
            return
        plain = use_backend("reference") if self.device.type == "cpu" else contextlib.nullcontext()
        with plain, torch.autocast(self.device.type, DTYPES[self.precision], cache_enabled=False):
            yield

    def answers(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        """A function of tensors, one or several, in half precision; what it gives is float32."""
        if not self.is_on:
            return ask

        def in_half(*given: Tensor) -> Any:
            with self():
                found = ask(*given)
            return found.float() if isinstance(found, Tensor) else tuple(one.float() for one in found)

        return in_half

    def query(self, query: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """What a field predicts, and all that its gradients go through: scaled."""
        asked, scale = self.answers(query), self.scale
        return asked if scale is None else lambda points: scale.up(asked(points))

    def guarded(self, optimizer: Optimizer) -> Optimizer:
        """The optimizer that takes the scale off again."""
        return optimizer if self.scale is None else Guarded(optimizer, self.scale)


class _Times(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, numbers: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return numbers.view_as(numbers)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return grad * factor, None
