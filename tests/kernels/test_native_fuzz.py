"""Sizes, strides and values nobody would choose: the native kernels agree with plain PyTorch, and never crash."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from fieldforge.encodings.grid import grid, grid_levels
from fieldforge.fields.networks.mlp import MLP
from fieldforge.kernels import cpu_door, cpu_ops
from fieldforge.kernels.cpu_ops import GridShape, MlpShape

pytestmark = pytest.mark.skipif(cpu_door.missing() is not None, reason=f"no native kernels: {cpu_door.missing()}")

LAYOUTS = ("plain", "offset", "transposed", "every other row", "columns of a wider one", "one row for all")
SPECIAL = (math.nan, math.inf, -math.inf, 1e30, -1e30, 3.4e38, 1e-40, -1e-45, -0.0, 7.5, -1e5, 2.0**31)
ACTIVATIONS = ("None", "ReLU", "LeakyReLU", "Sine", "SiLU", "Sigmoid", "Tanh", "GELU", "Softplus", "Squareplus",
               "Gaussian", "FINER", "SPDER")  # fmt: skip
"""Of hidden layers: exponentials of exponentials leave float32."""
PIECEWISE_LINEAR = ("None", "ReLU", "LeakyReLU")

counts = st.one_of(st.sampled_from((0, 1, 15, 16, 17, 127, 128, 129, 255, 256, 257)), st.integers(0, 300))
widths = st.one_of(st.sampled_from((1, 16, 17, 33, 64, 257)), st.integers(1, 80))
layouts = st.sampled_from(LAYOUTS)
grids = st.fixed_dictionaries(
    {
        "type": st.sampled_from(("Hash", "Dense", "Tiled")),
        "n_levels": st.integers(1, 6),
        "log2_hashmap_size": st.integers(3, 9),
        "base_resolution": st.integers(1, 6),
        "per_level_scale": st.sampled_from((1.0, 1.26, 1.5, 1.9)),
    }
)
interpolations = st.sampled_from(("Linear", "Smoothstep", "Nearest"))
networks = st.fixed_dictionaries(
    {
        "n_neurons": widths,
        "n_hidden_layers": st.integers(0, 4),
        "activation": st.sampled_from(ACTIVATIONS),
        "output_activation": st.sampled_from(("None", "ReLU", "Sigmoid", "Exponential", "Tanh")),
        "has_bias": st.booleans(),
    }
)


def laid_out(values: Tensor, layout: str) -> Tensor:
    """The same numbers (or their first row again and again), elsewhere in memory."""
    n, width = values.shape
    if layout == "offset":  # 4 bytes past an aligned address
        there = torch.empty(n * width + 1)[1:].view(n, width)
    elif layout == "transposed":
        there = torch.empty(width, n).t()
    elif layout == "every other row":
        there = torch.empty(2 * n, width)[::2]
    elif layout == "columns of a wider one":
        there = torch.empty(n, width + 3)[:, 2 : width + 2]
    elif layout == "one row for all" and n:
        return values[:1].expand(n, width)
    else:
        return values.clone()
    return there.copy_(values)


def spoil(values: Tensor, n_spoilt: int, generator: torch.Generator) -> None:
    for _ in range(n_spoilt if values.numel() else 0):
        place = int(torch.randint(values.numel(), (), generator=generator))
        values.view(-1)[place] = SPECIAL[int(torch.randint(len(SPECIAL), (), generator=generator))]


def norm(x: Tensor) -> float:
    return float(x.detach().double().norm())


def assert_as_exact_as_pytorch(got: Tensor, plain: Tensor, exact: Tensor, slack: float = 1.0) -> None:
    """Not much further from float64 than PyTorch's float32 is, which by luck may be on it."""
    assert got.shape == exact.shape
    error, usual = norm(got - exact), norm(plain - exact)
    assert error <= 8 * usual + 2e-5 * slack * norm(exact) + 1e-30, (error, usual, norm(exact))


def assert_same_where_finite(got: Tensor, expected: Tensor, tolerance: float) -> None:
    """To within `tolerance`, not finite in the same places, and NaN where the reference is."""
    assert got.shape == expected.shape
    is_finite = expected.isfinite()
    assert torch.equal(got.isfinite(), is_finite)
    assert got[expected.isnan()].isnan().all()  # where the sum is infinite, an order of summing may make it NaN
    got, expected = got[is_finite].double(), expected[is_finite].double()
    if got.numel():
        assert (got - expected).abs().max() <= tolerance


def make_grid(
    n_dims: int, n_features: int, interpolation: str, keys: dict[str, Any], generator: torch.Generator
) -> tuple[GridShape, Tensor]:
    """Also shapes that the public Grid does not allow."""
    if keys["type"] == "Dense":  # its table holds every lattice point
        keys = keys | {"n_levels": min(keys["n_levels"], 3), "base_resolution": min(keys["base_resolution"], 4)}
    shape = GridShape(tuple(grid_levels(n_dims, **keys)), n_dims, n_features, interpolation)
    n_entries = sum(level.size for level in shape.levels)
    return shape, torch.empty(n_entries, n_features).uniform_(-1, 1, generator=generator)


def check_grid(n: int, n_dims: int, n_features: int, interpolation: str, keys: dict[str, Any], layout: str,
               wants: tuple[bool, bool], spread: float, n_spoilt: int, seed: int) -> None:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    shape, table = make_grid(n_dims, n_features, interpolation, keys, generator)
    x = (torch.rand(n, n_dims, generator=generator) - 0.5) * spread + 0.5
    spoil(x, n_spoilt, generator)
    spoil(table, n_spoilt // 2, generator)
    x, table = laid_out(x, layout).requires_grad_(wants[0]), laid_out(table, layout).requires_grad_(wants[1])
    got = cpu_ops.grid(x, table, shape.levels, interpolation, reference=grid)
    expected = grid(x, table, shape.levels, interpolation)
    # weights add up to 1, but have an error of their own: it counts by the largest row
    finite = table.detach()[table.detach().isfinite()]
    largest = float(finite.abs().max()) if len(finite) else 0.0
    assert_same_where_finite(got, expected, 2e-6 * largest + 1e-44)
    inputs = [tensor for tensor, is_wanted in zip((x, table), wants, strict=True) if is_wanted]
    if not inputs:
        assert not got.requires_grad
        return
    grad = torch.randn(n, shape.n_outputs, generator=generator)
    found = torch.autograd.grad(got, inputs, laid_out(grad, layout))
    if not n_spoilt:
        wanted = torch.autograd.grad(expected, inputs, laid_out(grad, layout))
        # slopes of equal rows cancel: what is left of them is rounding, as large as the rows and as fine as the cells
        steepest = max(level.scale for level in shape.levels) * largest * float(grad.abs().max() if n else 0.0)
        for one, other in zip(found, wanted, strict=True):
            assert_same_where_finite(one, other, 4e-5 * float(other.abs().max()) + 2e-6 * steepest if n else 0.0)


def run_mlp(x: Tensor, parameters: Sequence[Tensor], shape: MlpShape) -> Tensor:
    n = shape.n_layers
    return cpu_ops.mlp(x, parameters[:n], parameters[n:], shape, reference=lambda x, w, b: x)


def in_float64(network: MLP) -> MLP:
    keys = {key: value for key, value in network.config().items() if key != "otype"}
    exact = MLP(network.n_input_dims, network.n_output_dims, **keys).double()
    exact.load_state_dict(network.state_dict())
    return exact


def parameters_of(network: MLP) -> list[Tensor]:
    weights, biases = cpu_ops.parameters_of(network)
    return [*weights, *biases]


def check_mlp(n: int, n_in: int, n_out: int, keys: dict[str, Any], layout: str, wants: tuple[bool, bool], n_spoilt: int,
              seed: int) -> None:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    network = MLP(n_in, n_out, generator=generator, **keys)
    shape = cpu_ops.describe_mlp(network)
    assert isinstance(shape, MlpShape)
    values = 2 * torch.rand(n, n_in, generator=generator) - 1
    spoil(values, n_spoilt, generator)
    x = laid_out(values, layout).requires_grad_(wants[0])
    parameters = [
        laid_out(p.detach().view(p.shape[0], -1), layout if layout != "one row for all" else "offset")
        .view(p.shape) if p.ndim == 2 else laid_out(p.detach()[None], "offset")[0]
        for p in parameters_of(network)
    ]  # fmt: skip
    for parameter in parameters:
        parameter.requires_grad_(wants[1])
    got = run_mlp(x, parameters, shape)
    plain_x = x.detach().clone().requires_grad_()
    plain = network(plain_x)
    exact_network, exact_x = in_float64(network), x.detach().double().requires_grad_()
    exact = exact_network(exact_x)
    is_tame = (x.detach().abs() < 10).all(1)  # False for NaN
    # SPDER's slope is infinite at 0: where a sum comes near it, its last digits are seen
    slack = 60.0 if "SPDER" in (keys["activation"], keys["output_activation"]) else 1.0
    tame = [out[is_tame] for out in (got, plain, exact)]
    assert_as_exact_as_pytorch(*tame, slack)
    assert got.detach()[x.detach().isnan().any(1)].isnan().all()
    if keys["activation"] in PIECEWISE_LINEAR and keys["output_activation"] in PIECEWISE_LINEAR and n_spoilt:
        is_finite = x.detach().isfinite().all(1) & (x.detach().abs() < 1e31).all(1)
        assert got.detach()[is_finite].isfinite().all()
    if not any(wants):
        assert not got.requires_grad
        return
    grad = torch.randn(n, n_out, generator=generator)
    mine = [x] * wants[0] + parameters * wants[1]
    found = torch.autograd.grad(got, mine, laid_out(grad, layout))
    grad = laid_out(grad, layout)
    plains = torch.autograd.grad(plain, [plain_x] * wants[0] + parameters_of(network) * wants[1], grad)
    exacts = torch.autograd.grad(exact, [exact_x] * wants[0] + parameters_of(exact_network) * wants[1], grad.double())
    if wants[0]:
        assert_as_exact_as_pytorch(found[0][is_tame], plains[0][is_tame], exacts[0][is_tame], slack)
    if is_tame.all():
        for triple in zip(found, plains, exacts, strict=True):
            assert_as_exact_as_pytorch(*triple, slack)


def check_field(n: int, n_dims: int, n_features: int, interpolation: str, keys: dict[str, Any],
                network_keys: dict[str, Any], layout: str, spread: float, seed: int) -> None:  # fmt: skip
    """A field is its grid and its network, one after the other, and so are its gradients."""
    generator = torch.Generator().manual_seed(seed)
    grid_shape, table = make_grid(n_dims, n_features, interpolation, keys, generator)
    network = MLP(grid_shape.n_outputs, 2, generator=generator, **network_keys)
    shape = cpu_ops.describe_mlp(network)
    assert isinstance(shape, MlpShape)
    x = laid_out((torch.rand(n, n_dims, generator=generator) - 0.5) * spread + 0.5, layout).requires_grad_()
    table = laid_out(table, layout).requires_grad_()
    parameters = parameters_of(network)
    w, b = parameters[: shape.n_layers], parameters[shape.n_layers :]
    whole = cpu_ops.field(x, table, grid_shape, w, b, shape, reference=lambda x, *_: x)
    features = cpu_ops.grid(x, table, grid_shape.levels, interpolation, reference=grid)
    parts = run_mlp(features, parameters, shape)
    assert norm(whole - parts) <= 1e-6 * norm(parts)
    grad = torch.randn(n, 2, generator=generator)
    wanted = [x, table, *parameters]
    found, expected = (torch.autograd.grad(out, wanted, grad) for out in (whole, parts))
    for one, other in zip(found, expected, strict=True):
        assert norm(one - other) <= 2e-6 * norm(other)


seeds = st.integers(0, 2**31)
pairs = st.tuples(st.booleans(), st.booleans())
spoilt = st.sampled_from((0, 0, 3, 40))
spreads = st.sampled_from((1.0, 1.0, 8.0, 1e4, 1e12))


def fuzz(n_examples: int, check: Any, **strategies: st.SearchStrategy[Any]) -> None:
    settings = hypothesis.settings(max_examples=n_examples, database=None, deadline=None, derandomize=True,
                                   suppress_health_check=list(hypothesis.HealthCheck))  # fmt: skip
    settings(hypothesis.given(**strategies)(lambda **drawn: check(**drawn)))()


MANY = [pytest.param(1, id="some"), pytest.param(20, id="many", marks=pytest.mark.slow)]


@pytest.mark.parametrize("factor", MANY)
def test_any_grid_is_the_references(factor: int) -> None:
    fuzz(120 * factor, check_grid, n=counts, n_dims=st.integers(1, 4), n_features=st.integers(1, 9),
         interpolation=interpolations, keys=grids, layout=layouts, wants=pairs,
         spread=spreads, n_spoilt=spoilt, seed=seeds)  # fmt: skip


@pytest.mark.parametrize("factor", MANY)
def test_any_network_is_the_plain_one(factor: int) -> None:
    fuzz(120 * factor, check_mlp, n=counts, n_in=widths, n_out=widths, keys=networks, layout=layouts, wants=pairs,
         n_spoilt=spoilt, seed=seeds)  # fmt: skip


@pytest.mark.parametrize("factor", MANY)
def test_any_field_is_its_parts(factor: int) -> None:
    fuzz(100 * factor, check_field, n=counts, n_dims=st.integers(1, 4), n_features=st.integers(1, 9),
         interpolation=interpolations, keys=grids, network_keys=networks, layout=layouts, spread=spreads,
         seed=seeds)  # fmt: skip
