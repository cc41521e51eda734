"""Which implementation runs an operation, and why not another.

Every operation has a ``reference`` in plain PyTorch that defines the function and has all derivatives, on any
device. ``cpu`` and ``cuda`` are faster versions of the same function. Nothing here compiles, prints or touches a
device when it is imported.

    with use_backend("reference"):
        features = encoding(x)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

from fieldforge.checks import expect_choice

BACKENDS = ("reference", "cpu", "cuda")


class BackendError(RuntimeError):
    """A backend that was asked for by name cannot run the operation; the message says why and which can."""


@dataclass(frozen=True)
class Implementation:
    """One way to run one operation."""

    operation: str
    backend: str
    function: Callable[..., Any]
    missing: Callable[[], str | None]
    """Why it cannot run in this process at all ('no compiler'), or None."""
    refuses: Callable[..., str | None]
    """Why it cannot run this call, from the keywords given to `choose`, or None."""
    note: Callable[[], str]
    """What it is made of, where that depends on the machine."""


@dataclass(frozen=True)
class Row:
    """A line of `report`."""

    operation: str
    backend: str
    is_available: bool
    reason: str
    """Why not; or, where it runs, what it is made of."""


_implementations: dict[str, dict[str, Implementation]] = {}
_asked_for: ContextVar[str] = ContextVar("fieldforge_backend", default="auto")


def provide(
    operation: str,
    backend: str,
    *,
    missing: Callable[[], str | None] = lambda: None,
    refuses: Callable[..., str | None] = lambda **_: None,
    note: Callable[[], str] = lambda: "",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as the implementation of an operation by a backend.

    Raises:
        ValueError: no such backend, or another function has that place.
    """
    expect_choice("backend", backend, BACKENDS)

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        table = _implementations.setdefault(operation, {})
        known = table.get(backend)
        if known is not None and known.function.__qualname__ != function.__qualname__:
            raise ValueError(f"operation {operation!r} of backend {backend!r} is already {known.function.__module__}'s")
        table[backend] = Implementation(operation, backend, function, missing, refuses, note)
        return function

    return enter


def choose(operation: str, device: torch.device, **call: Any) -> Callable[..., Any]:
    """The function that runs `operation` on tensors of `device`.

    Args:
        operation: a name under which implementations were provided ("grid").
        device: where the tensors are. The backend ``cpu`` runs on CPU tensors only, ``cuda`` on CUDA tensors only.
        call: what an implementation may look at to refuse a call (dtype=, n_features=, ...).

    Raises:
        BackendError: the backend asked for with `use_backend` cannot run it; 'auto' never raises.
    """
    table = _implementations[operation]
    asked = _asked_for.get()
    if asked == "auto":
        for backend in (device.type, "reference"):
            if backend in table and _reason(table[backend], device, call) is None:
                return table[backend].function
        raise AssertionError(f"operation {operation!r} has no reference")
    reason = _reason(table[asked], device, call) if asked in table else f"there is no {asked} version of it"
    if reason is not None:
        able = [name for name, one in table.items() if _reason(one, device, call) is None]
        raise BackendError(
            f"backend {asked!r} was asked for, but cannot run {operation}: {reason}; {' and '.join(able)} can"
        )
    return table[asked].function


def offer(operation: str, device: torch.device, **call: Any) -> Callable[..., Any] | None:
    """Like `choose`, for operations that stand for several others: None where no fast version can run them at once.

    The caller then runs the parts, each of which chooses for itself; so asking for a backend by name never raises here.
    """
    asked = _asked_for.get()
    one = _implementations[operation].get(device.type)
    if one is None or asked not in ("auto", one.backend) or _reason(one, device, call) is not None:
        return None
    return one.function


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Ask for one backend by name ('auto', 'reference', 'cpu', 'cuda') inside a ``with`` block.

    Raises:
        ValueError: no such backend.
        BackendError: it can run nothing in this process (raised by the first operation otherwise).
    """
    name = expect_choice("backend", name, ("auto", *BACKENDS))
    if name == "cuda" and not torch.cuda.is_available():
        raise BackendError("backend 'cuda' was asked for, but no CUDA device is visible; 'cpu' and 'reference' can run")
    token = _asked_for.set(name)
    try:
        yield
    finally:
        _asked_for.reset(token)


def report() -> list[Row]:
    """Every operation with every backend: whether it can run in this process, and why not."""
    return [
        _row(operation, table, backend) for operation, table in sorted(_implementations.items()) for backend in BACKENDS
    ]


def _row(operation: str, table: dict[str, Implementation], backend: str) -> Row:
    if backend not in table:
        return Row(operation, backend, False, "not written yet; the reference runs on such tensors")
    reason = table[backend].missing()
    return Row(operation, backend, reason is None, reason or table[backend].note())


def _reason(one: Implementation, device: torch.device, call: dict[str, Any]) -> str | None:
    if one.backend != "reference" and one.backend != device.type:
        return f"the tensors are on {device.type}"
    return one.missing() or one.refuses(**call)
