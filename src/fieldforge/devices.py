"""Where tensors are: what --device means, and the few doors through which tensors come and go.

    device = find_device("auto")
    with working_on(device):          # tensors are made there
        field = move(field, device)
        ...
        picture = home(color)         # numpy, on the host

Inside `working_on` a new tensor is on the device, whoever makes it; so nothing else has to know of one. What comes from
numpy is made there by `arrived`, what goes to numpy leaves by `home`; random numbers come from a generator of the
device. On the CPU all of these do nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def find_device(name: str | torch.device = "auto") -> torch.device:
    """The device of a name: "auto" (a CUDA device where one can be used, else the CPU), "cpu", "cuda" or "cuda:1".

    Raises:
        ValueError: no such name, or no such device here; says what would do.

    Example:
        >>> find_device("cpu")
        device(type='cpu')
    """
    text = str(name).strip().lower()
    if text == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    kind, colon, number = text.partition(":")
    if kind not in ("cpu", "cuda") or (colon and not (number.isascii() and number.isdigit() and len(number) < 4)):
        raise ValueError(f"device: expected auto, cpu, cuda or cuda:0, cuda:1, ..., got {name!r}")
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        built = "was built without CUDA" if torch.version.cuda is None else f"was built for CUDA {torch.version.cuda}"
        raise ValueError(
            f"device: {text} was asked for, but PyTorch {torch.__version__} {built} and sees no CUDA device; "
            "cpu runs everywhere, and fieldforge doctor says what is missing"
        )
    index, n = int(number or 0), torch.cuda.device_count()
    if index >= n:
        raise ValueError(f"device: {text} was asked for, but there {'is' if n == 1 else 'are'} {n}: cuda:0 to "
                         f"cuda:{n - 1}")  # fmt: skip
    return torch.device("cuda", index)


@contextlib.contextmanager
def working_on(device: torch.device) -> Iterator[torch.device]:
    """Inside the block new tensors are on `device` unless they are told otherwise."""
    if device.type == "cpu":
        yield device
    elif device.type == "cuda":
        with torch.cuda.device(device), device:
            yield device
    else:
        with device:
            yield device


def here() -> torch.device:
    """Where new tensors are."""
    return torch.get_default_device()


def device_of(module: nn.Module) -> torch.device:
    """Where a module is: its first parameter or buffer; where new tensors are, of one that has none."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return here()


def move(module: M, device: torch.device) -> M:
    """The module, its tensors on `device`."""
    moved: M = module.to(device)
    return moved


def seeded(seed: int, device: torch.device | None = None) -> torch.Generator:
    """A generator of random numbers on a device; None: where new tensors are."""
    device = here() if device is None else device
    return torch.Generator(device).manual_seed(seed)


def arrived(values: np.ndarray | Tensor, device: torch.device | None = None) -> Tensor:
    """A tensor of the host on a device (None: where new tensors are), without waiting where the device can copy alone.

    The caller leaves `values` as they are until the copy is done.
    """
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    device = here() if device is None else device
    if tensor.device == device or device.type == "cpu":
        return tensor
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


Numbers = tuple[float, ...] | tuple[tuple[float, ...], ...]


def constant(numbers: Numbers, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers as a tensor that is made once for each device, as making one there stops the host until all work before
    is done; for corners of boxes and the like. Nobody writes into it.

    Example:
        >>> constant((0.0, 0.5), torch.float32, torch.device("cpu"))
        tensor([0.0000, 0.5000])
    """
    return torch.tensor(numbers, dtype=dtype, device=device) if device.type == "cpu" else _kept(numbers, dtype, device)


@lru_cache(maxsize=1024)
def _kept(numbers: Numbers, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # others may want gradients through what is made of it
        return torch.tensor(numbers, dtype=dtype, device=device)


def home(tensor: Tensor) -> np.ndarray:
    """A tensor's numbers on the host, as numpy; waits for them."""
    numbers: np.ndarray = tensor.detach().cpu().numpy()
    return numbers
