"""The native stack of networks is the loop over networks, in value, in every derivative and in a training step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from fieldforge.backends import use_backend
from fieldforge.fields.networks.stacked import StackedMLP, stacked_mlp
from fieldforge.kernels import cpu_door, cpu_ops, cpu_stacked
from fieldforge.kernels.cpu_stacked import StackedAdamStep

pytestmark = pytest.mark.skipif(cpu_door.missing() is not None, reason=f"no native kernels: {cpu_door.missing()}")

RAGGED = [0, 1, 17, 0, 64, 300, 2500, 0, 15, 16, 0]
"""Points of each network: none, one, a few, and more than a tile or a span of tiles holds."""


def make(n_networks: int, n_in: int, n_out: int, generator: torch.Generator, **keys: object) -> StackedMLP:
    return StackedMLP(n_networks, n_in, n_out, generator=generator, **keys)  # type: ignore[arg-type]


def offsets_of(counts: Sequence[int]) -> Tensor:
    return torch.tensor([0, *counts]).cumsum(0)


def relative_error(got: Tensor, expected: Tensor) -> float:
    got, expected = got.detach().double(), expected.detach().double()
    return float((got - expected).norm() / expected.norm().clamp_min(1e-30))


def results(stack: StackedMLP, x: Tensor, offsets: Tensor, grad: Tensor, backend: str) -> list[Tensor]:
    """Value, and gradients of x and of every parameter."""
    with use_backend(backend):
        x = x.detach().to(stack.weights[0].dtype).requires_grad_()
        out = stack.grouped(x, offsets)
        return [out.detach(), *torch.autograd.grad(out, [x, *stack.parameters()], grad.to(out.dtype))]


def assert_agrees(stack: StackedMLP, counts: Sequence[int], generator: torch.Generator, tolerance: float) -> None:
    x = 2 * torch.rand(sum(counts), stack.n_input_dims, generator=generator) - 1
    grad = torch.randn(sum(counts), stack.n_output_dims, generator=generator)
    got = results(stack, x, offsets_of(counts), grad, "cpu")
    expected = results(stack.double(), x, offsets_of(counts), grad, "reference")
    for one, other in zip(got, expected, strict=True):
        assert one.shape == other.shape
        assert relative_error(one, other) <= tolerance
        if other.numel():
            assert (one - other).abs().max() <= 3 * tolerance * other.abs().max()


@pytest.mark.parametrize("has_bias", [False, True])
def test_ragged_groups(has_bias: bool, generator: torch.Generator) -> None:
    stack = make(len(RAGGED), 63, 4, generator, has_bias=has_bias)
    assert_agrees(stack, RAGGED, generator, 1e-5)


def test_one_large_network_among_many_empty_ones(generator: torch.Generator) -> None:
    assert_agrees(make(70, 3, 2, generator, n_neurons=9), [0] * 66 + [9000, 0, 5, 0], generator, 1e-5)


@pytest.mark.parametrize(
    ("n_in", "width", "n_hidden", "n_out"),
    [(1, 1, 1, 1), (63, 32, 3, 4), (2, 257, 1, 17), (7, 5, 0, 3), (20, 13, 2, 5), (33, 49, 2, 3), (16, 16, 1, 16)],
)
def test_odd_widths(n_in: int, width: int, n_hidden: int, n_out: int, generator: torch.Generator) -> None:
    stack = make(5, n_in, n_out, generator, n_neurons=width, n_hidden_layers=n_hidden)
    assert_agrees(stack, [3, 0, 150, 16, 47], generator, 1e-5)


@pytest.mark.parametrize("name", [name for name in cpu_ops.NUMBERS])
def test_every_activation(name: str, generator: torch.Generator) -> None:
    stack = make(4, 5, 3, generator, n_neurons=17, n_hidden_layers=2, activation=name, output_activation="Sigmoid")
    with torch.no_grad():
        for weight in stack.weights:
            weight.mul_(0.1 if name in ("Sine", "FINER", "SPDER") else 1.0)
    assert_agrees(stack, [20, 0, 33, 70], generator, 1e-5)


def test_nobody_has_points(generator: torch.Generator) -> None:
    stack = make(3, 2, 1, generator)
    for result in results(stack, torch.zeros(0, 2), offsets_of([0, 0, 0]), torch.zeros(0, 1), "cpu")[2:]:
        assert not result.any()


def test_one_network_is_the_plain_mlp(generator: torch.Generator) -> None:
    stack = make(1, 6, 3, generator)
    x = torch.rand(5000, 6, generator=generator)
    with use_backend("cpu"):
        assert relative_error(stack.grouped(x, offsets_of([5000])), stack.network(0)(x)) < 1e-6


def train(stack: StackedMLP, counts: Sequence[int], n_steps: int = 3, **keys: object) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    shape = cpu_ops.describe_layers(stack, stack.widths)
    assert not isinstance(shape, str)
    step = StackedAdamStep(
        [weight.detach().clone() for weight in stack.weights], [bias.detach().clone() for bias in stack.biases], shape,
        **keys,  # type: ignore[arg-type]
    )  # fmt: skip
    x = torch.rand(sum(counts), stack.n_input_dims, generator=generator)
    target = torch.rand(sum(counts), stack.n_output_dims, generator=generator)
    losses = [step.on_points(x, offsets_of(counts), target, 1e-2) for _ in range(n_steps)]
    return [*step.parameters, *step.first_moments, torch.tensor(losses, dtype=torch.float64)]


@pytest.mark.parametrize("counts", [RAGGED, [9000, 0, 5, 70], [1]])
def test_any_number_of_threads_gives_the_same_bits(
    counts: list[int], generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = make(len(counts), 20, 3, generator)
    x, grad = torch.rand(sum(counts), 20, generator=generator), torch.randn(sum(counts), 3, generator=generator)
    found = []
    for n_threads in ("1", "2", "3"):
        monkeypatch.setenv("FIELDFORGE_NUM_THREADS", n_threads)
        found.append(results(stack, x, offsets_of(counts), grad, "cpu") + train(stack, counts))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("counts", [[0, 40, 3, 0, 17], [5000, 0, 1, 9, 2]])
@pytest.mark.parametrize("loss", ["L2", "L1", "Huber"])
def test_steps_are_dense_adam(loss: str, counts: list[int], generator: torch.Generator) -> None:
    """Networks without points move too, as l2 and their moments say."""
    stack = make(5, 4, 2, generator, n_neurons=12)
    *got, losses = train(stack, counts, 5, loss=loss, huber_delta=0.1, l2=1e-3, epsilon=1e-4)
    inputs = torch.Generator().manual_seed(2)
    x = torch.rand(sum(counts), 4, generator=inputs).double()
    target = torch.rand(sum(counts), 2, generator=inputs).double()
    stack.double()
    parameters = list(stack.parameters())
    m, v = [torch.zeros_like(p) for p in parameters], [torch.zeros_like(p) for p in parameters]
    n_layers = len(stack.weights)
    for t in range(1, 6):
        error = stacked_mlp(stack, x, offsets_of(counts), parameters[:n_layers], parameters[n_layers:]) - target
        size = error.abs()
        by_name = {
            "L2": error.square(),
            "L1": size,
            "Huber": torch.where(size > 0.1, 0.2 * size - 0.01, error.square()),
        }
        value = by_name[loss].mean()
        assert losses[t - 1].tolist() == pytest.approx([value.item(), error.square().mean().item()], rel=1e-4)
        gradients = torch.autograd.grad(value, parameters)
        rate = 1e-2 * math.sqrt(1 - 0.99**t) / (1 - 0.9**t)
        with torch.no_grad():
            for i, (p, g) in enumerate(zip(parameters, gradients, strict=True)):
                g = g + 1e-3 * p
                m[i] = 0.9 * m[i] + 0.1 * g
                v[i] = 0.99 * v[i] + 0.01 * g * g
                p -= rate * m[i] / (v[i].sqrt() + 1e-4)
    for exact, native in zip((*parameters, *m), got, strict=True):
        assert relative_error(native, exact) < 2e-4


@pytest.mark.parametrize("loss", ["L2", "BinaryCrossEntropy"])
def test_with_means_of_each_no_network_knows_of_its_neighbours(loss: str, generator: torch.Generator) -> None:
    """The bits of a network that is alone, and those of one among others with more points and fewer."""
    counts = [17, 1, 400]
    stack = make(3, 4, 2, generator, n_neurons=12)
    shape = cpu_ops.describe_layers(stack, stack.widths)
    assert not isinstance(shape, str)
    x, target = torch.rand(418, 4, generator=generator), torch.rand(418, 2, generator=generator)
    before = [p.detach().clone() for p in (*stack.weights, *stack.biases)]

    def moved(parameters: list[Tensor], rows: slice, counts: list[int]) -> tuple[list[Tensor], Tensor]:
        n_layers, errors = len(stack.weights), torch.empty(len(counts), dtype=torch.float64)
        step = StackedAdamStep(
            [p.clone() for p in parameters[:n_layers]], [p.clone() for p in parameters[n_layers:]], shape,
            loss=loss, of_each=True,
        )  # fmt: skip
        for _ in range(3):
            step.on_points(x[rows], offsets_of(counts), target[rows], 1e-2, squared_errors=errors)
        return step.parameters, errors

    together, errors = moved(before, slice(None), counts)
    ends = [0, *torch.tensor(counts).cumsum(0).tolist()]
    for g in range(3):
        alone, own = moved([p[g : g + 1] for p in before], slice(ends[g], ends[g + 1]), [counts[g]])
        assert all(torch.equal(a[0], b[g]) for a, b in zip(alone, together, strict=True))
        assert own[0] == errors[g] > 0


def test_nan_stays_in_its_own_network(generator: torch.Generator) -> None:
    stack = make(3, 2, 1, generator)
    x, offsets = torch.rand(60, 2, generator=generator), offsets_of([20, 20, 20])
    x[25, 0] = math.nan
    with use_backend("cpu"):
        assert stack.grouped(x, offsets).isnan().squeeze(1).nonzero().tolist() == [[25]]
    shape = cpu_ops.describe_layers(stack, stack.widths)
    assert not isinstance(shape, str)
    step = StackedAdamStep([w.detach().clone() for w in stack.weights], [b.detach() for b in stack.biases], shape)
    loss, _ = step.on_points(x, offsets, torch.ones(60, 1), 1e-2)
    assert math.isnan(loss)
    for old, new in zip(stack.weights, step.parameters, strict=False):
        assert [bool((a != b).any()) for a, b in zip(old, new, strict=True)] == [True, False, True]


def test_bad_calls_are_errors_before_the_kernel(generator: torch.Generator) -> None:
    stack = make(2, 3, 1, generator)
    shape = cpu_ops.describe_layers(stack, stack.widths)
    assert not isinstance(shape, str)
    weights, biases = [w.detach() for w in stack.weights], [b.detach() for b in stack.biases]
    x, good = torch.rand(4, 3), torch.tensor([0, 1, 4])
    call = dict(reference=lambda x, offsets, w, b: x)
    for bad in ([0, 5, 4], [0, 1, 3], [1, 2, 4], [0, -1, 4], [0, 2**62, 4]):
        with pytest.raises(ValueError, match="offsets: expected"):
            cpu_stacked.stacked_mlp(x, torch.tensor(bad), weights, biases, shape, **call)
        with pytest.raises(ValueError, match="offsets: expected"):
            StackedAdamStep(weights, biases, shape).on_points(x, torch.tensor(bad), torch.rand(4, 1), 1e-2)
    with pytest.raises(TypeError, match="offsets: expected int64"):
        cpu_stacked.stacked_mlp(x, good.float(), weights, biases, shape, **call)
    with pytest.raises(ValueError, match=r"offsets: expected shape"):
        cpu_stacked.stacked_mlp(x, torch.tensor(0), weights, biases, shape, **call)
    with pytest.raises(ValueError, match=r"weights\[0\]: expected shape \(3, 32, 3\)"):
        cpu_stacked.stacked_mlp(x, torch.tensor([0, 1, 2, 4]), weights, biases, shape, **call)
    with pytest.raises(ValueError, match=r"target: expected 4 rows"):
        StackedAdamStep(weights, biases, shape).on_points(x, good, torch.rand(3, 1), 1e-2)
    with pytest.raises(ValueError, match=r"n: expected an integer of at least 1"):
        StackedAdamStep(weights, biases, shape).on_points(x[:0], torch.tensor([0, 0, 0]), torch.rand(0, 1), 1e-2)
    with pytest.raises(ValueError, match="RelativeL2Luminance needs red, green and blue"):
        StackedAdamStep(weights, biases, shape, loss="RelativeL2Luminance").on_points(x, good, torch.rand(4, 1), 1e-2)
    with pytest.raises(TypeError, match="squared_errors: expected float64"):
        StackedAdamStep(weights, biases, shape).on_points(x, good, x[:, :1], 1e-2, squared_errors=torch.zeros(2))
    with pytest.raises(ValueError, match=r"weights\[0\]: expected a contiguous tensor"):
        StackedAdamStep([weights[0].mT.contiguous().mT, *weights[1:]], biases, shape)


def test_the_second_derivative_is_the_references(generator: torch.Generator) -> None:
    stack = make(3, 3, 1, generator, n_neurons=8, activation="Tanh")
    x = torch.rand(20, 3, generator=generator, requires_grad=True)
    found = []
    for backend in ("cpu", "reference"):
        with use_backend(backend):
            (slope,) = torch.autograd.grad(stack.grouped(x, offsets_of([5, 0, 15])).sum(), x, create_graph=True)
            found.append(torch.autograd.grad((slope.norm(dim=-1) - 1).square().mean(), [x, *stack.weights]))
    for got, expected in zip(*found, strict=True):
        assert relative_error(got, expected) < 1e-5
