"""The last good state of a fit comes back to the last bit, from memory or from a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from fieldforge.apps.fit.optimizers.base import Parameters
from fieldforge.apps.fit.snapshot import Snapshot
from fieldforge.registry import build


@dataclass
class State:
    step: int = 0
    rows: list[int] = field(default_factory=list)


def make() -> tuple[list[torch.nn.Parameter], object]:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((5, 3), (0,), (7,))]
    parameters = Parameters(matrix=weights[:1], other=weights[1:])
    return weights, build("optimizer", {"otype": "EMA", "nested": "Adam"}, parameters=parameters)


def move(weights: list[torch.nn.Parameter], optimizer: object) -> None:
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()  # type: ignore[attr-defined]


@pytest.mark.parametrize("where", ["memory", "file", "no room"])
def test_what_was_kept_comes_back(where: str, tmp_path: Path) -> None:
    weights, optimizer = make()
    move(weights, optimizer)
    state = State(3, [1])
    folder = tmp_path / "missing" if where == "no room" else tmp_path
    snapshot = Snapshot(optimizer, state, folder=folder, large=2**30 if where == "memory" else 1)  # type: ignore[arg-type]
    assert (snapshot._file is not None) == (where == "file")
    assert list(tmp_path.iterdir()) == []
    live = [*weights, *optimizer.state_tensors().values()]  # type: ignore[attr-defined]
    expected = [tensor.detach().clone() for tensor in live]
    for _ in range(2):  # as often as asked
        move(weights, optimizer)
        state.step, state.rows = 9, [*state.rows, 2]
        assert not torch.equal(weights[0], expected[0])
        snapshot.restore(state)
        assert state == State(3, [1])
        assert all(torch.equal(one.detach(), other) for one, other in zip(live, expected, strict=True))
    snapshot.close()


def test_a_state_that_is_not_finite_is_not_kept(tmp_path: Path) -> None:
    weights, optimizer = make()
    snapshot = Snapshot(optimizer, State(1), folder=tmp_path, large=1)  # type: ignore[arg-type]
    expected = weights[2].detach().clone()
    with torch.no_grad():
        weights[2][3] = torch.nan
    snapshot._due = 0.0
    snapshot.take_if_due(State(2))
    state = State(2)
    snapshot.restore(state)
    assert state.step == 1
    assert torch.equal(weights[2], expected)
    snapshot.close()
