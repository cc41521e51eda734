"""Samples of a step are the same on a GPU: the permutation is the plain one, number for number."""

from __future__ import annotations

import pytest
import torch
from interpreted import DEVICE, needs_triton

from fieldforge.apps.fit import samplers
from fieldforge.kernels.triton import draws

pytestmark = [*needs_triton, pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")]


@pytest.mark.parametrize(("m", "n"), [(0, 7), (1, 1), (17, 17), (500, 1031), (300, 2**40)])
def test_the_permutation_is_the_plain_one(m: int, n: int, generator: torch.Generator) -> None:
    index = torch.randint(n, (m,), generator=generator)
    key = torch.randint(2**40, (m,), generator=generator)
    found = draws.permute(index.to(DEVICE), n, key.to(DEVICE))
    assert torch.equal(found.cpu(), samplers._permute(index, n, key))


def test_all_numbers_come_once() -> None:
    found = draws.permute(torch.arange(300, device=DEVICE), 300, torch.full((300,), 5, device=DEVICE))
    assert sorted(found.tolist()) == list(range(300))


def test_a_wrong_call_says_what_would_do() -> None:
    with pytest.raises(TypeError, match="index: expected int64"):
        draws.permute(torch.zeros(3, device=DEVICE), 3, torch.zeros(3, dtype=torch.int64, device=DEVICE))
    with pytest.raises(ValueError, match="key: expected shape"):
        draws.permute(
            torch.zeros(3, dtype=torch.int64, device=DEVICE), 3, torch.zeros(2, dtype=torch.int64, device=DEVICE)
        )
