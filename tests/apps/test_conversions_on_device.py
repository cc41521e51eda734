"""Conversions of scenes on the stand-in of tests/far.py: their numbers are the CPU's, and the host waits for sizes
alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from far import META, Far, FarDevice
from scene_files import ball
from stand_in import as_device, march_as_on_a_gpu, numbers

from fieldforge.apps.convert import points
from fieldforge.apps.convert import scene as scene_conversion
from fieldforge.apps.convert.job import conversion_of, convert
from fieldforge.apps.convert.rules import FEATURES, PIXELS, POINTS
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.render.radiance import new_grid
from fieldforge.backends import use_backend
from fieldforge.devices import working_on
from fieldforge.fields.file import load_field, save_field
from fieldforge.fields.kinds.radiance import RadianceField

LITTLE = ("fit.batch_size=128", "fit.samples_across=16", "fit.occupancy=8", "fit.storage=float32")
STUDENTS = {
    "hashgrid": ("encoding.n_levels=2", "encoding.log2_hashmap_size=8", "encoding.base_resolution=4"),
    "mlp": ("network.n_neurons=16", "network.n_hidden_layers=2", "encoding.n_frequencies=3"),
    "kilonerf": ("partition.resolution=[2, 2, 2]", "network.n_neurons=8", "encoding.n_frequencies=3",
                 "rgb_network.n_neurons=8"),
}  # fmt: skip
SEEN = "renderers/samples.py keep: nonzero"
"""How many samples are seen; how many there are, the kernel of marching asks for."""
N_STEPS = 5


@pytest.fixture(autouse=True)
def few_rays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_conversion, "N_MEASURED", 100)
    monkeypatch.setattr(scene_conversion, "N_LOOKED_AT", 50)
    monkeypatch.setattr(points, "PLACES", (0.5,))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ball of fog before a sky."""
    network = {"otype": "MLP", "n_neurons": 8, "n_hidden_layers": 1}
    field = RadianceField(
        encoding="Identity", network=network, n_geometry=6, dir_encoding={"otype": "SphericalHarmonics", "degree": 2},
        rgb_network=network | {"output_activation": "Sigmoid"}, occupancy=8, density_scale=6.0,
        background_network=network | {"output_activation": "Sigmoid"}, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    grid = new_grid(field, 8)
    middles = grid.points_in(torch.arange(512), torch.full((512, 3), 0.5))
    grid.density.view(-1).copy_((middles.norm(dim=-1) < 0.7).float())
    grid.repack(0.5)
    field.bricks.copy_(grid.bricks)
    path = tmp_path_factory.mktemp("teacher") / "fog.field"
    save_field(path, field, metadata={"signal": {"width": 24, "height": 24, "focal": 30.0, "distance": 4.0}})
    return path


@contextmanager
def scenes_as_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[FarDevice]:
    with as_device(monkeypatch) as far:
        march_as_on_a_gpu(monkeypatch)
        yield far


def a_job(teacher: Path, to: str, rules: tuple[str, ...], photos: Path | None = None) -> tuple[Any, Any, Any]:
    job = conversion_of(teacher, to, photos=photos, force=True)
    config, _ = job.run_config(Plan(preset=to, overrides=[*LITTLE, *STUDENTS[to], *rules], steps=N_STEPS))
    return job, config, job.make_field(config, 0)


FIFTHS = ("distillation.features=0.2", "distillation.points=0.4")
REMEMBERS = (*FIFTHS, "distillation.remembered=0.5", "distillation.points_weight=0.0")
EACH = {FEATURES: 1, POINTS: 1, PIXELS: 1}
CASES: dict[str, tuple[str, tuple[str, ...], bool, dict[int, int]]] = {
    "hashgrid": ("hashgrid", FIFTHS, False, EACH),
    "hashgrid with photos": ("hashgrid", FIFTHS, True, EACH),
    "mlp": ("mlp", FIFTHS, False, EACH),
    "kilonerf": ("kilonerf", REMEMBERS, False, {POINTS: 1, PIXELS: 2}),
}
"""Student, its rules, whether there are photos, and how often in a step of each stage is asked how many samples are
seen: twice where a teacher looks along new rays, and the student along these and others."""


@pytest.mark.parametrize("case", CASES)
def test_steps_are_those_of_the_cpu_and_wait_for_two_sizes(
    case: str, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to, rules, has_photos, n_looks = CASES[case]
    photos = ball(tmp_path / "ball.npz") if has_photos else None
    with use_backend("reference"):
        job, config, here = a_job(teacher, to, rules, photos)
        expected = []
        with job.training(here, config, 0, ()) as training:
            for number in range(N_STEPS):
                training.advance.on_step(number, N_STEPS)
                expected.append(training.advance(number, 1.0))
        counters = training.advance.counters.tolist()
    found, waited = [], dict[int, Counter[str]]()
    with scenes_as_device(monkeypatch) as far:
        job, config, there = a_job(teacher, to, rules, photos)
        with working_on(META), far.door():
            job.told.move(META)
            with job.training(far.bring(there), config, 0, ()) as training:
                step = training.advance
                for number in range(N_STEPS):
                    step.on_step(number, N_STEPS)
                    with far.waits() as waits:
                        found.append(step.figures(number, 1.0))
                    waited[step.stage] = Counter(waits)  # of the last of each
        assert step.counters.tolist() == counters
        for (name, one), other in zip(there.named_parameters(), here.parameters(), strict=True):
            torch.testing.assert_close(
                numbers(one.data), other.detach(), rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
            )
        assert torch.equal(numbers(there.bricks), here.bricks)
    for row, told in zip(found, expected, strict=True):
        torch.testing.assert_close(numbers(row), torch.tensor(told), rtol=1e-4, atol=1e-6)
    assert waited == {stage: {SEEN: n} for stage, n in n_looks.items()}


def test_a_whole_conversion_stays_on_its_device(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = ball(tmp_path / "ball.npz")
    overrides = [*LITTLE, *STUDENTS["kilonerf"], *REMEMBERS]
    plan: dict[str, Any] = {"photos": photos, "force": True, "steps": 3, "overrides": overrides, "progress": "quiet"}
    here = convert(teacher, "kilonerf", **plan, backend="reference")
    output = tmp_path / "there.field"
    with scenes_as_device(monkeypatch) as far, far.door():
        there = convert(teacher, "kilonerf", **plan, backend="reference", device="cuda", output=output)
        assert all(isinstance(one.data, Far) for one in there.field.parameters())
    assert there.figures == pytest.approx(here.figures, abs=1e-2)
    written, _ = load_field(output)
    for one, other in zip(written.parameters(), here.field.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
