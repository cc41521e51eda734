"""A stand-in for a device with a memory of its own, for machines that have none: what leaves it in silence is an error.

    with far_device() as far:
        field = far.bring(field)
        field(far.tensor(points))            # Far tensors; their numbers are right
        field(points)                        # FarError: host and device are mixed

Far tensors say that they are on "meta", which has no memory; their numbers lie beside them on the CPU, where each
operation runs. So results can be held against those of the CPU. Refused are operations that mix them with tensors of
the host of more than one number, indices of the host, random numbers of a host's generator, and every way back: .cpu(),
.item(), .tolist(), .numpy(), if tensor. `far.door` opens the way back, or only to single numbers, and counts.

`far.waits()` lists where a CUDA device would make the host wait: every number that comes back, every operation whose
result is as large as the numbers say (nonzero, masks as indices), and every torch.tensor made there, which is copied
from memory that is not pinned. What a Triton kernel does on a GPU is left out: here the reference stands for it.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from fieldforge import devices

META = torch.device("meta")
_aten = torch.ops.aten
LEAVES = {_aten._local_scalar_dense.default: ".item()", _aten.equal.default: "torch.equal"}
SIZED_BY_NUMBERS = {
    _aten.nonzero.default: "nonzero", _aten.masked_select.default: "masked_select", _aten.bincount.default: "bincount",
    _aten._unique2.default: "unique",
}  # fmt: skip
INDEXES = (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default)
ROOT = Path(__file__).parents[1]


class FarError(RuntimeError):
    """Something went to the host, or came from it, that nobody asked for."""


class Far(Tensor):
    """A tensor on the stand-in."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> Far:
        made: Far = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, near.shape, strides=near.stride(), storage_offset=near.storage_offset(), dtype=near.dtype, device=META,
            requires_grad=False,
        )  # fmt: skip
        made.near = near
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Far({self.near!r})"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(function, args, kwargs or {})


class _Mode(TorchDispatchMode):
    def __init__(self, far: FarDevice) -> None:
        super().__init__()
        self.far = far

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(function, args, kwargs or {}, self.far)


class _FromNumbers(TorchFunctionMode):
    """torch.tensor on the stand-in: a copy to the device of numbers that Python has. And random numbers there, whose
    generator is not seen any more where operations run."""

    def __init__(self, far: FarDevice) -> None:
        super().__init__()
        self.far = far

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(kwargs.get("generator"), _Generator) and not isinstance(kwargs["generator"], FarGenerator):
            where = args[0].device if args and isinstance(args[0], Tensor) else torch.get_default_device()
            if torch.device(kwargs.get("device") or where).type == "meta":
                raise FarError(f"{function.__name__} draws with a generator of the host")
        if function in (torch.tensor, torch.as_tensor, Tensor.new_tensor):
            given = args[0] if function is Tensor.new_tensor else None
            default = META if given is None or isinstance(given, Far) else given.device
            device = torch.device(kwargs.get("device") or default)
            if device.type == "meta":
                dtype = kwargs.get("dtype") or (given.dtype if given is not None else None)
                numbers = args[1] if function is Tensor.new_tensor else args[0]
                if isinstance(numbers, Tensor):
                    return function(*args, **kwargs)
                near = torch.tensor(numbers, dtype=dtype, device="cpu")
                if near.numel():
                    self.far.note_wait("tensor of numbers")
                return Far(near)
        if function is Tensor.tolist and isinstance(args[0], Far):
            if not self.far.lets_numbers:
                raise FarError(".tolist() brings numbers to the host")
            self.far.note_wait(".tolist()")
            return args[0].near.tolist()
        if function is Tensor.__getitem__ and isinstance(args[0], Far):  # lists of numbers go there like torch.tensor
            place = args[1] if isinstance(args[1], tuple) else (args[1],)
            place = tuple(
                Far(torch.tensor(one, device="cpu")) if isinstance(one, (list, tuple)) else one for one in place
            )
            return function(args[0], place)
        return function(*args, **kwargs)


def _is_ours(name: str) -> bool:
    """Whether a file is the package's: not of the tests, nor of an environment that stands in the checkout."""
    path = Path(name)
    return ROOT in path.parents and not {"tests", "site-packages"} & set(path.parts)


class FarDevice:
    """The stand-in's doors."""

    def __init__(self) -> None:
        self.is_open = self.lets_numbers = False
        self.n_leaves = 0
        self._waits: list[str] | None = None
        self._of_kernels: set[CodeType] = set()

    @contextlib.contextmanager
    def waits(self) -> Iterator[list[str]]:
        """Inside the block what would make the host wait is listed: "renderers/samples.py keep: nonzero"."""
        from fieldforge import backends

        tables = [table for table in backends._implementations.values() if "cuda" in table]
        functions = [inspect.unwrap(table["reference"].function) for table in tables]
        self._of_kernels = {function.__code__ for function in functions if not isinstance(function, type)}
        self._waits = []
        try:
            yield self._waits
        finally:
            self._waits = None

    def note_wait(self, what: str) -> None:
        if self._waits is None:
            return
        frames, frame = list[CodeType](), sys._getframe()
        while frame is not None:
            frames.append(frame.f_code)
            frame = frame.f_back  # type: ignore[assignment]
        if self._of_kernels.isdisjoint(frames):
            ours = [one for one in frames if _is_ours(one.co_filename)]
            where = f"{Path(ours[0].co_filename).relative_to(ROOT)} {ours[0].co_name}" if ours else "elsewhere"
            self._waits.append(f"{where.removeprefix('src/fieldforge/')}: {what}")

    def tensor(self, near: Tensor) -> Tensor:
        return Far(near.detach().clone())

    def bring(self, module: nn.Module) -> Any:
        """The module's parameters and buffers, moved in place."""
        for one in module.modules():
            for name, parameter in list(one._parameters.items()):
                if parameter is not None and not isinstance(parameter.data, Far):
                    one._parameters[name] = nn.Parameter(self.tensor(parameter.data), parameter.requires_grad)
            for name, buffer in list(one._buffers.items()):
                if buffer is not None and not isinstance(buffer, Far):
                    one._buffers[name] = self.tensor(buffer)
        return module

    def send_home(self, module: nn.Module) -> Any:
        """The inverse of `bring`."""
        for one in module.modules():
            for name, parameter in list(one._parameters.items()):
                if parameter is not None and isinstance(parameter.data, Far):
                    one._parameters[name] = nn.Parameter(parameter.data.near, parameter.requires_grad)
            for name, buffer in list(one._buffers.items()):
                if isinstance(buffer, Far):
                    one._buffers[name] = buffer.near
        return module

    @contextlib.contextmanager
    def door(self, *, numbers_only: bool = False) -> Iterator[None]:
        was = self.is_open, self.lets_numbers
        self.is_open, self.lets_numbers = not numbers_only, True
        try:
            yield
        finally:
            self.is_open, self.lets_numbers = was


def run(function: Any, args: Any, kwargs: Any, far: FarDevice | None = None) -> Any:
    flat, _ = tree_flatten((args, kwargs))
    tensors = [one for one in flat if isinstance(one, Tensor)]
    is_far = any(isinstance(one, Far) for one in tensors)
    device = kwargs.get("device")
    is_made = device is not None and torch.device(device).type == "meta"
    name = str(function)
    if function in LEAVES and is_far:
        if far is None or not far.lets_numbers:
            raise FarError(f"{LEAVES[function]} brings a number to the host")
        far.n_leaves += 1
        far.note_wait(LEAVES[function])
    if far is not None and is_far and (what := _sized_by_numbers(function, args, kwargs)):
        far.note_wait(what)
    goes_home = is_far and device is not None and torch.device(device).type == "cpu"
    if goes_home:
        if far is None or not far.is_open:
            raise FarError(f"{name} brings a tensor of {tuple(tensors[0].shape)} to the host")
        far.n_leaves += 1
        far.note_wait("to the host")
    if is_far and not goes_home and "copy_" not in name:
        mixed = [one for one in tensors if not isinstance(one, Far) and one.ndim > 0]
        if mixed:
            raise FarError(f"{name} mixes tensors of the device with one of the host, {tuple(mixed[0].shape)}")
    if "device" in kwargs:
        kwargs = kwargs | {"device": torch.device("cpu")}
    args, kwargs = tree_map(lambda one: one.near if isinstance(one, Far) else one, (args, kwargs))
    found = function(*args, **kwargs)
    if (is_far or is_made) and not goes_home:
        originals = {id(one.near): one for one in tensors if isinstance(one, Far)}
        return tree_map(lambda one: _wrapped(one, originals) if isinstance(one, Tensor) else one, found)
    return found


def _sized_by_numbers(function: Any, args: Any, kwargs: Any) -> str:
    """Why the host has to wait before it knows how large the result of an operation is, or ''."""
    if function in INDEXES:
        masks = [one for one in args[1] if isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8)]
        return "mask as index" if masks else ""
    if function is _aten.repeat_interleave.Tensor:
        return "" if kwargs.get("output_size") is not None else "repeat_interleave"
    return SIZED_BY_NUMBERS.get(function, "")


def _wrapped(near: Tensor, originals: dict[int, Tensor]) -> Tensor:
    return originals[id(near)] if id(near) in originals else Far(near)


_Generator = torch.Generator


class FarGenerator(_Generator):
    """Of the stand-in; draws on the CPU."""


class _Kinds(type):
    def __instancecheck__(cls, one: Any) -> bool:
        return isinstance(one, _Generator)


class _AnyGenerator(metaclass=_Kinds):
    """torch.Generator, which knows the stand-in too."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return FarGenerator() if torch.device(device).type == "meta" else _Generator(device)


@contextlib.contextmanager
def far_device() -> Iterator[FarDevice]:
    """Inside the block tensors are made on the stand-in where nobody says otherwise."""
    far = FarDevice()
    torch.Generator = _AnyGenerator  # type: ignore[misc,assignment]
    devices._kept.cache_clear()  # what is kept for the device meta is of whoever plays it
    try:
        with META, _FromNumbers(far), _Mode(far):
            yield far
    finally:
        devices._kept.cache_clear()
        torch.Generator = _Generator  # type: ignore[misc]
