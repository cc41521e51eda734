"""`.field` files: every bit comes back, the format is what it says, and a write happens whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import pickle
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from reference.field_file import checksum, parse, seal
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from fieldforge.fields import container
from fieldforge.fields.file import STORAGE, FieldFileError, load_field, read_header, round_to, save_field
from fieldforge.fields.kinds.image import ImageField

METADATA = {
    "signal": {"resolution": [12, 9], "color_space": "srgb", "name": "Grüße 画像"},
    "metrics": {"psnr": 31.25, "ssim": None, "converged": True},
    "history": [{"step": 10, "loss": 0.1}, {"step": 20, "loss": 1e-300}],
}


def small_field(seed: int = 0, activation: str = "ReLU") -> ImageField:
    return ImageField(
        encoding={"otype": "HashGrid", "n_levels": 4, "log2_hashmap_size": 8, "base_resolution": 4},
        network={"otype": "MLP", "n_neurons": 16, "n_hidden_layers": 2, "has_bias": True, "activation": activation},
        width=12,
        height=9,
        generator=torch.Generator().manual_seed(seed),
    )


def assert_same_bits(a: nn.Module, b: nn.Module) -> None:
    assert a.state_dict().keys() == b.state_dict().keys()
    for name, tensor in a.state_dict().items():
        other = b.state_dict()[name]
        assert tensor.dtype == other.dtype, name
        assert torch.equal(tensor, other), name


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "photo.field"


# ------------------------------------------------------------------------------------------------ what comes back


@pytest.mark.parametrize("activation", ["ReLU", "WIRE"])
@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
def test_every_bit_and_the_metadata_come_back(path: Path, activation: str, double: bool) -> None:
    field = small_field(activation=activation)
    field = field.double() if double else field
    n_bytes = save_field(path, field, metadata=METADATA)
    loaded, metadata = load_field(path)
    assert_same_bits(loaded, field)
    assert loaded.config() == field.config()
    assert metadata == METADATA
    assert n_bytes == path.stat().st_size
    points = torch.rand(7, 2, dtype=torch.float64) * 10
    assert torch.equal(loaded(points), field(points))


def test_a_trained_field_may_have_odd_layouts(path: Path) -> None:
    field = small_field()
    weight = field.network.layers[1].weight
    weight.data = weight.data.T.contiguous().T  # not contiguous
    save_field(path, field)
    assert_same_bits(load_field(path)[0], field)


@pytest.mark.parametrize("dtype", [*STORAGE, {"encoding": "int8", "network": "float16"}, {"encoding.table": "float16"}])
def test_what_round_to_gives_is_what_the_file_gives_back(path: Path, dtype: str) -> None:
    field = small_field()
    field.encoding.table.data.uniform_(-0.3, 2.0, generator=torch.Generator().manual_seed(1))
    save_field(path, field, dtype=dtype)
    from_original, original_bytes = load_field(path)[0], path.read_bytes()
    round_to(field, dtype)
    rounded = field.double() if dtype == "float64" else field
    assert_same_bits(from_original, rounded)
    save_field(path, rounded, dtype=dtype)
    assert path.read_bytes() == original_bytes


def test_fewer_bits_make_smaller_files_and_larger_errors(path: Path) -> None:
    field = small_field()
    table = field.encoding.table.detach().uniform_(-1, 1, generator=torch.Generator().manual_seed(2)).clone()
    sizes, errors = [], []
    for dtype in ("float64", "float32", "float16", "int8"):
        sizes.append(save_field(path, field, dtype={"encoding": dtype}))
        errors.append(float((load_field(path)[0].encoding.table.detach() - table).abs().max()))
    n = table.numel()
    steps = [a - b for a, b in pairwise(sizes)]
    for saved, expected in zip(steps, (4 * n, 2 * n, n - 4 * -(-n // 256)), strict=True):
        assert abs(saved - expected) < 100
    assert errors[0] == errors[1] == 0
    assert 0 < errors[2] <= 2**-11
    assert errors[2] < errors[3] <= 0.5 / 127 * (1 + 2**-15)


def test_int8_survives_blocks_of_zeros_and_of_extreme_sizes(path: Path) -> None:
    field = small_field()
    table = field.encoding.table.data.flatten()
    table[:256], table[256:512], table[512:768] = 0, 1e-38, 3e38
    field.encoding.table.data = table.view_as(field.encoding.table)
    save_field(path, field, dtype="int8")
    loaded = load_field(path)[0].encoding.table.detach().flatten()
    assert torch.equal(loaded[:512], torch.zeros(512))
    assert torch.allclose(loaded[512:768], torch.tensor(3e38), rtol=0.01)


def test_loading_leaves_the_random_state_alone(path: Path) -> None:
    save_field(path, small_field())
    before = torch.get_rng_state()
    load_field(path)
    assert torch.equal(torch.get_rng_state(), before)


# --------------------------------------------------------------------------------------------------- the format


def test_the_safetensors_library_opens_it(path: Path) -> None:
    field = small_field(activation="WIRE")
    save_field(path, field, metadata=METADATA)
    tensors = load_file(path)
    assert tensors.keys() == field.state_dict().keys()
    for name, tensor in field.state_dict().items():
        assert torch.equal(tensors[name], tensor)
    with safe_open(path, "pt") as file:
        assert list(file.metadata()) == ["fieldforge"]
        assert json.loads(file.metadata()["fieldforge"])["metadata"] == METADATA


def test_the_checksum_is_that_of_the_definition(path: Path) -> None:
    save_field(path, small_field(), metadata=METADATA)
    raw = path.read_bytes()
    inner, table, data = parse(raw)
    assert inner["checksum"] == checksum(raw)
    path.write_bytes(seal(inner, table, data))  # spaces and order of another writer
    assert load_field(path)[1] == METADATA


def test_the_same_field_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, metadata in (("a", METADATA), ("b", dict(reversed(METADATA.items())))):
        save_field(tmp_path / name, small_field(), metadata=metadata)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    save_field(tmp_path / "b", small_field(seed=1), metadata=METADATA)
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()


def test_tensors_are_aligned_to_their_type(path: Path) -> None:
    save_field(path, small_field(), dtype={"encoding": "int8", "network": "float16"})
    with container.Reader(path) as reader:
        assert reader.data_start % 8 == 0
        for info in reader.tensors.values():
            assert info.begin % container.DTYPES[info.dtype].itemsize == 0


def test_the_header_is_read_without_building_or_loading(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    field = small_field()
    save_field(path, field, metadata=METADATA)
    monkeypatch.setattr("fieldforge.fields.file.build", None)
    monkeypatch.setattr(container.Reader, "pieces", None)
    header = read_header(path)
    assert header.config == field.config()
    assert header.metadata == METADATA
    assert header.box == field.box == ((0.0, 0.0), (12.0, 9.0))
    assert header.tensors["encoding.table"].shape == tuple(field.encoding.table.shape)
    assert header.n_bytes == path.stat().st_size


# ----------------------------------------------------------------------------------------------- refused at the door


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"metrics": {"psnr": float("inf")}}, r"metadata\.metrics\.psnr: expected a finite number"),
        ({"history": [1, {2, 3}]}, r"metadata\.history\[1\]: expected text, numbers, lists or tables, got set"),
        ({"a": {1: 2}}, r"metadata\.a: expected text for a key, got 1"),
        ({"name": "\ud800"}, r"metadata\.name: expected Unicode text"),
    ],
)
def test_metadata_that_is_not_json_is_named_and_nothing_is_written(path: Path, metadata: dict, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        save_field(path, small_field(), metadata=metadata)
    assert list(path.parent.iterdir()) == []


def test_numbers_that_are_not_finite_are_not_written(path: Path) -> None:
    field = small_field()
    field.network.layers[1].bias.data[3] = torch.nan
    with pytest.raises(ValueError, match=r"network\.layers\.1\.bias: holds numbers that are not finite"):
        save_field(path, field)
    assert not path.exists()


def test_numbers_that_do_not_fit_their_storage_are_not_written(path: Path) -> None:
    field = small_field()
    field.network.layers[0].weight.data[0, 0] = 1e5
    with pytest.raises(ValueError, match=r"network\.layers\.0\.weight: 100000 does not fit float16"):
        save_field(path, field, dtype="float16")
    save_field(path, field, dtype="bfloat16")


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        ("float17", "dtype: expected one of .*did you mean float16"),
        ({"encodin": "int8"}, "dtype: no parameter begins with 'encodin'"),
    ],
)
def test_a_storage_that_does_not_exist_is_refused(path: Path, dtype: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        save_field(path, small_field(), dtype=dtype)


def test_a_field_its_configuration_does_not_rebuild_is_not_written(path: Path) -> None:
    field = small_field()
    field.network.layers.append(nn.Linear(3, 3))
    with pytest.raises(ValueError, match=r"does not rebuild it: network\.layers\.3\.\w+ has no place in it"):
        save_field(path, field)
    assert not path.exists()


FOREIGN = {
    "empty": (b"", "is empty"),
    "one byte": (b"\x05", "is not a .field file"),
    "zip": (b"PK\x03\x04" + bytes(200), "zip archive, as torch.save .* never unpickles"),
    "pickle": (pickle.dumps({"weights": [1.0]}), "Python pickle; fieldforge never unpickles"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(200), "an HDF5 file"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(200), "a picture .* fit it first"),
    "numpy": (b"\x93NUMPY" + bytes(200), "a NumPy array"),
    "json": (b'{"otype": "ImageField"}' + bytes(200), "a JSON text"),
    "noise": (bytes(range(1, 200)), "is not a .field file"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_is_called_what_it_is(path: Path, kind: str) -> None:
    content, message = FOREIGN[kind]
    path.write_bytes(content)
    with pytest.raises(FieldFileError, match=message) as caught:
        load_field(path)
    assert str(caught.value).startswith(str(path))


def test_torch_save_is_never_unpickled(path: Path) -> None:
    torch.save(small_field().state_dict(), path)
    assert zipfile.is_zipfile(path)
    with pytest.raises(FieldFileError, match="zip archive"):
        load_field(path)


def test_plain_safetensors_are_called_what_they_are(path: Path) -> None:
    save_file({"a": torch.ones(30, 30)}, path)
    with pytest.raises(FieldFileError, match="a safetensors file that fieldforge did not write"):
        load_field(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("none", "cannot be opened"), ("", "is a folder"), ("pipe", "a device or a pipe")):
        with pytest.raises(FieldFileError, match=message):
            load_field(tmp_path / name)


def test_every_truncation_is_found(path: Path) -> None:
    save_field(path, small_field())
    raw = path.read_bytes()
    for n_bytes in [*range(0, 200, 7), *range(200, len(raw), 197), len(raw) - 1]:
        path.write_bytes(raw[:n_bytes])
        with pytest.raises(FieldFileError, match=r"cut short|empty|not a \.field file"):
            load_field(path)


def test_a_newer_version_is_told_from_damage(path: Path) -> None:
    save_field(path, small_field())
    raw = path.read_bytes()
    inner, table, data = parse(raw)
    path.write_bytes(seal(inner | {"format": 3}, table, data))
    with pytest.raises(FieldFileError, match=r"newer version \(format 3\), this one reads up to 1; upgrade"):
        read_header(path)
    path.write_bytes(raw.replace(b'\\"format\\":1', b'\\"format\\":3'))
    with pytest.raises(FieldFileError, match="checksum"):
        read_header(path)


def test_numbers_that_are_not_finite_are_not_loaded(path: Path) -> None:
    save_field(path, small_field())
    inner, table, data = parse(path.read_bytes())
    begin = table["network.layers.0.weight"]["data_offsets"][0]
    path.write_bytes(seal(inner, table, data[:begin] + b"\x00\x00\x80\x7f" + data[begin + 4 :]))
    with pytest.raises(FieldFileError, match="not finite"):
        load_field(path)


def test_a_key_may_not_stand_twice(path: Path) -> None:
    save_field(path, small_field())
    inner, table, data = parse(path.read_bytes())
    text = json.dumps({key: value for key, value in inner.items() if key != "checksum"})[1:]
    path.write_bytes(seal(text.replace('"width": 12', '"width": 12, "width": 12'), table, data))
    with pytest.raises(FieldFileError, match="a key stands twice"):
        load_field(path)


# ---------------------------------------------------------------------------------------------- whole or not at all


def failing(error: BaseException) -> container.Source:
    """A tensor that cannot be read to its end."""

    def pieces() -> Iterator[torch.Tensor]:
        yield torch.zeros(10)
        raise error

    return container.Source(torch.float32, (20,), pieces)


def test_a_full_disk_leaves_the_old_file_and_no_litter(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_field(path, small_field())
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FieldFileError, match=r"could not be written \(No space left on device\); nothing"):
        save_field(path, small_field(seed=1))
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), FieldFileError),
        (RuntimeError("CUDA error"), RuntimeError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["disk full", "exception", "Ctrl-C"],
)
def test_whatever_stops_a_write_leaves_the_old_file(path: Path, error: BaseException, seen: type) -> None:
    save_field(path, small_field())
    before = path.read_bytes()
    with pytest.raises(seen):
        container.write(path, "field", {}, {"a": failing(error)})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_what_cannot_be_read_back_does_not_replace_the_old_file(path: Path) -> None:
    save_field(path, small_field())
    before = path.read_bytes()
    with pytest.raises(FieldFileError, match=r"was not written: what was to take its place has a header"):
        save_field(path, small_field(), metadata={"history": [0] * 600_000})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


LIMITED = """
import resource, sys
from fieldforge.fields import container
import torch
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    container.write(sys.argv[1], "field", {}, {"a": container.Source.of(torch.zeros(100_000))})
except container.FieldFileError as error:
    print(error)
"""


def test_a_disk_quota_leaves_the_old_file(path: Path) -> None:
    save_field(path, small_field())
    before = path.read_bytes()
    done = subprocess.run([sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{path}: could not be written (File too large); nothing that was there has changed\n"
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


KILLED = """
import os, random, signal, sys, time
import torch
from fieldforge.fields import container
path, dice = sys.argv[1], random.Random(0)
torch.set_num_threads(1)

def save(value):
    tensor = torch.full((150_000,), float(value))
    container.write(path, "field", {"value": value}, {"a": container.Source.of(tensor)})

save(0)
seen = set()
for turn in range(25):
    child = os.fork()
    if child == 0:
        value = 1000 * turn
        while True:
            value += 1
            save(value)
    time.sleep(dice.uniform(0.0, 0.06))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with container.Reader(path) as reader:
        reader.verify()
        tensor = reader.tensor("a")
        assert bool((tensor == reader.body["value"]).all())
        seen.add(reader.body["value"])
left = [name for name in os.listdir(os.path.dirname(path)) if name.endswith(".tmp")]
print(len(seen), len(left))
"""


def test_a_process_killed_while_it_writes_leaves_a_whole_file(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    n_versions, n_left = map(int, done.stdout.split())
    assert n_versions > 1, "the children were killed before they wrote anything"
    assert n_left > 0, "no child was killed within a write: the test shows nothing"


def test_litter_of_a_killed_process_is_swept_by_a_later_write(path: Path) -> None:
    old, new = path.with_name(".photo.field.0123abcd.tmp"), path.with_name(".photo.field.4567cdef.tmp")
    other = path.with_name(".other.field.0123abcd.tmp")
    for file in (old, new, other):
        file.write_bytes(b"half")
    for file in (old, other):
        os.utime(file, (0, 0))
    save_field(path, small_field())
    assert sorted(os.listdir(path.parent)) == sorted([new.name, other.name, path.name])


def test_links_are_followed_and_permissions_kept(tmp_path: Path) -> None:
    real, link = tmp_path / "real.field", tmp_path / "link.field"
    save_field(real, small_field())
    real.chmod(0o640)
    link.symlink_to(real)
    save_field(link, small_field(seed=1))
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert_same_bits(load_field(real)[0], small_field(seed=1))


def test_where_nothing_can_be_written_the_error_says_why(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name, message in (("none/x.field", "its folder does not exist"), ("folder", "a folder has that name")):
        with pytest.raises(FieldFileError, match=message):
            save_field(tmp_path / name, small_field())
    assert sorted(os.listdir(tmp_path)) == ["folder"]


def test_large_tensors_go_through_in_pieces(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "CHUNK_BYTES", 8 * 256)  # 256 values at a time
    field = small_field()
    for dtype in (None, "int8"):
        save_field(path, field, dtype=dtype)
        loaded = load_field(path)[0]
        round_to(field, dtype)
        assert_same_bits(loaded, field)
