"""RBF: distances in feature space, kernels, how it begins."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from reference import networks as loops
from torch import Tensor

from fieldforge.contracts.network import NETWORK_CHECKS
from fieldforge.fields.networks.rbf import KERNELS, RBF
from fieldforge.registry import ConfigError, build

EVERY_KERNEL = pytest.mark.parametrize("kernel", KERNELS)


def made(n_neurons: int = 5, seed: int = 0, n_input_dims: int = 3, **keys: Any) -> RBF:
    return RBF(n_input_dims, 2, n_neurons=n_neurons, generator=torch.Generator().manual_seed(seed), **keys)


def spread(kernel: str) -> RBF:
    """With shapes that differ between centres and axes."""
    head = made(kernel=kernel, initial="spread").double()
    with torch.no_grad():
        head.log_precision += torch.randn(5, 3, generator=torch.Generator().manual_seed(1)).double() - 1
    return head


@EVERY_KERNEL
@pytest.mark.parametrize("check", NETWORK_CHECKS, ids=lambda check: check.__name__)
def test_contract(kernel: Any, check: Callable[..., None]) -> None:
    check(lambda: made(kernel=kernel, initial="gnf" if kernel == "gaussian" else "spread"))


@EVERY_KERNEL
def test_the_head_is_the_loop(kernel: str, generator: torch.Generator) -> None:
    head = spread(kernel)
    x = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    numbers = [part.tolist() for part in (head.centers, head.log_precision, head.last.weight, head.last.bias)]
    expected = [loops.radial(point, *numbers, kernel) for point in x.tolist()]
    torch.testing.assert_close(head(x).tolist(), expected, rtol=1e-10, atol=1e-12)


@EVERY_KERNEL
def test_parameter_gradients_agree_with_differences(kernel: str, generator: torch.Generator) -> None:
    head = spread(kernel)
    x = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    names, parameters = zip(*head.named_parameters(), strict=True)

    def output(*values: Tensor) -> Tensor:
        return torch.func.functional_call(head, dict(zip(names, values, strict=True)), x)

    assert torch.autograd.gradcheck(output, parameters, fast_mode=True)


@EVERY_KERNEL
def test_at_a_centre_everything_is_finite(kernel: Any) -> None:
    """Rounding takes expanded squares below 0 there, and √0 has no slope."""
    head = made(kernel=kernel, initial="spread", n_input_dims=18)
    with torch.no_grad():
        head.log_precision += 9
    x = (head.centers + 1e-7).detach().requires_grad_()
    assert float(head.square_distances(x).detach().min()) >= 0
    out = head(x)
    (first,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    assert all(bool(torch.isfinite(value).all()) for value in (out, first, second))


def test_without_the_clamp_a_square_would_be_negative() -> None:
    """So that the clamp stays: the expanded square of nearly equal vectors in float32."""
    head = made(initial="spread", n_neurons=200, n_input_dims=18)
    with torch.no_grad():
        head.log_precision += 9
        precision = head.log_precision.exp()
        f, c = head.centers, head.centers
        square = f.square() @ precision.T - 2 * f @ (precision * c).T + (precision * c.square()).sum(-1)
        assert float(square.diagonal().min()) < 0
        assert float(head.square_distances(f).diagonal().min()) == 0


@pytest.mark.parametrize(
    ("kernel", "values"),
    [
        ("gaussian", (1.0, math.exp(-0.5), math.exp(-2.0))),
        ("multiquadric", (1.0, math.sqrt(2), math.sqrt(5))),
        ("inverse_multiquadric", (1.0, 1 / math.sqrt(2), 1 / math.sqrt(5))),
        ("cubic", (0.0, 1.0, 8.0)),
        ("thin_plate", (0.0, 0.0, 4 * math.log(2))),
        ("wendland", (1.0, 0.0, 0.0)),
    ],
)
def test_kernels_at_distances_0_1_and_2(kernel: str, values: tuple[float, ...]) -> None:
    squares = torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64)
    torch.testing.assert_close(KERNELS[kernel][0](squares).tolist(), list(values), rtol=1e-6, atol=1e-9)


def test_the_authors_start_is_slow_behind_wide_features_and_the_other_is_not() -> None:
    """18 features of standard deviation 1: their Gaussians are about exp(-9); spread ones about exp(-1)."""
    x = torch.randn(2000, 18, generator=torch.Generator().manual_seed(1))

    def mean(x: Tensor, **keys: Any) -> float:
        return float(made(n_neurons=64, n_input_dims=18, **keys).square_distances(x).detach().mean())

    assert mean(x) == pytest.approx(18, rel=0.05)
    assert mean(x, initial="spread") == pytest.approx(2, rel=0.15)
    assert mean(0.01 * x, initial="spread", feature_std=0.01) == pytest.approx(2, rel=0.15)


def test_initial_numbers_are_those_of_the_paper() -> None:
    head = made(n_neurons=500, n_input_dims=18)
    assert 0.99e-4 < float(head.centers.detach().abs().max()) <= 1e-4
    assert not head.log_precision.any()
    assert 0.9 / math.sqrt(500) < float(head.last.weight.detach().abs().max()) <= 1 / math.sqrt(500)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kernel": "gauss"}, "network.kernel: expected one of gaussian, .*got 'gauss'; did you mean gaussian"),
        ({"feature_std": 0.0}, "network.feature_std: expected a finite number above 0"),
        ({"n_neurons": 2**29}, "at most 1,073,741,824 parameters"),
    ],
)
def test_heads_that_cannot_be_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("network", {"otype": "RBF", **keys}, path="network", n_input_dims=4, n_output_dims=2)
