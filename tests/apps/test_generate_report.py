"""The report tells replays from mixtures from new fields, and says so in a page that opens without a network."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fieldforge.apps.cli import main
from fieldforge.apps.generate.arms import averages, labels_drawn, sides_of
from fieldforge.apps.generate.features import shape_features
from fieldforge.apps.generate.figures import Figure, Nearest, Novelty, euclidean, novelty, quick_euclidean
from fieldforge.apps.generate.looks import looks_of
from fieldforge.apps.generate.nearest import NearestSearch
from fieldforge.apps.generate.report import ReportPlan, report
from fieldforge.apps.generate.sample import sample_rows
from fieldforge.apps.generate.verdict import judge, word_of
from fieldforge.fields.collection import Collection, layout_of
from fieldforge.fields.file import build_field
from fieldforge.fields.shards import write_collection
from fieldforge.fields.weightspace.layout import Layout
from fieldforge.fields.weightspace.model_file import save_model
from fieldforge.registry import build

MLP = {"otype": "MLP", "n_hidden_layers": 1, "has_bias": True}
PICTURE: dict[str, Any] = {
    "otype": "ImageField", "width": 6, "height": 5, "n_channels": 1, "output_scale": [0.1], "output_offset": [0.5],
    "encoding": {"otype": "Identity"}, "network": MLP | {"n_neurons": 4, "activation": "Tanh"},
}  # fmt: skip
SHAPE: dict[str, Any] = {
    "otype": "OccupancyField", "encoding": {"otype": "Identity"},
    "network": MLP | {"n_neurons": 6, "activation": "ReLU"},
}  # fmt: skip


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def written(folder: Path, config: dict[str, Any], rows: Tensor) -> Collection:
    n = len(rows)
    field = build_field(config)
    columns: dict[str, list[Any]] = {
        "name": [f"item{i}" for i in range(n)], "item": list(range(n)), "init": [0] * n, "init_seed": [5] * n,
        "attempt": [0] * n, "label": [None] * n, "quality": [30.0] * n, "source_sha256": ["0" * 64] * n,
        "split": [(i * 0.618034) % 1 for i in range(n)], "own": [None] * n,
    }  # fmt: skip
    body = {"field": field.config(), "layout": layout_of(field).pairs(), "init": {"policy": "shared"},
            "quality": "psnr", "identity": "x"}  # fmt: skip
    write_collection(folder, body, rows, columns, 50)
    return Collection(folder)


def pictures(n: int, seed: int = 0) -> Tensor:
    """Weights about one of two far places: no Gaussian is like them."""
    one, other = torch.randn(2, 17, generator=seeded(99)) * 2
    side = torch.rand(n, 1, generator=seeded(seed + 1000)) < 0.5
    return torch.where(side, one, other) + 0.2 * torch.randn(n, 17, generator=seeded(seed))


def octahedra(n: int, seed: int = 0) -> Tensor:
    """|x - cx| + |y - cy| + |z - cz| < r as six rectifiers, all scaled by 20."""
    random = torch.rand(n, 4, generator=seeded(seed))
    centres, radii = 0.4 + 0.2 * random[:, :3], 0.15 + 0.15 * random[:, 3:]
    axes = torch.cat([torch.eye(3), -torch.eye(3)])
    return torch.cat([axes.reshape(1, -1).expand(n, -1) * 20, -20 * centres @ axes.T, -torch.ones(n, 6), 20 * radii], 1)


def model_of(path: Path, fields: Collection, otype: str) -> Path:
    model = build("generator", otype, layout=fields.layout)
    model.fit(sides_of(fields).training)
    save_model(path, model, field=fields.config)
    return path


def test_pixels_are_those_of_the_field() -> None:
    field = build_field(PICTURE)
    rows = pictures(5)
    looks = looks_of(PICTURE, layout_of(field))
    seen = looks.see(rows)
    for row, outputs in zip(rows, seen.outputs, strict=True):
        field.load_state_dict(looks.layout.unflatten(row))
        x, y = np.meshgrid(np.arange(6) + 0.5, np.arange(5) + 0.5)
        points = torch.from_numpy(np.stack([x, y], -1).reshape(-1, 2)).float()
        torch.testing.assert_close(outputs, field.color(points).detach().clamp(0, 1).reshape(-1), rtol=0, atol=1e-6)
    looks._network = None  # one after another, as fields that are no plain MLPs
    torch.testing.assert_close(looks.see(rows).outputs, seen.outputs, rtol=0, atol=1e-6)
    broken = looks.see(torch.full((2, 17), torch.nan))
    assert broken.is_empty.all()


def test_surfaces_are_where_the_shape_ends() -> None:
    layout = layout_of(build_field(SHAPE))
    looks = looks_of(SHAPE, layout, resolution=32, n_points=300)
    rows = octahedra(3)
    rows = torch.cat([rows, rows[:1], rows[:1]])
    rows[4, -1] = -1.0  # of radius below 0: there is nothing
    seen = looks.see(rows, with_points=True)
    assert seen.points is not None
    assert seen.is_empty.tolist() == [False] * 4 + [True]
    assert seen.is_closed.tolist() == [True] * 4 + [False]
    for row, points, inside in zip(rows[:3], seen.points, seen.outputs, strict=False):
        centre, radius = -row[18:21] / 20, row[-1] / 20
        off = (points - centre).abs().sum(1) - radius
        assert float(off.abs().max()) < 1 / 32
        assert float(inside.double().mean()) == pytest.approx(4 / 3 * float(radius) ** 3, rel=0.15)
    assert torch.equal(seen.points[0], seen.points[3])
    distances = looks.distance(seen.outputs, seen.outputs)
    assert float(distances[0, 3]) == 0
    a, b = seen.outputs[0].bool(), seen.outputs[1].bool()
    assert float(distances[0, 1]) == pytest.approx(1 - float((a & b).sum() / (a | b).sum()), abs=1e-6)


def test_other_fields_are_refused() -> None:
    config = SHAPE | {"otype": "UDFField"}
    with pytest.raises(ValueError, match=r"^fields: expected ImageField, SDFField or OccupancyField.*got UDFField"):
        looks_of(config, layout_of(build_field(config)))


def test_the_nearest_are_found_in_pieces() -> None:
    """The second is of another item than the first, and an item's own fields do not count."""
    training, items = torch.randn(40, 3, generator=seeded()), [i // 2 for i in range(40)]
    samples, own = torch.randn(9, 3, generator=seeded(1)), [3] * 9
    search = NearestSearch(9, own)
    for first in range(0, 40, 7):
        search.add(euclidean(samples, training[first : first + 7]), first, items[first : first + 7])
    found = search.found()
    for place, row in enumerate(euclidean(samples, training).double().tolist()):
        ranked = sorted((d, i) for i, d in enumerate(row) if items[i] != 3)
        second = next(d for d, i in ranked if items[i] != items[ranked[0][1]])
        assert (found.first[place], found.which[place], found.second[place]) == (*ranked[0], second)


def test_quick_distances_are_the_distances() -> None:
    a, b = torch.randn(15, 50, generator=seeded()) + 10, torch.randn(17, 50, generator=seeded(1)) + 10
    torch.testing.assert_close(quick_euclidean(a, b), euclidean(a.double(), b.double()), rtol=1e-9, atol=0)
    assert float(quick_euclidean(a, a.clone()).diagonal().max()) == 0


def near(samples: Tensor, training: Tensor, own: bool = False) -> Nearest:
    search = NearestSearch(len(samples), range(len(samples)) if own else None)
    search.add(euclidean(samples, training), 0, range(len(training)))
    return search.found()


def test_the_rule_knows_what_it_has_to_know() -> None:
    """In 30 numbers: copies, noise on copies, a quarter of copies, mixtures, and fields of the same law."""
    training, fresh = torch.randn(400, 30, generator=seeded()), torch.randn(300, 30, generator=seeded(1))
    own = near(training, training, own=True)
    layout = Layout((("w", (30,)),))
    jitter = build("generator", "Jitter", layout=layout)
    jitter.fit(training)
    partly = torch.cat([training[:90], fresh[:210]])
    cases = {
        "replaying": (training[:300], sample_rows(jitter, 300, seed=0), partly),
        "interpolating": (averages(training, 300, 0), 0.7 * fresh),
        "new": (fresh, 2 * fresh),
    }
    for word, sets in cases.items():
        assert {word_of(novelty(near(one, training), own)) for one in sets} == {word}, word


def test_fields_that_are_alike_by_nature_are_no_replays() -> None:
    """Half of the training set is one blank picture, and so is half of what is held out; copies are more than that."""
    blank = torch.zeros(100, 6)
    training = torch.cat([blank, torch.randn(100, 6, generator=seeded())])
    fresh = torch.cat([blank, torch.randn(100, 6, generator=seeded(1))])
    own = near(training, training, own=True)
    assert word_of(novelty(near(fresh, training), own)) == "new"
    assert word_of(novelty(near(training, training), own)) == "replaying"


NEW = Novelty(ratio=1.0, nearer=0.5, quantile=1.0, below=0.05, copies=0.01, expected=0.01)


def test_one_space_is_enough_to_be_found_out() -> None:
    good, bad = Figure(0.52, 0.49, 0.55), Figure(0.81, 0.78, 0.84)
    copied, mixed = NEW._replace(copies=0.5, below=0.6), NEW._replace(nearer=0.7)
    assert judge({"weights": NEW, "pixels": NEW}, good, bad).is_good
    for spaces in ({"weights": NEW, "pixels": copied}, {"weights": copied, "pixels": mixed}):
        found = judge(spaces, good, bad)
        assert (found.word, found.is_good) == ("replaying", False)
        assert "says nothing of new ones" in found.sentence
    assert judge({"weights": mixed, "pixels": NEW}, good, bad).word == "interpolating"


def test_noise_is_new_and_not_good() -> None:
    bad = Figure(0.81, 0.78, 0.84)
    found = judge({"weights": NEW, "pixels": NEW}, bad, bad)
    assert (found.word, found.likeness, found.beats_gaussian, found.is_good) == ("new", "unlike", False, False)
    assert "unlike held-out fields" in found.sentence
    assert "no better than" in found.sentence
    lost = judge({"weights": NEW, "pixels": NEW}, Figure(0.5, 0.4, 0.6), bad, lost=0.3)
    assert (lost.word, lost.is_good) == ("new", False)
    assert "30.0% of the samples cannot be used" in lost.sentence
    assert judge({}, None).word == "nothing"


@pytest.fixture(scope="module")
def two_modes(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return written(tmp_path_factory.mktemp("fields") / "c", PICTURE, pictures(260))


def test_a_replaying_model_is_called_so_on_one_page(
    two_modes: Collection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = model_of(tmp_path / "subset.gen", two_modes, "Subset")
    assert main(["generate", "report", str(path), str(two_modes.path), "--seeds", "2"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Replaying: 100% of the samples are copies of training fields" in printed
    body = json.loads((tmp_path / "subset.report/report.json").read_text())
    assert body["seeds"] == [0, 1]
    assert body["n"] == 52
    arms = {one["name"]: one for one in body["arms"]}
    assert list(arms) == [
        "model", "Gaussian", "PCA Gaussian", "jitter", "training subset", "averages", "held-out fields",
    ]  # fmt: skip
    words = {name: one["verdict"]["word"] for name, one in arms.items()}
    assert (words["model"], words["training subset"]) == ("replaying", "replaying")
    assert words["held-out fields"] == "new"
    assert arms["Gaussian"]["verdict"]["is_good"] is False
    assert arms["Gaussian"]["figures"]["pixels"]["1-NNA"][0] > 0.65
    assert arms["Gaussian"]["verdict"]["likeness"] != "like"
    assert len(arms["model"]["figures_of_seeds"]) == 2
    assert len(arms["model"]["nearest"]["pixels"]["first"]) == 2 * body["n"]
    page = (tmp_path / "subset.report/report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)|url\(|@import', page)
    assert "data:image/png;base64," in page
    assert (tmp_path / "subset.report/report.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_gives_the_same_numbers(two_modes: Collection, tmp_path: Path) -> None:
    path = model_of(tmp_path / "g.gen", two_modes, "PCAGaussian")
    plans = [ReportPlan(output=tmp_path / str(k), n=20, progress="quiet") for k in range(2)]
    one, other = (report(path, two_modes.path, plan).body for plan in plans)
    for body in (one, other):
        del body["facts"]["seconds"], body["command"]
    assert one == other


def test_shapes_are_compared_by_their_surfaces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = octahedra(90)
    fields = written(tmp_path / "c", SHAPE, rows)
    model = build("generator", "Gaussian", layout=fields.layout)
    model.fit(rows)
    model.mean[-1] -= 3.5  # some of its radii are below 0
    save_model(tmp_path / "m.gen", model, field=fields.config)
    words = ["generate", "report", str(tmp_path / "m.gen"), str(fields.path), "-o", str(tmp_path / "r"), "--quick"]
    assert main([*words, "-n", "14", "--json"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    found = last["arms"]["model"]
    assert 0 < found["cannot_be_used"] < 14
    assert found["closed"] == pytest.approx(1 - found["cannot_be_used"] / 14)
    assert set(found["figures"]) == {"Chamfer", "earth mover's"}
    assert last["arms"]["training subset"]["closed"] == 1
    assert "cannot be used" in last["verdict"]["sentence"]


def test_shape_features_do_not_depend_on_the_order_of_bins() -> None:
    points = torch.rand(3, 200, 3, generator=seeded())
    found = shape_features(points)
    assert found.shape == (3, 25)
    torch.testing.assert_close(found[:, :3], points.double().mean(1))
    torch.testing.assert_close(found[:, 9:].sum(1), torch.ones(3, dtype=torch.float64))


def test_a_diffusion_is_drawn_as_it_draws_itself() -> None:
    layout = Layout((("w", (4, 3)), ("b", (4,))))
    denoiser = {"otype": "TokenTransformer", "width": 8, "n_layers": 1, "n_heads": 1}
    model = build("generator", {"otype": "WeightDiffusion", "denoiser": denoiser, "n_sampling_steps": 3}, layout=layout)
    model.fit(torch.randn(9, 16, generator=seeded()))
    shares: list[float] = []
    rows = sample_rows(model, 5, seed=7, observe=shares.append)
    torch.testing.assert_close(rows, model.sample(5, generator=seeded(7)))
    assert shares[-1] == 1
    assert len(shares) == 3


def test_labels_are_drawn_as_often_as_fields_have_them() -> None:
    found = labels_drawn(["a", 7, "c"], ["7"] * 30 + ["c"] * 10 + ["other", None], 4000, 0)
    assert found is not None
    counts = torch.bincount(found, minlength=3) / 4000
    torch.testing.assert_close(counts, torch.tensor([0.0, 0.75, 0.25]), rtol=0, atol=0.03)
    assert labels_drawn([], ["7"], 5, 0) is None


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    code = main(["generate", "report", *map(str, words)])
    return code, capsys.readouterr().err


def test_bad_input_is_named(two_modes: Collection, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_of(tmp_path / "m.gen", two_modes, "Subset")
    other = written(tmp_path / "wide", PICTURE | {"network": MLP | {"n_neurons": 5, "activation": "Tanh"}},
                    torch.randn(60, 21, generator=seeded()))  # fmt: skip
    code, said = refused(capsys, model, other.path)
    assert code == 1
    assert "17 numbers (network.layers.0.weight [4, 2]" in said
    assert "21 numbers (network.layers.0.weight [5, 2]" in said
    few = written(tmp_path / "few", PICTURE, pictures(20))
    code, said = refused(capsys, model, few.path)
    assert (code, "expected at least 10 held-out items" in said) == (2, True)
    code, said = refused(capsys, model, two_modes.path, "-n", 90)
    assert (code, "ask for fewer with -n" in said) == (2, True)
    code, said = refused(capsys, model, two_modes.path, "-n", 5)
    assert (code, "-n: expected 10 to 2000 samples, got 5" in said) == (2, True)
    (tmp_path / "text.gen").write_text("no model")
    code, said = refused(capsys, tmp_path / "text.gen", two_modes.path)
    assert (code, "text.gen" in said) == (1, True)
    classifier = build("weight_network", "FlatMLP", layout=two_modes.layout, n_output_dims=3)
    save_model(tmp_path / "c.gen", classifier, slot="weight_network", field=two_modes.config)
    code, said = refused(capsys, tmp_path / "c.gen", two_modes.path)
    assert (code, "network on weights, not a generator" in said) == (1, True)
    assert not (tmp_path / "c.report").exists()


def test_damaged_fields_are_left_out_aloud(tmp_path: Path) -> None:
    fields = written(tmp_path / "c", PICTURE, pictures(120))
    model = model_of(tmp_path / "m.gen", fields, "Gaussian")
    shard = tmp_path / "c/shard-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-4] + b"\x00\x00\xc0\x7f")
    made = report(model, tmp_path / "c", ReportPlan(progress="quiet"))
    assert len(made.body["left_out"]) == 1
    assert "item99" in made.body["left_out"][0]
    assert "item99" in (made.folder / "report.html").read_text()
