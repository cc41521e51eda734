"""Scenes of many small networks: how they are rendered, and what keeps their colours in hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fieldforge.apps.bench import convert_kilonerf
from fieldforge.apps.bench.scene import ball
from fieldforge.apps.cli import main
from fieldforge.apps.fit.regularizers.view_branch import ViewBranchNorm
from fieldforge.apps.fit.scene.presets import Seen, preset
from fieldforge.apps.render.radiance import Eye, eye_of
from fieldforge.apps.render.tally import Tally
from fieldforge.backends import use_backend
from fieldforge.fields.cost import cost_of
from fieldforge.fields.file import save_field
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.registry import build
from fieldforge.renderers.cameras import look_at
from fieldforge.renderers.occupancy import OccupancyGrid

RAYS = look_at((0.4, -3, 1), (0, 0, 0), width=16, height=16).rays()
NETWORK = {"otype": "MLP", "n_neurons": 8, "n_hidden_layers": 1, "has_bias": True}


def field(partition: Any = "UniformGrid", *, occupancy: int = 0, thick: float = 3.0, **more: Any) -> RadianceField:
    """Every cell of its own density and colour."""
    generator = torch.Generator().manual_seed(0)
    made = RadianceField(
        encoding={"otype": "Frequency", "n_frequencies": 2}, network=NETWORK, n_geometry=4, partition=partition,
        rgb_network=NETWORK | {"output_activation": "Sigmoid"}, occupancy=occupancy, generator=generator, **more,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator)
        if made.partition is not None:
            made.network.mlp.biases[-1][:, 0] += thick  # type: ignore[union-attr,index]
    return made.requires_grad_(False)


def looked(made: RadianceField, engine: str, **options: Any) -> tuple[Eye, Any]:
    grid = OccupancyGrid.from_cells(
        torch.rand(8, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.5, (-1, -1, -1), (1, 1, 1)
    )
    eye = Eye(made, grid, step=0.05, engine=engine, **options)
    return eye, eye(*RAYS)


def test_engines_see_the_same() -> None:
    made = field()
    (_, whole), (_, passes) = looked(made, "occupied", early_stop=0.0), looked(made, "passes", early_stop=0.0)
    torch.testing.assert_close(passes.color, whole.color, rtol=1e-4, atol=1e-4)
    _, quick = looked(made, "passes", early_stop=0.01)
    assert (quick.color - whole.color).abs().max() < 0.01
    assert quick.n_evaluated < whole.n_evaluated
    assert looked(made, "auto")[0].engine == "passes"
    assert looked(field(None), "auto")[0].engine == "occupied"


def test_the_dense_engine_looks_everywhere() -> None:
    made = field()
    eye, seen = looked(made, "dense")
    cost = cost_of(made)
    assert cost is not None
    assert seen.n_marched == seen.n_evaluated
    assert seen.n_evaluated > 1.5 * looked(made, "passes", early_stop=0.0)[1].n_evaluated
    assert eye.multiply_adds(seen) == seen.n_evaluated * sum(cost)


def test_the_multiply_adds_of_a_look_are_what_torch_counts() -> None:
    made = field()
    for engine in ("passes", "occupied", "dense"):
        with use_backend("reference"), FlopCounterMode(display=False) as counter:
            eye, seen = looked(made, engine)
        assert eye.multiply_adds(seen) == counter.get_total_flops() // 2


def test_a_tally_adds_up() -> None:
    eye = Eye(field(), step=0.1)
    tally = Tally(eye)
    origins, directions = RAYS
    parts = [tally(origins[rows], directions[rows]) for rows in (slice(0, 100), slice(100, 256))]
    found = tally.summary(1)
    assert found["samples_per_pixel"] == round(sum(part.n_evaluated for part in parts) / 256, 2)
    assert found["multiply_adds_per_pixel"] == round(sum(eye.multiply_adds(part) or 0 for part in parts) / 256)
    assert found["engine"] == "passes"
    assert tally.sentence(1).count("a second") == 1


def test_a_sample_takes_about_a_ninetieth_of_the_large_network() -> None:
    """A sample of the preset takes about a ninetieth of one of the large network; the rest of 300 is in skipping."""
    small = build("field", {"otype": "RadianceField"} | of_preset("kilonerf"), generator=torch.Generator())
    large = build("field", {"otype": "RadianceField"} | of_preset("vanilla-occupied"), generator=torch.Generator())
    costs = [sum(cost_of(one) or ()) for one in (small, large)]
    assert 80 < costs[1] / costs[0] < 110


def of_preset(name: str, longest: int = 100) -> dict[str, Any]:
    config = preset(name, Seen(longest, True, (1.0, 2.0, 1.25)))
    parts = ("partition", "encoding", "network", "dir_encoding", "rgb_network")
    return {part: config[part] for part in parts if part in config} | config.get("radiance", {})


def test_the_cells_of_the_preset_are_cubes_and_more_for_larger_photos() -> None:
    for longest, cells in ((100, [4, 8, 5]), (200, [6, 12, 8]), (800, [8, 16, 10])):
        found = of_preset("kilonerf", longest)["partition"]
        assert found == {"otype": "UniformGrid", "resolution": cells}


def test_the_penalty_is_of_norms_not_of_squares() -> None:
    made = field({"otype": "UniformGrid", "resolution": 2}).requires_grad_()
    penalty = ViewBranchNorm(weight=2.0)
    tensors = list(made.rgb_network.parameters())
    expected = 2 * sum(math.sqrt(float(one.detach().double().square().sum())) for one in tensors)
    assert float(penalty(made).detach()) == pytest.approx(expected, rel=1e-5)
    first = torch.autograd.grad(penalty(made), tensors)
    with torch.no_grad():
        for one in tensors:
            one *= 10
    for mine, other in zip(first, torch.autograd.grad(penalty(made), tensors), strict=True):
        torch.testing.assert_close(mine, other)
        assert float(mine.norm()) == pytest.approx(2.0, rel=1e-4)
    with torch.no_grad():
        for one in tensors:
            one.zero_()
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(penalty(made), tensors))
    with pytest.raises(ValueError, match="needs a field whose rgb_network has parameters"):
        penalty(torch.nn.Linear(2, 2))


def test_an_engine_is_chosen_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.field"
    metadata = {"run": {"fit": {"samples_across": 32, "early_stop": 0.01}}}
    save_field(path, field({"otype": "UniformGrid", "resolution": 2}, occupancy=4), metadata=metadata)
    said = {}
    for engine in ("auto", "dense", "occupied"):
        command = ["render", str(path), "-o", str(tmp_path / f"{engine}.png"), "--size", "24x24", "--engine", engine]
        assert main(command) == 0
        said[engine] = capsys.readouterr().out
    assert "(passes)" in said["auto"]
    assert "(dense)" in said["dense"]
    assert "multiply-adds a pixel" in said["occupied"]
    assert (tmp_path / "auto.png").stat().st_size > 0
    with pytest.raises(ValueError, match="engine: expected one of auto, dense"):
        eye_of(field(), {}, "fast")
    assert json.loads(json.dumps(Tally(eye_of(field(), {})).summary(1)))["multiply_adds_per_pixel"] == 0


def test_teacher_and_student_are_looked_at_with_samples_of_one_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """A student's box may be smaller than its teacher's: samples then are fewer, not shorter."""
    monkeypatch.setattr(convert_kilonerf, "N_DENSE", 50)
    network = NETWORK | {"n_neurons": 64}
    teacher = RadianceField(encoding="Identity", network=network, rgb_network=network).requires_grad_(False)
    half = {"low": [-0.5, -0.5, -0.5], "high": [0.5, 0.5, 0.5]}
    rows = convert_kilonerf.kilonerf_rendering(teacher, field(**half), ball(), samples_across=32, n_views=1)
    dense, passes = (row.quality or {} for row in rows)
    assert dense["multiply_adds"] == pytest.approx(dense["samples"] * sum(cost_of(teacher) or ()))
    assert passes["less_time"] == pytest.approx(dense["seconds"] / passes["seconds"])
    assert passes["fewer_samples"] > 4
    assert 0 < dense["psnr"] < 60
    whole = convert_kilonerf.kilonerf_rendering(teacher, field(), ball(), samples_across=32, n_views=1)[1].quality or {}
    assert whole["samples"] > 2 * passes["samples"]
