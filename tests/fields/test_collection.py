"""Collections on disk: a field is what it was, strangers' folders are refused, and what is whole survives."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fieldforge.fields.collection import COLUMNS, Collection, CollectionError, layout_of
from fieldforge.fields.file import FieldFileError, build_field, load_field, save_field
from fieldforge.fields.shards import read_shard, shard_path, write_collection, write_shard

CONFIG: dict[str, Any] = {
    "otype": "ImageField", "width": 4, "height": 3, "n_channels": 1, "output_scale": [0.5], "output_offset": [0.5],
    "encoding": {"otype": "Identity"},
    "network": {"otype": "MLP", "n_neurons": 5, "n_hidden_layers": 1, "activation": "Tanh", "has_bias": True},
}  # fmt: skip


def written(folder: Path, n: int = 7, n_in_shard: int = 3, config: dict[str, Any] = CONFIG, **more: Any) -> Tensor:
    """A collection of random numbers; returns its rows."""
    field = build_field(config)
    layout = layout_of(field)
    rows = torch.randn(n, layout.n_parameters, generator=torch.Generator().manual_seed(1))
    columns = {
        "name": [f"item{i}" for i in range(n)], "item": list(range(n)), "init": [0] * n, "init_seed": [5] * n,
        "attempt": [0] * n, "label": [i % 3 for i in range(n)], "quality": [30.0 + i for i in range(n)],
        "source_sha256": ["0" * 64] * n, "split": [i / n for i in range(n)], "own": [None] * n,
    }  # fmt: skip
    body = {"field": field.config(), "layout": layout.pairs(), "init": {"policy": "random"}, "quality": "psnr"}
    write_collection(folder, body, rows, columns | more, n_in_shard)
    return rows


def reseal(folder: Path, change: Any) -> None:
    """Change the index as a stranger could: with a checksum that is right."""
    body = json.loads((folder / "index.json").read_text())
    del body["checksum"]
    body = change(body) or body
    text = ('{"checksum":"' + "0" * 64 + '",' + json.dumps(body)[1:]).encode()
    digest = hashlib.sha256(text).hexdigest().encode()
    (folder / "index.json").write_bytes(text.replace(b"0" * 64, digest, 1))


def test_a_field_of_a_collection_is_an_ordinary_field(tmp_path: Path) -> None:
    rows = written(tmp_path / "c")
    fields = Collection(tmp_path / "c")
    assert len(fields) == 7
    assert torch.equal(fields.rows(), rows)
    assert torch.equal(fields.rows([5, -7]), rows[[5, 0]])
    field = fields[4]
    for name, tensor in fields.layout.unflatten(rows[4]).items():
        assert torch.equal(field.state_dict()[name], tensor)
    save_field(tmp_path / "one.field", field)
    alone, _ = load_field(tmp_path / "one.field")
    points = torch.rand(5, 2) * 3
    assert torch.equal(alone(points), field(points))
    assert fields.labels == [0, 1, 2, 0, 1, 2, 0]
    assert len(list(fields)) == 7
    assert fields.problems() == []
    with pytest.raises(IndexError, match="there are 7 fields"):
        fields[7]


def test_a_shard_is_safetensors_and_the_same_fields_are_the_same_bytes(tmp_path: Path) -> None:
    rows = written(tmp_path / "a")
    written(tmp_path / "b")
    assert torch.equal(load_file(tmp_path / "a/shard-00001.safetensors")["params"], rows[3:6])
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_shapes_keep_their_own_place_in_the_world(tmp_path: Path) -> None:
    config = {"otype": "OccupancyField", "encoding": CONFIG["encoding"], "network": CONFIG["network"]}
    written(tmp_path / "c", 2, config=config, own=[None, {"low": [1.0, 2.0, 3.0], "side": 4.0}])
    fields = Collection(tmp_path / "c")
    assert fields[0].box == ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
    assert fields[1].box == ((1.0, 2.0, 3.0), (5.0, 6.0, 7.0))


def test_a_damaged_field_is_named_and_the_others_survive(tmp_path: Path) -> None:
    rows = written(tmp_path / "c")
    path = tmp_path / "c/shard-00001.safetensors"
    data = bytearray(path.read_bytes())
    data[-rows.shape[1] * 4 - 8] ^= 1  # in the last but one of its three fields
    path.write_bytes(data)
    (tmp_path / "c/shard-00002.safetensors").unlink()
    fields = Collection(tmp_path / "c")
    assert torch.equal(fields.row(5), rows[5])
    with pytest.raises(CollectionError, match=r"field 4 \(item4\) is damaged"):
        fields[4]
    with pytest.raises(CollectionError, match=r"field 6 \(item6\) cannot be read: shard-00002"):
        fields.row(6)
    assert [problem[:7] for problem in fields.problems()] == ["field 4", "field 6"]


def test_numbers_that_are_not_finite_are_said_of_the_field(tmp_path: Path) -> None:
    rows = written(tmp_path / "c", 3)
    rows[1, 2] = math.nan
    columns = {name: Collection(tmp_path / "c").column(name) for name in COLUMNS if name != "digest"}
    body = {key: value for key, value in Collection(tmp_path / "c").body.items() if key not in ("shards", "format")}
    write_collection(tmp_path / "d", body, rows, columns)
    with pytest.raises(CollectionError, match=r"field 1 \(item1\) holds numbers that are not finite"):
        Collection(tmp_path / "d")[1]


def test_hostile_indexes_are_refused(tmp_path: Path) -> None:
    def change(**keys: Any) -> Any:
        return lambda body: body | keys

    def column(name: str, value: Any) -> Any:
        def do(body: dict[str, Any]) -> None:
            body["fields"][name][1] = value

        return do

    cases = {
        "newer version": change(format=9),
        "no field": change(field=3),
        "cannot be built": change(field={"otype": "ImageField"}),
        r"layout that is not the one": change(layout=[["network.layers.0.weight", [5, 3]]]),
        "names a shard that cannot be one": change(shards=[["../x.safetensors", 7, 8]]),
        "list of shards": change(shards=[["shard-00000.safetensors", True, 8]]),
        "column item": change(shards=[["shard-00000.safetensors", 2**50, 8]]),
        "columns that are not": change(fields={}),
        "column label with values of another type": column("label", [1]),
        "holds 7 of 9 fields": change(n_fields=9),
        "more than": change(field={**CONFIG, "network": {**CONFIG["network"], "n_neurons": 2**30}}),
    }
    for number, (message, do) in enumerate(cases.items()):
        folder = tmp_path / str(number)
        written(folder)
        reseal(folder, do)
        with pytest.raises(CollectionError, match="column|cannot be built" if message in ("column item", "more than")
                           else message):  # fmt: skip
            Collection(folder)
    folder = tmp_path / "own"
    written(folder)
    reseal(folder, column("own", {"network": {"otype": "MLP", "n_neurons": 6}}))
    with pytest.raises(CollectionError, match=r"field 1 \(item1\) cannot be loaded: only low and side may be its own"):
        Collection(folder)[1]
    assert Collection(folder)[0].n_input_dims == 2


def test_damage_to_the_index_is_found(tmp_path: Path) -> None:
    written(tmp_path / "c")
    index = tmp_path / "c/index.json"
    whole = index.read_bytes()
    for spoilt in (whole.replace(b"item3", b"item8"), whole[:-1], b"", b"[]", whole.replace(b"checksum", b"chocksum")):
        index.write_bytes(spoilt)
        with pytest.raises(CollectionError, match=r"index.json"):
            Collection(tmp_path / "c")
    index.unlink()
    os.mkfifo(index)
    with pytest.raises(CollectionError, match=r"index.json"):
        Collection(tmp_path / "c")
    with pytest.raises(CollectionError, match="not the folder of a collection"):
        Collection(tmp_path / "nothing")


def test_a_pipe_in_place_of_a_shard_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "c")
    shard = shard_path(tmp_path / "c", 0)
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(CollectionError, match="no regular file"):
        Collection(tmp_path / "c").row(0)


def test_shards_of_another_collection_are_told_apart(tmp_path: Path) -> None:
    written(tmp_path / "c")
    layout = Collection(tmp_path / "c").layout
    with pytest.raises(CollectionError, match="of another collection"):
        read_shard(shard_path(tmp_path / "c", 0), "mine", 3, layout)
    columns = {name: Collection(tmp_path / "c").column(name)[:1] for name in COLUMNS}
    with pytest.raises(ValueError, match="label: expected 1 values"):
        write_shard(tmp_path / "x", torch.zeros(1, 3), columns | {"label": [1.5]}, "mine")
    (tmp_path / "cut").write_bytes(shard_path(tmp_path / "c", 0).read_bytes()[:-5])
    with pytest.raises(FieldFileError, match="cut short"):
        read_shard(tmp_path / "cut", "mine", 3, layout)


@pytest.mark.slow
def test_one_of_a_hundred_thousand_fields_is_read_in_a_millisecond(tmp_path: Path) -> None:
    written(tmp_path / "c", 100_000, 1024)
    fields = Collection(tmp_path / "c")
    chosen = torch.randint(len(fields), (2000,), generator=torch.Generator().manual_seed(0)).tolist()
    begun = time.process_time()
    for index in chosen:
        fields.row(index)
    assert (time.process_time() - begun) / len(chosen) < 1e-3
