"""HDF5 files of fields: ours come back as they were, fit-a-nef's are understood, hostile ones refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fieldforge.apps.cli import main
from fieldforge.apps.collections.hdf5 import export_hdf5, import_hdf5
from fieldforge.apps.fit.collection.job import fit_collection
from fieldforge.fields.collection import Collection, CollectionError

h5py = pytest.importorskip("h5py", reason="h5py is not installed")


@pytest.fixture
def fields(tmp_path: Path) -> Collection:
    np.savez(tmp_path / "x.npz", images=np.random.default_rng(0).random((5, 4, 4)), labels=np.arange(5))
    return fit_collection(tmp_path / "x.npz", tmp_path / "fields", preset="tiny", steps=2, progress="quiet")


def put(path: Path, **datasets: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            if isinstance(value, str):
                file.create_dataset(name, (1,), h5py.special_dtype(vlen=str))[0] = value
            else:
                file.create_dataset(name, data=value)
    return path


def test_ours_come_back_as_they_were(fields: Collection, tmp_path: Path) -> None:
    export_hdf5(fields, tmp_path / "x.hdf5")
    with h5py.File(tmp_path / "x.hdf5") as file:  # as fit-a-nef's own loader reads it
        assert file["params"].shape == (5, 105)
        layout = json.loads(file["param_config"][0].decode("utf-8"))
        assert layout[0] == ["network.layers.0.weight", [8, 2]]
        assert file["labels"][:].tolist() == [0, 1, 2, 3, 4]
    back = import_hdf5(tmp_path / "x.hdf5", tmp_path / "back")
    assert torch.equal(back.rows(), fields.rows())
    assert back.config == fields.config
    for column in ("name", "label", "quality", "init_seed", "split", "digest"):
        assert back.column(column) == fields.column(column)
    assert main(["collection", "export", str(fields.path), "-o", str(tmp_path / "y.h5")]) == 0
    assert (tmp_path / "y.h5").read_bytes() == (tmp_path / "x.hdf5").read_bytes(), "the same fields, the same bytes"


def test_a_siren_of_flax_is_the_same_function(tmp_path: Path) -> None:
    """Bias before kernel, kernels turned, the output's layer by its name, as fit-a-nef's SIREN is laid out."""
    random = np.random.default_rng(0)
    shapes = {"kernel_net_0.linear": (2, 6), "kernel_net_1.linear": (6, 6), "output_linear": (6, 1)}
    layout, parts = [], []
    for name, shape in shapes.items():
        for part, size in (("bias", shape[1:]), ("kernel", shape)):
            layout.append((f"{name}.{part}", size))
            parts.append(random.normal(size=(3, *size)).astype(np.float32))
    params = np.concatenate([part.reshape(3, -1) for part in parts], 1)
    labels = np.ones((3, 1), np.int32)
    path = put(tmp_path / "siren.hdf5", params=params, param_config=json.dumps(layout), labels=labels)
    config = {
        "otype": "ImageField", "width": 5, "height": 5, "n_channels": 1,
        "encoding": {"otype": "Identity", "scale": 2.0, "offset": -1.0},
        "network": {
            "otype": "MLP", "n_neurons": 6, "n_hidden_layers": 2, "has_bias": True,
            "activation": {"otype": "Sine", "omega": 9.0},
        },
    }  # fmt: skip
    with pytest.raises(CollectionError, match="give their configuration with --config"):
        import_hdf5(path, tmp_path / "c")
    (tmp_path / "config.json").write_text(json.dumps(config))
    command = ["collection", "import", str(path), "-o", str(tmp_path / "c")]
    assert main([*command, "--config", str(tmp_path / "config.json")]) == 0
    fields = Collection(tmp_path / "c")
    assert fields.labels == [1, 1, 1]
    points = torch.rand(7, 2)
    h = points.numpy()
    for layer in range(3):
        h = h @ parts[2 * layer + 1][2] + parts[2 * layer][2]
        h = np.sin(9.0 * h) if layer < 2 else h
    with torch.no_grad():
        got = fields[2](2.5 * (points + 1))  # [-1, 1] is the picture
    np.testing.assert_allclose(got.numpy(), h, atol=1e-4)
    config["network"]["n_neurons"] = 7  # type: ignore[index]
    with pytest.raises(CollectionError, match="its fields have 67 numbers, the configuration's 85"):
        import_hdf5(path, tmp_path / "d", config)


def test_hostile_files_are_refused(fields: Collection, tmp_path: Path) -> None:
    good = {"params": np.zeros((2, 105), np.float32), "param_config": fields.layout.to_json()}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"params": good["params"]}, "has no dataset param_config"),
        (good | {"params": np.zeros(105)}, r"params: expected \(N, P\) floats"),
        (good | {"params": np.zeros((2, 105), np.int64)}, r"params: expected \(N, P\) floats"),
        (good | {"params": np.full((2, 105), "x", "S1")}, r"params: expected \(N, P\) floats"),
        (good | {"labels": np.zeros(3, int)}, "labels: expected 2 integers"),
        (good | {"param_config": "[[1, 2]]"}, r"param_config: expected a JSON list of"),
        (good | {"param_config": '[["a", [-1]]]'}, "param_config: a: expected whole numbers of at least 1"),
        (good | {"param_config": '[["a", [105]]]'}, "neither a kernel"),
        (good | {"param_config": "[" * 10_000}, "no HDF5 file of fields that can be read"),
    ]
    for number, (datasets, message) in enumerate(cases):
        with pytest.raises(CollectionError, match=message):
            import_hdf5(put(tmp_path / f"{number}.h5", **datasets), tmp_path / "c", fields.config)
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["params"] = h5py.ExternalLink(str(put(tmp_path / "good.h5", **good)), "params")
        file["param_config"] = h5py.SoftLink("/params")
    with h5py.File(tmp_path / "bomb.h5", "w") as file:
        file.create_dataset("params", (10**9, 105), "f4", chunks=(1000, 105))  # nothing of it is stored
        file.create_dataset("param_config", (1,), h5py.special_dtype(vlen=str))[0] = good["param_config"]
    (tmp_path / "text.h5").write_text("no HDF5")
    for name, message in (
        ("link", "is a link to somewhere else"), ("bomb", "more than a file of this size"), ("text", "no HDF5 file")
    ):  # fmt: skip
        with pytest.raises(CollectionError, match=message):
            import_hdf5(tmp_path / f"{name}.h5", tmp_path / "c", fields.config)
    with pytest.raises(CollectionError, match="is not empty"):
        import_hdf5(tmp_path / "good.h5", fields.path, fields.config)
    assert import_hdf5(tmp_path / "good.h5", tmp_path / "c", fields.config).problems() == []
