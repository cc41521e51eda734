"""The door to other people's CUDA packages: can they run here, and why not.

tinycudann and nerfacc are used where they are installed; nothing needs them. An import of theirs may fail in any way:
built for another card, another PyTorch, a library that is not there. Then they are missing, with the reason in one
line, and what is ours runs.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

COMPILED: dict[str, str] = {"nerfacc": "nerfacc.csrc"}
"""Package -> its compiled part; without one it would compile at its first call, which nobody asked for."""


@cache
def missing(name: str) -> str | None:
    """Why a package cannot run in this process, in one line, or None. The first call may import it.

    Example:
        >>> missing("no_such_package")
        'no_such_package is not installed'
    """
    try:
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed"
        if not torch.cuda.is_available():
            return f"{name} is installed, but no CUDA device is visible"
        if name in COMPILED and importlib.util.find_spec(COMPILED[name]) is None:
            return f"{name} is installed without its compiled part, which a wheel for this PyTorch and CUDA has"
        importlib.import_module(name)
    except (Exception, SystemExit) as error:
        return f"{name} does not load: {type(error).__name__}: {_one_line(str(error))}"
    return None


def module(name: str) -> ModuleType:
    """The package; only after `missing` said None."""
    return importlib.import_module(name)


def missing_as(name: str) -> Callable[[], str | None]:
    """`missing` of a package, for `fieldforge.backends.provide`."""
    return lambda: missing(name)


def note_of(name: str) -> Callable[[], str]:
    """What it is, for `fieldforge.backends.provide`."""

    def note() -> str:
        from importlib.metadata import PackageNotFoundError, version

        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            return name

    return note


def remember(device_name: str, fastest: Mapping[str, str]) -> Path:
    """Keep who was measured to be fastest on a card: operation -> package, '' for ours; returns the file."""
    path = _memory()
    known = _remembered(path) | {device_name: dict(fastest)}
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    beside.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    beside.replace(path)
    return path


def measured(device_name: str) -> dict[str, str]:
    """What `remember` kept of a card; nothing where nothing was measured."""
    found = _remembered(_memory()).get(device_name, {})
    return {key: value for key, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}


def _memory() -> Path:
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "fieldforge" / "makers.json"


def _remembered(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text()) if path.stat().st_size < 2**20 else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def there(tensor: Tensor) -> AbstractContextManager[object]:
    """Inside the block a tensor's device is the current one, on which these packages make what they give back."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def differentiable(run: Callable[..., Tensor], reference: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """``run(*tensors)``, with first derivatives by `run`'s own and all others by `reference`, which is the function."""
    with there(tensors[0]):
        if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)):
            with torch.no_grad():
                return run(*tensors)
        out: Tensor = _Guest.apply(run, reference, *tensors)
    return out


class _Guest(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: Callable[..., Tensor], reference: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        inputs = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in tensors]
        with torch.enable_grad():
            out = run(*inputs)
        ctx.reference, ctx.graph = reference, (inputs, out)
        ctx.save_for_backward(*tensors)
        return out.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        wanted: Sequence[bool] = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():  # of derivatives: by the reference, which has all
            inputs = list(ctx.saved_tensors)
            out = ctx.reference(*inputs)
        else:
            inputs, out = ctx.graph
        asked = [one for one, is_wanted in zip(inputs, wanted, strict=True) if is_wanted]
        found = iter(
            torch.autograd.grad(
                out, asked, grads[0].to(out.dtype), create_graph=torch.is_grad_enabled(), retain_graph=True,
                allow_unused=True,
            )
        )  # fmt: skip
        return None, None, *(next(found) if is_wanted else None for is_wanted in wanted)


def _one_line(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) < 200 else f"{words[:197]}..."
