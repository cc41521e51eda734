"""``--tune cells``: cells of a partition where the signal needs them.

The released code of KiloNeRF (Reiser et al., ICCV 2021) can grow a kd-tree of cells: in a phase of discovery networks
are fitted for a while, cells whose error stays above a bound are halved across their longest side, and in the end all
networks are trained anew. The paper keeps a uniform grid. Here there is no bound to choose: discovery begins with half
as many cells along each axis, halves those that add more than their share to the error of the whole, and ends with as
many networks as the grid would have had. From round to round a network goes on where it was, and the halves of a cell
begin with the network of the whole (`fieldforge.fields.partitions.inheritance`); there they begin anew.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fieldforge.apps.fit.loop import settle
from fieldforge.apps.fit.recipe import Config
from fieldforge.fields.kinds.base import Field
from fieldforge.fields.partitions.base import Partition
from fieldforge.fields.partitions.inheritance import inherit
from fieldforge.fields.partitions.kd_tree import KDTree, split_worst
from fieldforge.registry import ConfigError, build

if TYPE_CHECKING:
    from fieldforge.apps.fit.job import Job

ROUND = 1 / 16
"""Of the steps of a fit, that a round of discovery takes."""
FEWEST, MOST_ROUNDS = 20, 12
SAMPLES = 64
"""Of the signal for each cell, to measure errors; 2^14 at least and 2^20 at most of all."""


def choose_cells(job: Job[Any], config: Config, seed: int) -> tuple[Config, str, dict[str, Any]]:
    """The configuration with a tree of as many cells as its partition has, where they are needed.

    Args:
        job: the signal, with `Job.samples`.
        config: complete, with a partition.
        seed: of fields and samples.

    Returns:
        The configuration, a sentence, and a record for the header of the file.

    Raises:
        ConfigError: the configuration has no partition, or the signal no samples.
    """
    if not config.get("partition"):
        raise ConfigError("partition: --tune cells splits cells, and there are none here; --preset kilonerf has cells")
    whole = job.make_field(config, seed)
    assert whole.partition is not None
    n_cells, sides = whole.partition.n_cells, [b - a for a, b in zip(*whole.box, strict=True)]
    points, values = job.samples(min(2**20, max(2**14, SAMPLES * n_cells)), seed)
    half = [-(-n // 2) for n in whole.partition.resolution]
    partition: Partition = KDTree(whole.n_input_dims, resolution=half)
    n_steps = max(FEWEST, round(ROUND * config["fit"]["n_steps"]))
    sizes: list[int] = []
    halves, field, parent = "", None, torch.empty(0, dtype=torch.int64)
    while partition.n_cells < n_cells and len(sizes) < MOST_ROUNDS:
        sizes.append(partition.n_cells)
        tried = config | {"partition": partition.config()}
        made = job.make_field(tried, seed)
        if field is not None:
            halves = inherit(made, field, parent)
        field = fitted_for(job, made, tried, seed, n_steps)
        errors = error_of_cells(field, points, values)
        partition, parent = split_worst(partition, errors, float(errors.nanmean()), sides=sides, max_cells=n_cells)
        if partition.n_cells == sizes[-1]:
            break
    found = config | {"partition": partition.config()}
    record = {"method": "cells", "n_cells": [*sizes, partition.n_cells], "n_steps": n_steps}
    sentence = (
        f"cells: from {math.prod(half)} to {partition.n_cells} in {len(sizes)} rounds of {n_steps} steps, halved where "
        "the error is"
    )
    if halves:
        sentence += f"; halves began with the numbers of the whole, not as the same function: {halves}"
    return found, sentence, record


def fitted_for(job: Job[Any], made: Any, config: Config, seed: int, n_steps: int) -> Any:
    """A field after so many steps of its configuration, with a schedule of that length."""
    schedule = build("schedule", config["schedule"], path="schedule")
    with job.training(made, config, seed, ()) as training:
        for step in range(n_steps):
            loss, _ = training.advance(step, schedule(step, n_steps))
            if not math.isfinite(loss):
                break
        settle(training.optimizer)
    return made


@torch.no_grad()
def error_of_cells(field: Field, points: Tensor, values: Tensor) -> Tensor:
    """What each cell adds to the squared error of the whole, (n_cells,) float64; NaN of cells without samples.

    Args:
        field: with a partition.
        points: (N, d) in the world.
        values: (N, ...) what the field should say there.
    """
    assert field.partition is not None
    squared = torch.cat([
        (field(some) - wanted).double().square().flatten(1).sum(1) if wanted.ndim > 1
        else (field(some) - wanted).double().square()
        for some, wanted in zip(points.split(2**16), values.split(2**16), strict=True)
    ])  # fmt: skip
    cell, _ = field.partition.locate(field.to_unit(points))
    n = field.partition.n_cells
    counts = torch.bincount(cell, minlength=n)
    sums = torch.zeros(n, dtype=torch.float64).index_add_(0, cell, squared)
    low, high = field.partition.boxes()
    return torch.where(counts > 0, sums / counts * (high - low).prod(1), math.nan)
