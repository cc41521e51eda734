"""Parts of a field that change while it is trained: when they are told, and that resuming forgets nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fieldforge.apps.bench.scene import ball
from fieldforge.apps.fit.image.job import fit
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.loop import State
from fieldforge.apps.fit.scene.job import SceneJob
from fieldforge.apps.fit.snapshot import Snapshot
from fieldforge.apps.fit.stages import Stages
from fieldforge.fields.file import load_field
from fieldforge.fields.kinds.shape import SDFField
from fieldforge.fields.networks.kan import KAN
from fieldforge.fields.networks.residual import ResidualMLP
from fieldforge.fields.networks.skan import SKAN
from fieldforge.registry import ConfigError, build

PICTURE = np.random.default_rng(0).random((12, 12, 3))
IDENTITY = {"otype": "Identity", "scale": 2.0, "offset": -1.0}
NETWORKS: dict[str, dict[str, Any]] = {
    "KAN": {"otype": "KAN", "n_neurons": 4, "n_hidden_layers": 1, "update_every": 3, "update_until": 12},
    "SKAN": {"otype": "SKAN", "n_neurons": 3, "n_hidden_layers": 1, "bases": ["b_spline", "silu"]},
    "ResidualMLP": {"otype": "ResidualMLP", "n_neurons": 8, "n_inner": 4, "n_blocks": 2},
}


def run(network: dict[str, Any], **plan: Any) -> Any:
    config = {
        "encoding": IDENTITY,
        "network": network,
        "loss": {"otype": "L2"},
        "optimizer": {"otype": "Adam", "learning_rate": 1e-2},
        "schedule": {"otype": "Constant"},
        "fit": {"n_steps": 20, "batch_size": 64, "storage": "float32"},
    }
    return fit(PICTURE, config=config, progress="quiet", **plan)


class Told(nn.Module):
    """Remembers when it was told of a step, and in which mode it was."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("scratch", torch.zeros(()), persistent=False)
        self.inner = nn.BatchNorm1d(2)
        self.steps: list[tuple[int, int, bool]] = []
        self.eval()

    def on_step(self, step: int, n_steps: int) -> None:
        self.steps.append((step, n_steps, self.inner.training))


def test_a_part_is_in_training_mode_for_the_length_of_a_step() -> None:
    told = Told()
    stages = Stages(nn.Sequential(nn.BatchNorm1d(3), told))
    with stages.at(4, 9):
        assert told.training
    assert told.steps == [(4, 9, True)]
    assert not told.training
    assert not told.inner.training


def test_what_a_file_holds_of_such_a_part_is_its_state() -> None:
    """Not its scratch buffers, and nothing of parts that are told nothing."""
    stages = Stages(nn.Sequential(nn.BatchNorm1d(3), Told()))
    inner = [f"1.inner.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")]
    assert sorted(stages.buffers) == sorted(["1.count", *inner])
    assert next(iter(Stages(Told()).buffers)) == "count"


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_stepping_back_brings_buffers_back(where: str, tmp_path: Path) -> None:
    class Nothing:
        parameters: tuple[nn.Parameter, ...] = (nn.Parameter(torch.zeros(2)),)

        def state_tensors(self) -> dict[str, Tensor]:
            return {}

    buffer = torch.arange(3.0)
    large = 2**30 if where == "memory" else 1
    snapshot = Snapshot(Nothing(), State(1), beside=[buffer], folder=tmp_path, large=large)  # type: ignore[arg-type]
    buffer.zero_()
    snapshot.restore(State())
    assert buffer.tolist() == [0, 1, 2]
    snapshot.close()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_resumed_fit_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    """Interrupted between two movements of knots, in the second phase, between statistics."""
    whole = run(NETWORKS[name])

    def interrupt(step: int, per_sample_loss: Tensor) -> None:
        if step == 10:
            os.kill(os.getpid(), signal.SIGINT)

    path = tmp_path / "a.field"
    first = run(NETWORKS[name], output=path, hooks=[interrupt])
    assert first.state.stopped_by == "signal"
    second = run(NETWORKS[name], output=path, resume=True)
    assert second.state.step == whole.state.step
    expected, got = whole.field.state_dict(), second.field.state_dict()
    assert all(torch.equal(got[key], tensor) for key, tensor in expected.items())
    assert second.state.history == whole.state.history


@pytest.mark.parametrize("name", NETWORKS)
def test_a_finished_field_is_what_its_file_says(name: str, tmp_path: Path) -> None:
    """Knots, choices and statistics are in it, and reading it twice is the same function."""
    fitted = run(NETWORKS[name], output=tmp_path / "a.field").field
    points = torch.rand(7, 2) * 12
    loaded, _ = load_field(tmp_path / "a.field")
    torch.testing.assert_close(loaded(points), fitted(points))
    torch.testing.assert_close(torch.stack([loaded(point) for point in points]), loaded(points))


def test_the_loop_moves_knots_selects_bases_and_counts_statistics() -> None:
    kan = run(NETWORKS["KAN"]).field.network
    assert isinstance(kan, KAN)
    fresh = KAN(2, 3, n_neurons=4, n_hidden_layers=1)
    assert not torch.equal(kan.layers[0].knots, fresh.layers[0].knots)
    still = run(NETWORKS["KAN"] | {"update_every": 0}).field.network
    assert torch.equal(still.layers[0].knots, fresh.layers[0].knots)
    skan = run(NETWORKS["SKAN"]).field.network
    assert isinstance(skan, SKAN)
    assert all(int(layer.chosen.min()) >= 0 for layer in skan.layers)
    residual = run(NETWORKS["ResidualMLP"]).field.network
    assert isinstance(residual, ResidualMLP)
    assert float(residual.norms[0].variance.sub(1).abs().max()) > 0.1


def test_statistics_of_a_batch_are_refused_where_slopes_are_asked_for() -> None:
    loss = build("loss", "IGR")
    network = NETWORKS["ResidualMLP"] | {"activation": "Softplus"}
    assert "network.norm=layer" in loss.refuses(SDFField(encoding="Identity", network=network))
    assert loss.refuses(SDFField(encoding="Identity", network=network | {"norm": "layer"})) == ""


def test_statistics_of_a_batch_are_refused_in_scenes() -> None:
    with pytest.raises(ConfigError, match=r"network\.norm: statistics of a batch mean little in a scene"):
        SceneJob(ball()).run(Plan(overrides=["network.otype=ResidualMLP"], steps=1, progress="quiet"))
