"""What a regularizer is: a weight on something that the parameters of a field say.

Most ask an encoding, which says what it has (`fieldforge.encodings.base.Encoding.penalties`); others are refused.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from fieldforge.checks import expect_choice, expect_float, expect_int
from fieldforge.encodings.base import Encoding
from fieldforge.registry import ConfigError, build, config_of

PARTS = ("encoding", "rgb_encoding")


class Regularizer(ABC):
    """A number that is added to the loss.

    Class attributes: ``otype``. Attributes: ``weight``; ``until``, steps in which it counts, where 0 is all.
    """

    otype: ClassVar[str]
    weight: float
    until: int

    @abstractmethod
    def __call__(self, field: nn.Module) -> Tensor:
        """The penalty with its weight.

        Raises:
            ValueError: the field has nothing to be asked.
        """

    def config(self) -> dict[str, Any]:
        """What rebuilds it."""
        return config_of(self)


class EncodingPenalty(Regularizer):
    """weight * penalty of an encoding.

    Class attributes: ``name``, of the penalty in `Encoding.penalties`.

    Args:
        weight: factor, at least 0.
        part: whose parameters: the field's "encoding", or its "rgb_encoding".
        until: steps in which it counts; 0 is all.
    """

    name: ClassVar[str]

    def __init__(
        self, *, weight: float, part: Literal["encoding", "rgb_encoding"] = "encoding", until: int = 0
    ) -> None:
        self.weight = expect_float("weight", weight, 0.0, 1e30)
        self.part = expect_choice("part", part, PARTS)
        self.until = expect_int("until", until, 0, 2**31)

    def __call__(self, field: nn.Module) -> Tensor:
        """The penalty with its weight.

        Raises:
            ValueError: the field has no such part, or its encoding no such penalty.
        """
        encoding = getattr(field, self.part, None)
        if not isinstance(encoding, Encoding):
            raise ValueError(f"part: the field has no {self.part}")
        known = encoding.penalties()
        if self.name not in known:
            has = f"has {', '.join(known)}" if known else "has none"
            raise ValueError(f"otype: {self.otype} needs an encoding with {self.name}, and {encoding.otype} {has}")
        return self.weight * known[self.name]()


def regularizers_of(config: Mapping[str, Any], field: nn.Module) -> list[Regularizer]:
    """Those of the section regularizers of a run, which may be left out; each was asked once.

    Raises:
        ConfigError: one cannot be built, or not be had of this field; begins with the path of the key.
    """
    made: list[Regularizer] = []
    for i, one in enumerate(config.get("regularizers", ())):
        made.append(build("regularizer", one, path=f"regularizers[{i}]"))
        try:
            made[-1](field)
        except ValueError as error:
            raise ConfigError(f"regularizers[{i}].{error}") from None
    return made


def counting(regularizers: Sequence[Regularizer], step: int) -> list[Regularizer]:
    """Those that count in a step."""
    return [one for one in regularizers if one.weight and (not one.until or step < one.until)]


def penalty(regularizers: Sequence[Regularizer], field: nn.Module, step: int) -> Tensor | None:
    """The sum of those that count in a step; None where there are none."""
    return penalty_of(counting(regularizers, step), field)


def penalty_of(regularizers: Sequence[Regularizer], field: nn.Module) -> Tensor | None:
    """The sum of all of them; None where there are none."""
    total: Tensor | None = None
    for one in regularizers:
        total = one(field) if total is None else total + one(field)
    return total
