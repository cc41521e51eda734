"""Networks on weights, trained and asked from the command line: what they tell follows from the fields alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fieldforge.apps.cli import main
from fieldforge.apps.fit.collection.job import fit_collection
from fieldforge.apps.fit.loop import Progress
from fieldforge.apps.fit.progress import Silent
from fieldforge.apps.weights.data import open_parts
from fieldforge.apps.weights.embed import EmbeddingJob, EmbeddingPlan, load_embedder
from fieldforge.apps.weights.measure import interval
from fieldforge.apps.weights.retrieve import nearest
from fieldforge.apps.weights.train import ClassifierJob, ClassifierPlan, settle_norms, symmetries_of
from fieldforge.apps.weights.values import Values
from fieldforge.fields.collection import Collection
from fieldforge.fields.file import save_field
from fieldforge.fields.weightspace.model_file import load_model
from fieldforge.registry import build

SIDE, N = 6, 96
SMALL = ["network.n_neurons=6", "network.activation.omega=6"]


def stripes(n: int = N) -> np.ndarray:
    """(n, 6, 6) uint8: stripes along a row or along a column, at any place."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    wave = [np.cos(1.2 * (x if k % 2 else y) + random.uniform(0, 6.3)) for k in range(n)]
    return (127 + 120 * np.stack(wave)).astype(np.uint8)


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two fields of each of 96 pictures, initialisations of their own, and what they show."""
    folder = tmp_path_factory.mktemp("weights")
    np.savez(folder / "stripes.npz", images=stripes(), labels=np.arange(N) % 2)
    fit_collection(folder / "stripes.npz", folder / "fields", inits_per_item=2, steps=120, overrides=SMALL,
                   preset="tiny", progress="quiet")  # fmt: skip
    fit_collection(folder / "stripes.npz", folder / "shared", init="shared", steps=120, overrides=SMALL,
                   preset="tiny", progress="quiet")  # fmt: skip
    return folder


def trained(fields: Path, **plan: Any) -> Any:
    plan = {"steps": 150, "progress": "quiet", "overrides": TINY} | plan
    return ClassifierJob(Collection(fields / "fields"), ClassifierPlan(**plan)).run()


TINY = ["weight_network.nested.n_channels=16", "weight_network.nested.n_layers=2", "fit.batch_size=32",
        "optimizer.learning_rate=5e-3", "schedule.n_warmup_steps=10"]  # fmt: skip


def test_initialisations_of_an_item_are_on_one_side(fields: Path) -> None:
    parts = open_parts(Collection(fields / "fields"), has_labels=True, say=print)
    sides = [set(part.items.tolist()) for part in (parts.training, parts.validation, parts.test)]
    assert sum(map(len, sides)) == N
    assert set.union(*sides) == set(range(N))
    assert len(parts.training) == 2 * len(sides[0])
    fewer = open_parts(Collection(fields / "fields"), has_labels=True, say=print, inits=1)
    assert len(fewer.training) == len(sides[0])
    assert len(fewer.test) == len(parts.test)


def test_stripes_are_told_from_weights_in_whatever_order_and_with_whatever_signs(fields: Path) -> None:
    report = trained(fields, has_controls=True).report
    assert report["accuracy"] >= 0.85, report
    assert report["permuted"] == report["flipped"] == report["accuracy"]
    assert report["agree_permuted"] == report["agree_flipped"] == 1
    assert report["interval"][0] <= report["accuracy"] <= report["interval"][1]
    confusion = torch.tensor(report["confusion"])
    assert confusion.sum() == report["n_fields"]
    assert float(confusion.diagonal().sum() / confusion.sum()) == pytest.approx(report["accuracy"])
    assert set(report["controls"]) == {"flat", "flat-augmented"}
    assert {one["steps"] for one in report["controls"].values()} == {report["steps"]}


@pytest.mark.parametrize("model", ["neural-graph", "graph-transformer", "nfn", "dws", "rows"])
def test_every_model_trains(fields: Path, model: str) -> None:
    report = trained(fields, model=model, steps=2, overrides=["fit.batch_size=8"]).report
    assert report["steps"] == 2
    assert 0 <= report["accuracy"] <= 1
    if model != "rows":
        assert report["permuted"] == report["accuracy"]


def test_odd_graphs_answer_alike_for_other_signs_and_phases(fields: Path) -> None:
    collection = Collection(fields / "fields")
    network = build("weight_network", {"otype": "FoldedPhases", "activation": {"otype": "Sine", "omega": 6.0},
              "nested": {"otype": "OddGraph", "n_channels": 8, "n_frequencies": 8}},
                    layout=collection.layout, n_output_dims=3, generator=torch.Generator().manual_seed(0))  # fmt: skip
    rows = collection.rows(range(8))
    network.fit(rows)
    symmetries = symmetries_of(collection)
    assert symmetries is not None
    assert symmetries.parity == "odd"
    expected = network(rows)
    changed = symmetries.apply(rows, symmetries.draw(8, torch.Generator().manual_seed(1)))
    assert not torch.equal(changed, rows)
    torch.testing.assert_close(network(changed), expected, atol=1e-4, rtol=1e-3)
    chain = symmetries.chain
    batch = chain.split(rows.clone())
    batch.biases[0].add_(2 * torch.pi / 6)  # a whole period
    torch.testing.assert_close(network(chain.join(batch)), expected, atol=1e-3, rtol=1e-2)
    double = network.nested.double()  # the fold aside, signs change nothing but rounding
    plain = rows.double()
    signs = symmetries.apply(plain, symmetries.draw(8, torch.Generator().manual_seed(2)))
    torch.testing.assert_close(double(signs), double(plain), atol=1e-12, rtol=1e-10)


def test_statistics_with_a_mean_are_refused_where_signs_change(fields: Path) -> None:
    layout = Collection(fields / "fields").layout
    with pytest.raises(ValueError, match=r"^codec.statistics: OddGraph lets hidden units change their signs"):
        build("weight_network", {"otype": "OddGraph", "codec": {"otype": "Weights"}}, layout=layout,
              n_output_dims=2)  # fmt: skip
    with pytest.raises(ValueError, match="only a Sine has phases to fold, got ReLU"):
        build("weight_network", {"otype": "FoldedPhases", "activation": "ReLU"}, layout=layout, n_output_dims=2)


def test_the_file_is_the_network(fields: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.net"
    done = trained(fields, output=path)
    found = load_model(path, "weight_network").model
    rows = done.parts.test.vectors
    assert torch.equal(found(rows), done.network(rows))
    assert main(["weights", "classify", str(fields / "fields"), "--with", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["fields"]) == 2 * N
    assert told["report"]["accuracy"] > 0.85
    index = done.parts.test.indices[0]
    save_field(tmp_path / "one.field", Collection(fields / "fields")[index])
    assert main(["weights", "classify", str(tmp_path / "one.field"), "--with", str(path), "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert one["label"] == told["fields"][index]["label"]
    assert one["probability"] == pytest.approx(told["fields"][index]["probability"], rel=1e-4)


def test_a_training_that_is_resumed_ends_with_the_same_bytes(fields: Path, tmp_path: Path) -> None:
    rows = {"model": "rows", "overrides": ["fit.batch_size=8"], "steps": 30}  # with batch normalisation
    trained(fields, output=tmp_path / "whole.net", **rows)
    path = tmp_path / "resumed.net"

    class Interrupts(Silent):
        is_done = False

        def __call__(self, progress: Progress) -> None:
            if 0 < progress.state.step < 20 and not self.is_done:
                self.is_done = True
                os.kill(os.getpid(), signal.SIGINT)

    stopped = trained(fields, output=path, **rows | {"progress": Interrupts()})
    assert stopped.state.stopped_by == "signal"
    assert not path.exists()
    assert not stopped.report
    trained(fields, output=path, resume=True, **rows)
    one, other = (load_model(p, "weight_network").model.state_dict() for p in (tmp_path / "whole.net", path))
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name
    assert sorted(p.name for p in tmp_path.iterdir()) == ["resumed.net", "whole.net"]


def test_norms_follow_from_parameters(fields: Path) -> None:
    done = trained(fields, model="dws", steps=2, overrides=["fit.batch_size=8"])
    network, rows = done.network, done.parts.training.vectors
    before = network(rows)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.add_(1.0)
    assert not torch.allclose(network(rows), before, rtol=1e-2)
    settle_norms(network, rows)
    torch.testing.assert_close(network(rows), before, rtol=1e-4, atol=1e-4)


def test_embeddings_draw_the_field_again_and_find_alike_ones(
    fields: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, shared = tmp_path / "model.emb", str(fields / "shared")
    few = ["--set", "weight_network.row_widths=[32]", "--set", "fit.decoder_neurons=32", "--set", "fit.n_points=16"]
    assert main(["weights", "embed", shared, "-o", str(path), "--steps", "300", "--json", *few]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["gain"] > 3, report
    assert report["gain"] == pytest.approx(report["psnr"] - report["psnr_of_mean_field"])
    for name in ("out.npz", "out.safetensors"):
        assert main(["weights", "embed", shared, "--with", str(path), "-o", str(tmp_path / name), "--quiet"]) == 0
    _, embedder = load_embedder(path)
    embeddings = np.load(tmp_path / "out.npz")
    assert embeddings["embeddings"].shape == (N, 64)
    assert np.array_equal(embeddings["embeddings"], embedder.embed(Collection(shared).rows()).numpy())
    assert embeddings["labels"].tolist() == [str(k % 2) for k in range(N)]
    save_field(tmp_path / "one.field", Collection(shared)[7])
    capsys.readouterr()
    asked = ["weights", "retrieve", str(tmp_path / "one.field"), shared, "--with", str(path), "-k", "3", "--json"]
    assert main(asked) == 0
    rows = json.loads(capsys.readouterr().out)["nearest"]
    assert next(row["field"] for row in rows) == 7
    assert rows[0]["distance"] < 1e-3
    assert len(rows) == 3
    if len(open_parts(Collection(shared), has_labels=True, say=print).test) >= 8:
        assert main(["weights", "retrieve", shared, "--with", str(path), "--json"]) == 0


def test_values_are_the_fields(fields: Path) -> None:
    collection = Collection(fields / "fields")
    values = Values(collection.config, collection.layout)
    unit = values.lattice()
    field = collection[3]
    with torch.no_grad():
        expected = field(unit * SIDE).clamp(0, 1)
    torch.testing.assert_close(values.at(collection.rows([3]), unit)[0], expected, atol=1e-5, rtol=1e-5)


def test_the_interval_resamples_items_not_fields() -> None:
    right = torch.tensor([True] * 50 + [False] * 50)
    alone = interval(right, torch.arange(100))
    assert alone[0] == pytest.approx(0.4, abs=0.02)
    assert alone[1] == pytest.approx(0.6, abs=0.02)
    assert interval(right, torch.arange(100) // 50) == (0.0, 1.0)


def test_nearest_are_those_of_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(5, 3, generator=generator), torch.randn(17, 3, generator=generator)
    distances, places = nearest(a, b, 20)
    assert places.shape == (5, 17)
    for row, one in enumerate(a):
        truth = [(one - other).norm() for other in b]
        assert places[row].tolist() == sorted(range(17), key=lambda k: float(truth[k]))
        assert distances[row, 0] == pytest.approx(float(min(truth)), rel=1e-4)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["weights", *arguments])
    return code, capsys.readouterr().err


def test_mistakes_are_named(fields: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = str(fields / "fields")
    model = tmp_path / "model.net"
    trained(fields, output=model, steps=1)
    # no labels, one label, too few items
    for labels, n, said in ((None, N, "no label"), (np.zeros(N, int), N, "one label alone"),
                            (np.arange(12) % 2, 12, "at least 8 are needed")):  # fmt: skip
        folder = tmp_path / f"case{said[:3]}{n}"
        folder.mkdir()
        arrays = {"images": stripes(n)} | ({} if labels is None else {"labels": labels})
        np.savez(folder / "a.npz", **arrays)
        fit_collection(folder / "a.npz", folder / "f", steps=1, preset="tiny", overrides=SMALL, progress="quiet")
        code, text = refused(capsys, "classify", str(folder / "f"), "-o", str(tmp_path / "x.net"), "--quiet")
        assert (code, said in text) == (1, True), text
    # another architecture, also behind the same shapes
    fit_collection(tmp_path / f"caseno {N}" / "a.npz", tmp_path / "wide", steps=1, preset="tiny", limit=10,
                   progress="quiet")  # fmt: skip
    code, text = refused(capsys, "classify", str(tmp_path / "wide"), "--with", str(model))
    assert (code == 1 and "is a model of fields of 61 numbers" in text) or "numbers (" in text, text
    fit_collection(tmp_path / f"caseno {N}" / "a.npz", tmp_path / "tanh", steps=1, preset="tiny", limit=10,
                   progress="quiet", overrides=["network.n_neurons=6", "network.activation.omega=9"])  # fmt: skip
    code, text = refused(capsys, "classify", str(tmp_path / "tanh"), "--with", str(model))
    assert (code, "has another network" in text) == (1, True), text
    code, text = refused(capsys, "embed", random, "--with", str(model), "-o", str(tmp_path / "e.npz"))
    assert (code, "not to embed" in text.replace("\n", " ")) == (1, True), text
    code, text = refused(capsys, "classify", random, "x.field", "-o", str(tmp_path / "x.net"))
    assert code == 2
    assert "--with" in text
    code, text = refused(capsys, "retrieve", str(tmp_path / "one.field"), "--with", str(model))
    assert code == 1
    code, text = refused(
        capsys, "classify", random, "-o", str(tmp_path / "x.net"), "--set", "weight_network.nested.x=1"
    )
    assert (code, "weight_network.nested.x" in text) == (2, True), text
    code, text = refused(capsys, "classify", random, "-o", random)
    assert code == 2
    assert "is a folder" in text


def test_damaged_fields_are_left_out_aloud(fields: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "fields"
    shutil.copytree(fields / "fields", copy)
    shard = next(copy.glob("shard-*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-10] ^= 255  # in the last row
    shard.write_bytes(bytes(content))
    told: list[str] = []
    parts = open_parts(Collection(copy), has_labels=True, say=told.append)
    assert len(parts.left_out) == 1
    assert "left out: field 191" in told[0]
    assert len(parts.training) + len(parts.validation) + len(parts.test) == 2 * N - 1


def test_embedding_of_other_starts_is_warned_of(fields: Path) -> None:
    told: list[str] = []

    class Listening(Silent):
        def __call__(self, progress: Progress) -> None:
            told.append(progress.message)

    listening = Listening()
    EmbeddingJob(Collection(fields / "fields"), EmbeddingPlan(steps=1, progress=listening)).run()
    assert any("--init shared" in text for text in told)
