"""Stacked networks are so many single ones, in any order of the points."""

from __future__ import annotations

import math

import pytest
import torch
from reference import networks as loops

from fieldforge.backends import BackendError, use_backend
from fieldforge.fields.networks.mlp import MLP
from fieldforge.fields.networks.stacked import StackedMLP, sort_by_network

SMALL = {"n_neurons": 6, "n_hidden_layers": 2}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_stack_is_the_loop(generator: torch.Generator) -> None:
    stack = StackedMLP(4, 3, 2, activation="Tanh", generator=generator, **SMALL).double()  # type: ignore[arg-type]
    x = torch.rand(9, 3, dtype=torch.float64, generator=generator)
    index = torch.tensor([2, 0, 2, 3, 0, 2, 2, 3, 0])
    weights, biases = ([layer.tolist() for layer in layers] for layers in (stack.weights, stack.biases))
    expected = loops.stacked_mlp(x.tolist(), index.tolist(), weights, biases, math.tanh)
    torch.testing.assert_close(stack(x, index).tolist(), expected, rtol=1e-10, atol=1e-12)


def test_one_network_is_the_plain_mlp() -> None:
    stack = StackedMLP(1, 3, 2, generator=seeded(), **SMALL)  # type: ignore[arg-type]
    mlp = MLP(3, 2, has_bias=True, generator=seeded(), **SMALL)  # type: ignore[arg-type]
    x = torch.rand(7, 3, generator=seeded(1))
    with use_backend("reference"):
        assert torch.equal(stack(x, torch.zeros(7, dtype=torch.int64)), mlp(x))


def test_equal_networks_are_one_network(generator: torch.Generator) -> None:
    stack = StackedMLP(5, 3, 2, equal=True, generator=generator, **SMALL)  # type: ignore[arg-type]
    x, index = torch.rand(20, 3, generator=generator), torch.randint(0, 5, (20,), generator=generator)
    torch.testing.assert_close(stack(x, index), stack.network(3)(x), rtol=1e-5, atol=1e-6)
    other = StackedMLP(5, 3, 2, generator=generator, **SMALL)  # type: ignore[arg-type]
    assert not torch.equal(other.weights[0][0], other.weights[0][1])


def test_the_order_of_points_does_not_matter(generator: torch.Generator) -> None:
    stack = StackedMLP(6, 3, 2, generator=generator, **SMALL)  # type: ignore[arg-type]
    x, index = torch.rand(50, 3, generator=generator), torch.randint(0, 6, (50,), generator=generator)
    shuffled = torch.randperm(50, generator=generator)
    torch.testing.assert_close(stack(x, index)[shuffled], stack(x[shuffled], index[shuffled]))
    for i in range(6):
        torch.testing.assert_close(stack(x, index)[index == i], stack.network(i)(x[index == i]), rtol=1e-5, atol=1e-6)


def test_sorting_keeps_the_order_within_a_network() -> None:
    offsets, order = sort_by_network(torch.tensor([2, 0, 2, 0, 3]), 5)
    assert offsets.tolist() == [0, 2, 2, 4, 5, 5]
    assert order.tolist() == [1, 3, 0, 2, 4]


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_second_derivatives(backend: str, generator: torch.Generator) -> None:
    stack = StackedMLP(3, 2, 1, activation="Softplus", generator=generator, **SMALL).double()  # type: ignore[arg-type]
    x, index = torch.rand(5, 2, dtype=torch.float64, generator=generator), torch.tensor([1, 0, 1, 1, 0])
    with use_backend(backend):
        assert torch.autograd.gradgradcheck(lambda x: stack(x, index), x.requires_grad_())


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_an_empty_batch(backend: str) -> None:
    stack = StackedMLP(3, 2, 1, **SMALL)  # type: ignore[arg-type]
    with use_backend(backend):
        out = stack(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
        out.sum().backward()
    assert out.shape == (0, 1)
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in stack.parameters())


def test_the_meta_device_gives_shapes_without_numbers() -> None:
    with torch.device("meta"):
        sketch = StackedMLP(3, 2, 1, **SMALL)  # type: ignore[arg-type]
    assert all(parameter.is_meta for parameter in sketch.parameters())


def test_bad_calls_are_named() -> None:
    stack = StackedMLP(3, 2, 1, **SMALL)  # type: ignore[arg-type]
    x = torch.zeros(4, 2)
    for bad in (-1, 3):
        with pytest.raises(IndexError, match=f"network_index: expected 0 to 2, got {bad}"):
            stack(x, torch.tensor([0, 1, bad, 2]))
    with pytest.raises(ValueError, match=r"network_index: expected \(N,\) int64"):
        stack(x, torch.zeros(4))
    for bad_offsets, said in (
        ([0, 2, 3, 5], "from 0 to the 4 rows of x, got 0 to 5"),
        ([1, 2, 3, 4], "got 1 to 4"),
        ([0, 3, 2, 4], "never to fall, got 3 before 2"),
        ([0, -1, 2, 4], "never to fall, got 0 before -1"),
        ([0, 4], r"expected shape \(4,\), got \(2,\)"),
    ):
        for backend in ("reference", "auto"):
            with use_backend(backend), pytest.raises(ValueError, match=f"offsets: .*{said}"):
                stack.grouped(x, torch.tensor(bad_offsets))
    with pytest.raises(TypeError, match="offsets: expected int64"):
        stack.grouped(x, torch.tensor([0, 1, 2, 4], dtype=torch.int32))
    with pytest.raises(ValueError, match="activation: expected an activation with real values"):
        StackedMLP(3, 2, 1, activation="WIRE")


def test_float64_is_refused_by_name_and_runs_by_itself() -> None:
    stack = StackedMLP(3, 2, 1, **SMALL).double()  # type: ignore[arg-type]
    x, index = torch.zeros(4, 2, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    assert stack(x, index).dtype == torch.float64
    with use_backend("cpu"), pytest.raises(BackendError, match="float32 only"):
        stack(x, index)
