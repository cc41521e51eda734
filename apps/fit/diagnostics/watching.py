"""Diagnostics while a fit goes on: asked before every K-th step and at the end, kept as rows.

Training is the same bits with and without them: they read parameters, and the random state is put back.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fieldforge.apps.fit.diagnostics.base import Diagnostic
from fieldforge.apps.fit.loop import Step
from fieldforge.apps.fit.slices import Slice
from fieldforge.apps.fit.stages import only_asked
from fieldforge.fields.kinds.base import Field
from fieldforge.registry import build

MOST_BYTES = 2**28
"""Of a file of rows that is read again."""


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Inside the block anything may draw random numbers; after it torch, NumPy and Python go on as if nothing had."""
    of_numpy, of_python = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_available() else []):
        try:
            yield
        finally:
            np.random.set_state(of_numpy)
            random.setstate(of_python)


def named(names: Sequence[str]) -> dict[str, Diagnostic]:
    """Diagnostics by the names given: any case of letters, with or without underscores.

    Raises:
        ConfigError: there is none of that name.

    Example:
        >>> named(["mean_frequency"])["mean_frequency"].otype
        'MeanFrequency'
    """
    return {name: build("diagnostic", name.replace("_", "").replace("-", ""), path="diagnose") for name in names}


class Watch:
    """Asks diagnostics of a field now and then.

    Args:
        diagnostics: by name.
        field: whose parameters move.
        grid: where to look.
        every: steps between rows.
        path: JSON lines to write, one row each; None writes none.
        resume: go on after the rows that stand in the file.
    """

    def __init__(
        self,
        diagnostics: Mapping[str, Diagnostic],
        field: Field,
        grid: Slice,
        *,
        every: int,
        path: Path | None = None,
        resume: bool = False,
    ) -> None:
        self.diagnostics, self.field, self.grid, self.every, self.path = diagnostics, field, grid, every, path
        self._rows: dict[int, dict[str, Any]] = {}
        if resume and path is not None and path.exists() and path.stat().st_size <= MOST_BYTES:
            kept = [json.loads(line) for line in path.read_text().splitlines()]
            self._rows = {int(row["step"]): row for row in kept}

    @property
    def rows(self) -> list[dict[str, Any]]:
        """``{"step": ..., name: {...}, ...}``, by step."""
        return [self._rows[step] for step in sorted(self._rows)]

    def look(self, step: int) -> None:
        """Ask everything of the field as it is after `step` steps; rows of later steps are forgotten.

        Raises:
            ValueError: a diagnostic cannot be had of this field.
        """
        row: dict[str, Any] = {"step": step}
        with random_state_kept(), only_asked(self.field):
            for name, diagnostic in self.diagnostics.items():
                row[name] = _plain(diagnostic(self.field, self.grid))
        self._rows = {at: kept for at, kept in self._rows.items() if at < step} | {step: row}
        if self.path is not None:
            self.path.write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in self.rows))

    def around(self, advance: Step) -> Step:
        """A training step that looks first, where a row is due."""

        def step(step: int, factor: float) -> tuple[float, float]:
            if step % self.every == 0:
                self.look(step)
            return advance(step, factor)

        return step


def _plain(value: Any) -> Any:
    """Numbers that JSON has: infinite ones and NaN are null, seven digits are kept."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return value
