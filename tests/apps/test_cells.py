"""Cells go where the error is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fieldforge.apps.fit.image.job import ImageJob
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.tune.cells import error_of_cells
from fieldforge.fields.kinds.image import ImageField
from fieldforge.fields.partitions.kd_tree import KDTree
from fieldforge.registry import ConfigError, build

SMALL = ("network.n_neurons=8", "fit.batch_size=256", "fit.n_steps=160")


def busy_corner(n: int = 64) -> np.ndarray:
    """Grey, and in the last quarter of both axes noise."""
    picture = np.full((n, n, 3), 128, np.uint8)
    picture[3 * n // 4 :, 3 * n // 4 :] = np.random.default_rng(0).integers(0, 256, (n // 4, n // 4, 3))
    return picture


def plan(**more: Any) -> Plan:
    cells = "partition.resolution=[4,4]"
    return Plan(preset="kilonerf", overrides=[*SMALL, cells], tune="cells", progress="quiet", **more)


def test_cells_go_where_the_error_is() -> None:
    job = ImageJob(busy_corner())
    config, notices = job.run_config(plan())
    tree = build("partition", config["partition"], n_input_dims=2)
    assert isinstance(tree, KDTree)
    assert tree.n_cells == 16
    low, _ = tree.boxes()
    in_corner = (low >= 0.74).all(1)
    assert int(in_corner.sum()) >= 8, "a uniform grid has one cell there"
    (note,) = [note for note in notices if note.startswith("cells: from 4 to 16 in")]
    assert "halves began with the numbers of the whole" in note, "the preset reads frequencies"
    assert job.tuned is not None
    assert job.tuned["n_cells"][0] == 4
    assert job.run_config(plan())[0] == config, "one seed, one tree"


def test_the_error_of_the_whole_is_that_of_its_cells() -> None:
    field = ImageField(
        encoding="Identity", network={"otype": "MLP", "n_neurons": 4}, width=8, height=8,
        partition={"otype": "KDTree", "resolution": 2, "splits": [[0, 1]]},
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    y, x = torch.meshgrid(torch.arange(8) + 0.5, torch.arange(8) + 0.5, indexing="ij")
    points = torch.stack([x, y], -1).reshape(-1, 2)
    values = torch.rand(64, 3, generator=torch.Generator().manual_seed(1))
    errors = error_of_cells(field, points, values)
    whole = (field(points) - values).double().square().sum(1).mean()
    torch.testing.assert_close(errors.sum(), whole, rtol=1e-6, atol=0)
    assert error_of_cells(field, points[:1], values[:1]).isnan().sum() == 4


def test_without_cells_there_is_nothing_to_split() -> None:
    with pytest.raises(ConfigError, match="--preset kilonerf has cells"):
        ImageJob(busy_corner()).run_config(Plan(tune="cells"))
