"""What an optimizer is: gradients in, better parameters out; wrappers nest as in tiny-cuda-nn.

To write one, subclass `Optimizer` (or `Wrapper`, around another), keep every constructor keyword as an attribute
of the same name, and give `update` and `own_state`. `sgd.py` is the shortest example, `ema.py` the shortest wrapper.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from fieldforge.checks import expect_float
from fieldforge.kernels.cpu_training import Moved, Rule
from fieldforge.kernels.spare import set_aside
from fieldforge.registry import build, config_of

LARGEST = 3.0e38
"""What a float32 can hold; every learning rate, decay and magnitude lies below."""

OWN_PACE = "some parameters learn at a pace of their own (learning_rate_factors)"
"""Why no step of theirs is made elsewhere: a `Rule` has no factor."""

MOST_STEPS = 2**32 - 1
"""tiny-cuda-nn counts steps in 32 bits."""

BELOW_ONE = 0.9999999
"""The largest decay of a moving average; at 1 nothing would ever be averaged in."""


@dataclass(frozen=True)
class Parameters:
    """What is to be optimized, in two groups that tiny-cuda-nn treats differently.

    Args:
        matrix: parameters of networks: weight matrices (and biases).
        other: everything else: tables of grids, latent codes, poses.
        factors: on the learning rate, by id of the parameter, of those whose modules ask for one
            (``learning_rate_factors``, by name): whatever the rule, their steps are so many times as long.

    Iterating gives `matrix`, then `other`.
    """

    matrix: Sequence[nn.Parameter] = ()
    other: Sequence[nn.Parameter] = ()
    factors: Mapping[int, float] = field(default_factory=dict)

    def __iter__(self) -> Iterator[nn.Parameter]:
        yield from self.matrix
        yield from self.other

    def __len__(self) -> int:
        return len(self.matrix) + len(self.other)

    @staticmethod
    def of(root: nn.Module, networks: Iterable[nn.Module]) -> Parameters:
        """The trainable parameters of `root`: those inside one of `networks` are matrix, the rest other.

        Example:
            >>> table, network = nn.Embedding(8, 2), nn.Linear(2, 1)
            >>> found = Parameters.of(nn.Sequential(table, network), [network])
            >>> [tuple(p.shape) for p in found.matrix], [tuple(p.shape) for p in found.other]
            ([(1, 2), (1,)], [(8, 2)])
        """
        inside = {id(parameter) for network in networks for parameter in network.parameters()}
        trainable = [parameter for parameter in root.parameters() if parameter.requires_grad]
        return Parameters(
            matrix=[parameter for parameter in trainable if id(parameter) in inside],
            other=[parameter for parameter in trainable if id(parameter) not in inside],
            factors={
                id(getattr(module, name)): factor
                for module in root.modules()
                for name, factor in getattr(module, "learning_rate_factors", {}).items()
            },
        )


class Optimizer(ABC):
    """One rule that moves parameters along their gradients.

    Attributes:
        parameters: what it moves.
        inner: the optimizers that it drives, by their place in the names of the state.

    A parameter without a gradient (``.grad`` is None) is left alone. Tensors of the state live where the
    parameters live; counters live on the CPU.
    """

    otype: ClassVar[str]

    def __init__(self, parameters: Parameters) -> None:
        for i, parameter in enumerate(parameters):
            if not parameter.is_contiguous() or not parameter.is_floating_point():
                raise ValueError(
                    f"parameters: expected contiguous floating-point tensors, but number {i} of shape "
                    f"{tuple(parameter.shape)} has strides {parameter.stride()} and type {parameter.dtype}"
                )
        self.parameters = parameters
        self.inner: dict[str, Optimizer] = {}
        self._n_steps = torch.zeros((), dtype=torch.int64, device="cpu")
        self._factor = torch.ones((), dtype=torch.float64, device="cpu")

    @property
    def n_steps_done(self) -> int:
        """Calls of `step` so far."""
        return int(self._n_steps)

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters once, by their present ``.grad``."""
        factors = {} if self.inner else self.parameters.factors  # whoever drives others leaves it to them
        paced = [(one, one.detach().clone(), factors[id(one)]) for one in self.parameters if id(one) in factors]
        self.update()
        for parameter, before, factor in paced:
            parameter.copy_(torch.lerp(before, parameter, factor))
        self._n_steps += 1
        self._say_moved()

    def _say_moved(self) -> None:
        """Rules write through `.data` or from kernels, which autograd does not see; what was derived from the
        parameters is out of date (the inverse transforms of PREF)."""
        increment_version([parameter for parameter in self.parameters if parameter.device.type != "meta"])

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            set_aside(parameter)

    def set_learning_rate_factor(self, factor: float) -> None:
        """Multiply the configured learning rates by `factor` from now on (a schedule; a halving after a bad loss)."""
        self._factor.fill_(expect_float("factor", factor, 0.0, LARGEST))
        for optimizer in self.inner.values():
            optimizer.set_learning_rate_factor(factor)

    @property
    def learning_rate_factor(self) -> float:
        """The factor that was last set; 1 at first."""
        return float(self._factor)

    @abstractmethod
    def update(self) -> None:
        """The rule itself; `n_steps_done` steps were made before."""

    @abstractmethod
    def averaged(self) -> list[Tensor]:
        """The weights to use for inference, one for each of `parameters`: averages, or the parameters themselves."""

    @abstractmethod
    def own_state(self) -> dict[str, Tensor]:
        """The live tensors, by name, that this class adds to the state."""

    def moved(self) -> list[Moved] | str:
        """What is kept beside each of `parameters`, for a step that is made elsewhere by `rules`; or why none can be.

        A class whose every parameter moves by a `Rule` gives this and `rules`, as `sgd.py` does.
        """
        return f"the optimizer {self.otype} has a step in PyTorch only"

    def rules(self) -> list[Rule]:
        """How each of `parameters` moves in the next step, where `moved` gives no reason against it."""
        raise NotImplementedError(self.otype)

    def count_outside_step(self) -> None:
        """A step by `rules` was made elsewhere, on what `moved` gives: count it."""
        for optimizer in self.inner.values():
            optimizer.count_outside_step()
        self._n_steps += 1
        self._say_moved()

    def state_tensors(self) -> dict[str, Tensor]:
        """Every tensor that the next steps depend on, by flat name ("nested.0.first_moment"); counters are 0-d.

        These are the live tensors: clone what shall outlast the next step.
        """
        state = {"n_steps_done": self._n_steps, "learning_rate_factor": self._factor, **self.own_state()}
        for place, optimizer in self.inner.items():
            state |= {f"{place}.{name}": tensor for name, tensor in optimizer.state_tensors().items()}
        return state

    @torch.no_grad()
    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on exactly where `state_tensors` was taken; the parameters themselves are the caller's to restore.

        Raises:
            ValueError: a tensor is missing, unknown, or of another shape or type; nothing was changed then.
        """
        live = self.state_tensors()
        for name in sorted(live.keys() ^ tensors.keys()):
            raise ValueError(f"{name}: the saved state {'lacks it' if name in live else 'has it, this optimizer not'}")
        for name, tensor in live.items():
            saved = tensors[name]
            if saved.shape != tensor.shape or saved.dtype != tensor.dtype:
                expected, got = (f"{tuple(t.shape)} {t.dtype}" for t in (tensor, saved))
                raise ValueError(f"{name}: expected {expected}, got {got}")
        for name, tensor in live.items():
            tensor.copy_(tensors[name])

    def config(self) -> dict[str, Any]:
        """The configuration that rebuilds this optimizer (without its state)."""
        return config_of(self)


class Wrapper(Optimizer):
    """An optimizer around another one, `nested`, of the same parameters."""

    def __init__(self, parameters: Parameters, nested: Mapping[str, Any] | str) -> None:
        super().__init__(parameters)
        self.nested: Optimizer = build("optimizer", nested, path="nested", parameters=parameters)
        self.inner["nested"] = self.nested


def numbered(name: str, tensors: Iterable[Tensor]) -> dict[str, Tensor]:
    """Tensors in the order of the parameters, named '0.name', '1.name', ..."""
    return {f"{i}.{name}": tensor for i, tensor in enumerate(tensors)}


def zeros_like_each(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """One zero tensor for each parameter, contiguous."""
    return [torch.zeros_like(parameter, requires_grad=False) for parameter in parameters]


def decayed(weight: Tensor, rate: float | Tensor, relative: float, absolute: float) -> Tensor:
    """(1 - rate * relative) * weight - sign(weight) * rate * absolute: decoupled weight decay, L2-like and L1-like.

    As in tiny-cuda-nn nothing stops the absolute part from stepping over zero.
    """
    new = weight
    if relative != 0.0:
        new = new * (1.0 - rate * relative)
    if absolute != 0.0:
        new = new - torch.where(weight.signbit(), -1.0, 1.0).to(weight.dtype) * (rate * absolute)
    return new


def squared_norm(tensor: Tensor) -> Tensor:
    """Sum of squares, added in an order that does not depend on the number of threads."""
    flat = tensor.reshape(-1)
    flat = nn.functional.pad(flat, (0, -flat.numel() % 1024))
    return (flat * flat).view(-1, 1024).sum(-1).cumsum(0)[-1] if flat.numel() else flat.sum()
