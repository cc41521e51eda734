"""Which implementation runs an operation, and why not another.

Every operation has a ``reference`` in plain PyTorch that defines the function and has all derivatives, on any
device. ``cpu`` and ``cuda`` are faster versions of the same function. Nothing here compiles, prints or touches a
device when it is imported.

A backend may have several makers for an operation: our own, and guests, packages that some machines have (`GUESTS`).
Ours goes first, a guest where ours cannot; unless `prefer` says that a guest was measured to be faster here.

    with use_backend("reference"):
        features = encoding(x)
"""

from __future__ import annotations

import contextlib
import importlib
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
    maker: str = ""
    """The package that makes it; '' is ours."""


@dataclass(frozen=True)
class Row:
    """A line of `report`."""

    operation: str
    backend: str
    is_available: bool
    reason: str
    """Why not; or, where it runs, what it is made of."""


GUESTS: dict[str, str] = {
    "grid": "fieldforge.encodings.on_tinycudann",
    "field": "fieldforge.fields.on_tinycudann",
    "march": "fieldforge.renderers.on_nerfacc",
    "segmented_scan": "fieldforge.renderers.on_nerfacc",
    "composite": "fieldforge.renderers.on_nerfacc",
    "accumulate": "fieldforge.renderers.on_nerfacc",
}
"""Operation -> the module in which guests of the backend cuda provide it; imported when a CUDA tensor first asks."""

_implementations: dict[str, dict[str, Implementation]] = {}
_guests: dict[str, dict[str, Implementation]] = {}
_preferred: dict[str, str] = {}
_alone: set[str] = set()
"""Operations that on CUDA nobody else may run than who is preferred."""
_has_learnt: list[bool] = []
_asked_for: ContextVar[str] = ContextVar("fieldforge_backend", default="auto")


def provide(
    operation: str,
    backend: str,
    *,
    missing: Callable[[], str | None] = lambda: None,
    refuses: Callable[..., str | None] = lambda **_: None,
    note: Callable[[], str] = lambda: "",
    maker: str = "",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as the implementation of an operation by a backend; a guest's says its `maker`.

    Raises:
        ValueError: no such backend, or another function has that place.
    """
    expect_choice("backend", backend, BACKENDS)

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        table = (_guests if maker else _implementations).setdefault(operation, {})
        known = table.get(maker or backend)
        if known is not None and known.function.__qualname__ != function.__qualname__:
            raise ValueError(f"operation {operation!r} of backend {backend!r} is already {known.function.__module__}'s")
        table[maker or backend] = Implementation(operation, backend, function, missing, refuses, note, maker)
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
            for one in _makers(operation, backend):
                reason = _reason(one, device, call)
                if reason is None:
                    return one.function
                _expect_not_alone(operation, backend, reason)
        raise AssertionError(f"operation {operation!r} has no reference")
    makers = _makers(operation, asked)
    reasons = [_reason(one, device, call) for one in makers] or [f"there is no {asked} version of it"]
    reason = None if None in reasons else reasons[0]
    if reason is not None:
        able = [name for name, one in table.items() if _reason(one, device, call) is None]
        raise BackendError(
            f"backend {asked!r} was asked for, but cannot run {operation}: {reason}; {' and '.join(able)} can"
        )
    return makers[reasons.index(None)].function


def offer(operation: str, device: torch.device, **call: Any) -> Callable[..., Any] | None:
    """Like `choose`, for operations that stand for several others: None where no fast version can run them at once.

    The caller then runs the parts, each of which chooses for itself; so asking for a backend by name never raises here.
    """
    asked = _asked_for.get()
    for one in _makers(operation, device.type) if asked in ("auto", device.type) else ():
        reason = _reason(one, device, call)
        if one.backend != "reference" and reason is None:
            return one.function
        _expect_not_alone(operation, one.backend, reason)
    return None


def prefer(operation: str, maker: str) -> None:
    """Ask this maker first from now on, '' for our own; as `fieldforge bench gpu` measured on this machine."""
    _preferred[operation] = maker


def makers(operation: str, backend: str) -> list[str]:
    """Who can be asked for an operation, first who is asked first; whether each can run here is not looked at."""
    return [one.maker for one in _makers(operation, backend)]


def why_missing(operation: str, backend: str, maker: str) -> str | None:
    """Why a maker cannot run here at all, or None."""
    found = [one for one in _makers(operation, backend) if one.maker == maker]
    return found[0].missing() if found else f"nobody of that name makes {operation}"


@contextlib.contextmanager
def made_by(operation: str, maker: str, *, alone: bool = False) -> Iterator[None]:
    """Inside the block `maker` goes first, whatever was measured; with `alone`, CUDA tensors that it refuses are an
    error (BackendError) instead of somebody else's work."""
    was, was_alone = _preferred.get(operation, ""), operation in _alone
    prefer(operation, maker)
    if alone:
        _alone.add(operation)
    try:
        yield
    finally:
        prefer(operation, was)
        if not was_alone:
            _alone.discard(operation)


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


def asked_for() -> str:
    """The backend that was asked for by name, or 'auto'."""
    return _asked_for.get()


def report() -> list[Row]:
    """Every operation with every backend: whether it can run in this process, and why not."""
    rows = [
        _row(operation, table, backend) for operation, table in sorted(_implementations.items()) for backend in BACKENDS
    ]
    for operation in sorted(GUESTS):
        for one in _makers(operation, "cuda") if operation in _implementations else ():
            if one.maker and one.missing() is None:
                rows.append(Row(operation, "cuda", True, one.note()))
    return rows


def _makers(operation: str, backend: str) -> list[Implementation]:
    """Of a backend, in the order in which they are asked."""
    own = _implementations[operation].get(backend)
    found = [] if own is None else [own]
    if backend == "cuda" and operation in GUESTS:
        importlib.import_module(GUESTS[operation])
        _learn_what_was_measured()
        found += _guests.get(operation, {}).values()
        found.sort(key=lambda one: one.maker != _preferred.get(operation, ""))
    return found


def _expect_not_alone(operation: str, backend: str, reason: str | None) -> None:
    if reason is not None and backend == "cuda" and operation in _alone:
        maker = _preferred[operation] or "fieldforge"
        raise BackendError(f"{maker} was asked for alone, but cannot run {operation}: {reason}")


def _learn_what_was_measured() -> None:
    """Once in a process, where there is a CUDA device: who was fastest on it."""
    if _has_learnt or not torch.cuda.is_available():
        return
    _has_learnt.append(True)
    guests = importlib.import_module("fieldforge.kernels.guests")
    for operation, maker in guests.measured(torch.cuda.get_device_name()).items():
        _preferred.setdefault(operation, maker)


def _row(operation: str, table: dict[str, Implementation], backend: str) -> Row:
    if backend not in table:
        return Row(operation, backend, False, "not written yet; the reference runs on such tensors")
    reason = table[backend].missing()
    return Row(operation, backend, reason is None, reason or table[backend].note())


def _reason(one: Implementation, device: torch.device, call: dict[str, Any]) -> str | None:
    if one.backend != "reference" and one.backend != device.type:
        return f"the tensors are on {device.type}"
    return one.missing() or one.refuses(**call)
