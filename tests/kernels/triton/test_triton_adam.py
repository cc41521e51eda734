"""Adam on a GPU moves what the plain one moves, to where it moves it."""

from __future__ import annotations

import pytest
import torch
from interpreted import DEVICE, needs_triton
from reference import optimizers as in_loops
from torch import nn

from fieldforge.apps.fit.optimizers import adam as plain
from fieldforge.apps.fit.optimizers.adam import Adam
from fieldforge.apps.fit.optimizers.base import Parameters
from fieldforge.kernels.triton import adam as on_gpu

pytestmark = [*needs_triton, pytest.mark.filterwarnings("ignore::RuntimeWarning")]
KEYS: list[dict[str, object]] = [
    {},
    {"epsilon": 1e-15, "beta2": 0.99, "non_matrix_l2_reg": 1e-3},
    {"epsilon": 0.0, "adabound": True},
    {"relative_decay": 0.1, "absolute_decay": 0.2, "clipping_magnitude": 0.5, "gradient_clipping_magnitude": 0.7},
]


def gradients(n_steps: int, n: int, generator: torch.Generator) -> list[torch.Tensor]:
    given = torch.randn(n_steps, n, generator=generator)
    return list(given * (torch.rand(n_steps, n, generator=generator) < 0.6))  # many zeros


@pytest.mark.parametrize("n", [0, 1, 1031])
@pytest.mark.parametrize("keys", KEYS, ids=lambda keys: "-".join(keys) or "plain")
def test_touched_entries_move_as_the_plain_ones(keys: dict[str, object], n: int, generator: torch.Generator) -> None:
    table = torch.randn(n, generator=generator)
    found = []
    for run in (plain._touched_in_blocks, plain._touched_on_cuda):
        weight = nn.Parameter(table.clone().to(DEVICE))
        adam = Adam(Parameters(other=[weight]), learning_rate=0.01, **keys)  # type: ignore[arg-type]
        beside = adam._first[0], adam._second[0], adam._n_entry_updates[0]
        for step, gradient in enumerate(gradients(3, n, torch.Generator().manual_seed(1))):
            weight.grad = gradient.to(DEVICE)
            run(adam, weight, beside, 0.01, adam._correction_table(step + 1, weight))
        found.append((weight.data, *beside))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one.float(), other.float(), rtol=2e-6, atol=1e-7)
    assert torch.equal(found[0][3], found[1][3])


def test_entries_without_a_gradient_keep_their_bits(generator: torch.Generator) -> None:
    weight, first, second = (torch.rand(50, generator=generator).to(DEVICE) for _ in range(3))
    counts, gradient = torch.full((50,), 3, dtype=torch.int32, device=DEVICE), torch.zeros(50, device=DEVICE)
    before = [tensor.clone() for tensor in (weight, first, second, counts)]
    keys = {"rate": 0.1, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8, "l2": 0.1}
    on_gpu.step(weight, gradient, first, second, counts=counts, corrections=torch.ones(9, device=DEVICE), **keys)
    assert all(torch.equal(*pair) for pair in zip(before, (weight, first, second, counts), strict=True))


def test_steps_are_those_of_the_loops_in_float64(generator: torch.Generator) -> None:
    table = torch.randn(20, generator=generator)
    weights = [table.double().numpy().copy()]
    loops = in_loops.Adam(0, learning_rate=0.01, non_matrix_l2_reg=1e-3)
    weight = nn.Parameter(table.clone().to(DEVICE))
    adam = Adam(Parameters(other=[weight]), learning_rate=0.01, non_matrix_l2_reg=1e-3)
    beside = adam._first[0], adam._second[0], adam._n_entry_updates[0]
    for step, gradient in enumerate(gradients(4, 20, generator)):
        loops.step(weights, [gradient.double().numpy()])
        weight.grad = gradient.to(DEVICE)
        plain._touched_on_cuda(adam, weight, beside, 0.01, adam._correction_table(step + 1, weight))
    assert weight.detach().cpu().numpy() == pytest.approx(weights[0], abs=1e-6)


def test_the_door_names_what_is_wrong() -> None:
    one = torch.zeros(4, 4, device=DEVICE)
    keys = {"rate": 0.1, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8}
    with pytest.raises(ValueError, match="first: expected a contiguous tensor"):
        on_gpu.step(one, one, one.clone().t(), one, **keys)
    with pytest.raises(ValueError, match=r"gradient: expected shape \(4, 4\), got \(4,\)"):
        on_gpu.step(one, one[0], one, one, **keys)
    with pytest.raises(ValueError, match="corrections: expected one for each count"):
        on_gpu.step(one, one, one, one, counts=one.int(), **keys)
