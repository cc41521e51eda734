"""The native step of a field with cells is the plain one, and takes no gradient of all networks at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fieldforge.apps.fit.image.job import ImageJob
from fieldforge.apps.fit.in_cells import CellsStep
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.loop import PlainStep
from fieldforge.apps.render.radiance import asked_along
from fieldforge.backends import use_backend
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.kernels import cpu_door

needs_native = pytest.mark.skipif(cpu_door.missing() is not None, reason=f"no native kernels: {cpu_door.missing()}")
PICTURE = np.random.default_rng(0).integers(0, 256, (60, 44, 3), dtype=np.uint8)
SMALL = ("network.n_neurons=8", "fit.batch_size=700", "partition.resolution=[3,5]")


def course(backend: str, overrides: Any = (), n_steps: int = 6, hooks: Any = ()) -> tuple[Any, list[float], Any, str]:
    """The field after some steps, losses, who made them, and why not the other."""
    job = ImageJob(PICTURE)
    with use_backend(backend):
        config, _ = job.run_config(Plan(preset="kilonerf", overrides=[*SMALL, *overrides]))
        field = job.make_field(config, 0)
        with job.training(field, config, 0, hooks) as (advance, _, reason):
            losses = [advance(step, 1.0 / (1 + step))[0] for step in range(n_steps)]
    return field, losses, advance, reason


@needs_native
@pytest.mark.parametrize("overrides", [
    [],
    ["partition={otype='KDTree', resolution=2, splits=[[0, 1], [4, 0]]}", "fit.jitter=0.5"],
    ["loss.otype='Huber'", "loss.delta=0.1", "optimizer.l2_reg=1e-3"],
    ["loss.otype='RelativeL1'", "encoding={otype='Identity'}", "fit.batch_size=9"],
    ["optimizer={otype='ExponentialDecay', decay_start=2, decay_interval=1, decay_base=0.5, "
     "nested={otype='Adam', learning_rate=1e-2, beta2=0.99}}"],
])  # fmt: skip
def test_the_native_step_is_the_plain_one(overrides: list[str]) -> None:
    """Also where a batch has fewer points than there are cells, whose networks then move by their moments."""
    ours, losses, step, reason = course("auto", overrides)
    theirs, expected, plain, _ = course("reference", overrides)
    assert isinstance(step, CellsStep), reason
    assert isinstance(plain, PlainStep)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        close = torch.isclose(one, other, rtol=1e-3, atol=3e-4)  # Adam divides by what may be rounding alone
        assert close.double().mean() > 0.99
        assert torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.9999


@needs_native
@pytest.mark.parametrize(("overrides", "said"), [
    (["network={otype='FAN', n_neurons=8}"], "stack of FANs"),
    (["encoding={otype='HashGrid', n_levels=2, log2_hashmap_size=5}"], "encoding with parameters of its own"),
    (["optimizer={otype='SGD'}"], "SGD moves otherwise than by plain Adam"),
    (["optimizer={otype='EMA', nested={otype='Adam'}}"], "averages"),
    (["optimizer.relative_decay=0.1"], "otherwise than by plain Adam"),
    (["optimizer={otype='Shampoo'}"], "PyTorch only"),
])  # fmt: skip
def test_the_reason_for_a_plain_step_is_said(overrides: list[str], said: str) -> None:
    _, losses, step, reason = course("auto", overrides, n_steps=2)
    assert isinstance(step, PlainStep)
    assert said in reason
    assert np.isfinite(losses).all()


def test_hooks_see_every_sample_and_so_take_the_plain_step() -> None:
    seen: list[int] = []
    _, _, step, _ = course("auto", n_steps=2, hooks=[lambda step, loss: seen.append(len(loss))])
    assert isinstance(step, PlainStep)
    assert seen == [700, 700]


@needs_native
def test_plain_can_go_on_where_native_stopped() -> None:
    """Moments and counters are the optimizer's own."""
    job = ImageJob(PICTURE)
    config, _ = job.run_config(Plan(preset="kilonerf", overrides=list(SMALL)))
    ends = []
    for backends in (["auto"] * 6, ["auto"] * 3 + ["reference"] * 3):
        field = job.make_field(config, 0)
        with job.training(field, config, 0, ()) as (first, optimizer, _):
            pass
        assert isinstance(first, CellsStep)
        with use_backend("reference"), job.training(field, config, 0, ()) as (plain, other, _):
            pass
        for step, backend in enumerate(backends):
            if backend == "auto":
                first(step, 1.0)
                continue
            if other.n_steps_done == 0:
                other.load_state_tensors({name: one.clone() for name, one in optimizer.state_tensors().items()})
            plain(step, 1.0)
        ends.append(torch.cat([parameter.detach().flatten() for parameter in field.parameters()]))
    assert torch.nn.functional.cosine_similarity(*ends, dim=0) > 0.9999


def test_directions_that_are_read_once_a_ray_say_what_those_of_samples_do() -> None:
    network = {"otype": "MLP", "n_neurons": 8, "n_hidden_layers": 1, "has_bias": True}
    scene = RadianceField(
        encoding={"otype": "Frequency", "n_frequencies": 2}, network=network, rgb_network=network, n_geometry=4,
        partition={"otype": "UniformGrid", "resolution": 3}, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    points, along = torch.rand(40, 3, generator=generator) * 2 - 1, torch.randn(8, 3, generator=generator)
    along, rays = torch.nn.functional.normalize(along, dim=-1), torch.arange(40) // 5
    (of_samples, density), (of_rays, other) = asked_along(scene), asked_along(scene, along=along)
    for mine, wanted in zip(of_rays(points, along[rays], rays), of_samples(points, along[rays], rays), strict=True):
        torch.testing.assert_close(mine, wanted)
    torch.testing.assert_close(other(points, rays), density(points, rays))
    torch.testing.assert_close(other(points, rays), scene.density_of(*scene.geometry(points)))
