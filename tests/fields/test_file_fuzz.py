"""No file, however broken or malicious, does more than raise one clear error, quickly and in little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from reference.field_file import deep, mutations, parse, seal

from fieldforge.fields.file import FieldFileError, load_field, read_header, save_field
from fieldforge.fields.kinds.image import ImageField

TESTS = Path(__file__).resolve().parent.parent
MEBIBYTE = 2**20


def valid(folder: Path, dtype: object = None) -> bytes:
    """A small file with a table, matrices, and nested encodings."""
    encoding = {
        "otype": "Composite",
        "nested": [
            {"otype": "HashGrid", "n_dims_to_encode": 2, "n_levels": 3, "log2_hashmap_size": 7, "base_resolution": 4}
        ],
    }
    field = ImageField(
        encoding=encoding,
        network={"otype": "MLP", "n_neurons": 16, "n_hidden_layers": 2, "has_bias": True},
        width=12,
        height=9,
        generator=torch.Generator().manual_seed(0),
    )
    save_field(folder / "valid.field", field, metadata={"metrics": {"psnr": 30.0}}, dtype=dtype)  # type: ignore[arg-type]
    return (folder / "valid.field").read_bytes()


def survive(path: Path, what: str, raw: bytes) -> str:
    """Load a mutated file; says what came of it, fails on anything but a field or one clear sentence."""
    path.write_bytes(raw)
    start = time.process_time()
    message = f"{path}: loaded"
    try:
        load_field(path)
    except FieldFileError as error:
        message = str(error)
    seconds = time.process_time() - start
    assert seconds < 1.0, f"{what} took {seconds:.1f} s"
    assert message.startswith(str(path)), what
    assert message.isprintable(), what
    assert len(message) < 1000, what
    return message


def fuzz(folder: Path, n: int, seed: int) -> dict[str, int]:
    """Run `n` mutations of each storage; the count of outcomes by the first words of their message."""
    outcomes: dict[str, int] = {}
    path = folder / "mutated.field"
    for dtype in (None, {"encoding": "int8", "network": "float16"}):
        for what, raw in mutations(valid(folder, dtype), seed, n):
            message = survive(path, what, raw)
            said = " ".join(message.removeprefix(f"{path}: ").split()[:3])
            outcomes[said] = outcomes.get(said, 0) + 1
            try:
                read_header(path)
            except FieldFileError:
                pass
    return outcomes


def test_five_hundred_mutations_give_a_field_or_a_sentence(tmp_path: Path) -> None:
    outcomes = fuzz(tmp_path, 250, seed=1)
    assert len(outcomes) > 10, f"the mutations reach few of the checks: {outcomes}"
    assert outcomes.get("cannot be loaded:", 0) > 20, f"the mutations do not reach the configuration: {outcomes}"


@pytest.mark.slow
def test_ten_thousand_mutations_give_a_field_or_a_sentence(tmp_path: Path) -> None:
    fuzz(tmp_path, 5000, seed=2)


def test_any_flipped_bit_is_found(tmp_path: Path) -> None:
    raw, path = valid(tmp_path), tmp_path / "flipped.field"
    places = [*range(0, 300, 3), *range(300, len(raw), max(1, len(raw) // 150))]
    for at in places:
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1 << at % 8]) + raw[at + 1 :])
        with pytest.raises(FieldFileError):
            load_field(path)


ATTACKS = {
    "levels": ("n_levels: expected an integer from 1 to", "encoding", {"otype": "HashGrid", "n_levels": 10**9}),
    "table": (r"is missing|table is", "encoding", {"otype": "HashGrid", "log2_hashmap_size": 24}),
    "width": ("width: expected an integer from 1 to", "width", 10**12),
    "class": ("__class__: ImageField has no such key", "__class__", "os.system"),
    "otype": ("otype: no encoding is called", "encoding", {"otype": "os.system"}),
    "composite": ("nested more than|nested too deeply", "encoding", deep(1000)),
    "neurons": ("n_neurons", "network", {"otype": "MLP", "n_neurons": 10**9}),
    "layers": ("n_hidden_layers: expected", "network", {"otype": "MLP", "n_hidden_layers": 10**9}),
    "channels": ("n_channels: expected an integer from 1 to 4", "n_channels", 10**6),
    "box": ("box is", "height", 8),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_configuration_is_refused_by_name(tmp_path: Path, attack: str) -> None:
    expected, key, value = ATTACKS[attack]
    inner, table, data = parse(valid(tmp_path))
    inner["config"][key] = value
    path = tmp_path / "hostile.field"
    sys_limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)  # for json.dumps of the deep one here, not for the loader
    try:
        path.write_bytes(seal(inner, table, data))
    finally:
        sys.setrecursionlimit(sys_limit)
    with pytest.raises(FieldFileError, match=expected):
        load_field(path)


def test_control_characters_of_a_file_do_not_reach_the_terminal(tmp_path: Path) -> None:
    inner, table, data = parse(valid(tmp_path))
    inner["config"]["\x1b[2J\x07evil"] = 1
    path = tmp_path / "hostile.field"
    path.write_bytes(seal(inner, table, data))
    with pytest.raises(FieldFileError) as caught:
        load_field(path)
    assert str(caught.value).isprintable()


MEMORY = """
import resource, sys, tracemalloc
from pathlib import Path
sys.path[:0] = [{tests!r}]
from reference.field_file import mutations
from fieldforge.fields.file import FieldFileError, load_field
folder = Path(sys.argv[1])
raw, path = (folder / "valid.field").read_bytes(), folder / "mutated.field"
load_field(folder / "valid.field")  # what is imported and cached by the first load is not the file's doing
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tracemalloc.start()
for _, mutated in mutations(raw, 3, 150):
    path.write_bytes(mutated)
    del mutated
    try:
        load_field(path)
    except FieldFileError:
        pass
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
print("{{}} {{}}".format(tracemalloc.get_traced_memory()[1], grown))
"""


def test_no_mutation_takes_much_memory(tmp_path: Path) -> None:
    valid(tmp_path)
    command = [sys.executable, "-c", MEMORY.format(tests=str(TESTS)), str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    python, resident = map(int, done.stdout.split())
    assert python < 256 * MEBIBYTE
    assert resident < 256 * MEBIBYTE


def test_the_largest_header_that_is_read_fits_in_memory(tmp_path: Path) -> None:
    inner, table, data = parse(valid(tmp_path))
    path = tmp_path / "wide.field"
    inner["metadata"] = {"history": [[]] * 600_000}
    path.write_bytes(seal(inner, table, data))
    with pytest.raises(FieldFileError, match="values"):
        load_field(path)
    inner["metadata"] = {"text": "x" * (17 * MEBIBYTE)}
    path.write_bytes(seal(inner, table, data))
    with pytest.raises(FieldFileError, match="declares a header of"):
        load_field(path)
    inner["metadata"] = {"history": [[index, 0.5] for index in range(100_000)]}
    path.write_bytes(seal(inner, table, data))
    assert json.dumps(read_header(path).metadata) == json.dumps(inner["metadata"])
