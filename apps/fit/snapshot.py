"""The last good state of a fit, to step back to when a loss is not finite.

Small states are copied in memory. Copies of large ones would take as much memory as all the rest of a fit: they go to
a temporary file, which has no name and leaves nothing behind, however the fit ends.
"""

from __future__ import annotations

import copy
import math
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from fieldforge.apps.fit.optimizers.base import Optimizer

LARGE = 2**25
"""Bytes from which on a state goes to a file."""


class Snapshot:
    """The last state in which every parameter was finite.

    Args:
        optimizer: its parameters and its state are what is kept.
        state: a dataclass that is kept with them.
        beside: further tensors that change in the course of a fit.
        folder: where a large state goes; None is the system's folder for temporary files.
        large: bytes from which on a state is large.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        state: Any,
        *,
        beside: Iterable[Tensor] = (),
        folder: Path | None = None,
        large: int = LARGE,
    ) -> None:
        self.optimizer, self.beside, self.folder, self.large = optimizer, list(beside), folder, large
        self._due = -math.inf
        self._copies: list[Tensor] = []
        self._file: IO[bytes] | None = None
        self.take_if_due(state)

    def is_due(self) -> bool:
        """Whether copying would take at most a fiftieth of the time."""
        return time.perf_counter() >= self._due

    def take_if_due(self, state: Any, *, is_due: bool | None = None) -> None:
        """Copy the state unless a parameter is not finite; at most a fiftieth of the time goes into copying.

        Args:
            state: of the fit.
            is_due: what was decided elsewhere; None: as the clock says.
        """
        is_due = self.is_due() if is_due is None else is_due
        start, start_of_work = time.perf_counter(), time.thread_time()
        if not is_due or not all(math.isfinite(float(p.detach().sum())) for p in self.optimizer.parameters):
            return
        live = self._live()
        n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in live)
        is_on_disk = n_bytes >= self.large and all(tensor.device.type == "cpu" for tensor in live)
        if not (is_on_disk and self._write(live)):
            self.close()
            self._copies = [tensor.clone() for tensor in live]
        self.keep(state)
        # copying in memory costs its own work alone, not what others on this machine do meanwhile; a disk also waits
        now = time.perf_counter()
        self._due = now + 50 * (time.thread_time() - start_of_work if self._file is None else now - start)

    def keep(self, state: Any) -> None:
        """Go back to this state from now on, with the parameters that were copied last."""
        self.state = copy.deepcopy(state)

    @torch.no_grad()
    def restore(self, state: Any) -> None:
        """Bring parameters, optimizer and `state` back."""
        live = self._live()
        if self._file is None:
            for tensor, kept in zip(live, self._copies, strict=True):
                tensor.copy_(kept)
        else:
            self._file.seek(0)
            for tensor in live:
                data = _bytes_of(tensor)
                if self._file.readinto(data) != len(data):  # type: ignore[attr-defined]
                    raise OSError("the temporary file with the last good state of the fit was cut short")
            increment_version(list(self.optimizer.parameters))  # their memory was written past autograd
        for name, value in asdict(self.state).items():
            setattr(state, name, value)

    def close(self) -> None:
        """Let go of what was kept."""
        self._copies = []
        if self._file is not None:
            self._file.close()
            self._file = None

    def _live(self) -> list[Tensor]:
        parameters = (one.detach() for one in self.optimizer.parameters)
        return [*parameters, *self.optimizer.state_tensors().values(), *self.beside]

    def _write(self, live: list[Tensor]) -> bool:
        """To a new file, so that the one before stays whole until this one is; False where there is no room."""
        try:
            with ExitStack() as stack:
                file = stack.enter_context(tempfile.TemporaryFile(dir=self.folder))
                for tensor in live:
                    file.write(_bytes_of(tensor))
                file.flush()
                stack.pop_all()
        except OSError:
            return False
        self.close()
        self._file = file
        return True


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor itself, not a copy."""
    return tensor.view(-1).view(torch.uint8).numpy().data
