"""Steps of the samplers Proposal and Hierarchical and of the space nerfpp on the stand-in of tests/far.py: what the
host waits for, that they come to what the CPU comes to, and that they can be recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from far import FarDevice
from stand_in import numbers, scene_on_the_stand_in

from fieldforge.apps.bench.scene import ball
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.on_device import N_WARM, Lagging, Recorded
from fieldforge.apps.fit.scene.job import SceneJob, sampler_of
from fieldforge.apps.fit.scene.options import SceneOptions
from fieldforge.apps.fit.scene.rays import RayDraw
from fieldforge.apps.fit.scene.samplers.base import StepParts
from fieldforge.apps.fit.scene.space import settled
from fieldforge.backends import use_backend

SMALL = [
    "encoding.n_levels=2", "encoding.log2_hashmap_size=8", "network.n_neurons=16", "rgb_network.n_neurons=16",
    "rgb_network.n_hidden_layers=1", "fit.batch_size=512", "fit.occupancy=8", "fit.samples_across=24",
    "fit.update_every=4",
]  # fmt: skip
PROPOSAL = [*SMALL, "sampler.n_samples=[8, 6, 5]", "sampler.resolutions=[16, 24]", "sampler.n_levels=2",
            "sampler.log2_hashmap_size=8", "sampler.annealing_steps=40"]  # fmt: skip
HIERARCHICAL = [*SMALL, "encoding.otype=HashGrid", "network.n_hidden_layers=1", "sampler.n_samples=[6, 7]",
                "dir_encoding.n_frequencies=2"]  # fmt: skip
SETTINGS: dict[str, tuple[str, list[str]]] = {
    "Proposal": ("proposal", PROPOSAL),
    "Hierarchical": ("vanilla", HIERARCHICAL),
    "nerfpp": ("balanced", [*SMALL, "fit.space=nerfpp"]),
}
FIXED = ["Proposal", "Hierarchical"]


def a_step(kind: str, *more: str, far: FarDevice | None = None) -> Any:
    preset, overrides = SETTINGS[kind]
    with torch.device("cpu"):
        job = SceneJob(ball(8))
        config, _ = job.run_config(Plan(preset=preset, overrides=[*overrides, *more], steps=40))
        field: Any = job.make_field(config, 0)
    field = field if far is None else far.bring(field)
    draw = RayDraw(job.scene, job.train[:1], background=None, seed=0)
    options = settled(SceneOptions.of(config["fit"]), job.scene)
    return sampler_of(config).step(field, StepParts(draw, config, options))


def as_there(step: Any) -> Any:
    """A step on the CPU as off it: every ray has samples, losses are read late."""
    step.late = Lagging(step)
    return step


@pytest.mark.parametrize(("kind", "space"), [("Proposal", "box"), ("Hierarchical", "box"), ("Proposal", "contraction")])
def test_where_every_ray_has_as_many_samples_nobody_waits(
    kind: str, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scene_on_the_stand_in(monkeypatch) as far:
        with far.door():
            step = a_step(kind, f"fit.space={space}", "ray_losses.distortion=0.01", far=far)
            step(0, 1.0)
        with far.door(numbers_only=True), far.waits() as waits:  # which the stand-ins of kernels read
            step(1, 1.0)
        assert waits == []


def test_a_step_inside_and_outside_waits_for_three_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of marching, which the kernel asks for, how many samples are seen, and how many rays go on outside. A bad
    loss is told before the grid is looked at."""
    ordinary = Counter(["renderers/samples.py keep: nonzero", "apps/render/inside_outside.py see: nonzero"])
    with scene_on_the_stand_in(monkeypatch) as far, far.door():
        step = a_step("nerfpp", far=far)
        step(0, 1.0)
        found = []
        for number in range(3, 6):
            with far.waits() as waits:
                step(number, 1.0)
            found.append(Counter(waits))
        before = numbers(step.grid.density).clone()
        with torch.no_grad():
            for parameter in step.field.outside_rgb_network.parameters():
                parameter.data.mul_(float("nan"))
        told = [step(number, 1.0)[0] for number in (7, 8)]
        assert [np.isfinite(loss) for loss in told] == [True, False]
        assert torch.equal(numbers(step.grid.density), before)
    assert found[0] == found[2] == ordinary
    # the grid is looked at every fourth step here: losses first, then which cells, what is there, and how much in all
    looks = [
        "apps/fit/on_device.py _read: to the host", "renderers/occupancy.py draw: nonzero",
        "renderers/occupancy.py _insert: .tolist()", "renderers/occupancy.py _means_of: .tolist()",
    ]  # fmt: skip
    assert found[1] == ordinary + Counter(looks)


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_step_on_a_device_is_the_step_of_the_cpu(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a contraction, where every ray has samples on the CPU too."""
    more = [] if kind == "nerfpp" else ["fit.space=contraction"]
    with use_backend("reference"):
        here = a_step(kind, *more)
        expected = [here(number, 1.0) for number in range(2)]
    with scene_on_the_stand_in(monkeypatch) as far, far.door():
        there = a_step(kind, *more, far=far)
        found = [there.figures(number, 1.0) for number in range(2)]
        parameters = [numbers(one.data) for one in there.field.parameters()]
    for row, (loss, error) in zip(found, expected, strict=True):
        np.testing.assert_allclose(numbers(row).numpy(), [loss, error], rtol=1e-4)
    assert there.counters.tolist() == here.counters.tolist()
    assert (there.n_marched, there.n_evaluated) == (here.n_marched, here.n_evaluated)
    for one, other in zip(parameters, here.field.parameters(), strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", FIXED)
def test_rays_that_miss_the_box_show_the_background_and_teach_nothing(kind: str) -> None:
    """Though they have samples: figures and gradients are those of the packed step, and only their count is not."""
    more = ["fit.space=box", "ray_losses.distortion=0.1", "fit.batch_size=2048"]
    with use_backend("reference"):
        packed, every = a_step(kind, *more), as_there(a_step(kind, *more))
        expected, found = packed(0, 1.0), every.figures(0, 1.0).tolist()
    assert packed.n_evaluated < 0.95 * every.n_evaluated
    assert found == pytest.approx(list(expected), rel=1e-5)
    for one, other in zip(every.optimizer.parameters, packed.optimizer.parameters, strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-7)


class Twice:
    """For `cuda_graph`: runs the passes warm and once more, then the same again for each replay."""

    def __init__(self) -> None:
        self.n_recorded = self.n_replayed = 0

    def __call__(self, passes: Callable[[], None]) -> Callable[[], None]:
        passes()
        passes()
        self.n_recorded += 1

        def replay() -> None:
            self.n_replayed += 1
            passes()

        return replay


@pytest.mark.parametrize("kind", FIXED)
def test_recorded_steps_are_the_steps_themselves(kind: str) -> None:
    """Whether proposals learn or not: two recordings, where only one moves them. The exponent on their weights goes
    on, and so does a regularizer that ends."""
    more = ["fit.space=box"]
    n_steps, n_before = (26, 10 + 2 * N_WARM) if kind == "Proposal" else (8, N_WARM + 1)
    with use_backend("reference"):
        eager, graphed = as_there(a_step(kind, *more)), as_there(a_step(kind, *more))
        recorder = Twice()
        graphed.recorded = Recorded(graphed.passes, list(graphed.optimizer.parameters), recorder)
        for step in range(n_steps):
            one, other = eager.figures(step, 1.0), graphed.figures(step, 1.0)
            assert torch.equal(one, other), step
            for a, b in zip(eager.optimizer.parameters, graphed.optimizer.parameters, strict=True):
                assert torch.equal(a, b), step
    assert not graphed.recorded.why_not
    assert recorder.n_recorded == graphed.recorded.n_recordings == (2 if kind == "Proposal" else 1)
    assert recorder.n_replayed >= n_steps - n_before
    assert eager.counters.tolist() == graphed.counters.tolist()


def test_a_step_that_cannot_be_recorded_says_why_and_goes_on() -> None:
    def refuse(passes: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    with use_backend("reference"):
        step = as_there(a_step("Hierarchical"))
        step.recorded = Recorded(step.passes, list(step.optimizer.parameters), refuse)
        losses = [float(step.figures(number, 1.0)[0]) for number in range(6)]
    assert step.recorded.why_not.startswith("it cannot be recorded: RuntimeError: operation not permitted")
    assert len(set(losses)) == 6


@pytest.mark.parametrize("kind", FIXED)
def test_how_many_rays_a_step_has_does_not_change_for_long(kind: str) -> None:
    """Or no recording could be replayed."""
    with use_backend("reference"):
        step = as_there(a_step(kind, "fit.space=box", "fit.batch_size=4096"))
        n_rays = []
        for number in range(8):
            step.figures(number, 1.0)
            n_rays.append(step.n_rays)
    assert n_rays[0] != n_rays[-1]
    assert len(set(n_rays[-3:])) == 1


@pytest.mark.parametrize("kind", FIXED)
def test_a_bad_loss_is_told_and_the_fit_steps_back(kind: str) -> None:
    """As steps that are read late do; the position among the pixels goes back with the parameters."""
    with use_backend("reference"):
        step = as_there(a_step(kind))
        step.late = Lagging(step, every=4)
        assert np.isfinite(step(0, 1.0)[0])
        kept = {name: tensor.clone() for name, tensor in step.optimizer.state_tensors().items()}
        good = [parameter.detach().clone() for parameter in step.optimizer.parameters]
        with torch.no_grad():
            step.field.field.rgb_network.layers[0].weight.fill_(torch.nan)
        told = [step(number, 1.0)[0] for number in range(1, 5)]
        assert np.isfinite(told[:3]).all()
        assert not np.isfinite(told[3])
        step.optimizer.load_state_tensors(kept)
        with torch.no_grad():
            for parameter, was in zip(step.optimizer.parameters, good, strict=True):
                parameter.copy_(was)
        assert np.isfinite(step(1, 0.5)[0])
