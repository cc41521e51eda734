"""Backends: 'auto' picks what can run, a backend asked for by name raises and says why."""

from __future__ import annotations

import pytest
import torch

from fieldforge import backends
from fieldforge.backends import BackendError, choose, provide, report, use_backend

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operation with a reference, and a cpu version that refuses big calls."""
    monkeypatch.setattr(backends, "_implementations", {})
    provide("double", "reference")(lambda x: ("reference", 2 * x))
    provide("double", "cpu", refuses=lambda *, size: "it is too big" if size > 10 else None)(lambda x: ("cpu", x + x))
    provide("triple", "reference")(lambda x: ("reference", 3 * x))
    provide("triple", "cuda", missing=lambda: "no compiler")(lambda x: ("cuda", 3 * x))


def test_auto_prefers_the_fast_one_and_falls_back() -> None:
    assert choose("double", CPU, size=3)(1)[0] == "cpu"
    assert choose("double", CPU, size=30)(1)[0] == "reference"
    assert choose("double", torch.device("meta"), size=3)(1)[0] == "reference"


def test_asking_by_name() -> None:
    with use_backend("Reference"):
        assert choose("double", CPU, size=3)(1)[0] == "reference"
    with use_backend("cpu"):
        assert choose("double", CPU, size=3)(1)[0] == "cpu"
        with pytest.raises(BackendError, match=r"'cpu' was asked for.*double: it is too big; reference can"):
            choose("double", CPU, size=30)
        with pytest.raises(BackendError, match="there is no cpu version"):
            choose("triple", CPU, size=3)
    assert choose("double", CPU, size=3)(1)[0] == "cpu", "the block has ended"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"backend: expected one of auto, reference, cpu, cuda, got 'cuad'"):
        with use_backend("cuad"):
            pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_said_at_once() -> None:
    with pytest.raises(BackendError, match="no CUDA device is visible"):
        with use_backend("cuda"):
            pass


def test_the_report_has_every_row_and_the_reason() -> None:
    rows = {(row.operation, row.backend): row for row in report()}
    assert rows["double", "cpu"].is_available
    assert not rows["triple", "cuda"].is_available
    assert rows["triple", "cuda"].reason == "no compiler"
    assert "reference" in rows["double", "cuda"].reason
    assert len(rows) == 6
