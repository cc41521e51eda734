"""How the numbers of a field are stored, and how many bits that takes.

"float64", "float32", "float16" and "bfloat16" round each number by itself. "int8" keeps one float32 step for each 256
consecutive values of a parameter (tensor "<name>:step") and each value as a whole number of steps from -127 to 127,
whatever the parameter's layout: about 8.1 bits a value. The step is the largest magnitude over 127, rounded up to 16
significant bits, so that a whole number of steps is an exact float32 and rounding twice is rounding once.

Only real parameters are stored in fewer bits. A complex128 parameter stands in the file as float64 with a last axis of
real and imaginary part. Buffers, complex parameters, and under "int8" parameters of fewer than 256 values (biases),
keep their type.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from fieldforge.checks import did_you_mean, expect_choice
from fieldforge.fields.container import DTYPES, Source, name_of, pieces

STORAGE = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
}
"""What a real parameter may be stored as."""

Storage = str | Mapping[str, str] | None
"""One of `STORAGE` for every parameter; or a table from the beginning of a parameter's dotted name ("encoding",
"network") to one of them, where the longest that fits decides; None, and what the table leaves out: as it is."""

BLOCK = 256
"""Values that share a step; `pieces` cuts between blocks."""


def encode(module: nn.Module, storage: Storage = None) -> dict[str, Source]:
    """A module's state, ready to be written.

    Raises:
        TypeError: the state holds something that is no tensor.
        ValueError: a number is not finite, or does not fit its type; `storage` names no parameter or no type.
    """
    state = module.state_dict()
    sources: dict[str, Source] = {}
    for name, dtype in _types(module, storage).items():
        tensor = state[name]
        _expect_storable(name, tensor, dtype)
        if dtype == torch.int8 and tensor.is_floating_point():
            sources[f"{name}:step"] = Source.of(torch.cat([_steps(piece) for piece in pieces(tensor)]))
            sources[name] = Source.of(tensor, torch.int8, _in_steps)
        elif dtype == torch.complex128:  # safetensors has no name for it
            sources[name] = Source.of(torch.view_as_real(tensor))
        else:
            sources[name] = Source.of(tensor, dtype)
    return sources


def stored_bytes(module: nn.Module, storage: Storage = None) -> int:
    """Bytes of the tensors of a module in a file, which may be on the meta device; the header comes on top.

    Example:
        >>> stored_bytes(torch.nn.Linear(256, 2), "int8")  # 512 values, 2 steps; biases stay float32
        528
    """
    state, total = module.state_dict(), 0
    for name, dtype in _types(module, storage).items():
        n, is_complex = state[name].numel(), dtype == torch.complex128
        total += n * (16 if is_complex else dtype.itemsize)
        total += 4 * -(-n // BLOCK) if dtype == torch.int8 and state[name].is_floating_point() else 0
    return total


def decode(stored: Iterable[Tensor], steps: Tensor | None) -> Iterator[Tensor]:
    """Flat stored pieces to flat values; `steps` are those of the whole parameter if it is stored as int8."""
    block = 0
    for piece in stored:
        if steps is not None:
            n_blocks = -(-len(piece) // BLOCK)
            piece = piece * steps[block : block + n_blocks].repeat_interleave(BLOCK)[: len(piece)]
            block += n_blocks
        yield piece


def misfit(stored: Mapping[str, tuple[str, tuple[int, ...]]], asked: Mapping[str, Tensor]) -> str | None:
    """The first way in which stored tensors (type name and shape, as a file declares them) are not what a module's
    state, which may be on the meta device, can be read from; None if they are."""
    steps = {f"{name}:step" for name in asked if name in stored and stored[name][0] == "I8"}
    for name, tensor in asked.items():
        if name not in stored:
            return f"{name} {tuple(tensor.shape)} is missing"
        dtype, shape = stored[name]
        wanted, step = tuple(tensor.shape), stored.get(f"{name}:step")
        if dtype == "I8" and step is not None:
            fits = tensor.is_floating_point() and step == ("F32", (-(-tensor.numel() // BLOCK),))
        elif dtype == "F64" and tensor.is_complex():
            fits, wanted = True, (*wanted, 2)
        elif tensor.is_floating_point():
            fits = DTYPES[dtype].is_floating_point
        else:
            fits = DTYPES[dtype] == tensor.dtype
        if not fits or shape != wanted:
            return f"{name} is {dtype} {shape}, not {name_of(tensor.dtype)} {wanted}"
    return next((f"{name} has no place in it" for name in stored if name not in asked and name not in steps), None)


@torch.no_grad()
def fill(target: Tensor, values: Iterable[Tensor]) -> None:
    """Write flat pieces into a tensor in place, in order.

    Raises:
        ValueError: a number is not finite.
    """
    target = torch.view_as_real(target) if target.dtype == torch.complex128 else target
    flat, begin = target.reshape(-1), 0
    for piece in values:
        if not bool(torch.isfinite(piece).all()):
            raise ValueError("numbers that are not finite")
        flat[begin : begin + len(piece)] = piece
        begin += len(piece)
    if not target.is_contiguous():  # then `flat` is a copy
        target.copy_(flat.view(target.shape))


def round_to(module: nn.Module, storage: Storage) -> None:
    """Round the parameters, in place, to what a file with this storage gives back.

    Saving afterwards with the same storage loses nothing; a quality measured now is that of the file.

    Raises:
        ValueError: as `encode`.

    Example:
        >>> layer = torch.nn.Linear(1, 1, bias=False)
        >>> layer.weight.data.fill_(0.1)
        tensor([[0.1000]])
        >>> round_to(layer, "float16")
        >>> layer.weight.item()
        0.0999755859375
    """
    sources = encode(module, storage)
    for name, tensor in module.state_dict().items():
        steps = sources.get(f"{name}:step")
        fill(tensor, decode(sources[name].pieces(), None if steps is None else torch.cat(list(steps.pieces()))))


def _expect_storable(name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    """Require finite numbers that stay finite in `dtype`."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return
    held = torch.float32 if dtype == torch.int8 else dtype  # the step is a float32
    for piece in pieces(tensor):
        if not bool(torch.isfinite(piece).all()):
            raise ValueError(f"{name}: holds numbers that are not finite; go back to an earlier step of the fit")
        if not bool(torch.isfinite(piece.to(held)).all()):
            storage = next(key for key, value in STORAGE.items() if value == dtype)
            raise ValueError(f"{name}: {float(piece.abs().max()):g} does not fit {storage}; store a wider type")


def _types(module: nn.Module, storage: Storage) -> dict[str, torch.dtype]:
    """The type that each tensor of the state is stored as."""
    table = storage if isinstance(storage, Mapping) else {} if storage is None else {"": storage}
    chosen = {prefix: STORAGE[expect_choice("dtype", name, STORAGE)] for prefix, name in table.items()}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for prefix in chosen:
        if not any(_begins(name, prefix) for name in parameters):
            raise ValueError(f"dtype: no parameter begins with {prefix!r}{did_you_mean(prefix, parameters)}")
    types: dict[str, torch.dtype] = {}
    for name, tensor in module.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: a file holds tensors only, got {type(tensor).__name__}")
        fitting = [prefix for prefix in chosen if _begins(name, prefix)]
        types[name] = chosen[max(fitting, key=len)] if fitting else tensor.dtype
        is_small = types[name] == torch.int8 and tensor.numel() < BLOCK
        if name not in parameters or not tensor.is_floating_point() or is_small:
            types[name] = tensor.dtype
    return types


def _begins(name: str, prefix: str) -> bool:
    return not prefix or name == prefix or name.startswith(f"{prefix}.")


def _steps(piece: Tensor) -> Tensor:
    """(n,) -> (ceil(n / BLOCK),) the step of each block, on the CPU; 0 for a block whose values are all below 1e-30."""
    values = piece.cpu().float()
    padded = functional.pad(values, (0, -len(values) % BLOCK)).view(-1, BLOCK)
    largest = padded.abs().amax(1)
    mantissa, exponent = torch.frexp(torch.where(largest < 1e-30, 0, largest / 127))
    return torch.ldexp(torch.ceil(mantissa * 2**16), exponent - 16)


def _in_steps(piece: Tensor) -> Tensor:
    """(n,) -> (n,) int8: each value as a number of steps of its block."""
    steps = _steps(piece).repeat_interleave(BLOCK)[: len(piece)]
    return (piece.cpu().float() / torch.where(steps > 0, steps, 1)).round().clamp(-127, 127).to(torch.int8)
