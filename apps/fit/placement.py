"""Places of centres: what a fit tells encodings that stand where the signal needs them, before its first step.

A signal says where it has something to tell (`Job.places`): points of the unit cube, each with a weight, and
`place_centers` hands them to every `NeuRBF` of the field that wants them. Same seed, same places, so a fit that is
resumed begins with the same ones; they are of the field, and its file holds them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fieldforge.apps.fit.samplers import permute
from fieldforge.encodings.composite import Composite
from fieldforge.encodings.neurbf import NeuRBF
from fieldforge.registry import ConfigError

N_PLACES = 2**16
"""Points that a signal names at most."""
Places = Callable[[int], tuple[Tensor, Tensor]]
"""Seed -> points (n, d) of the unit cube and weights (n,)."""


def place_centers(field: nn.Module, places: Places, seed: int) -> None:
    """Move the centres of a field that follow the signal, in place; nothing where there are none.

    Args:
        field: whose encoding reads the points' coordinates.
        places: asked only if there are such centres.
        seed: same seed, same places.

    Raises:
        ConfigError: the signal does not say where, or centres stand where they do not see the places of the field.
    """
    wanting = {module for module in field.modules() if isinstance(module, NeuRBF) and module.placement == "Signal"}
    if not wanting:
        return
    encoding = getattr(field, "encoding", None)
    found = [] if encoding is None else [one for one in _reached(encoding) if one[0] in wanting]
    if len(found) < len(wanting):
        raise ConfigError(
            "placement: Signal is of a NeuRBF that is the encoding of the field, or a part of a Composite that is; "
            "elsewhere placement=Even"
        )
    points, weights = places(seed)
    for part, columns in found:
        part.place(points[:, columns], weights, generator=torch.Generator().manual_seed(seed))


def _reached(encoding: nn.Module, columns: Sequence[int] | None = None) -> Iterator[tuple[NeuRBF, list[int]]]:
    """Each NeuRBF, and which coordinates of the field it reads."""
    columns = list(range(int(encoding.n_input_dims))) if columns is None else list(columns)  # type: ignore[arg-type]
    if isinstance(encoding, NeuRBF):
        yield encoding, columns
    elif isinstance(encoding, Composite):
        for part, where in zip(encoding.parts, encoding.slices, strict=True):
            yield from _reached(part, columns[where])


def raster_places(values: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
    """Places of a signal on a regular grid, weighted by the length of its slope there.

    Args:
        values: (..., n_channels); the last axis before the channels is coordinate 0, as x is of a picture.
        seed: which samples are looked at where there are more than `N_PLACES`.
    """
    sizes, n_samples = values.shape[:-1], math.prod(values.shape[:-1])
    position = torch.arange(min(n_samples, N_PLACES))
    index = permute(position, n_samples, torch.full_like(position, seed))
    at = np.unravel_index(index.numpy(), sizes)
    squared = np.zeros(len(index))
    for axis, size in enumerate(sizes):
        far, near = (np.clip(at[axis] + step, 0, size - 1) for step in (1, -1))
        after, before = (values[(*at[:axis], one, *at[axis + 1 :])].astype(np.float64) for one in (far, near))
        squared += (((after - before) / np.maximum(far - near, 1)[:, None]) ** 2).sum(-1)
    points = np.stack([(at[axis] + 0.5) / sizes[axis] for axis in reversed(range(len(sizes)))], -1)
    return torch.from_numpy(points).float(), torch.from_numpy(np.sqrt(squared))
