"""Checkpoints: exact, two of them, and one is always whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from fieldforge.fields import container
from fieldforge.fields.checkpoint import Checkpoints
from fieldforge.fields.file import FieldFileError, load_field, save_field
from fieldforge.fields.kinds.image import ImageField


def tensors(value: float = 1.0) -> dict[str, torch.Tensor]:
    """One of each type and of each awkward shape."""
    generator = torch.Generator().manual_seed(0)
    some = torch.randn(3, 5, generator=generator, dtype=torch.float64) * 100
    made = {str(dtype): some.to(dtype) for dtype in container.DTYPES.values()}
    made["special"] = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0, 1e-45, value])
    made |= {"scalar": torch.tensor(value), "empty": torch.zeros(0, 4), "transposed": some.T}
    made |= {"conjugate": torch.complex(some, some).to(torch.complex64).conj(), "": torch.ones(1)}
    return made | {"random state": generator.get_state()}


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.resolve_conj().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "photo.field")


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 4
    path.write_bytes(raw)


def test_every_bit_of_every_type_comes_back(checkpoints: Checkpoints) -> None:
    state = {"loss": 0.1 + 0.2, "numpy": 2**127 + 1, "name": "x", "list": [1, None, True]}
    checkpoints.save(7, tensors(), state)
    latest = checkpoints.load_latest()
    assert latest is not None
    assert (latest.step, latest.state, latest.notice) == (7, state, None)
    assert latest.tensors.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert latest.tensors[name].dtype == tensor.dtype, name
        assert latest.tensors[name].shape == tensor.shape, name
        assert bits(latest.tensors[name]) == bits(tensor), name


def test_a_random_state_goes_on_as_if_nothing_had_happened(checkpoints: Checkpoints) -> None:
    generator = torch.Generator().manual_seed(3)
    torch.rand(5, generator=generator)
    checkpoints.save(1, {"rng": generator.get_state()}, {})
    expected = torch.rand(5, generator=generator)
    latest = checkpoints.load_latest()
    assert latest is not None
    again = torch.Generator()
    again.set_state(latest.tensors["rng"])
    assert torch.equal(torch.rand(5, generator=again), expected)


def test_there_is_none_before_the_first_and_after_remove(checkpoints: Checkpoints) -> None:
    assert checkpoints.load_latest() is None
    checkpoints.save(1, tensors(), {})
    checkpoints.save(2, tensors(), {})
    checkpoints.remove()
    checkpoints.remove()
    assert checkpoints.load_latest() is None
    assert all(not path.exists() for path in checkpoints.paths)


def test_the_last_two_are_kept_beside_the_field(checkpoints: Checkpoints, tmp_path: Path) -> None:
    for step in range(1, 6):
        checkpoints.save(step, {"step": torch.tensor(step)}, {})
        latest = checkpoints.load_latest()
        assert latest is not None
        assert latest.step == int(latest.tensors["step"]) == step
    assert sorted(os.listdir(tmp_path)) == ["photo.field.ckpt-a", "photo.field.ckpt-b"]


def test_the_newest_is_the_one_saved_last_not_the_one_of_most_steps(checkpoints: Checkpoints, tmp_path: Path) -> None:
    checkpoints.save(900, {}, {})
    checkpoints.save(1000, {}, {})
    again = Checkpoints(tmp_path / "photo.field")  # another process starts the fit anew
    again.save(10, {}, {})
    latest = again.load_latest()
    assert latest is not None
    assert latest.step == 10


@pytest.mark.parametrize("at", [0, 60, 300, -1], ids=["length", "checksum", "header", "data"])
def test_a_damaged_newest_gives_the_one_before_and_says_so(checkpoints: Checkpoints, at: int) -> None:
    checkpoints.save(1, tensors(1.0), {"lr": 1.0})
    newest = checkpoints.save(2, tensors(2.0), {"lr": 0.5})
    flip(newest, at)
    latest = checkpoints.load_latest()
    assert latest is not None
    assert (latest.step, latest.state) == (1, {"lr": 1.0})
    assert latest.notice is not None
    assert str(newest) in latest.notice
    assert "going on from step 1 in photo.field.ckpt-a" in latest.notice


def test_after_a_fallback_the_damaged_one_is_overwritten_first(checkpoints: Checkpoints, tmp_path: Path) -> None:
    checkpoints.save(1, {}, {})
    newest = checkpoints.save(2, {}, {})
    flip(newest, -1)
    again = Checkpoints(tmp_path / "photo.field")
    assert again.save(2, {}, {}) == newest
    latest = again.load_latest()
    assert latest is not None
    assert (latest.step, latest.notice) == (2, None)


def test_when_all_are_damaged_it_is_an_error_not_a_silent_restart(checkpoints: Checkpoints) -> None:
    for step in (1, 2):
        flip(checkpoints.save(step, tensors(), {}), -1)
    with pytest.raises(FieldFileError, match="no other checkpoint can stand in"):
        checkpoints.load_latest()


def test_a_failed_save_leaves_both_as_they_were(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints.save(1, tensors(), {})
    checkpoints.save(2, tensors(), {})
    before = [path.read_bytes() for path in checkpoints.paths]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(FieldFileError, match="No space left on device"):
            checkpoints.save(3, tensors(), {})
    with pytest.raises(TypeError, match=r"cannot hold torch\.complex128"):
        checkpoints.save(3, {"a": torch.zeros(1, dtype=torch.complex128)}, {})
    with pytest.raises(ValueError, match="__metadata__ is taken"):
        checkpoints.save(3, {"__metadata__": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match=r"state\.loss: expected a finite number"):
        checkpoints.save(3, {}, {"loss": float("nan")})
    assert [path.read_bytes() for path in checkpoints.paths] == before


def test_a_checkpoint_is_not_taken_for_a_field_nor_a_field_for_a_checkpoint(checkpoints: Checkpoints) -> None:
    with pytest.raises(FieldFileError, match="is a checkpoint, not a finished field"):
        load_field(checkpoints.save(1, tensors(), {}))
    field = ImageField(encoding="Identity", network={"otype": "MLP", "n_neurons": 8}, width=2, height=2)
    for path in checkpoints.paths:
        save_field(path, field)
    with pytest.raises(FieldFileError, match="is not a checkpoint but a field"):
        checkpoints.load_latest()
