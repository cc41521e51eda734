"""What a fit tells a `SAPE`, which opens from coarse to fine where it is needed.

Once a step, after the losses of its samples are known, it is told where the samples were and how wrong the field was
there. What comes of it changes the next step. All it depends on is kept with the optimizer's state, so a fit that is
resumed, or steps back, ends with the same bits. (Parts that need no more than the number of the step have
`fieldforge.apps.fit.stages`.)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fieldforge.apps.fit.loop import Hook
from fieldforge.apps.fit.optimizers.base import Optimizer
from fieldforge.encodings.sape import SAPE, boxed
from fieldforge.fields.kinds.base import Field
from fieldforge.kernels.cpu_training import Moved, Rule
from fieldforge.registry import ConfigError


class Exposure(ABC):
    """Opens the blocks of a SAPE."""

    @abstractmethod
    def follow(self, step: int, x: Tensor, per_sample_loss: Tensor) -> None:
        """Learn of a step: (n, d) places of the unit cube and the (n,) losses there."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """The live tensors, by name, that the next steps depend on."""


class BlockTurns:
    """When which blocks have their turn: one every so many steps, all within a share of the steps; where there are more
    blocks than steps, several at once."""

    def __init__(self, encoding: SAPE, n_steps: int) -> None:
        self.first = 0 if encoding.has_identity else 1
        self.n_blocks = int(encoding.blocks().max()) + 1
        n_waiting = max(1, self.n_blocks - self.first)
        self.every = max(1, math.floor(encoding.share * n_steps / n_waiting))
        self.at_once = max(1, math.ceil(n_waiting / (encoding.share * n_steps)))


class SpatialExposure(Exposure):
    """SAPE's feedback: cells whose mean loss is above the tolerance when a block has its turn get it; a cell that does
    not once, never does again.

    Losses are shared out to the cells around each sample by its interpolation weights. Cells without samples take the
    mean of the others in their box, where such without samples count as 0, as in the authors' code; then all are boxed.
    """

    def __init__(self, encoding: SAPE, n_steps: int) -> None:
        self.encoding, self.turns = encoding, BlockTurns(encoding, n_steps)
        n_cells = encoding.level.numel()
        self._losses, self._weights = torch.zeros(2, n_cells, dtype=torch.float64).unbind()
        self._next = torch.tensor(self.turns.first)

    def follow(self, step: int, x: Tensor, per_sample_loss: Tensor) -> None:
        block = int(self._next)
        if block >= self.turns.n_blocks:
            return
        cells, weights = self.encoding.corners(x.detach().cpu().double())
        losses = (weights * per_sample_loss.detach().cpu().double()[:, None]).flatten()
        n = len(self._losses)  # bincount adds in order, whatever the number of threads
        self._losses += torch.bincount(cells.flatten(), losses, n)
        self._weights += torch.bincount(cells.flatten(), weights.flatten(), n)
        if (step + 1) % self.turns.every == 0:
            self._open(block)

    def _open(self, block: int) -> None:
        level, box = self.encoding.level, self.encoding.box
        is_seen = self._weights > 0
        mean = torch.where(is_seen, self._losses / self._weights.masked_fill(~is_seen, 1), 0.0).view(level.shape)
        mean = torch.where(is_seen.view(level.shape), mean, boxed(mean, box, without_middle=True))
        is_wanting = (boxed(mean, box) > self.encoding.tolerance).to(level.device)
        following = min(block + self.turns.at_once, self.turns.n_blocks)
        level[(level == block) & is_wanting] = following  # those that left before are at a lower level
        self._next.fill_(following)
        self._losses.zero_()
        self._weights.zero_()

    def state(self) -> dict[str, Tensor]:
        return {"level": self.encoding.level, "losses": self._losses, "weights": self._weights, "next": self._next}


class GlobalExposure(Exposure):
    """One level for all of space: blocks fade in over the first half of their turn, until a batch is good enough."""

    def __init__(self, encoding: SAPE, n_steps: int) -> None:
        self.encoding, self.turns = encoding, BlockTurns(encoding, n_steps)
        self._best = torch.tensor(math.inf, dtype=torch.float64)

    def follow(self, step: int, x: Tensor, per_sample_loss: Tensor) -> None:
        encoding, turns = self.encoding, self.turns
        self._best.clamp_max_(float(per_sample_loss.detach().double().mean()))
        level = int(encoding.level)
        if self._best < encoding.tolerance or level >= turns.n_blocks:
            return
        within = (step + 1) % turns.every
        if within == 0:
            encoding.level.fill_(min(level + turns.at_once, turns.n_blocks))
        encoding.ramp.fill_(min(1.0, 2 * within / turns.every))

    def state(self) -> dict[str, Tensor]:
        return {"level": self.encoding.level, "ramp": self.encoding.ramp, "best": self._best}


def exposures_of(field: Field, n_steps: int) -> dict[str, Exposure]:
    """What opens the SAPE of a field, by its name there.

    Raises:
        ConfigError: a SAPE is inside of another part, where it does not see the places of the field.
    """
    found: dict[str, Exposure] = {}
    for name, module in field.named_modules():
        if isinstance(module, SAPE):
            if name != "encoding":
                raise ConfigError(f"{name}: a SAPE stands around all others, as the encoding of the field itself; put "
                                  "what is around it inside")  # fmt: skip
            encoding: SAPE = module
            found[name] = (SpatialExposure if encoding.is_spatial else GlobalExposure)(encoding, n_steps)
    return found


def expect_none(field: nn.Module, why: str) -> None:
    """Refuse a field with a SAPE, in fits that cannot tell them what they need.

    Raises:
        ConfigError: there is one.
    """
    for name, module in field.named_modules():
        if isinstance(module, SAPE):
            raise ConfigError(f"{name}: {module.otype} opens by the errors at places, and {why}")


class Watched:
    """A draw that remembers the places of its last step."""

    def __init__(self, draw: Callable[[int], Any]) -> None:
        self.draw, self.points = draw, torch.empty(0)

    def __call__(self, step: int) -> Any:
        drawn = self.draw(step)
        self.points = drawn[0] if isinstance(drawn, tuple) else drawn.points
        return drawn


class Feedback:
    """The hook that tells."""

    def __init__(self, learner: Field, draw: Watched, exposures: Sequence[Exposure]) -> None:
        self.learner, self.draw, self.exposures = learner, draw, exposures

    @torch.no_grad()
    def __call__(self, step: int, per_sample_loss: Tensor) -> None:
        if bool(torch.isfinite(per_sample_loss).all()):  # else the fit steps back
            x = self.learner.to_unit(self.draw.points).clamp(0, 1)
            for exposure in self.exposures:
                exposure.follow(step, x, per_sample_loss)


class Accompanied(Optimizer):
    """An optimizer whose state holds that of exposures too."""

    otype = "Accompanied"

    def __init__(self, nested: Optimizer, exposures: dict[str, Exposure]) -> None:
        super().__init__(nested.parameters)
        self.nested, self.exposures = nested, exposures
        self.inner["optimizer"] = nested

    def update(self) -> None:
        self.nested.step()

    def moved(self) -> list[Moved] | str:
        return self.nested.moved()

    def rules(self) -> list[Rule]:
        return self.nested.rules()

    def averaged(self) -> list[Tensor]:
        return self.nested.averaged()

    def own_state(self) -> dict[str, Tensor]:
        return {
            f"exposure.{part}.{name}": tensor
            for part, exposure in self.exposures.items()
            for name, tensor in exposure.state().items()
        }


def exposed(
    learner: Field, draw: Callable[[int], Any], hooks: Sequence[Hook], optimizer: Optimizer, n_steps: int
) -> tuple[Callable[[int], Any], Sequence[Hook], Optimizer]:
    """Draw, hooks and optimizer of a fit with the feedback in them; the same ones where nothing opens.

    Args:
        learner: the field that reads what is drawn.
        draw: step number -> samples, whose places are the first of a tuple or ``.points``.
        hooks: of the fit.
        optimizer: of its parameters.
        n_steps: of the fit, as its configuration says.
    """
    exposures = exposures_of(learner, n_steps)
    if not exposures:
        return draw, hooks, optimizer
    watched = Watched(draw)
    feedback = Feedback(learner, watched, list(exposures.values()))
    return watched, [*hooks, feedback], Accompanied(optimizer, exposures)
