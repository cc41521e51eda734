"""A scene fit on the stand-in of tests/far.py: nothing is mixed, the host seldom waits, the step is the CPU's."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from far import FarDevice
from stand_in import numbers, scene_on_the_stand_in

import fieldforge.apps.fit.job
from fieldforge.apps.bench.scene import ball
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.scene.job import SceneJob
from fieldforge.apps.fit.scene.options import SceneOptions
from fieldforge.apps.fit.scene.rays import RayDraw
from fieldforge.apps.fit.scene.space import settled
from fieldforge.apps.fit.scene.step import SceneStep, scene_step
from fieldforge.backends import use_backend

OVERRIDES = (
    "encoding.n_levels=2", "encoding.log2_hashmap_size=8", "fit.batch_size=256", "fit.occupancy=8",
    "fit.samples_across=24", "fit.update_every=4", "rgb_network.n_neurons=16", "network.n_neurons=16",
)  # fmt: skip


def a_step(far: FarDevice | None = None) -> SceneStep:
    with torch.device("cpu"):
        job = SceneJob(ball(8))
        config, _ = job.run_config(Plan(overrides=OVERRIDES, steps=40))
        field = job.make_field(config, 0)
    if far is not None:
        field = far.bring(field)
    options = settled(SceneOptions.of(config["fit"]), job.scene)
    draw = RayDraw(job.scene, job.train, background=None, seed=0)
    return scene_step(field, draw, config, options, closes=False)  # a whole fit closes cells


def test_a_step_of_a_scene_waits_for_two_sizes_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many samples lie in occupied cells, which the kernel of marching asks for, and how many of them are seen."""
    with scene_on_the_stand_in(monkeypatch) as far:
        with far.door():
            step = a_step(far)
            step(0, 1.0)
        found = []
        for number in range(1, 6):
            with far.door(), far.waits() as waits:
                step(number, 1.0)
            found.append(Counter(waits))
    ordinary = Counter(["renderers/samples.py keep: nonzero"])
    assert found[:3] == [ordinary] * 3
    assert found[4] == ordinary
    looks = found[3]  # the grid is looked at, and losses are read, every fourth step here, every 16th otherwise
    assert looks["apps/fit/on_device.py _read: to the host"] == 1
    assert sum(looks.values()) < 16


def test_a_step_of_a_scene_on_a_device_is_the_step_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with use_backend("reference"):
        here = a_step()
        expected = [here(number, 1.0) for number in range(3)]
    with scene_on_the_stand_in(monkeypatch) as far, far.door():
        there = a_step(far)
        found = [there.figures(number, 1.0) for number in range(3)]
        parameters = [numbers(one.data) for one in there.field.parameters()]
    for row, (loss, error) in zip(found, expected, strict=True):
        np.testing.assert_allclose(numbers(row).numpy(), [loss, error], rtol=1e-4)
    assert there.counters.tolist() == here.counters.tolist()
    for one, other in zip(parameters, here.field.parameters(), strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-3, atol=1e-5)


def test_a_bad_loss_is_told_before_the_grid_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    with scene_on_the_stand_in(monkeypatch) as far, far.door():
        step = a_step(far)
        told = [step(number, 1.0)[0] for number in range(3)]
        before = numbers(step.grid.density).clone()
        with torch.no_grad():
            for parameter in step.field.rgb_network.parameters():
                parameter.data.mul_(float("nan"))
        told += [step(number, 1.0)[0] for number in (3, 4)]
        assert np.isfinite(told[:4]).all()
        assert not np.isfinite(told[4])
        assert torch.equal(numbers(step.grid.density), before)


def test_a_whole_fit_of_a_scene_stays_on_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    job = SceneJob(ball(8))
    with scene_on_the_stand_in(monkeypatch) as far, far.door():
        monkeypatch.setattr(fieldforge.apps.fit.job, "round_to", lambda field, storage: None)
        result = job.run(Plan(overrides=OVERRIDES, steps=6, progress="quiet", device="cuda"))
    assert result.state.stopped_by == "steps"
    assert 5 < result.psnr < 40
